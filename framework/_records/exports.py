"""Exports: public names as users import them, and what rooms provide to those below them."""

from __future__ import annotations

from collections.abc import Callable
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
        lasting: How many contexts ask for schedules that outlive the framework of their test.
    """

    injector: Callable[[], Any]
    view: Callable[[], Any]

    def __init__(self) -> None:
        self.accept_routes: Callable[[Any], None] = lambda _: None
        self.lasting = 0


provided = Provided()
