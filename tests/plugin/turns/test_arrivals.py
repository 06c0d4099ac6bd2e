"""Calls given to several threads at once run in one order, whichever thread starts first."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import FastAPI

from framework import ThreadPoolExecutorEnhanced, background_task, setup_async_framework
from pytest_asyncframe._turns.actors import Actor
from pytest_asyncframe._turns.choices import RandomChooser
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

CALLS = "abcde"

MODES_THAT_START = [
    pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
    for mode in ("auto", "virtual", "seeded", "threads")
]

Body = Callable[[str], None]


class Actors(dict[int, Any]):
    """The actors of a sequencer; notifies a door of each new one."""

    door: Door

    def __setitem__(self, ident: int, actor: Any) -> None:
        """Add an actor."""
        super().__setitem__(ident, actor)
        self.door.let_in()


class Door:
    """Lets threads become actors in an order of its own, once all of them have come.

    Args:
        sequencer: The test's.
        order: Which of those that come is let in when.
    """

    def __init__(self, sequencer: Sequencer, order: list[int]) -> None:
        self._enter = sequencer.enter
        self._order = order
        self._lock = threading.Lock()
        self._gates: list[Any] = []
        sequencer.actors = actors = Actors(sequencer.actors)
        actors.door = self
        sequencer.enter = self._come  # type: ignore[method-assign]  # for this test

    def _come(self, *args: Any, **options: Any) -> Any:
        gate = threading.Lock()
        with self._lock:
            if len(self._gates) < len(CALLS) and threading.current_thread().name != "MainThread":
                gate.acquire()
                self._gates.append(gate)
                last = len(self._gates) == len(CALLS)
            else:
                last = False
        if last:
            self.let_in()
        gate.acquire()
        return self._enter(*args, **options)

    def let_in(self) -> None:
        """Let the next thread in, now that the previous one is an actor."""
        if len(self._gates) == len(CALLS) and self._order:
            self._gates[self._order.pop(0)].release()


# -- ways to hand calls to threads


async def each(call: Callable[[str], Awaitable[object]]) -> None:
    """Make all calls at once, and wait for them."""
    await asyncio.gather(*(call(name) for name in CALLS))


async def to_thread(_: Probe, body: Body) -> None:
    """Make the calls with asyncio.to_thread."""
    await each(lambda name: asyncio.to_thread(body, name))


async def in_a_pool(_: Probe, body: Body) -> None:
    """Make the calls in a ThreadPoolExecutor."""
    with ThreadPoolExecutor(len(CALLS)) as pool:
        loop = asyncio.get_running_loop()
        await each(lambda name: loop.run_in_executor(pool, body, name))


async def in_a_pool_of_ours(_: Probe, body: Body) -> None:
    """Make the calls in a ThreadPoolExecutorEnhanced."""
    with ThreadPoolExecutorEnhanced(len(CALLS)) as pool:
        loop = asyncio.get_running_loop()
        await each(lambda name: loop.run_in_executor(pool, body, name))


def mapped(_: Probe, body: Body) -> None:
    """Make the calls with `map` of a pool."""
    with ThreadPoolExecutor(len(CALLS)) as pool:
        assert len(list(pool.map(body, CALLS))) == len(CALLS)


async def by_anyio(_: Probe, body: Body) -> None:
    """Make the calls with anyio."""
    await each(lambda name: anyio.to_thread.run_sync(body, name))


async def by_endpoints(probe: Probe, body: Body) -> None:
    """Make the calls with requests to ``def`` endpoints."""
    app = FastAPI()
    app.get("/{name}")(body)
    async with probe.client(app) as client:
        await each(lambda name: client.get(f"/{name}"))


WAYS = [to_thread, in_a_pool, in_a_pool_of_ours, mapped, by_anyio, by_endpoints]

ORDERS = [
    (4, 3, 2, 1, 0),
    *random.Random(0).sample(list(itertools.permutations(range(len(CALLS)))), 5),
]
"""In which orders the threads of the calls may start."""

each_way = pytest.mark.parametrize("way", WAYS)


def order_of(probe: Probe, way: Callable[..., Any], order: tuple[int, ...] | None) -> str:
    """Return the order in which calls start, continue and end if threads start in *order*."""
    begun = probe.clock.monotonic()
    log: list[str] = []

    def body(name: str) -> None:
        log.append(name)
        probe.clock.sleep(0)
        log.append(name)
        probe.clock.sleep(1)
        log.append(name)

    sequencer = probe.clock.sequencer
    if order is not None:
        door = Door(sequencer, list(order))
    if inspect.iscoroutinefunction(way):
        with asyncio.Runner(loop_factory=probe.clock.new_event_loop) as runner:
            runner.run(way(probe, body))
    else:
        way(probe, body)
    assert order is None or not door._order
    assert probe.clock.monotonic() == begun + 1
    return "".join(log)


@each_way
def test_one_order(asyncframe: Probe, way: Callable[..., Any]) -> None:
    """In the mode auto, calls run in the order in which they were made."""
    found = {order: order_of(asyncframe, way, order) for order in ORDERS}
    assert found == dict.fromkeys(ORDERS, CALLS * 3)


@pytest.mark.asyncframe(mode="seeded", seed=7)
@each_way
def test_one_order_for_a_seed(asyncframe: Probe, way: Callable[..., Any]) -> None:
    """In the mode seeded, a seed always gives the same order."""
    sequencer = asyncframe.clock.sequencer
    found = set()
    for arrivals in (None, *ORDERS):
        sequencer._chooser = RandomChooser(7)
        found.add(order_of(asyncframe, way, arrivals))

    assert len(found) == 1
    assert found != {CALLS * 3}


def test_calls_that_wait_for_a_thread(asyncframe: Probe) -> None:
    """A call that has to wait for a free thread runs after those that had one."""
    log: list[str] = []

    def body(name: str) -> None:
        log.append(name)
        asyncframe.clock.sleep(0)
        log.append(name.upper())

    with ThreadPoolExecutor(2) as pool:
        wait([pool.submit(body, name) for name in CALLS])

    assert "".join(log) == "abAcBdCeDE"


def test_a_call_that_is_cancelled_gives_its_thread_to_the_next(asyncframe: Probe) -> None:
    """The thread of a cancelled call goes to the next one."""
    log: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        futures: list[Future[None]] = [pool.submit(log.append, name) for name in CALLS]
        assert [future.cancel() for future in futures[1:4]] == [True] * 3
        wait(futures)
    asyncframe.clock.sleep(1)

    assert log == ["a", "e"]


async def test_a_call_whose_awaiter_is_cancelled(asyncframe: Probe) -> None:
    """A thread whose awaiter was cancelled stays on the clock until it ends, and no longer."""
    clock = asyncframe.clock
    ended: list[float] = []

    def body() -> None:
        clock.sleep(5)
        ended.append(clock.monotonic())

    with anyio.move_on_after(1):
        await anyio.to_thread.run_sync(body, abandon_on_cancel=True)
    assert clock.monotonic() == 1

    await clock.run_for(10)
    assert (ended, clock.monotonic()) == ([5], 11)
    assert await anyio.to_thread.run_sync(int) == 0


def test_a_portal_that_fails_to_start(asyncframe: Probe) -> None:
    """A portal whose loop cannot be created does not stop time."""

    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("no loop")

    portal = anyio.from_thread.start_blocking_portal
    with pytest.raises(OSError, match=r"^no loop$"):
        portal("asyncio", {"loop_factory": broken}).__enter__()
    asyncframe.clock.sleep(3)

    assert asyncframe.clock.monotonic() == 3


def test_a_portal_begins_before_what_is_queued(asyncframe: Probe) -> None:
    """Tasks submitted before a portal starts run after its start."""
    log: list[str] = []
    asyncframe.manager.submit_nowait(log.append, ("task",))
    with anyio.from_thread.start_blocking_portal("asyncio") as portal:
        log.append("portal")
        portal.call(log.append, "called")
        asyncframe.run_until_idle()

    assert log == ["portal", "called", "task"]


# -- what such a thread submits


shop = FastAPI(lifespan=setup_async_framework)


@background_task
def double(number: int) -> int:
    """Return twice the number."""
    return number * 2


@shop.post("/doubles/{number}")
def start_double(number: int) -> dict[str, str]:
    """Submit a task on a thread of anyio's."""
    return {"task_id": double(number)}


@pytest.mark.parametrize("mode", MODES_THAT_START)
async def test_a_task_of_a_def_endpoint(asyncframe: Probe, mode: str) -> None:
    """A task that a ``def`` endpoint submits starts when the endpoint has returned."""
    async with asyncframe.client(shop) as client:
        response = await client.post("/doubles/21")
        assert (await asyncframe.completed(response)).result == 42


# The mode matters to the task, as above, and not to the thread of the loop.
def test_a_task_of_a_def_endpoint_in_a_sync_test(asyncframe: Probe) -> None:
    """The same with Starlette's client, whose loop has a thread of its own."""
    with asyncframe.client(shop) as client:
        response = client.post("/doubles/21")
        assert asyncframe.run_until_complete(response).result == 42


def test_a_thread_is_joined_before_it_has_come(
    asyncframe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who joins a thread that has started, and is no actor yet, waits for it on the clock."""
    # 1. The test starts a timer, and `start` returns since its thread has begun.
    # 2. The thread is stopped before it is an actor.
    # 3. The test joins it, and must not wait in real time: the thread would get no turn.
    sequencer = asyncframe.clock.sequencer
    enter, joining = sequencer.enter, sequencer.joining
    is_joined = threading.Event()
    # Of all threads that a test starts, only a timer is an actor in this mode.
    timer = threading.Timer(1, int)

    def come(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is timer:
            assert is_joined.wait(PATIENCE)
        return enter(*args, **options)

    @contextmanager
    def join(ident: int, actor: Actor) -> Iterator[None]:
        with joining(ident, actor):
            is_joined.set()
            yield

    monkeypatch.setattr(sequencer, "enter", come)
    monkeypatch.setattr(sequencer, "joining", join)
    timer.start()
    timer.join()

    assert asyncframe.clock.monotonic() == 1
    assert sequencer.outside.met == {}
