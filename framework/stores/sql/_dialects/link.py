"""Link: what a process has with the others beside its transactions, and what it learns by that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from framework._threads.clock import SystemClock

Read: TypeAlias = tuple[int, int]
"""Up to where a process has read: the latest version, and the number of the latest inquiry."""

Told: TypeAlias = Callable[[], object]


class Link(Protocol):
    """Tells others that this process lives, and this process that others have committed.

    It never has the last word: once a second somebody looks at what is committed, and says by
    `check` whether that could be known. Only the store's thread calls. It begins by not following
    closely.

    Attributes:
        tells: Whether it tells that others have committed; otherwise it has to be asked.
    """

    tells: bool

    def start(self, process_id: str) -> None:
        """Begin, for a process."""
        ...

    def belong(self, process_id: str) -> None:
        """Go on for another process: this one has a new id."""
        ...

    @property
    def presence(self) -> str | None:
        """What the row of the process says of its lock; None if it holds none."""
        ...

    def may_have_news(self, read: Read) -> bool:
        """Return whether others may have committed more than was read."""
        ...

    def offers(self, read: Read) -> bool:
        """Return whether tasks may be free in that, of which nobody calls this process."""
        ...

    def looks(self) -> None:
        """Note that what is committed is read now."""
        ...

    def follow(self, closely: bool) -> None:
        """Learn of every commit of others; or, if not closely, of those that all must know of."""
        ...

    @property
    def is_called(self) -> bool:
        """Whether this process is called to take free tasks; otherwise it looks for them."""
        ...

    @property
    def called(self) -> int | None:
        """How many others were called before this process to take free tasks; None if it is not."""
        ...

    def answers(self) -> None:
        """Note that this process takes free tasks now."""
        ...

    def check(self, found: bool, read: Read) -> None:
        """Note whether there is more than was read; once for each beat, before a look."""
        ...

    def close(self) -> None:
        """End it; blocks for a moment."""
        ...


Linked: TypeAlias = Callable[[SystemClock, Told], Link]
"""Makes a link; what it gets is called when others have committed, where that is heard."""
