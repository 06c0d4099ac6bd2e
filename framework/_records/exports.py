"""Exports: names as users import or type them, and what rooms provide to those below them."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any  # what is provided has types of the rooms above


def pin(module: dict[str, Any]) -> None:
    """Set ``__module__`` of objects that a public module exports from private modules.

    Pickles and stored names contain it, so they stay valid when a private module is moved.

    Args:
        module: The globals of the public module, with ``__all__``.
    """
    for name in module["__all__"]:
        exported = module[name]
        if "._" in getattr(exported, "__module__", ""):
            exported.__module__ = module["__name__"]


class Provided:
    """What lower rooms call without importing it.

    Attributes:
        injector: Returns the `injection.Injector`, which imports FastAPI.
        view: Returns the model that shows a task over HTTP, which imports FastAPI too.
        accept_routes: Lets the routes of an app return `framework.http.Accepted`. It does nothing
            while nobody has imported that.
        send_message: Sends a message to a task, from the framework that runs here; see
            `framework.steps.Message.send`.
        lasting: How many contexts ask for schedules that outlive the framework of their test.
    """

    injector: Callable[[], Any]
    view: Callable[[], Any]
    send_message: Callable[[str, Any, Any, str | None], Awaitable[None]]

    def __init__(self) -> None:
        self.accept_routes: Callable[[Any], None] = lambda _: None
        self.lasting = 0


provided = Provided()


def as_module(name: str) -> str:
    """Return the ``module:attribute`` that *name* means if it has a file for a module; or ""."""
    module, _, attribute = name.partition(":")
    if "/" not in module and not module.endswith(".py"):
        return ""
    parts = Path(module).with_suffix("").parts
    return f"{'.'.join(filter(str.isidentifier, parts))}:{attribute}".removesuffix(":")


class NotImportedError(LookupError):
    """The module cannot be imported."""


def imported(name: str) -> Any:  # Any: whatever the module has there
    """Import ``module:attribute`` and return the attribute; the current folder is searched first.

    Raises:
        NotImportedError: If the module cannot be imported, for whatever reason.
        LookupError: If it has no such attribute.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise NotImportedError(f"{module!r} cannot be imported: {told(error)}") from None
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise LookupError(f"{module!r} has no {attribute!r}") from None
    return found


def told(error: BaseException) -> str:
    """Return what a user's code has raised, with the last line of that code, if there is one."""
    said = "".join(traceback.format_exception_only(error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not one.filename.startswith(_NOT_OWN)]
    return f"{said} ({own[-1].filename}, line {own[-1].lineno})" if own else said


_NOT_OWN = (
    "<frozen ",
    str(Path(__file__).parents[1]),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
)
"""Beginnings of the names of files that the user has not written."""
