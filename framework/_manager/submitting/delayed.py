"""Delayed tasks: those that are launched some seconds after their submission."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from framework._manager.submitting.partner import Partner
from framework._records.reasons import delayed
from framework._running.runner import Runner
from framework._running.waits.places import Delays
from framework._tasks.live import LiveTask


class Delayed(Partner):
    """Launches tasks after the delay of their spec.

    Args:
        delays: Has their timers.
        runner: Ends a task for which no timer can be set.
    """

    options: ClassVar[tuple[str, ...]] = ("delay",)

    def __init__(self, delays: Delays, runner: Runner) -> None:
        self._delays = delays
        self._runner = runner
        self._clock = runner.ledger.clock

    def make(self, task: LiveTask) -> None:
        """Say why a task will wait."""
        task.reason = delayed(task.created_at + task.spec.delay)

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Keep a task until its delay is over, which is counted from its submission.

        So a task that waited before, for its record to be stored or to be the only one of its
        key, does not wait longer by that, and starts when its `reason` says.
        """
        spec, clock = task.spec, self._clock
        due = task.queued + spec.delay
        left = due - clock.monotonic()
        if left <= 0:
            return False
        if spec.needs_place:
            # It may have had another reason meanwhile.
            task.reason = delayed(clock.time() + left)
        try:
            self._delays.delay(task, due, go_on)
        except Exception as error:  # its id is known already, so the task must end
            self._runner.refuse(task, error)
        return True
