"""Processes with workers of their own: what waits at one starts in another that has a thread."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from framework import (
    TaskCancelledError,
    TaskManager,
    background_task,
    get_task_manager,
    setup_async_framework,
)
from framework._records.records import CancelOutcome, Heading, Restart, TaskRecord
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.free.claims import Waiting
from framework.stores.sql._shared.free.sharing import Room, share
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.schema import PROCESSES
from tests.patience import PATIENCE
from tests.processes.sql.siblings import Peer, peers

RAN: list[tuple[int, int]] = []
"""Which process has run which task, by the id of its manager."""

GATES: dict[int, threading.Event] = {}
STARTED = threading.Semaphore(0)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget what has run, and let go at the end what still waits at a gate."""
    RAN.clear()
    GATES.clear()
    while STARTED.acquire(blocking=False):
        pass
    yield
    for gate in GATES.values():
        gate.set()


def note(number: int) -> int:
    """Note where a task runs, and wait at its gate if it has one."""
    RAN.append((id(get_task_manager()), number))
    STARTED.release()
    gate = GATES.get(number)
    if gate is not None:
        gate.wait(PATIENCE)
    return number


@background_task(on_restart="requeue", name="tests.shared_out")
def shared_out(number: int) -> int:
    """Run on a thread of any process."""
    return note(number)


@background_task(on_restart="requeue", name="tests.shared_limited", max_running=3, unique=True)
def limited(number: int) -> int:
    """Run on a thread of any process, as one of three and the only one of its number."""
    return note(number)


@background_task(on_restart="requeue", name="tests.shared_waiter")
def waiter(task_id: str) -> int:
    """Wait on a thread for another task, wherever that runs."""
    found: int = get_task_manager().wait_result(task_id, PATIENCE)
    return found


@background_task(name="tests.not_shared")
def not_shared(number: int) -> int:
    """Run on a thread of its own process."""
    return note(number)


@asynccontextmanager
async def processes(url: str, *places: int) -> AsyncIterator[list[TaskManager]]:
    """Run processes of an app with so many threads, which have seen each other."""
    async with AsyncExitStack() as stack:
        found = []
        for most in places:
            store = SQLStore(url)
            store._pace = Pace(beat=0.05)
            made = setup_async_framework(
                None, max_workers=most, store=store, graceful_shutdown_timeout=0.0
            )
            await stack.enter_async_context(made)
            found.append(get_task_manager())
        for manager in found:
            await until(
                manager, lambda one: one.membership.has_others and one.follower.told is None
            )
        yield found


async def until(manager: TaskManager, is_so: Callable[[Any], bool]) -> None:
    """Wait until something is so after a step of a store's thread."""
    writer: Any = manager._core.ledger.shared._writer  # type: ignore[union-attr]
    loop, reached, real = asyncio.get_running_loop(), asyncio.Event(), writer.attempt

    def attempt(**options: Any) -> bool:
        done: bool = real(**options)
        if is_so(writer):
            loop.call_soon_threadsafe(reached.set)
        return done

    writer.attempt = attempt
    try:
        async with asyncio.timeout(PATIENCE):
            await reached.wait()
    finally:
        writer.attempt = real


async def started(count: int) -> None:
    """Wait until so many more tasks have started."""
    for _ in range(count):
        assert await asyncio.to_thread(STARTED.acquire, timeout=PATIENCE)


def turn(one: Waiting) -> tuple[int, float]:
    """Return what says whose turn is first."""
    return one.level, one.created_at


def drawn(rng: random.Random, first: int, count: int) -> list[Waiting]:
    """Return some tasks in their order; those of another *first* are of other moments."""
    times = rng.sample(range(first, 20, 2), count)
    made = [Waiting(rng.choice("abc"), rng.randrange(3), float(time)) for time in times]
    return sorted(made, key=turn)


def test_the_rule() -> None:
    """What others have threads for is given, then what is not among the first; the rest stay."""
    rng, seen = random.Random(3), Counter[str]()
    for _ in range(3_000):
        free, own = drawn(rng, 0, rng.randrange(4)), drawn(rng, 1, rng.randrange(1, 7))
        most = rng.randrange(1, 4)
        # Each process takes all functions here, but "c", so that by hand only numbers matter.
        rooms = [Room(rng.randrange(4), "ab") for _ in range(rng.randrange(3))]
        mixed = rng.sample(range(len(own)), len(own))
        give, take = share(free, [own[at] for at in mixed], rooms, "a", most)
        places, waits = sum(room.places for room in rooms), sorted([*free, *own], key=turn)
        able = [one for one in waits if one.name != "c"][:places]
        stay = [one for one in waits if one not in able]
        given = [one for one in able if one in own]
        kept = [one for one in stay if one in own]
        waiting = rooms and any(one in free and one.name != "c" for one in stay)
        more = [one for one in kept[most:] if waiting and one.name != "c"]
        assert [own[mixed[at]] for at in give] == given + more
        before = [one for one in stay if kept and turn(one) < turn(kept[0])]
        assert take == sum(one.name == "a" for one in before)
        seen += Counter(give=bool(given), more=bool(more), take=bool(take), none=not give)
    assert min(seen.values()) > 100, seen


def test_only_who_takes_the_function_counts() -> None:
    """A thread of a process is meant for the functions that it takes, and used once."""
    own = [Waiting("a", 1, 1.0), Waiting("b", 1, 2.0), Waiting("a", 1, 3.0), Waiting("b", 1, 4.0)]
    assert share([], own, [Room(1, "b"), Room(1, "ab")], "ab", 4).give == [0, 1]
    assert share([], own, [Room(5, "b")], "ab", 4).give == [1, 3]
    late = [Waiting("b", 1, 9.0)]
    assert share(late, own, [Room(0, "b")], "ab", 1).give == [1, 3]
    assert share(late, own, [Room(0, "a")], "ab", 1).give == []
    assert share([], own, [Room(0, "b")], "ab", 1).give == []
    # What was set free a moment ago is not taken back.
    assert share(own[:1], own[:1], [Room(0, "a")], "a", 1) == ([], 0)


def waiting_at(peer: Peer, number: int) -> TaskRecord:
    """Let a task wait for a thread of a process."""
    restart = Restart(f"[[{number}],{{}}]")
    task = peer.accept(heading=Heading("tests.shared_out", ""), restart=restart)
    peer.host.line.append(task)
    peer.clock.pass_time(1.0)
    return task


def release(peer: Peer) -> None:
    """Do what the framework does with what it is to give away."""
    for task in peer.host.given_away:
        free = peer.host.snapshot(task)
        assert task.restart is not None
        free.restart = task.restart.free_copy()
        task.restart.state = "left"
        peer.host.line.remove(task)
        peer.backlog.release(free)
    peer.host.given_away.clear()


def say(peer: Peer, places: int) -> None:
    """Let a process say for how many tasks it has threads, and see the others."""
    peer.host.rooms = places
    with peer.writer.batches.pulse._site.database.writing() as connection:
        peer.writer.batches.pulse.give_in(connection)
    peer.writer.follower.watch()


def test_no_more_than_others_have_said(sql_url: str) -> None:
    """What is set free and not claimed yet counts, and so does what is not written yet."""
    with peers(sql_url) as (full, idle):
        tasks = [waiting_at(full, number) for number in range(5)]
        full.writer.batches.write()
        for peer, places in ((idle, 2), (full, 0)):
            say(peer, places)
        full.writer.follower.share()
        assert full.host.given_away == tasks[:2]
        release(full)
        full.writer.follower.share()
        assert full.host.given_away == [], "they are not written yet"
        full.writer.batches.write()
        full.writer.follower.share()
        assert full.host.given_away == [], "they are free, and the other one has no more threads"
        idle.writer.follower.look()
        idle.writer.follower.go_on()
        assert [one.task_id for one in idle.host.taken_over] == [one.task_id for one in tasks[:2]]
        full.writer.follower.share()
        assert full.host.given_away == [], "the claim has said that no thread is left"
        idle.host.rooms = 1
        idle.end(idle.accept())
        idle.writer.batches.write()
        full.writer.follower.share()
        assert full.host.given_away == [tasks[2]]


def test_killed_between_release_and_claim(sql_url: str) -> None:
    """What was set free is another's, whether its process or the one that asked is killed."""
    with peers(sql_url, 3) as (full, idle, third):
        first, second = waiting_at(full, 1), waiting_at(full, 2)
        full.writer.batches.write()
        for peer, places in ((idle, 1), (full, 0)):
            say(peer, places)
        full.writer.follower.share()
        release(full)
        full.writer.batches.write()
        for killed in (full, idle):
            with third.database.writing() as connection:
                own = PROCESSES.c.process_id == killed.process_id
                connection.execute(sa.delete(PROCESSES).where(own))
        third.host.rooms = 2
        third.tick()
        third.tick()
        assert {one.task_id for one in third.host.taken_over} == {first.task_id, second.task_id}
        assert third.row(first).process == third.row(second).process == third.process_id


def test_none_is_forgotten_while_all_are_busy(sql_url: str) -> None:
    """A process with a backlog claims free tasks before whose turn none of its own is, once."""
    with peers(sql_url) as (full, other):
        early = [waiting_at(other, number) for number in range(6)]
        other.host.given_away += early
        release(other)
        other.writer.batches.write()
        full.clock.wall = other.clock.wall
        own = waiting_at(full, 9)
        late = waiting_at(other, 7)
        late.created_at = full.clock.wall + 60
        other.host.given_away.append(late)
        release(other)
        other.writer.batches.write()
        full.writer.batches.write()
        for peer in (other, full):
            say(peer, 0)
        full.writer.follower.share()
        taken = [one.task_id for one in full.host.taken_over]
        assert taken == [one.task_id for one in early[:4]], "at most as many as it has threads"
        for record in full.host.taken_over:
            full.backlog.note(record)
        full.writer.follower.share()
        assert len(full.host.taken_over) == 4, "they wait here"
        for record in full.host.taken_over:
            full.end(record)
        full.writer.follower.share()
        assert len(full.host.taken_over) == 6, "the late one waits for the turn of task 9"
        assert full.host.line == [own]


@pytest.mark.extended("time")
async def test_a_burst_spreads(sql_url: str) -> None:
    """Tasks that wait start elsewhere in their order, each once; others stay where they are."""
    async with processes(sql_url, 1, 2) as (full, idle):
        GATES[0] = threading.Event()
        await full.submit(shared_out, (0,))
        await started(1)
        stay = await full.submit(not_shared, (99,))
        hooked = await full.submit(shared_out, (98,), on_complete=lambda _: None)
        ids = [await full.submit(shared_out, (number,)) for number in range(1, 21)]
        assert [await full.get_result(one, PATIENCE) for one in ids] == list(range(1, 21))
        ran = [number for where, number in RAN if where == id(idle)]
        assert sorted(ran) == list(range(1, 21))
        # The first process keeps one for its own thread, for a second.
        assert sum(at - number > 2 for at, number in enumerate(ran, 1)) <= 1, ran
        assert all(number - at <= 3 for at, number in enumerate(ran, 1)), ran
        GATES[0].set()
        assert [await full.get_result(one, PATIENCE) for one in (stay, hooked)] == [99, 98]
        assert {(id(full), 0), (id(full), 98), (id(full), 99)} <= set(RAN)
        assert len(RAN) == 23
        assert full.get_stats()["pending"] == 0


@pytest.mark.extended("time")
async def test_places_and_keys_go_with_them(sql_url: str) -> None:
    """A limited and unique task keeps its place and its key in the other process."""
    async with processes(sql_url, 1, 4) as (full, idle):
        for number in range(5):
            GATES[number] = threading.Event()
        ids = [await full.submit(limited, (number,)) for number in range(5)]
        await started(3)
        assert {where for where, _ in RAN} == {id(full), id(idle)}
        again = await idle.submit(limited, (RAN[-1][1],))
        assert again == ids[RAN[-1][1]]
        assert len(RAN) == 3, "two wait for a place, though there are threads"
        for gate in GATES.values():
            gate.set()
        assert [await idle.get_result(one, PATIENCE) for one in ids] == list(range(5))
        assert len(RAN) == 5


@pytest.mark.extended("time")
async def test_cancelled_in_between(sql_url: str) -> None:
    """A task that was given away and is cancelled before it is claimed never runs."""
    async with processes(sql_url, 1, 1) as (full, idle):
        GATES[0], GATES[1] = threading.Event(), threading.Event()
        await full.submit(shared_out, (0,))
        await started(1)
        store: Any = idle._core.ledger.shared
        # The other one claims nothing from now on, but has said that it has a thread.
        claim, held = store._writer.follower.go_on, threading.Event()
        store._writer.follower.go_on = held.set
        task_id = await full.submit(shared_out, (5,))
        assert await asyncio.to_thread(held.wait, PATIENCE)
        assert await full._core.others.find(task_id) is not None
        answer = await full.request_cancel(task_id)
        store._writer.follower.go_on = claim
        assert answer.outcome in (CancelOutcome.CANCELLED, CancelOutcome.ASKED)
        with pytest.raises(
            TaskCancelledError, match=r"^task \S+ \(tests.shared_out\) was cancelled$"
        ):
            await full.get_result(task_id, PATIENCE)
        GATES[0].set()
        assert await idle.submit(shared_out, (6,), wait=True) == 6
        assert [number for _, number in RAN] == [0, 6]


@pytest.mark.extended("time")
async def test_threads_that_wait_for_tasks_elsewhere(sql_url: str) -> None:
    """Threads that wait for tasks which were given away keep no process from running those."""
    async with processes(sql_url, 1, 1) as (one, two):
        GATES[0] = threading.Event()
        first = await one.submit(shared_out, (0,))
        await started(1)
        stores: list[Any] = [manager._core.ledger.shared for manager in (one, two)]
        arrivals = [store._writer.follower.arrivals for store in stores]
        rooms, held = [each.room for each in arrivals], threading.Event()

        def no_room() -> dict[str, int]:
            if "thread" in arrivals[1].waiting:
                held.set()
            return {}

        for each in arrivals:
            each.room = no_room
        awaited = await one.submit(shared_out, (1,))
        assert await asyncio.to_thread(held.wait, PATIENCE)
        # Both threads wait for it before it is claimed.
        waiters = [
            # With a hook that only its own process has, so that each stays where it is.
            await manager.submit(waiter, (awaited,), on_complete=lambda _: None)
            for manager in (one, two)
        ]
        GATES[0].set()
        assert await one.get_result(first, PATIENCE) == 0
        await until(two, lambda _: two._core.pool._crew.is_stuck)
        for each, room in zip(arrivals, rooms, strict=True):
            each.room = room
        assert [await one.get_result(task, PATIENCE) for task in waiters] == [1, 1]
