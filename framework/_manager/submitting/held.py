"""Held tasks: delayed ones, and those of which only some run at a time.

Both are launched later than they are submitted.

Lock order: that of `Places`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final

from framework._manager.submitting.partner import Partner
from framework._records.reasons import delayed
from framework._records.statuses import PENDING
from framework._running.runner import Runner
from framework._running.waits.places import Delays, Places
from framework._tasks.live import LiveTask
from framework._tasks.places import (
    PlaceAnswer,
    PlaceRequest,
    PlaceState,
    TaskPlaces,
    running_key,
)

_WAITS: Final = "waits for a place"


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


class Limited(Partner):
    """Launches tasks when they have a place among those that run.

    Args:
        places: The lines of limited tasks.
        runner: Ends a task that can never get a place.
    """

    options: ClassVar[tuple[str, ...]] = ("max_running",)

    def __init__(self, places: Places, runner: Runner) -> None:
        self._places = places
        self._runner = runner

    def make(self, task: LiveTask) -> None:
        """Find out the key of a new task; calls the user's key function.

        Raises:
            TypeError: If what the function returned has no stable text.
            Exception: What the function raises.
        """
        spec = task.spec
        most = spec.options["max_running"]
        assert most is not None
        args, kwargs = task.args or (), task.kwargs or {}
        key, shown = running_key(spec, args, kwargs)
        places = task.places or TaskPlaces(None)
        places.running = PlaceRequest(key, task.task_id, most, rank=spec.level)
        places.shown = shown
        task.places = places

    resume = make

    def hold(self, task: LiveTask, go_on: Callable[[LiveTask], object]) -> bool:
        """Keep a task until it has a place, which may be at once."""
        places = task.places
        request = None if places is None else places.running
        if places is None or request is None:  # it has ended
            return True
        self._places.add(task)
        if self._places.shared is not None:
            task.reason = _WAITS
        self._places.lines.join(request, partial(self.told, task, places, request, go_on))
        self._places.leave_if_over(task)
        return True

    def told(
        self,
        task: LiveTask,
        places: TaskPlaces,
        request: PlaceRequest,
        go_on: Callable[[LiveTask], object],
        answer: PlaceAnswer,
    ) -> None:
        """Called with the answer to a task that could start, and when it has its place."""
        if answer.granted:
            go_on(task)
            return
        with self._places.lock:
            if places.state is PlaceState.LAUNCHED or task.status is not PENDING:
                return
            task.reason = (
                f"{_WAITS}: {min(len(answer.others), request.limit)} running, "
                f"max_running={request.limit}{places.shown and f' for key {places.shown}'}"
            )
            deadlock = self._places.wait_for(task, request, answer)
        if deadlock is not None:
            self._runner.refuse(task, deadlock)
        self._runner.ledger.share(task)
