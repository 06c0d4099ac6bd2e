"""The store of finished tasks in memory: packed blocks behave as the plain list that they are."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from framework._records.ids import TaskId, random_id
from framework._records.pages import FIELDS, PageQuery, start_spans, wall_end
from framework._records.records import Heading, TaskRecord
from framework._records.statuses import TaskStatus
from framework.stores import memory
from framework.stores._blocks import Block, Filter
from framework.stores.memory import MemoryStore

HEADINGS = [
    Heading("mail.send", ""),
    Heading("shop.pack", "Packs", "ann", "apple", '{"kind":1,"tenant":"a"}'),
    Heading("mail.send", "again", "bob", None, '{"kind":1,"tenant":"b"}'),
]
COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack four records at once, and begin a generation after two blocks."""
    monkeypatch.setattr(memory, "_BLOCK", 4)
    monkeypatch.setattr(memory, "_GENERATION", 2)


def record(
    number: int, status: TaskStatus = COMPLETED, task_id: str | None = None, ended: float = 0.0
) -> TaskRecord:
    """Return the record of a finished task, every field of which tells its number."""
    made = TaskRecord()
    made.task_id = random_id() if task_id is None else task_id
    made.heading = HEADINGS[number % 3]
    made.status = status
    made.created_at = 1_700_000_000.0 + number
    made.created = made.queued = number + 0.25
    made.started = number + 0.5
    made.ended = ended or number + 0.75
    made.attempts = 1 + (number % 7 == 0)
    made.result = ("result", number)
    made.code = made.rest = None
    made.instruction = 0
    if number % 5 == 1:
        made.slept = 0.25
    if status is FAILED:
        made.result = None
        made.error = ValueError(number)
    return made


def facts(one: TaskRecord | None) -> object:
    """Return all that a record says, for comparison."""
    if one is None:
        return None
    stamps = one.created_at, one.created, one.started, one.ended, one.slept, one.attempts
    return one.task_id, one.name, one.description, one.status, stamps, one.result, str(one.error)


def filled(count: int) -> tuple[MemoryStore, list[TaskRecord]]:
    """Return a store and the records in it."""
    store, records = MemoryStore(), [record(number) for number in range(count)]
    for one in records:
        store.put(one)
    return store, records


@dataclass
class Model:
    """The same store as a list."""

    records: list[TaskRecord] = field(default_factory=list)

    def remove(self, ended_before: float | None, keep: int | None) -> list[TaskRecord]:
        """Take the oldest records off and return them."""
        surplus = 0 if keep is None else len(self.records) - keep
        bound = float("-inf") if ended_before is None else ended_before
        removed: list[TaskRecord] = []
        while self.records:
            ended = self.records[0].ended
            assert ended is not None
            if len(removed) >= surplus and ended > bound:
                break
            removed.append(self.records.pop(0))
        return removed


IDS = st.one_of(
    st.none(),  # a random one
    st.uuids().map(lambda one: one.hex),
    st.uuids().map(lambda one: one.hex.upper()),
    st.uuids().map(str),
    st.text(min_size=1, max_size=40),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([COMPLETED] * 4 + [FAILED]), IDS),
        st.tuples(st.just("put"), st.just(COMPLETED), st.none()),
        st.tuples(st.just("age"), st.floats(0.0, 1.0), st.booleans()),
        st.tuples(st.just("keep"), st.integers(0, 30), st.booleans()),
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(STEPS)
def test_it_is_a_list(steps: list[tuple[str, Any, Any]]) -> None:
    """After any puts and removals it gives, finds and counts what a plain list would."""
    store, model, seen = MemoryStore(), Model(), set[str]()
    gone: list[str] = []
    for number, (step, choice, more) in enumerate(steps):
        if step == "put":
            # Out of order, as two threads may put them in.
            ended = number + (0.75 if number % 5 else -0.75)
            made = record(number, choice, more, ended)
            if made.task_id in seen:
                continue
            seen.add(made.task_id)
            store.put(made)
            model.records.append(made)
            continue
        ended_before = number * choice if step == "age" else None
        keep = choice if step == "keep" else None
        count, told = store.remove(ended_before=ended_before, keep=keep, completed=more)
        removed = model.remove(ended_before, keep)
        assert count == len(removed)
        expected = [one for one in removed if more or one.status is FAILED]
        assert list(map(facts, told)) == list(map(facts, expected))
        gone += [one.task_id for one in removed]
    assert list(map(facts, store.list())) == list(map(facts, model.records))
    assert len(store) == len(model.records)
    assert [facts(store.get(one.task_id)) for one in model.records] == [
        facts(one) for one in model.records
    ]
    assert not any(store.get(task_id) for task_id in gone)
    failed = [one for one in model.records if one.status is FAILED]
    assert list(map(facts, store.list(FAILED))) == list(map(facts, failed))


def test_a_list_of_failures_unpacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing failed tasks puts no record of a completed one together."""
    store, _ = filled(40)
    failed = record(40, FAILED)
    store.put(failed)
    unpacked: list[int] = []
    monkeypatch.setattr(Block, "_record", lambda _, place: unpacked.append(place))
    assert store.list(FAILED) == [failed]
    assert unpacked == []


def test_ids_that_are_not_there() -> None:
    """An id that only looks like a kept one is not found: capitals, blanks, shorter or longer."""
    for count in (7, 8, 12, 40):
        store, records = filled(count)
        for one in records:
            known = str(one.task_id)
            for other in (
                known.upper(),
                known[:-1],
                known + "00",
                f" {known}",
                known[16:] + known[:16],
            ):
                assert other == known or store.get(other) is None, (count, other)


def test_ids_are_plain_strings_with_the_type_of_ids() -> None:
    """An id that comes out of a block is the id that went in, of the same type."""
    store, records = filled(8)
    assert [type(one.task_id) for one in store.list()] == [type(records[0].task_id)] * 8


def test_generations_grow_with_what_is_kept() -> None:
    """A new generation has room for half of the blocks before it; every record is found."""
    store, records = filled(4 * (56 + 1))

    assert [len(one.blocks) for one in store._generations] == [2, 2, 2, 2, 4, 6, 8, 12, 18]
    assert [facts(store.get(one.task_id)) for one in records] == list(map(facts, records))


def test_indexes_are_freed_one_by_one() -> None:
    """Of a large generation that is removed, each later block frees a part of its index."""
    store, _ = filled(4 * (38 + 1))
    store.remove(keep=4 * (12 + 1))
    left = []

    for number in range(12):
        store.put(record(number))
        left.append(len(store._spent))

    # All dicts of the seven oldest generations; three more blocks are packed.
    assert left == [13] * 3 + [12] * 4 + [11] * 4 + [10]


class Clashing(str):
    """An id whose hash is that of all others of its kind."""

    __slots__ = ()

    def __hash__(self) -> int:
        """Return the same for all."""
        return 7


def test_ids_with_one_hash() -> None:
    """Tasks whose ids have one hash do not hide each other, whatever block they are in."""
    store = MemoryStore()
    records = [record(number, task_id=Clashing(f"task {number}")) for number in range(24)]
    for one in records:
        store.put(one)
    assert [facts(store.get(one.task_id)) for one in records] == list(map(facts, records))
    store.remove(keep=10)
    found = [store.get(one.task_id) for one in records]
    assert [one is not None for one in found] == [False] * 14 + [True] * 10


def test_a_record_dropped_while_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another thread drops between its finding and its making is not found at all."""
    # 1 the id is found in its block, 2 the block's records are dropped, 3 the record is put
    # together from what is left.
    store, records = filled(12)
    build = Block._record

    def late(block: Any, place: int) -> TaskRecord:
        monkeypatch.setattr(Block, "_record", build)
        store.remove(keep=11, completed=False)
        return build(block, place)

    monkeypatch.setattr(Block, "_record", late)
    assert store.get(records[0].task_id) is None
    assert facts(store.get(records[1].task_id)) == facts(records[1])


class _GrowingDict(dict[str, TaskRecord]):
    """Records, to which another thread adds one right after they begin to be read."""

    late: TaskRecord | None = None

    def values(self) -> Any:  # Any: an iterator in place of a view
        """Return an iterator, which has seen fewer records than there are now."""
        found = iter(super().values())
        late, self.late = self.late, None
        if late is not None:
            self[late.task_id] = late
        return found


def test_a_record_is_put_while_others_are_packed() -> None:
    """A record that is put just when the oldest are read to be packed disturbs nothing."""
    store = MemoryStore()
    records = [record(number) for number in range(9)]
    growing = store._latest = _GrowingDict()
    growing.late = records[8]
    for one in records[:8]:
        store.put(one)
    assert sorted(map(facts, store.list()), key=str) == sorted(map(facts, records), key=str)
    assert len(store) == 9


def test_results_are_let_go_at_removal() -> None:
    """A removed task's result is freed at once, although its block is still there."""

    class Result:
        """Something whose end can be seen."""

    store = MemoryStore()
    results = []
    for number in range(8):
        one = record(number)
        one.result = Result()
        results.append(weakref.ref(one.result))
        store.put(one)
    del one
    gc.collect()
    store.remove(keep=6, completed=False)
    assert [result() is None for result in results] == [True, True] + [False] * 6


@pytest.mark.parametrize("task_id", [None, "order {}"])
@pytest.mark.parametrize("heading", [None, "always the same", "number {}"])
def test_packed_tasks_are_nothing_to_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, heading: str | None, task_id: str | None
) -> None:
    """A block of 256 tasks with plain results is at most eight objects that it looks at.

    Also where each task was given an id or a description of its own when it was submitted.
    """
    monkeypatch.setattr(memory, "_BLOCK", 256)
    store, records = MemoryStore(), [record(number) for number in range(21 * 256)]
    for number, one in enumerate(records):
        if heading is not None:
            one.heading = Heading("mail.send", heading.format(number))
        if task_id is not None:
            one.task_id = TaskId(task_id.format(number))
        store.put(one)
    assert len(store) == len(records)
    gc.collect()
    # The latest are kept whole, each with its heading.
    assert _looked_at(store) <= 4 * 256 + 20 * 8
    described = [one.description for one in records]
    assert [one.description for one in store.list()] == described


def _looked_at(root: object) -> int:
    """Return how many objects that belong to an object the garbage collector looks at."""
    found, left = {id(root): root}, [root]
    while left:
        for one in gc.get_referents(left.pop()):
            shared = isinstance(one, type | ModuleType | FunctionType)
            if id(one) not in found and gc.is_tracked(one) and not shared:
                found[id(one)] = one
                left.append(one)
    return len(found)


# -- pages

QUERIES = st.builds(
    PageQuery,
    limit=st.integers(1, 6),
    status=st.sampled_from([None, None, COMPLETED, FAILED, TaskStatus.RUNNING]),
    statuses=st.frozensets(st.sampled_from([COMPLETED, FAILED, TaskStatus.TIMEOUT])),
    owner=st.sampled_from([None, None, "ann", "bob", "eve"]),
    label=st.sampled_from([None, None, None, "apple", "pear"]),
    meta=st.sampled_from([(), (), (',"kind":1,',), (',"kind":1,', ',"tenant":"a",')]),
    search=st.sampled_from(["", "", "PACK", "a", "AGAIN", "PPL", "12", "f", "no", "0123456789"]),
    offset=st.integers(0, 30),
    name=st.sampled_from([None, "mail.send", "shop.pack", "nobody"]),
    after=st.none() | st.tuples(st.integers(0, 12).map(float), st.sampled_from(["", "b", "f"])),
    oldest_first=st.booleans(),
    ended_since=st.none() | st.integers(0, 12).map(lambda number: number + 0.5),
    ended_before=st.none() | st.integers(0, 12).map(lambda number: number + 1.5),
    without=st.sampled_from([frozenset(), frozenset({"mail.send"}), frozenset({"shop.pack"})]),
)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.sampled_from([COMPLETED, FAILED]),
            st.sampled_from([None, "{:032x}", "{:032X}", "order {}"]),
        ),
        max_size=50,
    ),
    st.integers(0, 50),
    QUERIES,
)
@example([(number, COMPLETED, None) for number in range(12)], 0, PageQuery(3, owner="ann"))
def test_pages_are_those_of_a_list(
    submitted: list[tuple[int, TaskStatus, str | None]], removed: int, query: PageQuery
) -> None:
    """A page has the records that a sorted list would give, also of those submitted at once."""
    store, records = MemoryStore(), []
    for number, (created_at, status, task_id) in enumerate(submitted):
        made = record(number, status, task_id and task_id.format(number + 10**30))
        made.created_at = float(created_at)
        records.append(made)
        store.put(made)
    store.remove(keep=max(0, len(records) - removed))
    left = [one for one in records[removed:] if query.matches(one)]
    left.sort(key=lambda one: (one.created_at, one.task_id), reverse=not query.oldest_first)

    page = left[query.offset : query.offset + query.limit]
    assert list(map(facts, store.page(query))) == list(map(facts, page))
    assert store.count(query) == sum(map(query.counts, records[removed:]))
    for by in FIELDS.values():
        counted = Counter(map(by.of, filter(query.counts, records[removed:])))
        assert store.count_by(query, by.name) == counted, by
    since = query.ended_since or 0.0
    late = replace(query, ended_since=since)
    ended = [one for one in records[removed:] if late.counts(one)]
    for begin in (4.0, 1.0, 1_700_000_000.0):
        starts = start_spans(filter(query.counts, records[removed:]), begin, 3.0)
        assert store.count_starts(query, begin, 3.0) == starts
    spans = Counter(((wall_end(one) - since) // 3, one.status) for one in ended)
    assert store.count_ends(late, 3.0) == spans
    # From a span earlier on, which all have one number more.
    early = replace(late, ended_since=since - 3.0)
    if query.ended_since is None:
        moved = Counter({(at + 1, status): many for (at, status), many in spans.items()})
        assert store.count_ends(early, 3.0) == moved


def test_a_page_of_tasks_that_ended_in_another_order() -> None:
    """A page has what was submitted first or last, although other blocks end nearer to it."""
    store = MemoryStore()
    for number, created_at in enumerate([20, 21, 22, 23, 0, 1, 2, 3, 10, 11, 12, 13]):
        made = record(number)
        made.created_at = float(created_at)
        store.put(made)

    for oldest_first, wanted in ((False, [23, 22]), (True, [0, 1])):
        found = store.page(PageQuery(2, oldest_first=oldest_first))

        assert [one.created_at for one in found] == wanted


def test_a_page_of_tasks_that_ended_late() -> None:
    """Of a packed block a page has those that ended late, although others come before them."""
    store, records = filled(12)

    since = records[2].created_at + 0.5
    found = store.page(PageQuery(1, oldest_first=True, ended_since=since))

    assert [one.task_id for one in found] == [records[2].task_id]


def test_a_page_looks_at_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page costs the same however many records are kept, at the start and anywhere else."""
    looks: list[object] = []
    reaches = Block.reaches

    def look(block: Block, wanted: Filter) -> bool:
        looks.append(block)
        return reaches(block, wanted)

    monkeypatch.setattr(Block, "reaches", look)
    for count, oldest_first in itertools.product((40, 400), (False, True)):
        store, records = filled(count)
        for after in (None, (records[count // 2].created_at, "")):
            store.page(PageQuery(4, after=after, oldest_first=oldest_first))
            assert len(looks) <= 3, (count, oldest_first, after)
            looks.clear()


def steps(call: Callable[[], object]) -> int:
    """Return how many records are put together by a call."""
    count, build = 0, Block._record

    def counted(block: Block, place: int) -> TaskRecord:
        nonlocal count
        count += 1
        return build(block, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "_record", counted)
        call()
    return count


def test_a_page_far_behind_unpacks_few() -> None:
    """However many records come before a page, few are unpacked for it, and none for a total."""
    for count in (40, 400):
        store, _ = filled(count)
        for offset, oldest_first, name in itertools.product(
            (0, count // 2), (False, True), (None, "mail.send")
        ):
            page = PageQuery(4, offset=offset, name=name, oldest_first=oldest_first)
            assert steps(partial(store.page, page)) <= 16, page
            assert steps(partial(store.count, page)) == 0, page


def test_a_part_of_two_ids_is_none() -> None:
    """What one packed id ends with and the next begins with is not found in them."""
    store, ids = MemoryStore(), ["0" * 31 + "a", "b" + "0" * 31, "ab" + "0" * 30, "f" * 32]
    for number, task_id in enumerate(ids * 2):
        store.put(record(number, task_id=f"{task_id[:16]}{number // 4}{task_id[17:]}"))
    found = store.page(PageQuery(9, search="AB", oldest_first=True))
    assert [one.task_id[:2] for one in found] == ["ab", "ab"]


def test_a_total_that_was_counted_before() -> None:
    """What is counted again is right after tasks were added and removed, with other filters too."""
    store, records = filled(40)
    query, other = PageQuery(4, name="mail.send"), PageQuery(4, status=FAILED)
    for _ in range(3):
        for one in (query, replace(query, offset=8), other):
            assert store.count(one) == sum(map(one.counts, records))
        for number in range(40, 50):
            records.append(record(number, FAILED if number % 2 else COMPLETED))
            store.put(records[-1])
        assert store.count(query) == sum(map(query.counts, records))
        store.remove(keep=len(records) - 7)
        del records[:7]
        assert store.count(query) == sum(map(query.counts, records))
