"""Correct programs that share data by each of the usual means; nothing in them is a race."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from framework import async_task, background_task, current_task, setup_async_framework
from pytest_asyncframe.probe import Probe

pytestmark = pytest.mark.interleave


class Box:
    """What threads share."""

    def __init__(self) -> None:
        self.value = 0
        self.items: list[int] = []
        self.by_name: dict[str, int] = {}

    def use(self) -> int:
        """Read and write all of it, on several lines."""
        before = self.value
        self.value = before + 1
        self.items.append(self.value)
        self.items.sort()
        if "n" not in self.by_name:
            self.by_name["n"] = 0
        self.by_name["n"] += len(self.items)
        return self.value


def together(*calls: Callable[[], object]) -> None:
    """Call each on a thread of its own, and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def task_of(call: Callable[[], object]) -> Callable[[], Any]:
    """Return a task that calls something."""

    def run() -> None:
        call()

    return background_task(run)


def all_done(probe: Probe, *calls: Callable[[], object]) -> None:
    """Run each as a task, and wait for all."""
    tasks = [task_of(call)() for call in calls]
    for task in tasks:
        probe.run_until_complete(task)


def guarded(guard: Any, box: Box) -> Callable[[], None]:
    """Return a function that uses a box with a guard."""

    def run() -> None:
        with guard:
            box.use()

    return run


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock, threading.Condition])
def test_lock(asyncframe: Probe, kind: Any) -> None:
    """Tasks take turns by a lock."""
    box, lock = Box(), kind()
    all_done(asyncframe, *[guarded(lock, box)] * 3)
    assert box.value == 3


def test_semaphore(asyncframe: Probe) -> None:
    """A semaphore of one is a lock."""
    box, one = Box(), threading.Semaphore(1)
    all_done(asyncframe, *[guarded(one, box)] * 3)
    assert box.value == 3


def test_nested_rlock(asyncframe: Probe) -> None:
    """What is taken twice is given back twice."""
    box, lock = Box(), threading.RLock()

    def run() -> None:
        with lock:
            box.use()
            with lock:
                box.use()
            box.use()

    all_done(asyncframe, run, run)


def test_condition(asyncframe: Probe) -> None:
    """A consumer waits until there is something."""
    box, ready = Box(), threading.Condition()

    def produce() -> None:
        with ready:
            box.use()
            ready.notify_all()

    def consume() -> None:
        with ready:
            while not box.items:
                ready.wait()
            box.use()

    all_done(asyncframe, consume, produce, consume)


def test_event(asyncframe: Probe) -> None:
    """One fills a box, and then says so; others look whether it has."""
    box, filled = Box(), threading.Event()

    def fill() -> None:
        box.use()
        filled.set()

    def wait() -> None:
        filled.wait()
        assert box.value == box.by_name["n"]

    def look() -> None:
        if filled.is_set():
            assert box.value == box.by_name["n"]

    all_done(asyncframe, wait, fill, look, look)


def test_barrier(asyncframe: Probe) -> None:
    """Each has a box of its own until all have come to the barrier."""
    boxes, barrier = [Box(), Box()], threading.Barrier(2)

    def run(mine: int) -> None:
        boxes[mine].use()
        barrier.wait()
        assert boxes[1 - mine].value + boxes[1 - mine].by_name["n"] == 2
        barrier.wait()
        boxes[mine].use()

    all_done(asyncframe, functools.partial(run, 0), functools.partial(run, 1))


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "LifoQueue"])
def test_queue(asyncframe: Probe, kind: str) -> None:
    """A box goes from one to the next through a queue."""
    first, second = getattr(queue, kind)(), getattr(queue, kind)()

    def make() -> None:
        box = Box()
        box.use()
        first.put(box)

    def hand_on() -> None:
        box = first.get()
        box.use()
        second.put(box)

    def take() -> None:
        box = second.get()
        box.use()
        assert box.use() == 4

    all_done(asyncframe, take, hand_on, make)


def test_deque(asyncframe: Probe) -> None:
    """A deque is a queue for one consumer."""
    jobs: deque[Box] = deque()
    done: list[int] = []

    def produce() -> None:
        for _ in range(3):
            box = Box()
            box.use()
            jobs.append(box)

    def consume() -> None:
        while jobs:
            box = jobs.popleft()
            box.use()
            done.append(box.use())

    all_done(asyncframe, produce, consume)
    assert done == [3] * (3 - len(jobs))


def test_results_by_append(asyncframe: Probe) -> None:
    """Each thread adds its result; who has waited for all of them reads these."""
    results: list[int] = []
    slots: list[int] = [0, 0, 0]

    def run() -> None:
        def add(number: int) -> None:
            results.append(number)
            slots[number] = number

        together(lambda: add(0), lambda: add(1), lambda: add(2))
        assert sorted(results) == slots

    all_done(asyncframe, run)


def test_threads_in_turn(asyncframe: Probe) -> None:
    """A thread is joined before the next one is started; both end before their maker reads."""
    box = Box()

    def run() -> None:
        for _ in range(4):
            box.use()
            together(box.use)
            box.use()

    all_done(asyncframe, run)
    assert box.value == 12


def test_thread_of_ones_own_class(asyncframe: Probe) -> None:
    """A thread keeps its result, which is read after its end."""

    class Worker(threading.Thread):
        def __init__(self, box: Box) -> None:
            super().__init__()
            self.box = box
            self.result = 0

        def run(self) -> None:
            self.result = self.box.use()
            self.result += self.box.use()

    def run() -> None:
        box = Box()
        workers = [Worker(box)]
        workers[0].start()
        workers[0].join()
        assert workers[0].result + box.use() + workers[0].result == 9

    all_done(asyncframe, run, run)


def test_pool(asyncframe: Probe) -> None:
    """Calls of a pool have what was made before, and what they make is read by their results."""
    box = Box()

    def run() -> None:
        box.use()
        with ThreadPoolExecutor(2) as pool:
            box.use()
            pool.submit(box.use).result()
            box.use()
            call = pool.submit(box.use)
            concurrent.futures.wait([call])
            box.use()
            for _ in concurrent.futures.as_completed([pool.submit(box.use)]):
                box.use()
            assert [*pool.map(lambda _: box.use(), [1])]
            box.use()
            pool.submit(box.use)
        box.use()

    all_done(asyncframe, run)


def test_pool_of_one_thread(asyncframe: Probe) -> None:
    """One thread does all that it is given, so none of that is at the same time."""
    box = Box()

    def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                pool.submit(box.use)

    all_done(asyncframe, run)


def test_callback_of_a_future(asyncframe: Probe) -> None:
    """What is called at the end of a call has what that has made."""
    box, done = Box(), threading.Event()

    def finish(_: object) -> None:
        box.use()
        done.set()

    def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(box.use).add_done_callback(finish)
            done.wait()
            box.use()

    all_done(asyncframe, run)


def test_future_of_ones_own(asyncframe: Probe) -> None:
    """One sets the result of a future, others wait for it or look whether it is there."""
    box, result = Box(), Future[int]()

    def give() -> None:
        box.use()
        result.set_result(box.use())

    def take() -> None:
        assert result.result() == 2
        assert box.value == len(box.items)

    def look() -> None:
        if result.done():
            assert box.value == len(box.items)

    all_done(asyncframe, take, give, look)


def test_timer(asyncframe: Probe) -> None:
    """A timer has what was made before it was set."""
    box, rang = Box(), threading.Event()

    def ring() -> None:
        box.use()
        rang.set()

    def run() -> None:
        box.use()
        threading.Timer(1, ring).start()
        rang.wait()
        box.use()

    all_done(asyncframe, run)
    assert box.value == 3


def test_thread_locals(asyncframe: Probe) -> None:
    """Each thread has its own."""
    mine = threading.local()
    current: contextvars.ContextVar[int] = contextvars.ContextVar("current", default=0)
    by_thread: dict[int, int] = {}

    def run() -> None:
        mine.value = 1
        mine.value += 1
        current.set(current.get() + 1)
        by_thread[threading.get_ident()] = 0
        by_thread[threading.get_ident()] += 1
        assert mine.value == 2

    all_done(asyncframe, run, run, run)
    assert set(by_thread.values()) == {1}


def test_made_once(asyncframe: Probe) -> None:
    """Who finds nothing looks again with a lock."""

    class Lazy:
        lock = threading.Lock()

        def __init__(self) -> None:
            self.box: Box | None = None

        def get(self) -> Box:
            if self.box is None:
                with self.lock:
                    if self.box is None:
                        self.box = Box()
            return self.box

    lazy = Lazy()
    all_done(asyncframe, *[lambda: lazy.get().items] * 3)


def test_atomic_calls(asyncframe: Probe) -> None:
    """One call of a dict looks and writes at once."""
    known: dict[str, int] = {}
    seen: set[int] = set()

    def run() -> None:
        seen.add(known.setdefault("a", 1))
        known.pop("a", None)

    all_done(asyncframe, run, run, run)
    assert seen == {1}


def test_stop_flag(asyncframe: Probe) -> None:
    """One says that it is over, and another one looks now and then."""

    class Flag:
        stopped = False

    flag = Flag()

    def stop() -> None:
        flag.stopped = True

    def work() -> None:
        while not flag.stopped:
            time.sleep(1)

    all_done(asyncframe, work, stop)
    assert flag.stopped


def test_logging(asyncframe: Probe) -> None:
    """A handler keeps records under its own lock."""

    class Kept(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0
            self.last = ""

        def emit(self, record: logging.LogRecord) -> None:
            self.count += 1
            self.last = record.getMessage() or self.last

    logger, kept = logging.getLogger("shop"), Kept()
    logger.addHandler(kept)
    all_done(asyncframe, *[lambda: logger.warning("sold")] * 3)
    logger.removeHandler(kept)
    assert (kept.count, kept.last) == (3, "sold")


async def test_loop_and_threads(asyncframe: Probe) -> None:
    """A box goes from a loop to a thread and back, in each of the ways that asyncio has."""
    box, loop = Box(), asyncio.get_running_loop()

    @async_task
    async def run() -> None:
        box.use()
        await asyncio.to_thread(box.use)
        box.use()
        await loop.run_in_executor(None, box.use)
        box.use()
        came = asyncio.Event()

        def ring() -> None:
            box.use()
            loop.call_soon_threadsafe(came.set)

        await asyncio.gather(asyncio.to_thread(ring), came.wait())
        box.use()

        async def on_the_loop() -> int:
            return box.use()

        def ask() -> None:
            asyncio.run_coroutine_threadsafe(on_the_loop(), loop).result()
            box.use()

        await asyncio.to_thread(ask)
        box.use()

    await run()
    assert box.value == len(box.items) == 10


async def test_anyio(asyncframe: Probe) -> None:
    """The same with anyio: threads, calls back to the loop, streams, a limiter of one."""
    box, one = Box(), anyio.CapacityLimiter(1)

    @async_task
    async def run() -> None:
        box.use()
        await anyio.to_thread.run_sync(box.use)
        box.use()
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(box.use))
        box.use()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(functools.partial(anyio.to_thread.run_sync, box.use, limiter=one))
        box.use()
        send, receive = anyio.create_memory_object_stream[Box](1)
        async with send, receive:
            await send.send(box)
            (await receive.receive()).use()

    await run()


async def test_coroutines(asyncframe: Probe) -> None:
    """Coroutines of one loop share what they like between two awaits."""
    box, lock, jobs = Box(), asyncio.Lock(), asyncio.Queue[int]()
    one = asyncio.Semaphore(1)

    @background_task
    async def run() -> None:
        box.use()
        async with lock:
            before = box.value
            await asyncio.sleep(0)
            box.value = before + 1
        async with one:
            box.use()
        await jobs.put(1)
        await jobs.get()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1))
        box.use()

    for task in [run(), run(), run()]:
        await asyncframe.completed(task)


def test_asyncio_run_in_a_task(asyncframe: Probe) -> None:
    """A loop of its own in a task has what the task has made."""

    def run() -> None:
        box = Box()

        async def on_a_loop() -> None:
            box.use()
            await asyncio.to_thread(box.use)
            box.use()

        box.use()
        asyncio.run(on_a_loop())
        assert box.use() == 5

    all_done(asyncframe, run, run)


def test_task_after_task(asyncframe: Probe) -> None:
    """A task has what its submitter has made; who waits for its result has what it has made."""
    box = Box()

    def run() -> None:
        box.use()
        inner = background_task(box_use)()
        asyncframe.manager.wait_result(inner)
        box.use()
        box_use()

    def box_use() -> None:
        task = current_task()
        assert task is not None
        box.use()
        task.report_progress(0.5)
        box.use()

    all_done(asyncframe, run)
    all_done(asyncframe, box_use)


async def test_hooks_and_retries(asyncframe: Probe) -> None:
    """A hook has what the task has made, and an attempt what the one before has."""
    from framework import retry_task

    box = Box()

    @retry_task(max_retries=2, retry_delay=1)
    def fails_twice() -> None:
        box.use()
        if box.value < 3:
            raise ValueError(box.value)

    def hook(_: object) -> None:
        box.use()
        box.use()

    task = await asyncframe.manager.submit(fails_twice, on_complete=hook)
    await asyncframe.completed(task)


async def test_routes(asyncframe: Probe) -> None:
    """Requests share a box by a lock, and have their own state, dependencies and middleware."""
    box, lock = Box(), threading.Lock()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with setup_async_framework(app):
            app.state.box = Box()
            app.state.box.use()
            yield
            app.state.box.use()

    app = FastAPI(lifespan=lifespan)

    def session() -> Iterator[Box]:
        mine = Box()
        mine.use()
        yield mine
        mine.use()

    @app.middleware("http")
    async def count(request: Request, call_next: Any) -> Any:
        request.state.seen = 0
        request.state.seen += 1
        response = await call_next(request)
        request.state.seen += 1
        return response

    @app.get("/def")
    def by_thread(
        request: Request, background: BackgroundTasks, mine: Box = Depends(session)
    ) -> int:
        request.state.seen += 1
        mine.use()
        with lock:
            box.use()
        background.add_task(guarded(lock, box))
        return mine.use()

    @app.get("/async")
    async def by_loop(mine: Box = Depends(session)) -> int:
        mine.use()
        return await asyncio.to_thread(mine.use)

    @app.get("/stream")
    def stream() -> StreamingResponse:
        mine = Box()

        def lines() -> Iterator[str]:
            for _ in range(3):
                yield f"data: {mine.use()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get("/ask")
    async def ask() -> int:
        inner = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
        async with inner as client:
            return int((await client.get("/async")).json())

    async with asyncframe.client(app) as client:
        paths = ["/def", "/async", "/stream", "/ask"]
        answers = await asyncio.gather(*(client.get(path) for path in [*paths, *paths]))
    assert [answer.status_code for answer in answers] == [200] * 8


def test_test_client(asyncframe: Probe) -> None:
    """A loop on a thread of its own, and the test beside it."""
    app, box = FastAPI(lifespan=setup_async_framework), Box()

    @app.get("/def")
    def by_thread() -> int:
        return box.use()

    @app.get("/async")
    async def by_loop() -> int:
        box.use()
        return await asyncio.to_thread(box.use)

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        box.use()
        await socket.send_text(await socket.receive_text())
        box.use()
        await socket.close()

    with asyncframe.client(app) as client:
        box.use()
        client.get("/def")
        box.use()
        client.get("/async")
        with client.websocket_connect("/ws") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
        box.use()
        client.get("/def")
    box.use()
