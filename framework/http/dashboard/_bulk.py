"""What the page does to all tasks that its list matches: some in each request, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from framework._manager.frameworks import get_task_manager
from framework._records.records import CancelOutcome
from framework._records.statuses import TRAITS, TaskStatus
from framework.exceptions import QueueFullError, RunAgainError
from framework.http._access.access import Access

Action: TypeAlias = Literal["cancel", "run-again"]

_MOST: Final = 100
"""How many tasks one request changes, so that the page can say how far it is, and stop."""

_FIT: Final[dict[Action, Sequence[TaskStatus]]] = {
    "cancel": [status for status, one in TRAITS.items() if not one.is_final],
    "run-again": [
        status for status, one in TRAITS.items() if one.is_final and status != "completed"
    ],
}


@dataclass(slots=True)
class Told:
    """What one request has done.

    Attributes:
        done: How many tasks were changed, or had ended meanwhile.
        asked: How many of these were only asked to stop.
        refused: How many could not be changed.
        why: Why the first of these could not; None if there is none.
        new: The ids of new tasks.
        next: What to pass as ``after`` to go on; None at the end.
    """

    done: int = 0
    asked: int = 0
    refused: int = 0
    why: str | None = None
    new: list[str] = field(default_factory=list)
    next: str | None = None


async def change_some(
    access: Access,
    owner: str | None,
    action: Action,
    status: Sequence[TaskStatus] | None,
    /,
    **query: Any,
) -> Told:
    """Cancel some tasks, or run them again, of those that match and can be.

    Args:
        access: What may be seen, and changed.
        owner: Who asks.
        action: What to do.
        status: The states of the list; None or empty for all.
        query: What else the list asks for, and ``after``: where the last request has stopped.
    """
    told = Told()
    wanted = [one for one in _FIT[action] if not status or one in status]
    if not wanted:
        return told
    page = await access.tasks(owner, status=wanted, limit=_MOST, **query)
    told.next = page.next
    for task in page.tasks:
        why = await _change(action, task.task_id, told)
        told.done += why is None
        told.refused += why is not None
        told.why = told.why or why
    return told


async def _change(action: Action, task_id: str, told: Told) -> str | None:
    """Change a task; return why it could not be."""
    manager = get_task_manager()
    if action == "cancel":
        said = await manager.request_cancel(task_id)
        told.asked += said.outcome is CancelOutcome.ASKED
        return None
    try:
        told.new.append(await manager.run_again(task_id))
    except RunAgainError as error:
        # What follows the colon is the message of another error.
        return error.reason.partition(":")[0]
    except QueueFullError as error:
        return str(error)
    return None
