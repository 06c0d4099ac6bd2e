"""Chains: tasks that may start only after others have ended, and what becomes of them.

The rule, whoever keeps the tasks: a task waits until all that it was submitted after have ended.
One that ended otherwise than COMPLETED cancels what waits for it, or counts like any other, as the
submission said. A task that ends by that ends like any other, and cancels in its turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, TypeAlias

from framework._records.statuses import TRAITS, TaskStatus

OnFailure: TypeAlias = Literal["cancel", "run"]
"""What becomes of a task if one that it waits for ends without a result."""

MOST: Final = 1_000
"""How many tasks one may wait for at most."""


@dataclass(slots=True, eq=False)
class After:
    """What a task was submitted after.

    Attributes:
        task_ids: The tasks that had to end before it, in the order in which they were given.
        on_failure: What becomes of it if one of them ends without a result.
        waits: Whether it waits for them still. It is never true of what was read of a store: its
            reason says that.
        open: Those of them that had not ended then.
        unwritten: Whether a store may not have those in `open` yet that it does not find: an engine
            has told of them before their process has written them.
        stored: Belongs to the store, which notes here that it knows what the task waits for.
    """

    task_ids: tuple[str, ...]
    on_failure: OnFailure = "cancel"
    waits: bool = False
    open: set[str] = field(default_factory=set)
    unwritten: bool = False
    stored: bool = False

    def text(self) -> str:
        """Return what people see of it as JSON."""
        return json.dumps([self.on_failure, *self.task_ids])

    @classmethod
    def of(cls, text: str) -> Self:
        """Make it of what `text` returned."""
        on_failure, *task_ids = json.loads(text)
        return cls(tuple(task_ids), on_failure)

    def cancels(self, status: TaskStatus | None) -> bool:
        """Return whether the task is to be cancelled, since one of these ended with *status*.

        Args:
            status: A final status; None for a task that was removed, so that nobody knows it.
        """
        return self.on_failure == "cancel" and status is not TaskStatus.COMPLETED


def why_cancelled(task_id: str, status: TaskStatus | None) -> str:
    """Return why a task is cancelled, of which *task_id* is a parent that ended with *status*."""
    if status is None:
        ended = "was removed before anybody knew how it ended"
    else:
        words = TRAITS[status].words
        ended = words if TRAITS[status].raised else f"was {words}"
    return f"it was to run after task {task_id}, which {ended}"


def task_ids(name: str, value: Any) -> tuple[str, ...]:
    """Return the ids of an option, given as one or as several; each of them once.

    Raises:
        TypeError: If *value* is something else.
        ValueError: If there are too many, or one is empty.
    """
    several = isinstance(value, (list, tuple, set, frozenset))
    given = list(value) if several else [value]
    for one in given:
        if not isinstance(one, str):
            what = f"one of {type(one).__name__}" if several else type(one).__name__
            hint = "; use its task_id" if hasattr(one, "task_id") else ""
            raise TypeError(f"{name} must be the id of a task, or a list of ids, not {what}{hint}")
        if not one:
            raise ValueError(f"{name} must be the id of a task, or a list of ids, not ''")
    found = tuple(dict.fromkeys(given))
    if len(found) > MOST:
        raise ValueError(
            f"{name} must have at most {MOST:,} ids, not {len(found):,}: let a task that does "
            "nothing wait for some of them, and wait for that one"
        )
    return found
