"""Replays at the end of a test: its tasks must take the same way once more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from framework._manager.core import Core
from framework._records.records import TaskRecord
from framework._records.statuses import COMPLETED, FAILED
from framework._replays.differences import Difference, unfit
from framework._replays.in_time import InTime
from framework._replays.replay import Recorded, Replay, silent_framework
from framework._tasks.live import LiveTask
from framework._tasks.wire import decode_call, encode_call
from framework.exceptions import StepMismatchError
from framework.protocols import Clock

_LIMIT = 5.0
"""Real seconds for a task that is replayed in real time."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def call_of_resumed(task: LiveTask) -> str | None:
    """Return the call of a task that goes on from its steps, as JSON; None if it has none."""
    if task.args is None:
        return None
    try:
        return encode_call(task.spec.fn, task.args, task.kwargs)
    except (TypeError, ValueError):
        return None


def replay_all(
    calls: Mapping[LiveTask, str], clock: Clock | None, loop_factory: LoopFactory | None
) -> dict[TaskRecord, list[Difference]]:
    """Replay tasks that have ended; see `testing.replay_tasks`."""
    found: dict[TaskRecord, list[Difference]] = {}
    recorded = dict[LiveTask, Recorded]()
    for task, call in calls.items():
        if _can_be(task):
            try:
                recorded[task] = _recorded(task, call)
            except (TypeError, ValueError) as error:
                found[task] = [unfit(error)]
    if not recorded:
        return found
    with ExitStack() as stack:
        core = stack.enter_context(silent_framework(clock))
        if loop_factory is None:
            replay = stack.enter_context(closing(InTime(core, _LIMIT))).replay
        else:
            replay = _Here(core, loop_factory).replay
        for task, one in recorded.items():
            differences = replay(one)
            if differences:
                found[task] = differences
    return found


class _Here:
    """Replays tasks on this thread.

    Args:
        core: Of a framework that runs no task.
        loop_factory: Makes the event loop of each.
    """

    def __init__(self, core: Core, loop_factory: LoopFactory) -> None:
        self._core, self._loop_factory = core, loop_factory

    def replay(self, one: Recorded) -> list[Difference]:
        """Return where the code of a task leads elsewhere than its records; blocks."""
        replay = Replay(self._core, one)
        if one.spec.kind == "thread":
            replay.on_thread()
        else:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(replay.on_loop())
        return replay.differences()


def _can_be(task: LiveTask) -> bool:
    # One that was refused has told of it.
    return task.steps is not None and not isinstance(task.error, StepMismatchError)


def _recorded(task: LiveTask, call: str) -> Recorded:
    steps = task.steps
    assert steps is not None
    args, kwargs = decode_call(task.spec.fn, call)
    return Recorded(
        str(task.task_id),
        task.spec,
        args,
        kwargs,
        list(steps.stored),
        app=task.home.app,
        attempts=task.attempts,
        is_complete=task.status is COMPLETED,
        error=task.error,
        is_cut_off=task.status not in {COMPLETED, FAILED},
        unneeded={one.number for one in steps.unasked},
        run_again_of=task.run_again_of or "",
    )
