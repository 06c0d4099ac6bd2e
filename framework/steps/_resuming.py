"""Resuming: each attempt of a task that goes on runs as the first branch of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from framework._records.statuses import FINAL
from framework._running.ledger import Ledger
from framework._running.mail import Mail
from framework._running.waits.outages import begin_outage, end_outage
from framework._running.waits.policies import Policies
from framework._tasks.live import LiveTask
from framework.exceptions import StoreUnavailableError
from framework.steps._bodies import Bodies
from framework.steps._branches import number_branches, under_way
from framework.steps._code import code_of
from framework.steps._runs import StepRun
from framework.steps._sleeps import Sleeps

_PAUSE: Final = 0.1
"""Seconds until steps are read again that could not be."""


class Resuming:
    """Runs the attempts of tasks with ``on_restart="resume"``.

    Args:
        ledger: Of the tasks; says what their store can do, and who is called around them.
        policies: Returns what lets tasks sleep; called while one runs.
        begins: Called before each attempt.

    Attributes:
        mail: Has the messages to these tasks.
    """

    def __init__(
        self, ledger: Ledger, policies: Callable[[], Policies], begins: Callable[[], object]
    ) -> None:
        self._store = ledger.features.steps
        self._bodies = Bodies(ledger, ledger.interceptor)
        self._ledger = ledger
        self.mail = Mail(ledger)
        self._policies = policies
        self._begins = begins

    def around_attempt(self, task: LiveTask, attempt: int, call: Callable[[], Any]) -> Any:
        """Make an attempt with the records of the task; see `Interceptor.around_attempt`."""
        self._begins()
        if task.spec.kind == "thread":
            return self._on_thread(task, call)
        return self._on_loop(task, call)

    async def _on_loop(self, task: LiveTask, call: Callable[[], Any]) -> Any:
        run = _known()
        while run is None:
            try:
                run = _know(await asyncio.to_thread(self._run_of, task))
            except StoreUnavailableError as error:
                # It waits, as it waits for a step to be stored.
                begin_outage(self._ledger, task, error)
                await self._ledger.clock.asleep(_PAUSE)
        end_outage(self._ledger, task)
        return await attempt_on_loop(run, call)

    def _on_thread(self, task: LiveTask, call: Callable[[], Any]) -> Any:
        run = _known()
        while run is None:
            try:
                run = _know(self._run_of(task))
            except StoreUnavailableError as error:
                begin_outage(self._ledger, task, error)
                if task.status in FINAL or self._ledger.state != "running":
                    raise
                self._ledger.clock.sleep(_PAUSE)
        end_outage(self._ledger, task)
        return attempt_on_thread(run, call)

    def _run_of(self, task: LiveTask) -> StepRun:
        """Return the steps of a task as they are stored; blocks.

        Raises:
            StoreUnavailableError: If they cannot be read.
        """
        store = self._store
        if store is not None:
            records = store.fetch_steps(str(task.task_id))
        else:
            # What the task has left from which it goes on.
            records = [] if task.steps is None else task.steps.all()
        sleeps = Sleeps(task, self._policies(), self._ledger)
        found = task, code_of(task.spec.fn), store, sleeps, self.mail, self._bodies, records
        return StepRun(*found)


async def attempt_on_loop(run: StepRun, call: Callable[[], Any]) -> Any:
    """Make an attempt of an ``async def`` task, in its context.

    Args:
        run: Its steps.
        call: Returns the coroutine of its function.

    Raises:
        PublishAgain: If the task leaves, however its code has ended.
    """
    number_branches(asyncio.get_running_loop())
    coroutine = call()
    root = run.begin(coroutine)
    root.asyncio_task = asyncio.current_task()
    result = None
    try:
        with under_way(root):
            result = await coroutine
    except BaseException as error:
        if run.sleeps.left is None:
            await run.drop(error)
            raise
    if run.sleeps.left is not None:
        # However its code has ended: it goes on elsewhere.
        await run.sleeps.end(run.branches)
        raise run.sleeps.left
    run.complete()
    return result


def attempt_on_thread(run: StepRun, call: Callable[[], Any]) -> Any:
    """Make an attempt of a sync task, in its context and on its thread.

    Args:
        run: Its steps.
        call: Calls its function.

    Raises:
        PublishAgain: If the task leaves, however its code has ended.
    """
    result = None
    try:
        with under_way(run.begin()):
            result = call()
    except BaseException as error:
        if run.sleeps.left is None:
            run.drop_sync(error)
            raise
    if run.sleeps.left is not None:
        raise run.sleeps.left
    run.complete()
    return result


_RUN: Final[ContextVar[StepRun | None]] = ContextVar("asyncframe_steps", default=None)
"""The steps of the task in whose context this runs: they are gone with it."""


def _known() -> StepRun | None:
    """Return the steps of the task that runs here, if it has made an attempt; None if not."""
    run = _RUN.get()
    # Tasks that another one has submitted inherit its context.
    return run if run is not None and run.is_here else None


def _know(run: StepRun) -> StepRun:
    _RUN.set(run)
    return run
