"""Finished tasks in columns: 256 in a few objects, which the garbage collector passes over."""

from __future__ import annotations

import math
import struct
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from framework._records.about.meta import holds
from framework._records.ids import TaskId
from framework._records.pages import SEARCHED_HEADING, STATUS, Field, PageQuery, Spans, finder
from framework._records.records import Heading, TaskRecord, heading_of
from framework._records.statuses import TaskStatus

_ID_BYTES: Final = 16
_ID_DIGITS: Final = 2 * _ID_BYTES
_HEX: Final = frozenset("0123456789abcdef")
_COMPLETED: Final = TaskStatus.COMPLETED
_ALL: Final = PageQuery(1)

_NO, _BY_ID, _YES = range(3)
"""Whether a task with a heading matches: not, if its id has what is searched for, or yes."""

_FIELDS: Final = tuple(one.name for one in fields(Heading))

_WIDTH: Final = len(_FIELDS)
"""How many texts a heading has."""

_texts_of: Final = attrgetter(*_FIELDS)
"""Returns the texts of a heading."""


def _texts(headings: Sequence[Any], name: str) -> Sequence[Any]:
    """Return one text of each heading, of headings whose texts are in one row."""
    return headings[_FIELDS.index(name) :: _WIDTH]


class Filter:
    """Tells which packed tasks match a query, wherever its page begins. Not thread-safe.

    It is worked out once for all blocks.

    Args:
        query: The query.
        token: Its `filters`; the same object for all queries with the same ones.

    Attributes:
        query: The query.
        token: Like the argument; blocks remember with it how many of their tasks match.
        statuses: Those that match; None for all.
        takes_all: Whether every task matches.
    """

    def __init__(self, query: PageQuery, token: PageQuery) -> None:
        self.query = query
        self.token = token
        self.statuses = query.chosen
        self.takes_all: bool = token == _ALL
        self._given = [(one.name, getattr(query, one.name)) for one in query.given]
        self._without = query.without
        self._has = finder(query.search) if query.search else None
        self._small = query.search.lower()
        # Random ids have small letters and digits only; most words have others.
        self._in_random = len(query.search) <= _ID_DIGITS and _HEX.issuperset(self._small)
        # The texts that were looked at, and those that have it: most tasks share theirs.
        self._known: set[str] = set()
        self._having: set[str] = set()

    def fits(self, headings: Sequence[Any]) -> list[int]:  # Any: of three kinds in turn
        """Return for each heading whether its tasks match: `_NO`, `_BY_ID` or `_YES`.

        Args:
            headings: For each its texts, in one row.
        """
        fits = [_YES] * (len(headings) // _WIDTH)
        for name, wanted in self._given:
            found = _texts(headings, name)
            fits = [fit if one == wanted else _NO for fit, one in zip(fits, found, strict=True)]
        if self._without:
            names = zip(fits, _texts(headings, "name"), strict=True)
            fits = [_NO if name in self._without else fit for fit, name in names]
        if self.query.meta:
            wanted = self.query.meta
            metas = zip(fits, _texts(headings, "meta"), strict=True)
            fits = [fit if holds(meta, wanted) else _NO for fit, meta in metas]
        return fits if self._has is None or _YES not in fits else self._searched(fits, headings)

    def _searched(self, fits: list[int], headings: Sequence[Any]) -> list[int]:
        """Return `_BY_ID` in place of `_YES` for each heading that has not what is searched for."""
        columns = [_texts(headings, name) for name in SEARCHED_HEADING]
        fresh = {*chain(*columns)} - self._known - {None}
        if fresh:
            self._known |= fresh
            self._having.update(filter(self._has, fresh))
        having = self._having
        if having.isdisjoint(chain(*columns)):
            return [_BY_ID if fit else _NO for fit in fits]
        return [
            _BY_ID if fit and having.isdisjoint(some) else fit
            for fit, *some in zip(fits, *columns, strict=True)
        ]

    def found_in(self, ids: bytes | tuple[str, ...]) -> list[int]:
        """Return the indexes in packed *ids* of those that have what is searched for."""
        if isinstance(ids, bytes):
            return self._found_in_random(ids.hex()) if self._in_random else []
        has = self._has
        return [] if has is None else [place for place, one in enumerate(ids) if has(one)]

    def _found_in_random(self, digits: str) -> list[int]:
        small, found = self._small, list[int]()
        at = digits.find(small)
        while at >= 0:
            place, begin = divmod(at, _ID_DIGITS)
            if begin + len(small) <= _ID_DIGITS:
                found.append(place)
                at = digits.find(small, (place + 1) * _ID_DIGITS)
            else:
                # It goes over into the next id.
                at = digits.find(small, at + 1)
        return found


class Block:
    """Finished tasks in the order in which they ended, as columns.

    What does not fit into the columns is kept whole, by its index.
    """

    def __init__(self, ids: list[str], records: list[TaskRecord]) -> None:
        self._first = 0
        self._size = len(records)
        self._span: tuple[float, float] | None = None
        self._ended_in: tuple[float, float] | None = None
        # For what records were counted by their end last, from when on, and how many there are.
        self._counted_for: object = None
        self._spans: tuple[float, Spans] = (0.0, Counter())
        # The same by their start, and when the first one started.
        self._starts_for: object = None
        self._starts: tuple[float, Counter[int]] = (0.0, Counter())
        self._first_start: float | None = None
        # The latest filter that was counted by, and how many records it matches.
        self._token: PageQuery | None = None
        self._matching = 0
        self._whole = {
            place: record
            for place, record in enumerate(records)
            if record.status is not _COMPLETED or (record.rest and record.rest.keys() - {"slept"})
        }
        # Few tasks have waited, and then many of a block: those of one throttle.
        slept = [record.slept for record in records]
        self._slept = array("d", slept) if any(slept) else None
        self._ids = _packed_ids(ids)
        # A tuple, which the garbage collector leaves alone if nothing in it concerns it.
        self._results = tuple([record.result for record in records])
        headings = [record.heading for record in records]
        place_of = dict.fromkeys(headings, 0)
        places: dict[tuple[Any, ...], int] = {}
        for heading in place_of:
            place_of[heading] = places.setdefault(_texts_of(heading), len(places))
        # Their texts in one row, and not the headings: they take less memory, and the garbage
        # collector leaves a tuple of texts alone.
        self._headings = tuple(chain.from_iterable(places))
        # By place, the place of its heading; there are no more headings than a byte can tell.
        self._heading_of = None if len(places) == 1 else bytes(map(place_of.__getitem__, headings))
        # Tasks that were begun more than once are rare, and then few of a block.
        attempts = [record.attempts for record in records]
        self._attempts = None if attempts.count(1) == len(attempts) else attempts
        ends = [record.ended or 0.0 for record in records]
        self._last_end = max(ends)
        self._stamps = struct.pack(
            f"{4 * len(records)}d",
            *[record.created_at for record in records],
            *[record.created for record in records],
            *[record.started or 0.0 for record in records],
            *ends,
        )

    def __len__(self) -> int:
        return self._size - self._first

    def find(self, task_id: str) -> TaskRecord | None:
        """Return the record with this id, or None if it is not here, or not any more."""
        place = _place(self._ids, task_id)
        if place is None or place < self._first:
            return None
        record = self._record(place)
        # 1 found, 2 dropped by another thread, 3 put together from what is left.
        return record if place >= self._first else None

    def replace(self, record: TaskRecord) -> bool:
        """Keep *record* whole in place of the one with its id; False if there is none."""
        place = _place(self._ids, record.task_id)
        if place is None or place < self._first:
            return False
        # In the order of their places, as `records` returns them.
        self._whole = dict(sorted({**self._whole, place: record}.items()))
        self._token = self._counted_for = self._starts_for = None
        return True

    def records(self, status: TaskStatus | None) -> list[TaskRecord]:
        """Return all records, or at least those with *status*."""
        first = self._first
        if status is None or status is _COMPLETED:
            return [self._record(place) for place in range(first, self._size)]
        # Only what is kept whole has another status, so nothing is put together in vain.
        return [record for place, record in self._whole.items() if place >= first]

    def oldest(self) -> TaskRecord:
        """Return the first record that was not dropped."""
        return self._record(self._first)

    def reaches(self, wanted: Filter) -> bool:
        """Return whether it may have a record for a page, but for names, owners and texts."""
        query = wanted.query
        if not query.has_status(_COMPLETED) and not self._whole:
            return False
        if query.after is None:
            return True
        return max(map(query.distance, self.span())) >= query.distance(query.after[0])

    def count(self, wanted: Filter) -> int:
        """Return how many records match, wherever the page begins."""
        if wanted.takes_all:
            return len(self)
        if self._token is not wanted.token:
            self._token, self._matching = wanted.token, self._count(wanted)
        return self._matching

    def _count(self, wanted: Filter) -> int:
        if wanted.query.asks_for_ends:
            return len(self._places(wanted))
        fitting = self._fitting(wanted)
        count = fitting.count(_YES)
        if wanted.statuses is not None and fitting:
            first, has_completed = self._first, _COMPLETED in wanted.statuses
            count = count if has_completed else 0
            for place, record in self._whole.items():
                if place >= first and fitting[place - first] == _YES:
                    # As if all had completed, up to here.
                    count += (record.status in wanted.statuses) - has_completed
        return count

    def counts(self, wanted: Filter, field: Field) -> Counter[Any]:
        """Return how many of the records that match have each value of a field."""
        places = self._places(wanted)
        if field == STATUS:
            matching = places if isinstance(places, range) else set(places)
            found = Counter(one.status for at, one in self._whole.items() if at in matching)
            found[_COMPLETED] += len(matching) - found.total()
            return found
        values, codes = _texts(self._headings, field.name), self._heading_of
        if codes is None:
            return Counter({values[0]: len(places)})
        found = Counter[Any]()
        for code, many in Counter(map(codes.__getitem__, places)).items():
            found[values[code]] += many
        return found

    def count_before(self, wanted: Filter, distance: float) -> int:
        """Return how many records match that were submitted nearer than *distance*."""
        distances = list(map(wanted.query.distance, self._created()))
        return sum(distances[place] < distance for place in self._places(wanted))

    def _fitting(self, wanted: Filter) -> bytes:
        """Return for each record, but for its status, whether it matches: `_NO` or `_YES`.

        Returns:
            A byte for each, the first one that was not dropped first; none if none matches.
        """
        fits, headings, first = wanted.fits(self._headings), self._heading_of, self._first
        if not any(fits):
            return b""
        if headings is None:
            found = bytes(fits) * len(self)
        else:
            # Hundreds in one step.
            found = headings[first:].translate(bytes(fits).ljust(256, b"\0"))
        if _BY_ID not in fits:
            return found
        by_id = bytearray(found.replace(bytes([_BY_ID]), bytes([_NO])))
        for place in wanted.found_in(self._ids):
            if place >= first and found[place - first] == _BY_ID:
                by_id[place - first] = _YES
        return bytes(by_id)

    def span(self) -> tuple[float, float]:
        """Return when its first and its last record were submitted."""
        if self._span is None:
            created = self._created()
            self._span = min(created), max(created)
        return self._span

    def page(self, wanted: Filter) -> list[TaskRecord]:
        """Return records among which are those for a page that this block has."""
        query, places = wanted.query, self._places(wanted)
        if not places:
            return []
        distances = list(map(query.distance, self._created()))
        if query.after is not None:
            begin = query.distance(query.after[0])
            places = [place for place in places if distances[place] >= begin]
        ordered = sorted(places, key=distances.__getitem__)
        if len(ordered) > query.limit:
            # Not fewer than all that were submitted at the moment of the last one.
            end = distances[ordered[query.limit]]
            ordered = [place for place in ordered if distances[place] <= end]
        return [self._record(place) for place in ordered]

    def _places(self, wanted: Filter) -> Sequence[int]:
        """Return the indexes of all records that match, wherever the page begins."""
        if wanted.takes_all:
            return range(self._first, self._size)
        fitting = self._fitting(wanted)
        if _YES not in fitting:
            return ()
        if wanted.statuses is not None and _COMPLETED not in wanted.statuses:
            # The others are kept whole, in the order of their places.
            begin = self._first
            places = [one for one in self._whole if one >= begin and fitting[one - begin] == _YES]
        else:
            places = [place for place, fit in enumerate(fitting, self._first) if fit == _YES]
        if wanted.statuses is not None:
            places = [place for place in places if self._status(place) in wanted.statuses]
        if wanted.query.asks_for_ends:
            since, before = wanted.query.ended_since, wanted.query.ended_before
            first = -math.inf if since is None else since
            last = math.inf if before is None else before
            ends = self._wall_ends()
            places = [at for at in places if first <= ends[at] < last]
        return places

    def _wall_ends(self) -> Sequence[float]:
        """Return the wall seconds at which its records ended, as `wall_end` does."""
        stamps, size = memoryview(self._stamps).cast("d").tolist(), self._size
        created_at, created, ended = stamps[:size], stamps[size : 2 * size], stamps[3 * size :]
        return [
            at + (end - begun) for at, begun, end in zip(created_at, created, ended, strict=True)
        ]

    def ended_in(self) -> tuple[float, float]:
        """Return the wall seconds at which the first and the last of its records ended."""
        if self._ended_in is None:
            ends = self._wall_ends()
            self._ended_in = min(ends), max(ends)
        return self._ended_in

    def ends(self, wanted: Filter, since: float, width: float, like: object) -> Spans:
        """Return how many of the records that match ended in each span; see `span_of`.

        Args:
            wanted: Which records.
            since: When the span of number 0 begins.
            width: Seconds of a span.
            like: The same for filters that differ only in *since*, by whole spans. What is counted
                of a block that ended later is remembered for them.
        """
        whole = since <= self.ended_in()[0] and wanted.query.ended_before is None
        key = like, since % width, self._first
        if whole and self._counted_for == key:
            begin, found = self._spans
            by = round((since - begin) / width)
            return Counter({(at - by, status): many for (at, status), many in found.items()})
        ends = self._wall_ends()
        found = Counter(
            (int((ends[at] - since) // width), self._status(at)) for at in self._places(wanted)
        )
        if whole:
            self._counted_for, self._spans = key, (since, found)
        return found

    def starts(self, wanted: Filter, since: float, width: float, like: object) -> Counter[int]:
        """Return how many of the records that match started in each span; as `ends` does."""
        key = like, since % width, self._first
        if self._starts_for == key and self._first_start is not None and since <= self._first_start:
            begin, found = self._starts
            by = round((since - begin) / width)
            return Counter({at - by: many for at, many in found.items()})
        starts = self._wall_starts()
        self._first_start = min((at for at in starts if at != -math.inf), default=math.inf)
        places = [at for at in self._places(wanted) if starts[at] >= since]
        found = Counter(int((starts[at] - since) // width) for at in places)
        if since <= self._first_start:
            self._starts_for, self._starts = key, (since, found)
        return found

    def _wall_starts(self) -> Sequence[float]:
        """Return the wall seconds at which its records started; less than all if one has not."""
        stamps, size = memoryview(self._stamps).cast("d").tolist(), self._size
        created_at, created, started = (stamps[size * at : size * (at + 1)] for at in range(3))
        found: list[float] = [
            at + (begun - made)
            for at, made, begun in zip(created_at, created, started, strict=True)
        ]
        for place, record in self._whole.items():
            if record.started is None:
                found[place] = -math.inf
        return found

    def _status(self, place: int) -> TaskStatus:
        whole = self._whole.get(place)
        return _COMPLETED if whole is None else whole.status

    def _created(self) -> Sequence[float]:
        return memoryview(self._stamps).cast("d")[: self._size].tolist()

    def ended_by(self, bound: float, at_least: int) -> int:
        """Return how many of the oldest to drop: all ended by *bound*, at least *at_least*."""
        if self._last_end <= bound:
            return len(self)
        place = min(self._first + max(at_least, 0), self._size)
        ends = memoryview(self._stamps).cast("d")[3 * self._size + place :]
        # Not searched by halves: what threads put in at once may be out of order.
        for end in ends:
            if end > bound:
                break
            place += 1
        return place - self._first

    def drop_oldest(self, many: int, *, completed: bool) -> list[TaskRecord]:
        """Remove the oldest *many* and return them; without *completed* only the others."""
        end = self._first + many
        if completed:
            told = [self._record(place) for place in range(self._first, end)]
        else:
            told = [record for place, record in self._whole.items() if place < end]
        # First of all, for those who look without the lock; see `find`.
        self._first = end
        self._token = None
        self._results = (None,) * end + self._results[end:]
        self._whole = {at: record for at, record in self._whole.items() if at >= end}
        return told

    def _task_id(self, place: int) -> str:
        ids = self._ids
        if isinstance(ids, bytes):
            return TaskId(ids[_ID_BYTES * place : _ID_BYTES * (place + 1)].hex())
        return TaskId(ids[place])

    def _record(self, place: int) -> TaskRecord:
        whole = self._whole.get(place)
        if whole is not None:
            return whole
        record = TaskRecord()
        record.task_id = self._task_id(place)
        at = 0 if self._heading_of is None else _WIDTH * self._heading_of[place]
        record.heading = heading_of(*self._headings[at : at + _WIDTH])
        record.status = _COMPLETED
        stamps = memoryview(self._stamps).cast("d")[place :: self._size]
        record.created_at, record.created, record.started, record.ended = stamps
        record.queued = record.created
        record.attempts = 1 if self._attempts is None else self._attempts[place]
        record.result = self._results[place]
        record.code = record.rest = None
        record.instruction = 0
        if self._slept is not None and self._slept[place]:
            record.slept = self._slept[place]
        return record


def _packed_ids(ids: list[str]) -> bytes | tuple[str, ...]:
    """Return random ids, which are 32 hexadecimal digits, as 16 bytes each.

    Others are returned as plain texts: the garbage collector looks at each `TaskId`, and leaves
    a tuple of texts alone.
    """
    digits = "".join(ids)
    if len(digits) == _ID_DIGITS * len(ids):
        with suppress(ValueError):
            packed = bytes.fromhex(digits)
            # Capital letters and blanks are read as well, and would not be given back.
            if packed.hex() == digits and set(map(len, ids)) == {_ID_DIGITS}:
                return packed
    return tuple(map(str, ids))


def _place(ids: bytes | tuple[str, ...], task_id: str) -> int | None:
    """Return where *task_id* is among packed *ids*; None if it is not."""
    if not isinstance(ids, bytes):
        return ids.index(task_id) if task_id in ids else None
    try:
        sought = bytes.fromhex(task_id)
    except ValueError:
        return None
    if len(sought) != _ID_BYTES or sought.hex() != task_id:
        return None
    at = ids.find(sought)
    while at > 0 and at % _ID_BYTES:
        at = ids.find(sought, at + 1)
    return None if at < 0 else at // _ID_BYTES
