"""Results: a task that goes on waits for other tasks, and records how they have ended.

What it gets of another task is a step of its own, found again by that task's id. So it gets the
same when it goes on, also if the other one was forgotten meanwhile. After `LONG` it leaves, as for
a message, and whoever stores the other one's end wakes it.

Guarantees: what is recorded is how the other task has ended, that nobody knows it, or that the
limit of the wait has passed; never that this process stops, or cannot reach its store.
Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from framework._records.reasons import result_of
from framework._records.records import TaskRecord
from framework._records.steps import AWAITS, StepRecord
from framework._running.outcomes import raise_or_return
from framework._tasks.errors.kept import decode_error, encode_error
from framework._tasks.live import HomeCore
from framework._tasks.registry import find_function
from framework._tasks.wire import decode_result, encode_result
from framework.exceptions import FrameworkNotStartedError, TaskNotFoundError
from framework.steps import _sleeps
from framework.steps._attempts import come_further
from framework.steps._bodies import DeclaredStep
from framework.steps._branches import Branch, current_branch, digest_of
from framework.steps._matching import Call
from framework.steps._runs import StepRun, run_of
from framework.steps._sleeps import Wait

Ended: TypeAlias = Callable[[float | None], Awaitable[TaskRecord]]
"""Waits for so many seconds, or as long as it takes, until a task has ended; returns its record."""

EndedHere: TypeAlias = Callable[[float | None], TaskRecord]
"""Does the same on a thread."""

_AWAY: Final = 3_600.0
"""Seconds after which a task that has left looks by itself: another release may have ended what it
waits for, and known nothing of who does."""

_STEP: Final = DeclaredStep("get_result", lambda: None)
_STEP_SYNC: Final = DeclaredStep("wait_result", lambda: None)


def awaits_in_a_step(core: HomeCore) -> bool:
    """Return whether an ``async def`` task of a framework goes on here, between its steps."""
    branch = _branch_of(core)
    return branch is not None and branch.asyncio_task is not None


def blocks_in_a_step(core: HomeCore) -> bool:
    """Return the same of a sync task."""
    branch = _branch_of(core)
    return branch is not None and branch.asyncio_task is None


def _branch_of(core: HomeCore) -> Branch | None:
    branch = current_branch()
    return branch if branch is not None and branch.run.task.home.core is core else None


async def result_in_a_step(
    task_id: str, limit: float | None, ended: Ended, let_go: Callable[[], bool]
) -> Any:
    """Return the result of another task, from its record if there is one.

    Args:
        task_id: The task.
        limit: For how many seconds to wait, from the first time on; None for as long as it takes.
        ended: Waits for its end.
        let_go: Gives the task that waits to the other processes, if this one stops.

    Raises:
        BaseException: What `TaskManager.get_result` raises.
    """
    branch = current_branch()
    assert branch is not None
    run, call = run_of(branch), _call_of(task_id)
    answer = await run.ask(branch, _STEP, call)
    record = run.record_of(branch, call, answer)
    if answer.what == "take":
        await run.turn(branch, record)
        if _is_kept(record):
            return run.give(record, *_recorded(record))
        return raise_or_return(await ended(limit))
    if record.answer is None:
        record.answer = _waiting(run, limit)
        if limit is not None or not run.is_recorded:
            # So that it looks for its children when it goes on, also if it has left in order.
            await run.store(branch, record)
    until, stays = _until(record), run.sleeps.clock.monotonic() + _sleeps.LONG
    wait = Wait(until, result_of(task_id), stays_until=stays, away=_AWAY)
    found: TaskRecord | Exception
    try:
        with run.sleeps.waiting(branch, wait, run.watch):
            found = await ended(_left(run, until))
    except (TaskNotFoundError, TimeoutError) as error:
        found = error
    except FrameworkNotStartedError:
        if let_go():
            # It goes on in another process, and waits there. Here it is cancelled.
            await asyncio.get_running_loop().create_future()
        raise
    except asyncio.CancelledError:
        run.cut_off(record)
        raise
    outcome = _noted(record, found)
    await run.store(branch, record)
    await run.turn(branch, record)
    return run.give(record, *outcome)


def result_on_a_thread(
    task_id: str, limit: float | None, ended: EndedHere, let_go: Callable[[], bool]
) -> Any:
    """Do the same in a sync task, on its thread."""
    branch = current_branch()
    assert branch is not None
    run, call = run_of(branch), _call_of(task_id)
    answer = run.ask_sync(branch, _STEP_SYNC, call)
    record = run.record_of(branch, call, answer)
    if answer.what == "take":
        if _is_kept(record):
            return run.give(record, *_recorded(record))
        return raise_or_return(ended(limit))
    if record.answer is None:
        record.answer = _waiting(run, limit)
        if limit is not None or not run.is_recorded:
            run.store_sync(record)
    come_further(run.sleeps.ledger, run.task)
    wait = Wait(_until(record), result_of(task_id), away=_AWAY)
    found: TaskRecord | Exception
    try:
        found = _ended_here(run, wait, ended)
    except (TaskNotFoundError, TimeoutError) as error:
        found = error
    except FrameworkNotStartedError:
        if let_go():
            # No error that its code handles as one.
            raise asyncio.CancelledError from None
        raise
    outcome = _noted(record, found)
    run.store_sync(record)
    return run.give(record, *outcome)


def _ended_here(run: StepRun, wait: Wait, ended: EndedHere) -> TaskRecord:
    """Block until another task has ended.

    Raises:
        PublishAgain: If that takes longer than `LONG`, and another process may go on.
    """
    if run.sleeps.leaving_here(wait) is not None:
        with suppress(TimeoutError):
            return ended(_sleeps.LONG)
        left = run.sleeps.leaving_here(wait)
        if left is not None:
            run.sleeps.left = left
            raise left
    return ended(_left(run, wait.until))


def _call_of(task_id: str) -> Call:
    # The id says what it is, so there is nothing to suspect.
    return Call(AWAITS, digest_of(task_id), has_key=True)


def _waiting(run: StepRun, limit: float | None) -> str:
    return json.dumps({"until": None if limit is None else run.sleeps.now() + limit})


def _until(record: StepRecord) -> float:
    until: float | None = json.loads(record.answer)["until"]
    return math.inf if until is None else until


def _left(run: StepRun, until: float) -> float | None:
    return None if until == math.inf else max(0.0, until - run.sleeps.now())


def _noted(record: StepRecord, found: TaskRecord | Exception) -> tuple[Any, BaseException | None]:
    """Note how a wait has ended; return the result as it will be read again, or the error."""
    if isinstance(found, Exception):
        record.state, record.answer = "failed", encode_error(found)
        return None, found
    try:
        value = raise_or_return(found)
    except Exception as error:  # whatever the other task has raised
        record.state, record.answer = "failed", encode_error(error)
        return None, error
    function, kept = find_function(found.name), {"of": found.name}
    record.state = "completed"
    try:
        kept["result"] = encode_result(function, value)
        value = decode_result(function, kept["result"])
    except (TypeError, ValueError):  # only a store in memory has it, which is asked again
        pass
    record.answer = json.dumps(kept)
    return value, None


def _is_kept(record: StepRecord) -> bool:
    return record.state == "failed" or "result" in json.loads(record.answer)


def _recorded(record: StepRecord) -> tuple[Any, BaseException | None]:
    if record.state == "failed":
        return None, decode_error(record.answer)
    kept = json.loads(record.answer)
    return decode_result(find_function(kept["of"]), kept["result"]), None
