"""How another process imports an app, or a function, that a test has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any


def name_of_app(app: object) -> str | None:
    """Return ``module:name`` of an app; None if no module has it."""
    # The module that defines an app is one of those that have it; the others have imported it,
    # as tests do.
    names = sorted(_names(app), key=lambda name: (_is_test(name), len(name), name))
    return names[0] if names else None


def _names(app: object) -> Iterator[str]:
    for module_name, module in list(sys.modules.items()):
        if module_name == "__main__" or getattr(module, "__file__", None) is None:
            continue
        for name, value in list(vars(module).items()):
            if value is app:
                yield f"{module_name}:{name}"


def _is_test(name: str) -> bool:
    last = name.partition(":")[0].rpartition(".")[2]
    return last.startswith(("test_", "conftest")) or last.endswith("_test")


def file_of(name: str) -> str:
    """Return the file of the module of ``module:name``."""
    return str(sys.modules[name.partition(":")[0]].__file__)


def why_local(fn: Callable[..., Any]) -> str:
    """Return why no other process can import a function; "" if one can."""
    name = getattr(fn, "__qualname__", "")
    if "<locals>" in name:
        return f"it is defined inside {name.partition('.<locals>')[0]}()"
    if "<lambda>" in name:
        return "it is a lambda"
    return ""
