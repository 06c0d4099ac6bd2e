"""The replacements of functions, which are made once and look up the test that runs now.

Making a replacement takes longer than all that it does in most tests. So it stays from test to
test as long as the function that it replaces is the same.

Guarantees: between tests a replacement behaves like the function that it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from pytest_asyncframe.clock._clock import VirtualClock
from pytest_asyncframe.clock._patched.pools import Pools


class Present:
    """What belongs to the test that runs now.

    Attributes:
        clock: Its clock; between tests one that no thread works on.
        pools: The user's pools that it uses.
    """

    clock: VirtualClock
    pools: Pools

    def __init__(self) -> None:
        nobodys = VirtualClock()
        self._between = nobodys, Pools(nobodys.sequencer)
        self._kept: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.end()

    def begin(self, clock: VirtualClock) -> None:
        """Begin a test."""
        self.clock = clock
        self.pools = Pools(clock.sequencer)

    def end(self) -> None:
        """End it, and drop all references to its parts."""
        self.clock, self.pools = self._between

    def replacement(self, owner: Any, name: str, real: Any, make: Make) -> Any:
        """Return what replaces the function *real* of *owner*.

        Args:
            owner: A module or class.
            name: Of the function there.
            real: The function, which may be another one than in the last test.
            make: Makes the replacement; always the same one for a name.
        """
        key = owner.__name__, name
        kept = self._kept.get(key)
        if kept is None or kept[0] is not real:
            kept = self._kept[key] = real, make(self, real)
        return kept[1]


Make: TypeAlias = Callable[[Present, Any], Any]
"""Makes the replacement of a function, given what it looks up and the function."""

Replaced: TypeAlias = tuple[Any, str, Make]
"""An owner, the name of its function, and what makes the replacement."""

_FREE: list[Present] = []
"""Those that no test uses at present. Tests that a test runs have one of their own."""


@contextmanager
def replaced(clock: VirtualClock, all_replaced: Iterable[Replaced]) -> Iterator[None]:
    """Replace functions inside the block, which lasts for a test.

    Args:
        clock: The test's clock.
        all_replaced: What is replaced, in order; it is restored in reverse order.
    """
    present = _FREE.pop() if _FREE else Present()
    present.begin(clock)
    undo = []
    try:
        for owner, name, make in all_replaced:
            real = getattr(owner, name)
            undo.append((owner, name, real))
            setattr(owner, name, present.replacement(owner, name, real, make))
        yield
    finally:
        for owner, name, real in reversed(undo):
            setattr(owner, name, real)
        present.end()
        _FREE.append(present)
