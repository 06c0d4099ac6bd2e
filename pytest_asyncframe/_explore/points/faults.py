"""Moments at which a fault may take place, as choices of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pytest_asyncframe._turns.sequencer import Sequencer


class FaultChoices:
    """Lets the chooser of a run decide about faults; see `_faults.searched.Choices`.

    Args:
        sequencer: The actors of the test.
        known: Returns the identity of an asyncio task, or None; None where they have none.
        pauses: Whether others may run where a task of a thread begins again.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        known: Callable[[asyncio.Task[Any]], str | None] | None,
        *,
        pauses: bool,
    ) -> None:
        self._sequencer = sequencer
        self._known = known
        self._pauses = pauses

    def who(self) -> str:
        """Return the identity of who runs here; "" if that is not controlled."""
        actor = self._sequencer.here
        if actor is None:
            return ""
        task = None if asyncio._get_running_loop() is None else asyncio.current_task()
        known = None if task is None or self._known is None else self._known(task)
        return known or actor.identity

    def choose(self, what: str, options: Sequence[str]) -> int:
        """Return the index of what happens, 0 for nothing."""
        return self._sequencer.choose_fault(what, options)

    def pause(self) -> None:
        """Let others run before a task runs again."""
        if self._pauses:
            self._sequencer.point("framework", "the start of its next run")
