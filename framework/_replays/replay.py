"""Replay: one task runs again from its records, in a framework that runs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from framework._manager.core import Core
from framework._manager.inside import core_of
from framework._manager.overriding import override_framework
from framework._records.ids import TaskId
from framework._records.records import Kind
from framework._records.statuses import RUNNING
from framework._records.steps import StepRecord
from framework._replays import lines
from framework._replays.differences import Difference, left_out, new, raised, refused, stuck
from framework._replays.run import PATIENCE, ReplayRun
from framework._running.outcomes import PublishAgain
from framework._tasks.functions import Args, Kwargs, bare_function
from framework._tasks.injection import injected
from framework._tasks.live import Home, LiveTask, current_home, current_record, new_task
from framework._tasks.specs import TaskSpec
from framework.exceptions import TaskNotFoundError
from framework.protocols import Clock, EngineTask, Run, TaskEngine
from framework.steps._code import code_of
from framework.steps._resuming import attempt_on_loop, attempt_on_thread

_Outcome: TypeAlias = BaseException | Literal["ended", "over"]
"""What has ended a replay: an error, the end of the function, or that nothing went on."""


_MOMENTS: Final = 60.0
"""For how many seconds of its loop's time one goes on that may have waited when it was cut off."""


class Nowhere(TaskEngine):
    """Runs no task."""

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Leave it where it is."""


@contextmanager
def silent_framework(clock: Clock | None = None) -> Iterator[Core]:
    """Make a framework current in the whole process that runs no task, and yield its core.

    What replayed code submits by itself, and not as a step, goes no further.

    Args:
        clock: Source of its time; None for the system's.
    """
    with override_framework(clock=clock, engine=Nowhere(), nested=True) as manager:
        core = core_of(manager)
        # Their ids may be arguments of steps.
        core.children.expect()
        yield core


@dataclass(frozen=True, slots=True)
class Recorded:
    """A task as it is recorded.

    Attributes:
        task_id: Its id.
        spec: Its function.
        args: The positional arguments.
        kwargs: The keyword arguments.
        records: Of its steps.
        app: The app that it belongs to, or None.
        attempts: How many it has made.
        is_complete: Whether it has COMPLETED, so that it must call nothing that is not recorded.
        error: The error by which it has FAILED; None if it has not.
        is_cut_off: Whether its end came from outside, perhaps while its own code waited.
        unneeded: Numbers of steps that its last attempt did not call.
        run_again_of: The task that it goes on from; "" for none.
    """

    task_id: str
    spec: TaskSpec
    args: Args
    kwargs: Kwargs
    records: Sequence[StepRecord]
    app: object = None
    attempts: int = 1
    is_complete: bool = False
    error: BaseException | None = None
    is_cut_off: bool = False
    unneeded: Collection[int] = ()
    run_again_of: str = ""


class Replay:
    """Runs a task again from its records, once.

    Its code runs for real, but for its steps, what it submits, and its sleeps and messages.

    Args:
        core: Of a framework that runs no task.
        one: The task.
    """

    def __init__(self, core: Core, one: Recorded) -> None:
        self._one = one
        self._task = task = _live(core, one)
        # Copies: a run changes what becomes of records.
        records = [replace(record) for record in one.records]
        parts = core.policies, core.ledger, core.resuming.mail
        patience = _MOMENTS if one.is_cut_off else PATIENCE
        self._run = ReplayRun(task, code_of(one.spec.fn), *parts, records, patience)
        self._outcome: _Outcome | None = None

    # -- running it

    async def on_loop(self) -> None:
        """Run the code of an ``async def`` task on the running loop until nothing goes on."""
        context = self._task.context
        assert context is not None
        await asyncio.get_running_loop().create_task(self._on_loop(), context=context)

    async def _on_loop(self) -> None:
        try:
            await attempt_on_loop(self._run, self._call())
            self._outcome = "ended"
        except PublishAgain:
            self._outcome = "over"
        except BaseException as error:  # whatever the code raises is what was found
            self._outcome = error
        others = [one for one in self._run.branches[1:] if one.state != "ended"]
        if others and self._run.ends.left is None:
            # It has left them behind.
            self._run.ends.leave(others)
            await self._run.ends.end(others)

    def on_thread(self) -> None:
        """Run the code of a sync task on this thread."""
        context = self._task.context
        assert context is not None
        try:
            context.run(attempt_on_thread, self._run, self._call())
            self._outcome = "ended"
        except PublishAgain:
            self._outcome = "over"
        except BaseException as error:  # as above
            self._outcome = error

    def _call(self) -> Callable[[], Any]:
        # Once, without the waits of a retry and a throttle.
        fn = injected(bare_function(self._one.spec.fn))
        return partial(fn, *self._one.args, **self._one.kwargs)

    # -- while it runs

    def may_hurry(self) -> bool:
        """Return whether nothing of it goes on until a timer of its loop fires; on the loop."""
        return all(
            one.state in {"held", "inside"} or lines.sleeps(one.coroutine)
            for one in self._run.moving()
        )

    @property
    def line(self) -> str:
        """The line at which its own code waits; "" if that is unknown; on the loop."""
        found = (lines.waiting(one.coroutine) for one in self._run.moving())
        return next((one for one in found if one), "")

    def leave(self) -> None:
        """Cancel what is left of it; on the loop, or while that does not run."""
        self._run.ends.leave(self._run.branches)

    # -- what was found

    def differences(self) -> list[Difference]:
        """Return where it has led elsewhere than the records; once it is over."""
        run, outcome = self._run, self._outcome
        found = [refused(one) for one in run.refused]
        if isinstance(outcome, BaseException):
            if not self._is_expected(outcome):
                found.append(raised(outcome, lines.raising(outcome.__traceback__)))
            return found
        if run.waits_outside and not run.refused:
            return [] if self._one.is_cut_off else [stuck(run.line, None)]
        left = self._left()
        if run.unrecorded and (left or self._one.is_complete):
            is_changed = run.is_changed
            return found + [new(one, left, is_changed=is_changed) for one in run.unrecorded]
        if left and not (run.unrecorded or run.refused or run.repeats):
            found.append(left_out(left, is_changed=run.is_changed))
        return found

    def _is_expected(self, error: BaseException) -> bool:
        """Return whether an error is none of the replay's: a step's, or the one of the task."""
        if self._run.has_raised(error) or type(error) is type(self._one.error):
            return True
        # Nobody here knows of other tasks, and so how it would go on.
        return isinstance(error, TaskNotFoundError)

    def _left(self) -> list[StepRecord]:
        """Return what it has not called, and would not have called if it had gone on."""
        unneeded = self._one.unneeded
        return [
            one
            for one in self._run.unasked
            if one.state != "cancelled" and one.number not in unneeded and self._run.is_past(one)
        ]


def _live(core: Core, one: Recorded) -> LiveTask:
    home = Home(core, one.app, None)
    context = copy_context()
    context.run(current_home.set, home)
    now = core.clock.time()
    task = new_task(TaskId(one.task_id), one.spec, context, home, core.clock.monotonic(), now)
    context.run(current_record.set, task)
    task.attempts, task.status = one.attempts, RUNNING
    task.args, task.kwargs, task.run_again_of = one.args, one.kwargs, one.run_again_of
    return task
