"""Where the tasks are: a store by its URL, or that of an app."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from framework.cli._apps import App, find_app
from framework.cli._mistakes import USAGE, CommandError

if TYPE_CHECKING:
    from framework.stores.sql._reading.observer import Observer

STORE = "ASYNCFRAME_STORE"
APP = "ASYNCFRAME_APP"


class Source:
    """The tasks that a command is about.

    Args:
        observer: Reads the store.
        app: The app, if it was named; otherwise None.
    """

    def __init__(self, observer: Observer, app: App | None) -> None:
        self.observer = observer
        self.app = app


@contextmanager
def opened(arguments: Namespace) -> Iterator[Source]:
    """Open what ``--store`` and ``--app`` name, or the environment.

    Raises:
        CommandError: If it is not clear what to open.
        StoreUnavailableError: If it cannot be opened.
    """
    url, app = _named(arguments)
    try:
        from framework.stores.sql._reading.observer import Observer

        observer = Observer(url)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(str(error).replace("url must", "--store must"), USAGE) from None
    with closing(observer):
        yield Source(observer, app)


def _named(arguments: Namespace) -> tuple[Any, App | None]:  # Any: a URL or a string
    """Return the store's URL, and the app if one is named; options before the environment."""
    url, app_name = arguments.store, arguments.app
    if url is None and app_name is None:
        url, app_name = os.environ.get(STORE), os.environ.get(APP)
    if not url and not app_name:
        raise CommandError(
            "where are the tasks? Name the store, --store sqlite:///tasks.db, or the app, "
            f"--app module:app; or set {STORE} or {APP}",
            USAGE,
        )
    app = find_app(app_name) if app_name else None
    if url:
        return url, app
    assert app is not None
    return _store_of(app), app


def _store_of(app: App) -> Any:
    urls = {one._url.render_as_string(hide_password=False): one._url for one in app.stores}
    if len(urls) > 1:
        names = ", ".join(sorted(map(repr, app.stores)))
        raise CommandError(
            f"{app.name} has several stores, {names}: choose one with --store", USAGE
        )
    if not urls:
        raise CommandError((_IN_ENGINE if app.engines else _IN_MEMORY).format(app.name))
    return next(iter(urls.values()))


_IN_MEMORY = """\
{0} has no store that other processes can read: its tasks are in its own memory.
Give it one, setup_async_framework(app, store=SQLStore("sqlite:///tasks.db")), or look at its
tasks over HTTP. If it makes its store only when it starts, name the store: --store URL"""

_IN_ENGINE = """\
{0} leaves its tasks to its engine, which has no list of them.
Give it a store as well, setup_async_framework(app, engine=engine, store=SQLStore("sqlite:///tasks.db"))"""
