"""Several calls that are submitted together, with one wait for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from types import FrameType
from typing import Any, TypeAlias

from framework._manager.submitting.intake import Intake
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import Steps, suspend_all

Calls: TypeAlias = Iterable[tuple[TaskSpec, tuple[Any, ...], dict[str, Any]]]
"""What to run, with arguments that are checked; taking the next one may raise an error."""

Submitted: TypeAlias = LiveTask | Existing


async def submit_all(
    intake: Intake, calls: Calls, frame: FrameType, *, patient: bool
) -> list[Submitted]:
    """Submit several calls, and return what has become of each.

    Args:
        intake: Takes them.
        calls: What to run.
        frame: The frame of the caller.
        patient: Whether to submit them as `Intake.submit_patiently` does, or as `Intake.submit`.

    Raises:
        QueueFullError: If there is not room for all; none is submitted then.
        Exception: What `Intake.submit` raises for one of them. If a call needs arguments that it
            does not have, none is submitted; otherwise some may be.
    """
    made = [intake.made(*call, frame) for call in calls]
    intake.ledger.require_room(len(made))
    outcomes = await _outcomes(intake, made, patient)
    submitted = [one for one in outcomes if not isinstance(one, Exception)]
    for one in outcomes:
        if isinstance(one, Exception):
            raise one
    return submitted


async def submit_each(
    intake: Intake, calls: Calls, frame: FrameType, *, patient: bool
) -> list[Submitted | Exception]:
    """Submit several calls one after the other, up to one that is refused at once.

    Args:
        intake: Takes them.
        calls: What to run.
        frame: The frame of the caller.
        patient: As above.

    Returns:
        What has become of each, or why it was refused.
    """
    made = (intake.made(*call, frame) for call in calls)
    return await _outcomes(intake, made, patient)


async def _outcomes(
    intake: Intake, made: Iterable[LiveTask], patient: bool
) -> list[Submitted | Exception]:
    task_ids = dict[str, None]()

    def steps() -> Iterator[Steps[Submitted]]:
        for task in made:
            task_ids[task.task_id] = None
            yield _steps(intake, task, patient)

    batching = intake.ledger.features.batching
    together = nullcontext() if batching is None else batching.together(task_ids.keys())
    return await suspend_all(steps(), together)


def _steps(intake: Intake, task: LiveTask, patient: bool) -> Steps[Submitted]:
    if patient:
        return (yield from intake.steps_of_made(task))
    return intake.submit_made(task)
