"""Places: tasks that are unique, limited or delayed, or wait until others have ended.

A unique task asks for a place when it is submitted, and keeps it until it has ended. A task
whose function has `max_running` asks for another one when it could start.

Guarantees: a task that has ended, and whose function does not run any more, is in no line: whoever
puts a task into a line looks afterwards whether it has ended, and whoever ends it takes it out. A
task is launched once, however often it is granted a place.
Relies on: lines that grant a place that becomes free to the first that waits; the framework's
clock, whose timers may fire on any thread.
Lock order: `lock` guards what a task was told; only the lock of the wait graph is taken under it.
That of the delays guards their table; nothing else is called while it is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from framework._records.statuses import FINAL
from framework._running.waits.lines import Lines
from framework._tasks.live import LiveTask
from framework._tasks.places import PlaceAnswer, PlaceRequest, PlaceState
from framework._threads.watch.wait_graph import WaitGraph
from framework.exceptions import DeadlockError
from framework.protocols import Clock, SharedPlaces


class Delays:
    """The delayed tasks of one manager.

    Args:
        clock: Has the timers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._delayed: dict[LiveTask, None] = {}

    def __len__(self) -> int:
        return len(self._delayed)

    def __contains__(self, task: LiveTask) -> bool:
        with self._lock:
            return task in self._delayed

    def delay(self, task: LiveTask, when: float, due: Callable[[LiveTask], object]) -> None:
        """Call *due* with a task at monotonic second *when*, unless it is final then.

        Raises:
            Exception: If no timer can be set.
        """
        with self._lock:
            self._delayed[task] = None
        try:
            timer = self._clock.call_at(when, lambda: self._end(task, due))
        except Exception:
            self.forget(task)
            raise
        with self._lock:
            # Not if the timer has fired already: nobody would remove it from the task.
            if task in self._delayed:
                task.timer = timer
        if task.status in FINAL:
            # It was cancelled before its timer was set.
            timer.cancel()
            self.forget(task)

    def forget(self, task: LiveTask) -> None:
        """Forget the delay of a task that will not be launched here, if it waits for that."""
        if task not in self._delayed:
            return
        timer, task.timer = task.timer, None
        if timer is not None:
            timer.cancel()
        with self._lock:
            self._delayed.pop(task, None)

    def _end(self, task: LiveTask, due: Callable[[LiveTask], object]) -> None:
        with self._lock:
            self._delayed.pop(task, None)
            task.timer = None
        if task.status not in FINAL:
            task.reason = ""
            task.queued = self._clock.monotonic()
            due(task)


class Places:
    """The tasks of one manager that wait for their time or a place, or have a place.

    Args:
        clock: Source of time.
        shared: The places of all processes; None for those of this one.
        waits: Knows which task waits for which.

    Attributes:
        delays: The tasks that wait for their time.
        shared: As above.
        lines: The lines of all processes if they share them, or else those of this one.
        lock: Guards the `TaskPlaces` of all tasks.
    """

    def __init__(self, clock: Clock, shared: SharedPlaces | None, waits: WaitGraph) -> None:
        self.delays = Delays(clock)
        self.shared = shared
        self.lines: SharedPlaces = Lines(self._is_over) if shared is None else shared
        self.lock = threading.Lock()
        self._monotonic = clock.monotonic
        self._waits = waits
        self._tasks: dict[str, LiveTask] = {}
        # The latest task of each key in this process.
        self._latest: dict[str, LiveTask] = {}
        # Those that wait until others have ended, and what goes on with them.
        self._chained: dict[LiveTask, Callable[[LiveTask], object]] = {}

    def add(self, task: LiveTask) -> None:
        """Add a task that is in a line, or comes into one."""
        self._tasks[task.task_id] = task
        places = task.places
        if places is not None and places.unique is not None:
            self._latest[places.unique.key] = task

    def find(self, task_id: str) -> LiveTask | None:
        """Return a task that is in a line; None for one of another process."""
        return self._tasks.get(task_id)

    def latest(self, key: str) -> LiveTask | None:
        """Return the latest unique task with a key in this process, unless it is over."""
        task = self._latest.get(key)
        return None if task is None or _is_over(task) else task

    def keeps(self, task: LiveTask) -> bool:
        """Return whether a task waits here for something, and no engine knows it."""
        if task.kept:
            return False
        after, places = task.after, task.places
        if after is not None and after.waits:
            return True
        return task in self.delays or (
            places is not None and places.state is not PlaceState.LAUNCHED
        )

    def wait_for(
        self, task: LiveTask, request: PlaceRequest, answer: PlaceAnswer
    ) -> DeadlockError | None:
        """Record that a task waits for the only one with a place; return why it never gets it."""
        holder = self._tasks.get(answer.others[0])
        # Of several places, another one may be given back.
        if request.limit == 1 and holder is not None:
            try:
                self._waits.enter(task, holder)
            except DeadlockError as error:
                return error
        return None

    # -- tasks that wait until others have ended

    def chain(
        self, task: LiveTask, go_on: Callable[[LiveTask], object], awaited: LiveTask | None
    ) -> bool:
        """Keep a task until `unchain` is called with it; False if that was before.

        Args:
            task: The task.
            go_on: What `unchain` returns.
            awaited: One of those that it waits for; None if this process runs none of them.

        Raises:
            DeadlockError: If that one waits for this task.
        """
        after = task.after
        with self.lock:
            if after is None or not after.waits:
                return False
            self._chained[task] = go_on
        if awaited is not None:
            self._waits.enter(task, awaited)
        if task.status in FINAL:
            # It was cancelled before it was kept.
            self.forget_delay(task)
        return True

    def unchain(self, task: LiveTask) -> Callable[[LiveTask], object] | None:
        """Note that a task waits for others no more, and return what goes on with it, if kept."""
        with self.lock:
            if task.after is not None:
                task.after.waits = False
            go_on = self._chained.pop(task, None)
        self._waits.leave(task)
        return go_on

    # -- what becomes of a task

    def launches(self, task: LiveTask) -> bool:
        """Return whether a task that has all its places is to be launched now."""
        places = task.places if task.rest is not None else None
        if places is None:
            return True
        with self.lock:
            first, places.state = places.state is not PlaceState.LAUNCHED, PlaceState.LAUNCHED
        if not first or task.status in FINAL:
            return False
        task.reason = ""
        task.queued = self._monotonic()
        self._waits.leave(task)
        return True

    def leave(self, task: LiveTask) -> None:
        """Give back the places of a task that has ended, and whose function does not run."""
        # In this order: whoever finds it in a line finds the task as well.
        self.lines.leave(task.task_id)
        self._forget(task)

    def leave_if_over(self, task: LiveTask) -> None:
        """Give back the places of a task that has ended before it was put into a line."""
        # 1 it ends and leaves all lines, 2 it is put into one: nobody else would take it out.
        if _is_over(task):
            self.leave(task)

    def forget_delay(self, task: LiveTask) -> None:
        """Forget the delay of a task that will not be launched here, or what it waits for."""
        self.delays.forget(task)
        if task.after is not None:
            self._chained.pop(task, None)
            self._waits.leave(task)

    def give_away(self, task: LiveTask) -> None:
        """Forget a task that another process may run, which sees its places if all share them."""
        self.forget_delay(task)
        if task.spec.needs_place:
            if self.shared is None:
                self.lines.leave(task.task_id)
            self._forget(task)

    def _forget(self, task: LiveTask) -> None:
        places, task.places = task.places, None
        if places is not None and places.unique is not None:
            key = places.unique.key
            if self._latest.get(key) is task:
                self._latest.pop(key, None)
        self._tasks.pop(task.task_id, None)
        self._waits.leave(task)

    def _is_over(self, task_id: str) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and _is_over(task)


def _is_over(task: LiveTask) -> bool:
    """Whether a task has ended, and its function does not run any more."""
    return task.status in FINAL and not task.bodies
