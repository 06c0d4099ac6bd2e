"""Listing: pages of tasks, from memory and from a store that may block."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from framework._manager.core import Core
from framework._manager.scene import ListScene
from framework._tasks import checks
from framework._tasks.pages import Key, PageQuery, key_of
from framework._tasks.records import TaskRecord, TaskStatus
from framework._tasks.task import Task
from framework.protocols import PagedStore, TaskStore

FAILED: Final = (TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.INTERRUPTED)
"""The statuses of tasks that have no result although nobody cancelled them."""

MOST: Final = 1_000
"""The largest page."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks, and where the next ones begin.

    Attributes:
        tasks: Snapshots of the tasks, in order.
        next: What to pass as *after* for the next page; None if there are no more tasks now.
    """

    tasks: list[Task]
    next: str | None


def checked_status(status: object) -> TaskStatus:
    """Return *status* as a status.

    Raises:
        ValueError: If there is none of this name.
    """
    allowed: tuple[object, ...] = tuple(map(str, TaskStatus))
    return TaskStatus(str(checks.choice("status", status, allowed)))


def checked_query(
    status: object, name: object, limit: object, after: object, oldest_first: object
) -> PageQuery:
    """Return what `TaskManager.list_tasks` was asked for.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """
    oldest = checks.flag("oldest_first", oldest_first)
    return PageQuery(
        limit=checks.integer("limit", limit, at_least=1, at_most=MOST),
        status=None if status is None else checked_status(status),
        name=None if name is None else checks.text("name", name),
        after=None if after is None else _place(checks.text("after", after), oldest),
        oldest_first=oldest,
    )


def failures_query(core: Core, since: object, name: object, limit: int, after: object) -> PageQuery:
    """Return what `TaskManager.failed` was asked for; raises like `checked_query`."""
    query = checked_query(None, name, limit, after, False)
    return replace(query, ended_since=_moment(since, core.clock.time()))


def _moment(since: object, now: float) -> float | None:
    """Return a point of time, or how long ago it was, as a wall second."""
    if since is None:
        return None
    if isinstance(since, datetime):
        if since.utcoffset() is None:
            raise ValueError(
                f"since must be a datetime with a time zone, not {since!r}: use "
                "datetime.now(UTC), or replace(tzinfo=...)"
            )
        # A microsecond earlier: the `Task.ended_at` of a task is rounded.
        return since.timestamp() - 1e-6
    ago = since.total_seconds() if isinstance(since, timedelta) else since
    if isinstance(ago, (int, float)) and not isinstance(ago, bool):
        return now - checks.number("since", ago, at_least=0)
    raise TypeError(
        "since must be a datetime with a time zone, a timedelta, a number of seconds or None, "
        f"not {checks.show(since)}"
    )


async def page_of(core: Core, query: PageQuery, statuses: Iterable[TaskStatus] = ()) -> TaskPage:
    """Return the tasks that match *query*.

    Args:
        core: The core.
        query: Which tasks.
        statuses: Only tasks with one of these statuses; empty for the status of *query*.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    # One more, to know whether there are more.
    query, limit = replace(query, limit=query.limit + 1), query.limit
    # One after the other: a store has an index for each status.
    wanted = [replace(query, status=one) for one in statuses] or [query]
    # First: a task that ends meanwhile is in the store then.
    own = [record for one in wanted for record in core.ledger.page(one)]
    found = {str(record.task_id): record for record in own}
    found |= {str(record.task_id): record for record in await _stored(core, wanted)}
    records = query.first(found.values())
    shown = records[:limit]
    scene, snapshot = ListScene(core.ledger, core.engine), core.ledger.snapshot
    tasks = [Task(snapshot(record), source=record, scene=scene) for record in shown]
    more = len(records) > len(shown)
    return TaskPage(tasks, cursor(key_of(shown[-1]), query.oldest_first) if more else None)


async def _stored(core: Core, wanted: Iterable[PageQuery]) -> list[TaskRecord]:
    def read() -> list[TaskRecord]:
        return [record for query in wanted for record in _page_in(core.ledger.store, query)]

    if core.ledger.shared is None or not isinstance(core.ledger.store, PagedStore):
        return read()
    assert core.elsewhere is not None
    records: list[TaskRecord] = await core.elsewhere.call(read)
    return records


def _page_in(store: TaskStore, query: PageQuery) -> Sequence[TaskRecord]:
    if isinstance(store, PagedStore):
        return store.page(query)
    return query.first(store.list(query.status))


def cursor(key: Key, oldest_first: bool) -> str:
    """Return a text for a place in one of the orders, which may be part of a URL."""
    text = json.dumps([int(oldest_first), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(after: str, oldest_first: bool) -> Key:
    """Return the place that a cursor names.

    Raises:
        ValueError: If it is no cursor, or one of the other order.
    """
    try:
        padded = after.encode("ascii") + b"=" * (-len(after) % 4)
        found: Any = json.loads(base64.b64decode(padded, b"-_", validate=True))
        order, created_at, task_id = found
        good = (
            type(order) is int
            and type(created_at) is float
            and math.isfinite(created_at)
            and type(task_id) is str
            and checks.may_be_task_id(task_id)
        )
    except (ValueError, TypeError, RecursionError, binascii.Error):
        good = False
    if not good:
        raise ValueError(
            f"after must be the 'next' of a page, not {checks.show(after)}: omit it for the "
            "first page"
        )
    if order != oldest_first:
        raise ValueError(
            "after must be the 'next' of a page in the same order: pass the same oldest_first "
            "for all pages"
        )
    return created_at, task_id
