"""Pages of tasks, in the order in which they were submitted."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from framework._tasks.records import TaskRecord, TaskStatus

Key = tuple[float, str]
"""A task's place in the order: when it was submitted, in wall seconds, and its id."""

R = TypeVar("R", bound=TaskRecord)


def key_of(record: TaskRecord) -> Key:
    """Return a task's place in the order, which never changes and is the same everywhere."""
    return record.created_at, str(record.task_id)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which tasks to return: the next ones in the order of ``(created_at, task_id)``.

    A task keeps its place when it starts or ends. So while somebody reads page after page,
    other tasks may come and go, and none is shown twice or left out.

    Attributes:
        limit: How many at most, from 1.
        status: Only tasks with this status; None for all.
        name: Only tasks with this name; None for all.
        after: Only tasks behind this ``(created_at, task_id)``; None to begin at the start.
        oldest_first: Whether the order begins with the oldest submission; if not, with the
            newest.
        ended_since: Only tasks that ended at this wall second or later; None for all.
    """

    limit: int
    status: TaskStatus | None = None
    name: str | None = None
    after: Key | None = None
    oldest_first: bool = False
    ended_since: float | None = None

    def distance(self, created_at: float) -> float:
        """Return a number that grows along the order, from when a task was submitted."""
        return created_at if self.oldest_first else -created_at

    def may_match(self, record: TaskRecord) -> bool:
        """Return whether a task matches, apart from its status, which may change."""
        if self.name is not None and record.name != self.name:
            return False
        if self.ended_since is not None:
            if record.ended is None:
                return False
            if record.created_at + (record.ended - record.created) < self.ended_since:
                return False
        if self.after is None:
            return True
        key = key_of(record)
        return key > self.after if self.oldest_first else key < self.after

    def matches(self, record: TaskRecord) -> bool:
        """Return whether a task matches."""
        return (self.status is None or record.status is self.status) and self.may_match(record)

    def first(self, records: Iterable[R]) -> list[R]:
        """Return those of *records* that match and come first, in order, at most `limit`."""
        take = heapq.nsmallest if self.oldest_first else heapq.nlargest
        return take(self.limit, filter(self.matches, records), key=key_of)

    def in_order(self, records: Iterable[R]) -> list[R]:
        """Return all *records* in order."""
        return sorted(records, key=key_of, reverse=not self.oldest_first)
