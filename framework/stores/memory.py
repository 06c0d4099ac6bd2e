"""Finished tasks in this process's memory: gone when the process is."""

from __future__ import annotations

import heapq
import math
import threading
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate, islice, repeat
from operator import itemgetter
from typing import Any, Final

from framework._records import checks
from framework._records.pages import FIELDS, PageQuery, span_of, start_spans
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL, TaskStatus
from framework.protocols import Features
from framework.stores._blocks import Block, Filter

_BLOCK: Final = 256
"""How many records are packed at once."""

_GENERATION: Final = 64
"""How many blocks fill a dict of an index, which then takes 0.3 ms to grow."""

_PARTS: Final = 2
"""A new generation has room for one in this many of the blocks that are kept."""

_COMPLETED: Final = TaskStatus.COMPLETED


class MemoryStore:
    """Keeps records in the order in which they ended.

    The latest are kept whole. The others are packed into columns, 256 at a time: what a
    task that simply COMPLETED, as most do, leaves behind then takes about 150 bytes beside
    its result, none of which the garbage collector looks at one by one. Tasks that ended in
    any other way stay whole.

    Cost: `put` is independent of how many records are kept. `get` looks into a few dicts,
    6 for a hundred thousand records and 11 for a million. `remove` drops whole blocks, so it
    costs a few steps for 256 records, and what it returns. `page` looks into the blocks that
    may have a record of the page; without a filter these are few.

    Args:
        keep_arguments: For how many of the latest tasks that did not complete the arguments are
            kept, so that `TaskManager.run_again` can run them; 0 or False for none.

    Attributes:
        keep_arguments: Like the argument.

    Raises:
        TypeError: If *keep_arguments* is not an integer.
        ValueError: If it is negative.

    Guarantees: a record is found from `put` on until it is removed.
    Without the GIL: `put` relies on dict operations being atomic, which they are there.
    """

    def __init__(self, keep_arguments: int = 1_000) -> None:
        self.keep_arguments: int = checks.amount("keep_arguments", keep_arguments)
        # Guards the generations, and who packs or removes; `put` does without.
        self._lock = threading.Lock()
        self._latest: dict[str, TaskRecord] = {}
        # The oldest first; replaced and not changed, since `get` reads it without the lock.
        self._generations: tuple[_Generation, ...] = ()
        # Of generations that are gone, to be freed one by one: half a million ids take 8 ms.
        self._spent: list[dict[int, int]] = []
        # The filters that blocks were counted by last.
        self._counted = PageQuery(1)

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    @property
    def features(self) -> Features:
        """What it can do; see `protocols.Featured`."""
        return Features(pages=self, counts=self, groups=self, times=self)

    def put(self, record: TaskRecord) -> None:
        """Keep a record that has just become final."""
        latest = self._latest
        latest[record.task_id] = record
        if len(latest) >= 2 * _BLOCK:
            self._pack()

    def get(self, task_id: str) -> TaskRecord | None:
        """Return the record of a finished task, or None if it is not kept here."""
        record = self._latest.get(task_id)
        if record is not None:
            return record
        key = hash(task_id)
        for generation in reversed(self._generations):
            # Not a call: most generations do not have it, and a million tasks are in eleven.
            index = generation.index
            many = len(index)
            number = index[0 if many == 1 else _dict_of(key, many)].get(key)
            block = None if number is None else generation.blocks[number]
            found = None if block is None else block.find(task_id)
            if found is not None:
                return found
        return None

    def replace(self, record: TaskRecord) -> bool:
        """Keep *record* in place of the one with its id; False if none is kept."""
        with self._lock:
            if record.task_id in self._latest:
                self._latest[record.task_id] = record
                return True
            return any(block.replace(record) for block in self._blocks())

    def list(self, status: TaskStatus | None = None) -> list[TaskRecord]:
        """Return the kept records in the order in which they ended, as a snapshot."""
        with self._lock:
            records = [record for block in self._blocks() for record in block.records(status)]
            records += self._whole()
        return [record for record in records if status is None or record.status is status]

    def page(self, query: PageQuery) -> Sequence[TaskRecord]:
        """Return the kept records of a page; see `protocols.PagedStore`."""
        with self._lock:
            if query.offset and query.after is None:
                query = self._begun(query)
            whole = replace(query, offset=0, limit=query.offset + query.limit)
            return self._page(self._filter(whole))[query.offset :]

    def _page(self, wanted: Filter) -> Sequence[TaskRecord]:
        query = wanted.query
        found = query.first(self._whole())
        # In the order of the first record that each could add to the page.
        blocks = heapq.merge(*[one.near(query) for one in self._generations], key=itemgetter(0))
        for bound, block in blocks:
            full = len(found) == query.limit
            if full and query.distance(found[-1].created_at) < bound:
                break
            # The count is remembered for the total, and none is mostly the answer of a search.
            if block.reaches(wanted) and block.count(wanted):
                found = query.first([*found, *block.page(wanted)])
        return found

    def _begun(self, query: PageQuery) -> PageQuery:
        """Return the same query, but one that begins near its page and so skips less.

        The records before a moment are counted: those of most blocks are all before it or all
        behind it, and are not looked at.
        """
        wanted = self._filter(query)
        ends = []
        for block in self._blocks():
            count = block.count(wanted)
            if count:
                near, far = sorted(map(query.distance, block.span()))
                ends.append((near, far, count, block))
        latest = [query.distance(one.created_at) for one in filter(query.counts, self._whole())]
        distance, skipped = _nearest(wanted, ends, latest, query.offset)
        if not skipped:
            return query
        place = query.begin_at(query.distance(distance))
        return replace(query, after=place, offset=query.offset - skipped)

    def count(self, query: PageQuery) -> int:
        """Return how many kept records match; see `protocols.CountingStore`.

        For most filters it takes some steps for each block of 256 records. It looks at each id if
        *query* searches for letters that ids have.
        """
        with self._lock:
            wanted = self._filter(query)
            packed = sum(block.count(wanted) for block in self._blocks())
            return packed + sum(map(query.counts, self._whole()))

    def count_by(self, query: PageQuery, field: str) -> Mapping[Any, int]:
        """Return how many kept records there are; see `protocols.GroupingStore`."""
        by = FIELDS[field]
        if not any(map(query.has_status, FINAL)):
            return {}
        with self._lock:
            wanted = self._filter(query)
            found = Counter(map(by.of, filter(query.counts, self._whole())))
            for block in self._blocks():
                # The count is remembered, and many blocks have no task of an owner.
                if block.count(wanted):
                    found += block.counts(wanted, by)
        return found

    def count_ends(self, query: PageQuery, width: float) -> Mapping[tuple[int, TaskStatus], int]:
        """Return how many kept records ended when; see `protocols.TimedStore`."""
        since, like = query.ended_since or 0.0, (replace(query.filters, ended_since=None), width)
        with self._lock:
            wanted = Filter(query, query.filters)
            found = Counter(
                span_of(one, since, width) for one in filter(query.counts, self._whole())
            )
            for block in self._blocks():
                if block.ended_in()[1] >= since:
                    found.update(block.ends(wanted, since, width, like))
        return found

    def count_starts(self, query: PageQuery, since: float, width: float) -> Mapping[int, int]:
        """Return how many kept records started when; see `protocols.TimedStore`."""
        like = query.filters, width
        with self._lock:
            wanted = Filter(query, query.filters)
            found = start_spans(filter(query.counts, self._whole()), since, width)
            for block in self._blocks():
                # What has ended before has started before.
                if block.ended_in()[1] >= since:
                    found.update(block.starts(wanted, since, width, like))
        return found

    def _filter(self, query: PageQuery) -> Filter:
        """Return what tells which records match; with the last filters if they are the same.

        So a table that is looked at again and again counts only what is new.
        """
        if self._counted != query.filters:
            self._counted = query.filters
        return Filter(query, self._counted)

    def _blocks(self) -> Iterator[Block]:
        for generation in self._generations:
            for block in generation.blocks:
                if block is not None:
                    yield block

    def _whole(self) -> Sequence[TaskRecord]:
        """Return the latest records, which are not packed; at one moment."""
        return list(self._latest.values())

    def oldest(self) -> TaskRecord | None:
        """Return the record that would be removed first; None if there is none."""
        with self._lock:
            block = next(self._blocks(), None)
            return next(iter(self._whole()), None) if block is None else block.oldest()

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Sequence[TaskRecord]]:
        """Remove the oldest records; see `protocols.TaskStore`."""
        bound = -math.inf if ended_before is None else ended_before
        told: list[TaskRecord] = []
        with self._lock:
            surplus = 0 if keep is None else self._count() - keep
            removed = 0
            while self._generations:
                oldest = self._generations[0]
                while (block := oldest.first) is not None:
                    many = block.ended_by(bound, surplus - removed)
                    removed += many
                    told += block.drop_oldest(many, completed=completed)
                    if len(block):
                        return removed, told
                    oldest.drop_first()
                self._generations = self._generations[1:]
                self._spent += oldest.index
            if not self._generations:
                self._spent.clear()
            for record in list(self._latest.values()):
                if removed >= surplus and (record.ended is None or record.ended > bound):
                    break
                del self._latest[record.task_id]
                removed += 1
                if completed or record.status is not _COMPLETED:
                    told.append(record)
        return removed, told

    def _count(self) -> int:
        packed = _BLOCK * sum(generation.left for generation in self._generations)
        if packed:
            oldest = self._generations[0].first
            # All the others are full.
            packed -= _BLOCK - (0 if oldest is None else len(oldest))
        return packed + len(self._latest)

    def _pack(self) -> None:
        """Pack the older half of the latest records."""
        with self._lock:
            latest = self._latest
            if len(latest) < 2 * _BLOCK:  # another thread was quicker
                return
            if self._spent:
                self._spent.pop()
            records = _first(latest)
            ids = [record.task_id for record in records]
            # Found there first and then dropped here, so that each is found at any moment.
            self._add(Block(ids, records), list(map(hash, ids)))
            for task_id in ids:
                del latest[task_id]

    def _add(self, block: Block, keys: Sequence[int]) -> None:
        """Add a block whose ids have the hashes *keys* to the latest generation."""
        latest = self._generations[-1] if self._generations else None
        # Two ids with one hash, one in 10^19 pairs, would hide each other in one index.
        if latest is None or latest.full or not latest.add(block, keys):
            kept = sum(generation.left for generation in self._generations)
            latest = _Generation(max(1, kept // (_PARTS * _GENERATION)))
            latest.add(block, keys)
            self._generations = (*self._generations, latest)


class _Generation:
    """Blocks that were packed one after the other, and where to find their records.

    The more blocks are kept, the more a new one may have, so that their number grows only
    with the logarithm of it.

    Args:
        dicts: How many dicts its index has, 1 or more; `_GENERATION` blocks fill each.

    Attributes:
        blocks: By number; None for those that were dropped, which are the first.
        index: By the hash of an id, which takes a quarter of the id's memory, the number of
            its block. Numbers alone, so that the garbage collector does not look into it;
            what was dropped stays until the whole generation goes.
    """

    __slots__ = ("_dropped", "_highest", "_lowest", "blocks", "index")

    def __init__(self, dicts: int) -> None:
        self._dropped = 0
        # Made when pages are read. By number, when the last record of this block and of those
        # before it was submitted, and the first one of this block and of those behind it.
        self._highest: list[float] = []
        self._lowest: list[float] = []
        self.blocks: list[Block | None] = []
        self.index: list[dict[int, int]] = [{} for _ in range(dicts)]

    def add(self, block: Block, keys: Sequence[int]) -> bool:
        """Add a block whose ids have the hashes *keys*; False if it has one of them already."""
        index = self.index
        parts: Sequence[Sequence[int]] = [keys] if len(index) == 1 else _parts(keys, len(index))
        if not all(
            numbers.keys().isdisjoint(part) for numbers, part in zip(index, parts, strict=True)
        ):
            return False
        # In this order: what the index tells of is there.
        number = len(self.blocks)
        self.blocks.append(block)
        for numbers, part in zip(index, parts, strict=True):
            numbers.update(zip(part, repeat(number)))
        return True

    def near(self, query: PageQuery) -> Iterator[tuple[float, Block]]:
        """Yield the blocks that may have records for a page, beginning with the nearest.

        Each with a distance that neither its records nor those of later blocks are below. To
        begin anywhere takes two searches by halves; blocks are sorted but for tasks that ran long.
        """
        self._measure()
        after = None if query.after is None else query.after[0]
        numbers: range
        if query.oldest_first:
            begin = 0 if after is None else bisect_left(self._highest, after)
            numbers, bounds = range(max(begin, self._dropped), len(self.blocks)), self._lowest
        else:
            end = len(self.blocks) if after is None else bisect_right(self._lowest, after)
            numbers, bounds = range(end - 1, self._dropped - 1, -1), self._highest
        for number in numbers:
            block = self.blocks[number]
            assert block is not None
            yield query.distance(bounds[number]), block

    def _measure(self) -> None:
        """Take in when the records of new blocks were submitted."""
        highest, lowest = self._highest, self._lowest
        for block in self.blocks[len(highest) :]:
            # A dropped one is before all others.
            low, high = (-math.inf, -math.inf) if block is None else block.span()
            highest.append(max(high, highest[-1]) if highest else high)
            at = len(lowest)
            lowest.append(low)
            while at and lowest[at - 1] > low:
                at -= 1
                lowest[at] = low

    @property
    def full(self) -> bool:
        """Whether it has no room for a further block."""
        return len(self.blocks) >= _GENERATION * len(self.index)

    @property
    def left(self) -> int:
        """How many blocks have not been dropped."""
        return len(self.blocks) - self._dropped

    @property
    def first(self) -> Block | None:
        """The oldest block that was not dropped; None if there is none."""
        return self.blocks[self._dropped] if self.left else None

    def drop_first(self) -> None:
        """Drop the oldest block."""
        self.blocks[self._dropped] = None
        self._dropped += 1


def _nearest(
    wanted: Filter,
    blocks: list[tuple[float, float, int, Block]],
    latest: list[float],
    offset: int,
) -> tuple[float, int]:
    """Return the farthest begin of a block that at most *offset* records come before.

    Args:
        wanted: Which records count.
        blocks: Of each block: its nearest and its farthest distance, how many records count, and
            the block.
        latest: The distances of those that are in no block.
        offset: How many.

    Returns:
        Its distance, and how many records come before it; 0 if there is no such block.
    """
    blocks, latest = sorted(blocks, key=itemgetter(0)), sorted(latest)
    nears = [near for near, *_ in blocks]
    by_end = sorted(blocks, key=itemgetter(1))
    fars = [far for _, far, *_ in by_end]
    sums = [0, *accumulate(count for _, _, count, _ in by_end)]

    def before(distance: float) -> int:
        done, begun = bisect_left(fars, distance), bisect_left(nears, distance)
        count = sums[done] + bisect_left(latest, distance)
        # The others have records on both sides.
        left = begun - done
        for _, far, _, block in reversed(blocks[:begun]):
            if not left:
                break
            if far >= distance:
                left -= 1
                count += block.count_before(wanted, distance)
        return count

    place = bisect_right(nears, offset, key=before)
    return (nears[place - 1], before(nears[place - 1])) if place else (0.0, 0)


def _dict_of(key: int, many: int) -> int:
    """Return in which of *many* dicts of an index the hash *key* is."""
    # By its upper half: a dict tells its own keys apart by the lower bits first.
    return (key >> 32) % many


def _parts(keys: Sequence[int], many: int) -> list[list[int]]:
    """Return the *keys* for each of *many* dicts of an index."""
    parts: list[list[int]] = [[] for _ in range(many)]
    for key in keys:
        parts[_dict_of(key, many)].append(key)
    return parts


def _first(latest: dict[str, TaskRecord]) -> list[TaskRecord]:
    while True:
        # 1 the iterator is made, 2 another thread puts a record, 3 the iterator sees that.
        with suppress(RuntimeError):
            return list(islice(latest.values(), _BLOCK))
