"""Numbers for objects, which an object that comes later at the same address does not get."""

from __future__ import annotations

import itertools
import weakref
from typing import Any


class Numbers:
    """Numbers for objects by their identity.

    An object that can have weak references is not kept alive. Any other one is, so that no other
    object gets its address.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Any]] = {}  # Any: a weak reference, or the object
        self._next = itertools.count(1)

    def of(self, value: object) -> int:
        """Return the number of an object."""
        address = id(value)
        found = self._known.get(address)
        if found is None:
            known = self._known
            try:
                kept: object = weakref.ref(value, lambda _: known.pop(address, None))
            except TypeError:
                kept = value
            found = known[address] = next(self._next), kept
        return found[0]
