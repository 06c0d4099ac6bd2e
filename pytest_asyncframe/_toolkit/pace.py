"""What happens by itself in a test: whether time moves, and whether tasks start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pytest_asyncframe._turns.sequencer import Sequencer


class Pace:
    """Sets what happens by itself, while waits of a test and its live servers overlap.

    That is whether time moves, and whether tasks start.

    Args:
        sequencer: The test's; None in the mode ``threads``, where all happens by itself.
        mode: The mode of the test.
        moves: Whether time moves by itself, also while the test does not wait.
        drains: Whether a wait runs what is queued in the mode ``manual``.
    """

    def __init__(self, sequencer: Sequencer | None, mode: str, *, moves: bool, drains: bool):
        self._sequencer = sequencer
        self._moves = moves
        self._holds = mode != "virtual"
        self._in_turns = mode in ("auto", "seeded")
        self._is_manual = mode == "manual"
        self._drains = drains and self._is_manual
        self._waits = self._servers = 0

    def waiting(self) -> AbstractContextManager[None]:
        """Let time move by itself while the test waits, also beside a live server.

        Where nothing starts by itself, and the test's waits are to run it, it starts too.
        """
        return self._counted(waits=1)

    def beside_server(self) -> AbstractContextManager[None]:
        """Start tasks when they are submitted, and let time stand still, inside the block."""
        return self._counted(servers=1)

    @contextmanager
    def _counted(self, waits: int = 0, servers: int = 0) -> Iterator[None]:
        self._count(waits, servers)
        try:
            yield
        finally:
            self._count(-waits, -servers)

    def _count(self, waits: int, servers: int) -> None:
        self._waits += waits
        self._servers += servers
        sequencer = self._sequencer
        if sequencer is None:
            return
        waits, drains = self._waits > 0, self._drains
        if drains:
            sequencer.starts = waits
        beside = self._servers > 0 and not self._is_manual
        sequencer.hold = self._holds and not beside
        sequencer.moves = (self._moves or drains) if waits else (self._moves and not beside)
        sequencer.one_at_a_time = (self._in_turns or (drains and waits)) and not beside
