"""Finds an app by its name, and in it the store and the engine of its tasks."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framework._records.exports import NotImportedError, as_module, imported, told
from framework.cli._lifespan import ASGIApp
from framework.cli._mistakes import USAGE, CommandError
from framework.protocols import RemoteEngine


@dataclass(frozen=True, slots=True)
class App:
    """What there is of an app without running it.

    Attributes:
        name: Its name, ``module:app``.
        stores: Its SQL stores, as URLs.
        engines: Its engines whose tasks run in other processes.
    """

    name: str
    stores: list[Any]  # Any: a SQLAlchemy URL, which needs the extra
    engines: list[RemoteEngine]


def find_app(name: str) -> App:
    """Import ``module:app`` and return what it has; the current folder is searched first.

    Raises:
        CommandError: If there is no such module or app.
    """
    load_app(name)
    return App(name, _made(_is_store), _made(_is_engine))


def load_app(name: str) -> Any:  # Any: whatever the module has there
    """Import ``module:app`` and return it; the current folder is searched first.

    ``module`` alone is ``module:app``.

    Raises:
        CommandError: If there is no such module or app.
    """
    module, colon, attribute = name.partition(":")
    meant = as_module(name)
    if not module or (colon and not attribute) or meant:
        cure = f"; did you mean {meant!r}?" if meant else ""
        raise CommandError(f"{_AS_FOR_UVICORN}, not {name!r}{cure}", USAGE)
    try:
        return imported(f"{module}:{attribute or 'app'}")
    except NotImportedError as error:
        raise CommandError(f"{error}{_shadow()}", USAGE) from None
    except LookupError as error:
        raise CommandError(f"{error}{_instead(module, attribute)}", USAGE) from None


def serving_app(name: str, *, by_factory: bool) -> ASGIApp:
    """Import an app, or call the function that returns it, as a server does.

    Args:
        name: The app or the function, as ``module:app`` or ``module:make_app``.
        by_factory: Whether it is the function.

    Raises:
        CommandError: If there is none.
    """
    found = load_app(name)
    if not callable(found):
        raise CommandError(f"{name} is no app, but {type(found).__name__}", USAGE)
    if not by_factory:
        if _takes(found) and not _takes(found, *_OF_ASGI):
            raise CommandError(
                f"{name} takes no arguments, so it is no app: if it returns one, add --factory",
                USAGE,
            )
        app: ASGIApp = found
        return app
    if not _takes(found):
        raise CommandError(
            f"{name} cannot be called without arguments, as --factory says: name a function that "
            "needs none and returns the app; leave --factory out if it is the app itself",
            USAGE,
        )
    return _called(found, name)


def _called(factory: Callable[[], Any], name: str) -> ASGIApp:
    try:
        app = factory()
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise CommandError(f"{name}() has failed: {told(error)}", USAGE) from None
    if inspect.iscoroutine(app):
        app.close()
        raise CommandError(f"{name} is async, but --factory needs a plain function", USAGE)
    if not callable(app):
        raise CommandError(f"{name}() has returned {app!r:.100}, which is no app", USAGE)
    made: ASGIApp = app
    return made


_AS_FOR_UVICORN: Final = "an app must be like module:app, as for uvicorn"
_OF_ASGI: Final = ("scope", "receive", "send")


def _takes(call: Any, *arguments: str) -> bool:
    """Return whether something can be called with some arguments, as far as one can tell."""
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _instead(module: str, given: str) -> str:
    """Return the end of a message that says what a module has in place of the app."""
    if given.endswith("()"):
        return f"; leave out the brackets and add --factory: {module}:{given[:-2]} --factory"
    has = vars(sys.modules[module])
    starlette = getattr(sys.modules.get("starlette.applications"), "Starlette", ())
    apps = [f"{module}:{name}" for name, value in has.items() if isinstance(value, starlette)]
    if apps:
        return f"; it has {', '.join(apps)}"
    makers = [
        f"{module}:{name}"
        for name, value in has.items()
        if inspect.isfunction(value)
        and value.__module__ == module
        and "app" in name
        and _takes(value)
    ]
    if makers:
        return f"; {', '.join(makers)} may return one: a worker takes that with --factory"
    return ", nor another app"


def _made(is_wanted: Callable[[type], bool]) -> list[Any]:
    """Return all objects of some classes that the import has made, wherever they are kept."""
    # An app may have its store in any variable of any module, or in a lifespan.
    made = gc.get_objects()
    wanted = {cls for cls in set(map(type, made)) if is_wanted(cls)}
    return [one for one in made if type(one) in wanted]


def _is_store(cls: type) -> bool:
    return cls is getattr(sys.modules.get("framework.stores.sql"), "SQLStore", None)


def _is_engine(cls: type) -> bool:
    # The class and not the object: some objects make any attribute that they are asked for.
    return all(callable(getattr(cls, name, None)) for name in _OF_ENGINES)


_OF_ENGINES: Final = ("open", "close", "admit", "start", "withdraw", "fetch", "request_cancel")
"""Methods of a `protocols.RemoteEngine`, which no store has all of."""


def _shadow() -> str:
    """Return a hint if the user's own folder has the name of this package."""
    own = Path(__file__).parents[1]
    here = Path.cwd()
    for mine in (Path(here, "framework"), Path(here, "framework.py")):
        if mine.exists() and mine.resolve() != own:
            return (
                f"\nhint: {mine} has the name of asyncframe's package, and only one of them can "
                "be imported: give yours another name"
            )
    return ""
