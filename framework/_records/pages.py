"""Pages of tasks, in the order in which they were submitted, and the fields to find them by.

To filter and count by one more field, add it to `HEADED`, to `PageQuery` and to `Heading`, and to
the schema of `SQLStore` as a column with an index. The stores have the rest from here.
"""

from __future__ import annotations

import functools
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final, TypeVar

from framework._records.about.meta import holds
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus

Key = tuple[float, str]
"""A task's position in the order: when it was submitted, in wall seconds, and its id."""

_LAST_ID: Final = chr(0x10FFFF)
"""Behind every id: these have at least one character, and only printable ones."""

R = TypeVar("R", bound=TaskRecord)


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute of a record that tasks are filtered and counted by.

    Attributes:
        name: Of the attribute, of that of a `PageQuery`, and of the column in a database.
        path: The attributes that lead to it, for many records in one step.
        values: All values that there are; empty if any text may be one.
        optional: Whether it may be None; then the index of its column has only the others.
    """

    name: str
    path: str
    values: tuple[Any, ...] = ()
    optional: bool = False

    def of(self, record: TaskRecord) -> Any:
        """Return what a task has."""
        return getattr(record, self.name)

    def each(self, records: Iterable[TaskRecord]) -> Iterator[Any]:
        """Return what each of some tasks has."""
        return map(attrgetter(self.path), records)


HEADED: Final = (
    Field("label", "heading.label", optional=True),
    Field("owner", "heading.owner", optional=True),
    Field("name", "heading.name"),
)
"""The attributes of a `Heading` that a query may give, the one of the fewest tasks first."""

_NAMES: Final = tuple(one.name for one in HEADED)

STATUS: Final = Field("status", "status", values=tuple(TaskStatus))

FIELDS: Final = {one.name: one for one in (*HEADED, STATUS)}
"""All fields, by name."""

SEARCHED_HEADING: Final = ("name", "description", "label")
"""The attributes of a `Heading` that a search looks at; it looks at a task's id as well."""


def key_of(record: TaskRecord) -> Key:
    """Return a task's position in the order, which never changes and is the same everywhere."""
    return record.created_at, str(record.task_id)


_KEY: Final = attrgetter("created_at", "task_id")
"""The same position, for many tasks in one step."""


def wall_end(record: TaskRecord) -> float:
    """Return the wall second at which a task ended; of a live one, that of its submission."""
    ended = record.created if record.ended is None else record.ended
    return record.created_at + (ended - record.created)


def wall_start(record: TaskRecord) -> float | None:
    """Return the wall second at which a task started; None if it has not."""
    if record.started is None:
        return None
    return record.created_at + (record.started - record.created)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which tasks to return: the next ones in the order of ``(created_at, task_id)``.

    A task keeps its position when it starts or ends. So while somebody reads page after page,
    other tasks may come and go, and none is shown twice or left out.

    The last seven attributes are only used with a `protocols.CountingStore`.

    Attributes:
        limit: How many at most, from 1.
        status: Only tasks with this status; None for all.
        name: Only tasks with this name; None for all.
        after: Only tasks behind this ``(created_at, task_id)``; None to begin at the start.
        oldest_first: Whether the order begins with the oldest submission; if not, with the
            newest.
        ended_since: Only tasks that ended at this wall second or later; None for all.
        statuses: Only tasks with one of these statuses; empty for all.
        owner: Only tasks of this owner; None for all.
        label: Only tasks with exactly this label; None for all.
        search: Only tasks that have this text in their id, name, description or label, in upper or
            lower case; "" for all.
        offset: How many to skip, from 0.
        ended_before: Only tasks that ended before this wall second; None for all.
        without: Only tasks with none of these names.
        meta: Only tasks with each of these pairs in their meta, see `meta_filter`.
    """

    limit: int
    status: TaskStatus | None = None
    name: str | None = None
    after: Key | None = None
    oldest_first: bool = False
    ended_since: float | None = None
    statuses: frozenset[TaskStatus] = frozenset()
    owner: str | None = None
    label: str | None = None
    search: str = ""
    offset: int = 0
    ended_before: float | None = None
    without: frozenset[str] = frozenset()
    meta: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it uses nothing that only a `protocols.CountingStore` can answer."""
        asks_more = self.statuses or self.looks_inside or self.offset or self.without
        if asks_more or self.ended_before is not None:
            return False
        return {one.name for one in self.given} <= {"name"}

    @property
    def looks_inside(self) -> bool:
        """Whether tasks match by parts of their texts, for which no index helps."""
        return bool(self.search or self.meta)

    @property
    def asks_for_ends(self) -> bool:
        """Whether only tasks match that have ended, at some time."""
        return self.ended_since is not None or self.ended_before is not None

    @property
    def given(self) -> tuple[Field, ...]:
        """The fields of headings that it has a value for."""
        return tuple([one for one in HEADED if getattr(self, one.name) is not None])

    @property
    def texts(self) -> list[str]:
        """What it looks for in texts: the values of the fields, and what is searched for."""
        return [*(getattr(self, one.name) for one in self.given), self.search]

    @property
    def chosen(self) -> tuple[TaskStatus, ...] | None:
        """The statuses that match; None for all."""
        if self.status is None and not self.statuses:
            return None
        return tuple(filter(self.has_status, TaskStatus))

    @property
    def filters(self) -> PageQuery:
        """The same query for queries with the same filters, whatever their page and order."""
        return replace(self, limit=1, offset=0, after=None, oldest_first=False)

    def begin_at(self, created_at: float) -> Key:
        """Return a position for `after`: before all tasks that were submitted at that moment."""
        return created_at, "" if self.oldest_first else _LAST_ID

    def distance(self, created_at: float) -> float:
        """Return a number that grows in the order of the pages, made of the time of submission."""
        return created_at if self.oldest_first else -created_at

    def has_status(self, status: TaskStatus) -> bool:
        """Return whether tasks with *status* match."""
        if self.status is not None and status is not self.status:
            return False
        return not self.statuses or status in self.statuses

    def is_behind(self, key: Key) -> bool:
        """Return whether a task at this position comes after `after`."""
        if self.after is None:
            return True
        return key > self.after if self.oldest_first else key < self.after

    def may_count(self, record: TaskRecord) -> bool:
        """Return whether a task matches, apart from its status and from `after`."""
        heading = record.heading
        for name in _NAMES:
            wanted = getattr(self, name)
            if wanted is not None and getattr(heading, name) != wanted:
                return False
        if heading.name in self.without or (self.meta and not holds(heading.meta, self.meta)):
            return False
        if self.asks_for_ends and not self._ended_then(record):
            return False
        if not self.search:
            return True
        has = finder(self.search)
        for name in SEARCHED_HEADING:
            text = getattr(heading, name)
            if text and has(text):
                return True
        return has(str(record.task_id))

    def _ended_then(self, record: TaskRecord) -> bool:
        if record.ended is None:
            return False
        ended, since, before = wall_end(record), self.ended_since, self.ended_before
        return (since is None or ended >= since) and (before is None or ended < before)

    def matches(self, record: TaskRecord) -> bool:
        """Return whether a task matches."""
        return self.counts(record) and self.is_behind(key_of(record))

    def counts(self, record: TaskRecord) -> bool:
        """Return whether a task counts for the total: it matches, apart from `after`."""
        return self.has_status(record.status) and self.may_count(record)

    def first(self, records: Iterable[R]) -> list[R]:
        """Return those of *records* that are on the page, in order."""
        take = heapq.nsmallest if self.oldest_first else heapq.nlargest
        found = take(self.offset + self.limit, filter(self.matches, records), key=key_of)
        return found[self.offset :]

    def in_order(self, records: Iterable[R]) -> list[R]:
        """Return all *records* in order."""
        return sorted(records, key=_KEY, reverse=not self.oldest_first)

    def comes_first(self, one: TaskRecord, other: TaskRecord) -> bool:
        """Return whether *one* comes before *other*."""
        before = key_of(one) < key_of(other)
        return before if self.oldest_first else not before


Fetch = Callable[[PageQuery], Sequence[TaskRecord]]
"""Returns the records of a page."""


def with_own(query: PageQuery, own: Sequence[TaskRecord], fetch: Fetch) -> list[TaskRecord]:
    """Return a page of tasks of which some are here, and the others are elsewhere.

    Args:
        query: Which page.
        own: All that match and are here, in order. If one of them is elsewhere as well, since it
            has just ended, it is returned from there.
        fetch: Returns pages of the others.
    """
    skip = min(len(own), query.offset)
    page = fetch(replace(query, offset=query.offset - skip))
    if skip and not _all_before(query, own, skip, page):
        # Mostly none of them is before the page then: the newest tasks are those that are here.
        skip = _how_many_before(query, own, skip - 1, fetch)
        page = fetch(replace(query, offset=query.offset - skip))
    found = {str(one.task_id): one for one in own[skip : skip + query.limit]}
    found |= {str(one.task_id): one for one in page}
    # Those that are here are not looked at again: their status may have changed.
    return query.in_order(found.values())[: query.limit]


def _all_before(
    query: PageQuery, own: Sequence[TaskRecord], many: int, page: Sequence[TaskRecord]
) -> bool:
    """Return whether the first *many* of *own* come before *page*, which skips all but these."""
    return not page or query.comes_first(own[many - 1], page[0])


def _how_many_before(query: PageQuery, own: Sequence[TaskRecord], most: int, fetch: Fetch) -> int:
    """Return how many of *own*, at most *most*, come before the page; by halves."""
    low, high, at = 0, most, 1
    while low < high:
        one = fetch(replace(query, offset=query.offset - at, limit=1))
        if _all_before(query, own, at, one):
            low = at
        else:
            high = at - 1
        at = (low + high + 1) // 2
    return low


# -- searching for a part of a task's id, name or description

Test = Callable[[str], bool]
"""Returns whether a text has the part that is searched for."""


def variants(search: str) -> list[str]:
    """Return for each character of *search* all that it matches: itself, its upper and lower case.

    Every store finds the same by them, whatever the language of a database. In a search of ASCII
    letters alone, only these have two cases.
    """
    if search.isascii():
        return [_both(one) for one in search]
    return ["".join(sorted({one, *filter(_is_one, (one.lower(), one.upper()))})) for one in search]


def _both(one: str) -> str:
    return one if one.upper() == one.lower() else one.upper() + one.lower()


def _is_one(text: str) -> bool:
    # Such as the capital of a sharp s, which is two.
    return len(text) == 1


@functools.lru_cache(maxsize=64)
def finder(search: str) -> Test:
    """Return a test for texts that have *search* as a part."""
    classes = "".join(f"[{re.escape(one)}]" for one in variants(search))
    found = re.compile(classes, re.DOTALL).search
    small = search.lower()

    def has(text: str) -> bool:
        if text.isascii():
            # The same, and ten times as fast.
            return small in text.lower()
        return found(text) is not None

    return has


Spans = Counter[tuple[int, TaskStatus]]
"""How many tasks ended in each span of time, by its number and their status."""


def span_of(record: TaskRecord, since: float, width: float) -> tuple[int, TaskStatus]:
    """Return the number of the span, of *width* seconds, in which a task ended, and its status."""
    return int((wall_end(record) - since) // width), record.status


def start_spans(records: Iterable[TaskRecord], since: float, width: float) -> Counter[int]:
    """Return how many tasks started in each span of *width* seconds from *since* on."""
    starts = [at for at in map(wall_start, records) if at is not None and at >= since]
    return Counter(int((at - since) // width) for at in starts)
