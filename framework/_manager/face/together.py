"""Several calls that are submitted together: all or none, with one wait for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any, TypeAlias

from framework._manager.submitting.intake import Intake
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import suspend_all

Calls: TypeAlias = Sequence[tuple[TaskSpec, tuple[Any, ...], dict[str, Any]]]
"""What to run, with arguments that are already checked."""


async def submit_all(
    intake: Intake, calls: Calls, frame: FrameType, *, patient: bool
) -> list[LiveTask | Existing]:
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
    if patient:
        return await suspend_all([intake.steps_of_made(task) for task in made])
    return [intake.submit_made(task) for task in made]
