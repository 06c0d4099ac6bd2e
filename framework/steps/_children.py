"""Children: tasks that a task submits while it goes on, each of them once.

An awaited submission in the code of the task is a step of its own. Its start is stored, then the
child is submitted, then the step is stored with the child's id. The id is made of the step's
record, so a run that finds the start only submits with the same id, or finds the child. In the body
of a step the id is made of that step's record, the call, and how manyth of such calls of the body
it is.

Submissions that cannot wait, those of several tasks, those in sync tasks and in transactions of the
app are no steps: the id is made of the branch, the call, and how manyth of such calls of the branch
it is.

The id is that of a line of tasks, and not of the task: one that goes on from another, by
`run_again`, finds the children of that.

Guarantees: for each record of a submission there is one child at most, wherever the process is
killed; with the same arguments, each other submission has one child.
Relies on: whoever submits looks for a task with the id before.
Lock order: none is held here.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from framework._records.ids import ChildId, line_of
from framework._records.steps import SUBMITS, StepRecord
from framework._tasks.functions import name_of
from framework._tasks.live import LiveTask
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import codec_of
from framework.steps._bodies import DeclaredStep
from framework.steps._branches import Body, current_body, current_branch, digest_of
from framework.steps._runs import run_of

Submit: TypeAlias = Callable[[ChildId], Awaitable[str]]
"""Submits a task with an id, or finds the one that has it; returns its id."""


def submits_children() -> bool:
    """Return whether the code that runs here is that of a task that goes on.

    Not that of a sync task, unless it is in the body of a step: the step of a submission is async.
    """
    branch = current_branch()
    return current_body() is not None or (branch is not None and branch.asyncio_task is not None)


async def submit_child(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], submit: Submit
) -> str:
    """Submit a task from the code of one that goes on, once; return its id.

    Args:
        spec: What to run.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        submit: Submits it with the id that it gets.

    Raises:
        StepMismatchError: If its arguments are made anew in each run.
    """
    name, text = name_of(spec.fn), _text_of(spec, args, kwargs)
    body = current_body()
    if body is not None:
        return await submit(_id_in(body, f"{name} {text}"))
    branch = current_branch()
    assert branch is not None

    async def submitted(_: str) -> str:
        here = current_body()
        assert here is not None
        return await submit(_id_in(here, name))

    declared = DeclaredStep(SUBMITS + name, submitted, starts_first=True)
    task_id: str = await run_of(branch).call(branch, declared, (text,), {})
    return task_id


def child_of(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ChildId | None:
    """Return the id of a child that is submitted by a call right here, the same in each run.

    Args:
        spec: What to run.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        None if the code that runs here is not that of a task that goes on.
    """
    body, branch = current_body(), current_branch()
    if body is None and branch is None:
        return None
    call = f"{name_of(spec.fn)} {_text_of(spec, args, kwargs)}"
    if body is not None:
        return _id_in(body, call)
    assert branch is not None
    number = _next(branch.submitted, call)
    made = digest_of(repr((_line(branch.run.task), branch.descent, call, number)))
    return ChildId(made, may_be_stored=branch.run.has_run)


def _line(task: LiveTask) -> str:
    return line_of(str(task.task_id), goes_on=bool(task.run_again_of))


def _next(submitted: dict[str, int], call: str) -> int:
    """Return how many there were of a call, and count one more."""
    submitted[call] = number = submitted.get(call, -1) + 1
    return number


def _text_of(spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return what tells a call from others of its function; "" if JSON has nothing for it."""
    try:
        # As short as a digest: the call of the child may be as long as one may be.
        return digest_of(codec_of(spec.fn).identify(args, kwargs))
    except (TypeError, ValueError):
        return ""


def _id_in(body: Body, call: str) -> ChildId:
    """Return the id of the task that a body submits next by a call; the same in each run."""
    number, task, record = _next(body.submitted, call), body.run.task, body.record
    place = record.path, record.function, record.digest, _occurrence(task, record)
    made = digest_of(repr((_line(task), place, call, number)))
    return ChildId(made, may_be_stored=body.run.has_run)


def _occurrence(task: LiveTask, record: StepRecord) -> int:
    """Return how many of such calls its branch has made before that are not repeated by this."""
    key = record.path, record.function, record.digest
    known = [] if task.steps is None else task.steps.all()
    return sum(
        one.state != "ended" and (one.path, one.function, one.digest) == key
        for one in itertools.takewhile(lambda one: one is not record, known)
    )
