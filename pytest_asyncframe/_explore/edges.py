"""The points at the start and at the end of a task, left out while nobody can notice them.

At its start a task has become RUNNING, and runs no code of the user yet. At its end it is
COMPLETED, and runs none any more. What it does there on its thread is the framework's work alone.
Call the work before the first point S, and that after the last one E. Then

- S may come later: right before the code of the task. What others have done in between has not
  looked at the task, and S has not looked at what they have done.
- E may come sooner: right after the end of the task. Whoever waits for it is free sooner, and
  may come as late as before. Nobody has looked at it in between.
- No preemption is added. Who was let run at the start is let run instead of the task, which is a
  preemption only if somebody else is passed over, and then it was one already. Who was let run at
  the end is let run after it, which is free; and where the task came back to end, nobody comes.

So for each schedule with these points there is one without them that has no more preemptions,
and in which the code of the user finds the same, *up to the first look at what S or E changes*.
Thus it is enough to watch the runs without these points: if none of them has such a look, no
run with them has one, and both sets of runs have the same outcomes. Once a run has one, the
search begins again with these points.

A look is each use of the framework but those of which this is known not to be one: see `QUIET`.
The state of a task is changed by S alone, but for what E does not do any more: at a point at the
end the task is COMPLETED, and in the store. So who looks at states notices S if a task has not
started in a run without these points, and never notices E.

What else makes a run one with a look: tasks with more at their start and end than their function,
an event loop (its coroutines use the framework in many ways), and whatever is not controlled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import pytest

from framework import Task, TaskManager, TaskStatus, ThreadPoolExecutorEnhanced
from framework.protocols import TaskEvent
from framework.testing import is_plain, is_pool_thread
from pytest_asyncframe._explore.preceded import preceded
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.task_queue import TaskQueue
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe

EDGES: Final = ("started", "completed")
"""The events at the start and at the end of a task. No other end is left out: some are logged."""

QUIET: Final[dict[type, frozenset[str]]] = {
    TaskManager: frozenset({"clock", "new_id", "pool", "rng", "submit_nowait"}),
    Task: frozenset(
        {"after", "check_cancelled", "created_at", "description", "name", "origin", "owner"}
        | {"report_progress", "run_again_of", "task_id"}
    ),
    # Its `submit` is counted by the toolkit, whose pool has one of its own.
    ThreadPoolExecutorEnhanced: frozenset({"queue_size", "task_timeout"}),
    DeterministicExecutor: frozenset(),
    Probe: frozenset(
        {"assert_not_submitted", "assert_submitted", "calls", "clock", "completed"}
        | {"expect_failure", "linearizable", "manager", "mode", "run_until_complete"}
        | {"run_until_idle", "settled", "submitted"}
    ),
}
"""What is no look, of the public names of each class. These are constants, and what only the task
itself changes; submissions, since only 10,000 tasks fill a queue; and waits for ends, which are
over as soon as a task is COMPLETED, with these points or without."""

OF_STATES: Final[dict[type, frozenset[str]]] = {
    TaskManager: frozenset(
        {"get_active_count", "get_active_tasks", "get_all_tasks", "get_stats"}
        | {"get_tasks_by_status"}
    ),
    Probe: frozenset({"assert_idle", "assert_transitions", "delays", "rate"}),
}
"""What looks at the states of tasks, or at what has happened to them."""

Condition: TypeAlias = Callable[[Any], bool]
"""Whether a use is a look, given the object that it is of."""


class Edges:
    """The points at the start and at the end of the tasks of one run.

    Args:
        are_points: Whether they are points in it.

    Attributes:
        are_points: See above.
        noticed: What could tell whether they are; "" if nothing could, or they are points.
    """

    def __init__(self, *, are_points: bool) -> None:
        self.are_points: bool = are_points
        self.noticed: str = ""
        self._has_begun = False

    def begin(self) -> None:
        """Take note of what could tell the points apart from now on."""
        self._has_begun = True

    def _notice(self, what: str) -> None:
        if self._has_begun:
            self.noticed = self.noticed or what

    def is_point(self, event: TaskEvent) -> bool:
        """Whether an event of a task is a point."""
        return self.are_points or event.kind not in EDGES

    @contextmanager
    def watching(self, explored: Toolkit) -> Iterator[None]:
        """Take note inside the block, which is one run, of what could tell the points apart."""
        if self.are_points:
            yield
            return
        queue = explored.require_clock("interleave").sequencer.queue
        with pytest.MonkeyPatch.context() as patch:
            for owner in QUIET:
                for name in looking(owner):
                    look = partial(self._look, _condition(owner, name, queue), name)
                    patch.setattr(owner, name, preceded(getattr(owner, name), look))
            on_event = partial(self._on_event, explored)
            unsubscribe = explored.sinks.add(on_event, EDGES)
            try:
                yield
            finally:
                unsubscribe()
                self._notice(_left_behind(explored))

    def _look(self, condition: Condition, name: str, on: object, *_: object, **__: object) -> None:
        if condition(on):
            self._notice(name)

    def _on_event(self, explored: Toolkit, event: TaskEvent) -> None:
        record = explored.recorder.record(str(event.task_id))
        if record is None or not is_plain(record):
            self._notice(f"a task of {event.name}")


def _condition(owner: type, name: str, queue: TaskQueue) -> Condition:
    """Return whether a use of something is a look, given the object that it is of."""
    if owner is Task:
        return lambda task: _STATUS(task) is TaskStatus.PENDING
    if name in OF_STATES.get(owner, ()):
        return lambda _: bool(queue.waiting)
    if name == "wait_result":
        # There it would run a queued task itself.
        return lambda _: is_pool_thread(threading.current_thread())
    return lambda _: True


def looking(owner: type) -> list[str]:
    """Return the names of a class whose use may be a look."""
    kinds = [
        kind
        for kind in owner.__mro__
        if kind.__module__.partition(".")[0] in _OURS and (kind is owner or kind not in QUIET)
    ]
    names = {name for kind in kinds for name in vars(kind)}
    return sorted(
        name for name in names - QUIET[owner] if name in _SHOWN or not name.startswith("_")
    )


_STATUS: Final = Task.status.__get__
"""Reads a task's status, and is no look itself."""

_OURS = ("framework", "pytest_asyncframe")

_SHOWN = ("__repr__", "_state")
"""Names that are not public, but behind what users do: ``print``, and pydantic."""


def _left_behind(explored: Toolkit) -> str:
    """Return what a run has met that could tell the points apart; "" for nothing."""
    sequencer = explored.require_clock("interleave").sequencer
    met = {
        "an event loop": sequencer.has_looped,
        "what is not controlled": bool(sequencer.outside.met),
        "a predicate of always()": sequencer.before_point is not None,
        "a fault": explored.recorder.injector is not None,
        "a call of the pool": explored.has_called_pool,
        "a task that has not started": bool(sequencer.queue.waiting),
    }
    return next((what for what, is_met in met.items() if is_met), "")
