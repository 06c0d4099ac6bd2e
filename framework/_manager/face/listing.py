"""Listing: pages of tasks, from memory and from a store that may block."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

from framework._manager.core import Core
from framework._manager.face.names import full_name, is_end
from framework._manager.scene import ListScene
from framework._records import checks
from framework._records.about.meta import meta_filter
from framework._records.pages import (
    FIELDS,
    STATUS,
    Field,
    Key,
    PageQuery,
    key_of,
    span_of,
    start_spans,
    with_own,
)
from framework._records.records import TaskRecord
from framework._records.statuses import WITHOUT_RESULT, TaskStatus
from framework._running.ledger import Ledger
from framework._tasks import registry
from framework._tasks.live import LiveTask
from framework._tasks.task import Task

T = TypeVar("T")

MOST: Final = 1_000
"""The largest page."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of tasks, and where the next page begins.

    Attributes:
        tasks: Snapshots of the tasks, in order.
        next: What to pass as *after* for the next page; None if there are no more tasks now.
        total: How many tasks match at this moment, on all pages. Each page counts again. Tasks
            that come, end or are removed at that moment may be counted or not.
    """

    tasks: list[Task]
    next: str | None
    total: int


def checked_status(status: object) -> TaskStatus:
    """Return *status* as a status.

    Raises:
        ValueError: If there is none of this name.
    """
    allowed: tuple[object, ...] = tuple(map(str, TaskStatus))
    return TaskStatus(str(checks.choice("status", status, allowed)))


def checked_query(
    status: object = None,
    name: object = None,
    owner: object = None,
    search: object = None,
    limit: object = MOST,
    offset: object = 0,
    after: object = None,
    oldest_first: object = False,
    label: object = None,
    meta: object = None,
) -> PageQuery:
    """Return what `TaskManager.list_tasks` was asked for.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.
    """
    oldest = checks.flag("oldest_first", oldest_first)
    wanted = _checked_statuses(status)
    return PageQuery(
        limit=checks.integer("limit", limit, at_least=1, at_most=MOST),
        # A store has an index for one status.
        status=next(iter(wanted)) if len(wanted) == 1 else None,
        name=None if name is None else checks.text("name", name),
        after=None if after is None else _place(checks.text("after", after), oldest),
        oldest_first=oldest,
        statuses=wanted if len(wanted) > 1 else frozenset(),
        owner=checks.owner("owner", owner),
        label=None if label is None else checks.text("label", label),
        search=_checked_search(search),
        # No store has so many, and a database cannot read any larger number.
        offset=min(checks.integer("offset", offset, at_least=0), 2**53),
        meta=() if meta is None else meta_filter("meta", meta),
    )


def _checked_statuses(status: object) -> frozenset[TaskStatus]:
    """Return the statuses that are asked for; empty for all."""
    if status is None:
        return frozenset()
    if isinstance(status, str) or not isinstance(status, Iterable):
        return frozenset({checked_status(status)})
    wanted = frozenset(map(checked_status, status))
    if not wanted:
        raise ValueError(
            "status must be a status, or a collection with at least one, not "
            f"{checks.show(status)}: omit it for all"
        )
    return wanted if len(wanted) < len(TaskStatus) else frozenset()


def _checked_search(search: object) -> str:
    if search is None:
        return ""
    text = checks.text("search", search)
    if len(text) > _LONGEST_SEARCH:
        raise ValueError(
            f"search must have at most {_LONGEST_SEARCH} characters, not {len(text):,}: "
            f"{checks.show(text)}"
        )
    return text


_LONGEST_SEARCH: Final = 255


def failures_query(core: Core, since: object, name: object, limit: int, after: object) -> PageQuery:
    """Return what `TaskManager.failed` was asked for; raises like `checked_query`."""
    query = checked_query(WITHOUT_RESULT, name, limit=limit, after=after)
    return replace(query, ended_since=_moment("since", since, core.clock.time()))


def ended_between(core: Core, query: PageQuery, since: object, before: object) -> PageQuery:
    """Return *query* for tasks that ended in some time; raises like `checked_query`."""
    if since is None and before is None:
        return query
    now = core.clock.time()
    found = _moment("ended_since", since, now), _moment("ended_before", before, now)
    return replace(query, ended_since=found[0], ended_before=found[1])


def _moment(name: str, since: object, now: float) -> float | None:
    """Return a point of time, or how long ago it was, as a wall second."""
    if since is None:
        return None
    if isinstance(since, datetime):
        if since.utcoffset() is None:
            raise ValueError(
                f"{name} must be a datetime with a time zone, not {since!r}: use "
                "datetime.now(UTC), or replace(tzinfo=...)"
            )
        # A microsecond earlier: the `Task.ended_at` of a task is rounded.
        return since.timestamp() - 1e-6
    ago = since.total_seconds() if isinstance(since, timedelta) else since
    if isinstance(ago, (int, float)) and not isinstance(ago, bool):
        return now - checks.number(name, ago, at_least=0)
    raise TypeError(
        f"{name} must be a datetime with a time zone, a timedelta, a number of seconds or None, "
        f"not {checks.show(since)}"
    )


async def page_of(core: Core, query: PageQuery) -> TaskPage:
    """Return the tasks that match *query*, whose name may be the end of one, see `full_name`.

    Raises:
        ValueError: If several names end with it.
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    return await _looked(core, partial(_named_page, core, query))


async def counts_of(core: Core, query: PageQuery, field: str) -> dict[Any, int]:
    """Return how many tasks match *query*, by "status", "name", "owner" or "label".

    Those of each status, also where there are none; by all else in no order.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    return await _looked(core, partial(_counts_of, core, query, FIELDS[field]))


async def ends_of(core: Core, query: PageQuery, width: float) -> dict[tuple[int, TaskStatus], int]:
    """Return how many tasks that match ended in each span of *width* seconds, and how.

    Args:
        core: The core.
        query: Which tasks, with its ``ended_since``, at which the span of number 0 begins.
        width: Seconds above 0.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    return await _looked(core, partial(_ends_of, core, query, width))


async def starts_of(core: Core, query: PageQuery, since: float, width: float) -> dict[int, int]:
    """Return how many tasks that match started in each span of *width* seconds.

    Args:
        core: The core.
        query: Which tasks.
        since: The wall second at which the span of number 0 begins.
        width: Seconds above 0.

    Raises:
        StoreUnavailableError: If a store that several processes share cannot be read.
    """
    return await _looked(core, partial(_starts_of, core, query, since, width))


async def _looked(core: Core, read: Callable[[], T]) -> T:
    """Return what *read* returns, called where it may block if the store does."""
    if core.ledger.shared is None or core.ledger.features.pages is None:
        return read()
    return await core.others.call(read)


def _counts_of(core: Core, query: PageQuery, field: Field) -> dict[Any, int]:
    # First: a task that ends meanwhile is in the store then.
    own = core.overview.counted(query)
    found = Counter[Any](dict.fromkeys(field.values, 0))
    found.update(_Stored(core.ledger).count_by(query, field))
    found.update(field.each(core.overview.unstored(own)))
    return dict(found)


def _ends_of(core: Core, query: PageQuery, width: float) -> dict[tuple[int, TaskStatus], int]:
    # First: a task that ends meanwhile is in the store then.
    own, since = core.overview.counted(query), query.ended_since or 0.0
    found = Counter(_Stored(core.ledger).count_ends(query, width))
    found.update(span_of(one, since, width) for one in core.overview.unstored(own))
    return dict(found)


def _starts_of(core: Core, query: PageQuery, since: float, width: float) -> dict[int, int]:
    # First: a task that ends meanwhile is in the store then.
    own = core.overview.counted(query)
    found = Counter(_Stored(core.ledger).count_starts(query, since, width))
    return found + start_spans(core.overview.unstored(own), since, width)


def _named_page(core: Core, query: PageQuery) -> TaskPage:
    page = read_page(core, query)
    named = query if page.total else _with_full_name(core, query)
    return page if named is query else read_page(core, named)


def _with_full_name(core: Core, query: PageQuery) -> PageQuery:
    """Return a query that has found nothing with the full name of what it asks for, if it can.

    It is looked for only then, since the names in a store take a while to count.
    """
    if query.name is None or _means_one(query.name):
        return query
    seen = _counts_of(core, PageQuery(limit=1, owner=query.owner), FIELDS["name"])
    name = full_name(query.name, seen)
    return query if name in (None, query.name) else replace(query, name=name)


def _means_one(name: str) -> bool:
    """Return whether a function has exactly this name, and no other one ends with it."""
    registered = registry.names()
    return name in registered and sum(is_end(name, one) for one in registered) == 1


def read_page(core: Core, query: PageQuery) -> TaskPage:
    """Return the tasks that match *query*; blocks if the store does."""
    # First: a task that ends meanwhile is in the store then.
    own, store = core.overview.matching(query), _Stored(core.ledger)
    tasks, place = _tasks_of(core, query, own, store)
    total = store.count(query) + len(core.overview.unstored(own))
    # What was read is there, even if it was removed before it was counted.
    shown = len(tasks) + (place is not None)
    return TaskPage(
        # Some may have started or ended since.
        [task for task in tasks if query.has_status(task.status)],
        None if place is None else cursor(place, query.oldest_first),
        max(total, query.offset + shown if shown and query.after is None else shown),
    )


def _tasks_of(
    core: Core, query: PageQuery, own: Sequence[LiveTask], store: _Stored
) -> tuple[list[Task], Key | None]:
    """Return the tasks of a page, and the position of the last one if there are more."""
    # One more, to know whether there are more.
    wanted = replace(query, limit=query.limit + 1)
    behind = own if query.after is None else [one for one in own if query.is_behind(key_of(one))]
    records = with_own(wanted, behind, store.page)
    more, records = len(records) > query.limit, records[: query.limit]
    scene, snapshot = ListScene(core.ledger, core.engine), core.ledger.snapshot
    tasks = [Task(snapshot(record), source=record, scene=scene) for record in records]
    return tasks, key_of(records[-1]) if more else None


class _Stored:
    """What a store has for a list, whatever it can do.

    Args:
        ledger: Whose store it is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._store = ledger.store
        self._features = ledger.features
        self._all: Sequence[TaskRecord] | None = None

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return a page."""
        counts, store = self._features.counts, self._features.pages
        if counts is not None:
            return counts.page(query)
        if store is not None and replace(query, statuses=frozenset()).is_plain:
            if not query.statuses:
                return store.page(query)
            # One after the other, which it knows already.
            parts = [
                store.page(replace(query, status=one, statuses=frozenset()))
                for one in query.statuses
            ]
            return query.first(chain.from_iterable(parts))
        return query.first(self._listed())

    def count(self, query: PageQuery) -> int:
        """Return how many tasks match in all."""
        counts = self._features.counts
        if counts is not None:
            return counts.count(query)
        return sum(map(query.counts, self._listed()))

    def count_by(self, query: PageQuery, field: Field) -> Mapping[Any, int]:
        """Return how many of them have each value of a field."""
        groups, counts = self._features.groups, self._features.counts
        if groups is not None:
            return groups.count_by(query, field.name)
        if counts is None or field != STATUS:
            return Counter(map(field.of, filter(query.counts, self._listed())))
        each = replace(query, statuses=frozenset())
        return {one: counts.count(replace(each, status=one)) for one in query.chosen or TaskStatus}

    def count_ends(self, query: PageQuery, width: float) -> Mapping[tuple[int, TaskStatus], int]:
        """Return how many of them ended in each span of *width* seconds, and how."""
        if self._features.times is not None:
            return self._features.times.count_ends(query, width)
        since = query.ended_since or 0.0
        return Counter(span_of(one, since, width) for one in filter(query.counts, self._listed()))

    def count_starts(self, query: PageQuery, since: float, width: float) -> Mapping[int, int]:
        """Return how many of them started in each span of *width* seconds."""
        if self._features.times is not None:
            return self._features.times.count_starts(query, since, width)
        return start_spans(filter(query.counts, self._listed()), since, width)

    def _listed(self) -> Sequence[TaskRecord]:
        if self._all is None:
            self._all = list(self._store.list())
        return self._all


def dicts_of(core: Core, query: PageQuery, limit: int | None) -> dict[str, dict[str, Any]]:
    """Return the tasks that match *query*, as `TaskManager.get_all_tasks` does; may block.

    Args:
        core: The core.
        query: Which tasks; its limit is not used.
        limit: How many at most; None for all.
    """
    found = _dicts_of(core, query, limit)
    named = query if found else _with_full_name(core, query)
    return found if named is query else _dicts_of(core, named, limit)


def _dicts_of(core: Core, query: PageQuery, limit: int | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    left, place = math.inf if limit is None else limit, None
    own, store = core.overview.matching(query), _Stored(core.ledger)
    while left > 0:
        query = replace(query, limit=int(min(MOST, left)))
        tasks, place = _tasks_of(core, query, own, store)
        found |= {str(one.task_id): one.to_dict() for one in tasks if query.has_status(one.status)}
        left -= len(tasks)
        if place is None:
            break
        query = replace(query, after=place, offset=0)
    return found


def cursor(key: Key, oldest_first: bool) -> str:
    """Return a text for a position in one of the orders, which may be part of a URL."""
    text = json.dumps([int(oldest_first), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(after: str, oldest_first: bool) -> Key:
    """Return the position that a cursor names.

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
