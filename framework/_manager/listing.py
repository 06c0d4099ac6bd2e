"""Listing: pages of tasks, from memory and from a store that may block."""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass, replace
from typing import Any, Final

from framework._manager.core import Core
from framework._manager.scene import ListScene
from framework._tasks import checks
from framework._tasks.pages import Key, PageQuery, key_of
from framework._tasks.records import TaskRecord, TaskStatus
from framework._tasks.task import Task
from framework.protocols import PagedStore

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


async def page_of(core: Core, query: PageQuery) -> TaskPage:
    """Return the tasks that match *query*.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    # One more, to know whether there are more.
    wanted = replace(query, limit=query.limit + 1)
    # First: a task that ends meanwhile is in the store then.
    own = core.ledger.page(wanted)
    found = {str(record.task_id): record for record in own}
    found |= {str(record.task_id): record for record in await _stored(core, wanted)}
    records = wanted.first(found.values())
    shown = records[: query.limit]
    scene, snapshot = ListScene(core.ledger, core.engine), core.ledger.snapshot
    tasks = [Task(snapshot(record), source=record, scene=scene) for record in shown]
    more = len(records) > len(shown)
    return TaskPage(tasks, cursor(key_of(shown[-1]), query.oldest_first) if more else None)


async def _stored(core: Core, query: PageQuery) -> list[TaskRecord]:
    store = core.ledger.store
    if not isinstance(store, PagedStore):
        return query.first(store.list(query.status))
    if core.ledger.shared is None:
        return list(store.page(query))
    assert core.elsewhere is not None
    records: list[TaskRecord] = await core.elsewhere.call(lambda: list(store.page(query)))
    return records


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
