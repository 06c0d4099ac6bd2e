"""Give public names the ``__module__`` that users import them from."""

from __future__ import annotations

from typing import Any


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
