"""The module that a public name says it is from: the one that users import it from."""

from __future__ import annotations

from typing import Any


def pin(module: dict[str, Any]) -> None:
    """Set ``__module__`` of what a public module exports from a private one.

    Pickles and stored names refer to it, so they outlast a move inside the package.

    Args:
        module: The variables of the public module, with ``__all__``.
    """
    for name in module["__all__"]:
        exported = module[name]
        if "._" in getattr(exported, "__module__", ""):
            exported.__module__ = module["__name__"]
