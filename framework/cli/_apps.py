"""Finds an app by its name, and in it the store and the engine of its tasks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from framework._records.exports import NotImportedError, imported
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

    Raises:
        CommandError: If there is no such module or app.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise CommandError(f"an app must be like module:app, as for uvicorn, not {name!r}", USAGE)
    try:
        return imported(name)
    except NotImportedError as error:
        raise CommandError(f"{error}{_shadow()}", USAGE) from None
    except LookupError as error:
        raise CommandError(str(error), USAGE) from None


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
