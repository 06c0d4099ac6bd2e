"""Finds an app by its name, and in it the store and the engine of its tasks."""

from __future__ import annotations

import gc
import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.cli._mistakes import USAGE, CommandError


@dataclass(frozen=True, slots=True)
class App:
    """What there is of an app without running it.

    Attributes:
        name: Its name, ``module:app``.
        stores: Its SQL stores, as URLs.
        engines: Its Celery engines.
    """

    name: str
    stores: list[Any]  # Any: a SQLAlchemy URL, which needs the extra
    engines: list[Any]  # Any: a CeleryEngine, which needs another one


def find_app(name: str) -> App:
    """Import ``module:app`` and return what it has; the current folder is searched first.

    Raises:
        CommandError: If there is no such module or app.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise CommandError(f"--app must be like module:app, as for uvicorn, not {name!r}", USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does
        last = "".join(traceback.format_exception_only(error)).strip()
        raise CommandError(
            f"{module_name!r} cannot be imported: {last}{_shadow(here)}", USAGE
        ) from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CommandError(f"{module_name!r} has no {attribute!r}", USAGE) from None
    return App(
        name,
        _made("framework.stores.sql", "SQLStore"),
        _made("framework.engines.celery", "CeleryEngine"),
    )


def _made(module: str, name: str) -> list[Any]:
    """Return all objects of a class that the import has made, wherever they are kept."""
    cls = getattr(sys.modules.get(module), name, None)
    # An app may have its store in any variable of any module, or in a lifespan.
    return [] if cls is None else [one for one in gc.get_objects() if type(one) is cls]


def _shadow(here: str) -> str:
    """Return a hint if the user's own folder has the name of this package."""
    own = Path(__file__).parents[1]
    for mine in (Path(here, "framework"), Path(here, "framework.py")):
        if mine.exists() and mine.resolve() != own:
            return (
                f"\nhint: {mine} has the name of asyncframe's package, and only one of them can "
                "be imported: give yours another name"
            )
    return ""
