"""Programs whose threads and loops interleave, and the history of a run of one.

A program takes a `Run`. The history is the sequence of all events of tasks, and of whatever
the program marks: the entry of a route, a step of a thread, a callback.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse

from framework import background_task, retry_task, setup_async_framework, throttled_task
from framework.protocols import TaskEvent
from pytest_asyncframe._toolkit.last_work import finish_running_work
from pytest_asyncframe._toolkit.options import Mode, Settings
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import asleep, sleep

Program = Callable[["Run"], Any]

NAMES = "abcd"


class Run:
    """One run of a program.

    Args:
        probe: The probe of the run.

    Attributes:
        history: What has happened so far, with the milliseconds of virtual time.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.history: list[str] = []
        self._numbers: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def follow(self, program: Program) -> None:
        """Run *program*, on a loop if it is a coroutine function."""
        self.probe.manager.subscribe(self.on_event)
        if inspect.iscoroutinefunction(program):
            with asyncio.Runner(loop_factory=self.probe.clock.new_event_loop) as runner:
                runner.run(program(self))
        else:
            program(self)

    def mark(self, what: str) -> None:
        """Note that something happens now."""
        self.history.append(f"{self.probe.clock.monotonic() * 1000:.0f} {what}")

    def on_event(self, event: TaskEvent) -> None:
        """Note an event of a task, by the task's name and number."""
        task_id = str(event.task_id)
        if task_id not in self._numbers:
            self._counts[event.name] += 1
            self._numbers[task_id] = f"{event.name}#{self._counts[event.name]}"
        self.mark(f"{self._numbers[task_id]} {event.kind}")

    def steps(self, name: str, seconds: float = 0.01) -> str:
        """Block in two ways, and mark each step."""
        self.mark(f"{name}1")
        self.probe.clock.sleep(0)
        self.mark(f"{name}2")
        sleep(seconds)
        self.mark(f"{name}3")
        return name

    async def asteps(self, name: str, seconds: float = 0.01) -> str:
        """Wait in two ways on a loop, and mark each step."""
        self.mark(f"{name}1")
        await asleep(0)
        self.mark(f"{name}2")
        await asleep(seconds)
        self.mark(f"{name}3")
        return name


def history_of(program: Program, mode: Mode, seed: int = 0) -> tuple[str, ...]:
    """Return all that happens in a run of *program*."""
    toolkit = Toolkit(Settings(mode=mode, seed=seed), ("asyncframe",))
    toolkit.open()
    try:
        run = Run(Probe(toolkit))
        run.follow(program)
        finish_running_work(toolkit)
        return tuple(run.history)
    finally:
        toolkit.close()


# -- programs


async def def_endpoints(run: Run) -> None:
    """Four requests at once to a ``def`` endpoint that submits a task."""
    app = FastAPI()
    work = background_task(name="work")(run.steps)

    @app.get("/{name}")
    def handle(name: str) -> str:
        run.mark(f"enter {name}")
        work(f"task-{name}")
        return run.steps(name)

    async with run.probe.client(app) as client:
        await asyncio.gather(*(client.get(f"/{name}") for name in NAMES))
        await run.probe.settled()


async def to_thread(run: Run) -> None:
    """Calls of ``asyncio.to_thread``, of which some make others."""

    async def call(name: str) -> None:
        run.mark(await asyncio.to_thread(run.steps, name))
        run.mark(await asyncio.to_thread(run.steps, name.upper(), 0.02))

    await asyncio.gather(*(call(name) for name in NAMES))


async def run_in_executor(run: Run) -> None:
    """Calls on a pool that is smaller than their number."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as pool:
        calls = [loop.run_in_executor(pool, run.steps, name) for name in NAMES]
        for call in asyncio.as_completed(calls):
            run.mark(await call)


def own_pools(run: Run) -> None:
    """Two pools of the user's, which submit to each other."""
    with ThreadPoolExecutor(2) as inner, ThreadPoolExecutor(3) as outer:

        def both(name: str) -> str:
            run.mark(f"enter {name}")
            future = inner.submit(run.steps, name)
            future.add_done_callback(lambda _: run.mark(f"callback {name}"))
            return future.result() + str(len(list(inner.map(run.steps, name * 2))))

        futures = [outer.submit(both, name) for name in NAMES]
        for future in as_completed(futures):
            run.mark(future.result())
    run.mark("shut down")


async def anyio_threads(run: Run) -> None:
    """Calls on anyio's threads under a limiter, which call back into the loop."""
    limiter = anyio.CapacityLimiter(3)

    def call(name: str) -> None:
        run.steps(name)
        anyio.from_thread.run_sync(run.mark, f"from {name}")
        anyio.from_thread.run(run.asteps, name.upper())

    async with anyio.create_task_group() as group:
        for name in NAMES:
            group.start_soon(lambda it: anyio.to_thread.run_sync(call, it, limiter=limiter), name)


def test_clients(run: Run) -> None:
    """Two apps, each on a loop of its own, asked by the test and by threads of a pool."""
    work = background_task(name="work")(run.steps)
    awork = background_task(name="awork")(run.asteps)

    def make(title: str) -> FastAPI:
        app = FastAPI(lifespan=setup_async_framework)

        @app.get("/sync/{name}")
        def sync(name: str) -> str:
            run.mark(f"{title} enters {name}")
            work(title + name)
            return run.steps(title + name)

        @app.get("/async/{name}")
        async def coroutine(name: str) -> str:
            run.mark(f"{title} enters {name}")
            awork(title + name)
            return await run.asteps(title + name)

        return app

    with ExitStack() as stack:
        clients = [stack.enter_context(run.probe.client(make(title))) for title in "XY"]
        pool = stack.enter_context(ThreadPoolExecutor(4))
        calls = [
            pool.submit(client.get, f"/{kind}/{kind[0]}")
            for client in clients
            for kind in ("sync", "async")
        ]
        for client in clients:
            run.mark(client.get("/async/m").json())
        wait(calls)
        run.probe.run_until_idle()


test_clients.__test__ = False  # type: ignore[attr-defined]  # or pytest collects it


def several_loops(run: Run) -> None:
    """Loops on threads of a pool that give each other work."""
    ready: queue.Queue[asyncio.AbstractEventLoop] = queue.Queue()

    async def main(name: str) -> None:
        ready.put(asyncio.get_running_loop())
        await asyncio.gather(run.asteps(name), run.asteps(name.upper()))
        await asyncio.to_thread(run.steps, name + name)
        await asleep(0.05)

    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(asyncio.run, main(name)) for name in NAMES[:3]]
        loops = [ready.get() for _ in calls]
        futures: list[Future[str]] = []
        for number, loop in enumerate(loops):
            loop.call_soon_threadsafe(run.mark, f"soon {number}")
            futures.append(asyncio.run_coroutine_threadsafe(run.asteps(f"r{number}"), loop))
        for future in as_completed(futures):
            run.mark(future.result())
        wait(calls)


async def tasks(run: Run) -> None:
    """Tasks of both kinds that submit others, are retried, delayed, limited and cancelled."""
    manager = run.probe.manager
    failed: set[str] = set()

    @background_task
    @retry_task(max_retries=2, retry_delay=0.01, exceptions=(ValueError,))
    def flaky(name: str) -> None:
        run.steps(name)
        if name not in failed:
            failed.add(name)
            raise ValueError(name)

    @background_task
    async def parent(name: str) -> None:
        flaky(name)
        await run.asteps(f"p{name}")
        await manager.submit(run.steps, (f"n{name}",))

    @background_task
    @throttled_task(rate_limit=2, time_window=0.02)
    def throttled(name: str) -> None:
        run.steps(f"h{name}")

    ids: list[str] = [parent(name) for name in NAMES]
    ids += [throttled(name) for name in NAMES]
    ids += [manager.submit_nowait(run.steps, (f"d{name}",), delay=0.01) for name in NAMES]
    ids += [manager.submit_nowait(run.steps, (f"l{name}", 9), timeout=0.01) for name in NAMES]
    ids += [manager.submit_nowait(run.asteps, (f"m{name}", 9), timeout=0.01) for name in NAMES]
    await asleep(0)
    for number in (1, 5, 9):
        run.mark(f"cancelled: {await manager.cancel_task(ids[number])}")
    await asyncio.gather(*(run.probe.completed(one, check=False) for one in ids))
    await run.probe.settled()


async def endings(run: Run) -> None:
    """Calls on threads whose awaiters give up, are cancelled, or fail."""
    loop = asyncio.get_running_loop()

    def fails(name: str) -> None:
        run.steps(name)
        raise LookupError(name)

    async def limited(name: str, wait: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(0.01):
                await wait
        except (TimeoutError, LookupError) as error:
            run.mark(f"{name}: {error!r}")

    async def abandoned(name: str) -> None:
        with anyio.move_on_after(0.01):
            await anyio.to_thread.run_sync(run.steps, name, abandon_on_cancel=True)
        run.mark(f"{name} was abandoned")

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run.steps, f"f{name}") for name in NAMES]
        waits = [loop.run_in_executor(pool, run.steps, f"e{name}") for name in NAMES]
        run.mark(f"cancelled: {[futures[number].cancel() for number in (0, 3)]}")
        await asyncio.gather(
            *(limited(f"e{name}", one) for name, one in zip(NAMES, waits, strict=True)),
            *(limited(f"t{name}", asyncio.to_thread(fails, f"t{name}")) for name in NAMES),
            *(
                limited(f"w{name}", asyncio.to_thread(run.steps, f"w{name}", 0.03))
                for name in NAMES
            ),
            *(abandoned(f"x{name}") for name in NAMES),
        )
        run.mark("gave up")


async def routes(run: Run) -> None:
    """Everything of FastAPI that uses threads, with tasks that a stopping app waits for."""
    app = FastAPI(lifespan=setup_async_framework)
    work = background_task(name="work")(run.steps)
    awork = background_task(name="awork")(run.asteps)

    def opened(name: str) -> Iterator[str]:
        run.mark(f"opens {name}")
        yield run.steps(name)
        run.mark(f"closes {name}")

    @app.get("/stream/{name}", dependencies=[Depends(opened)])
    def stream(name: str) -> StreamingResponse:
        return StreamingResponse(run.steps(f"{name}{part}") for part in range(2))

    @app.get("/after/{name}", dependencies=[Depends(opened)])
    async def after(name: str, later: BackgroundTasks) -> str:
        later.add_task(run.steps, f"after-{name}")
        later.add_task(run.asteps, f"aafter-{name}")
        work(f"task-{name}")
        return awork(f"atask-{name}")

    async with run.probe.client(app) as client:
        await asyncio.gather(
            *(
                client.get(f"/{kind}/{kind[0]}{name}")
                for kind in ("stream", "after")
                for name in "ab"
            )
        )
        run.mark("leaves")
    run.mark("left")


async def one_moment(run: Run) -> None:
    """Timers of the clock, of loops and of threads that all end at the same moment."""
    clock = run.probe.clock
    loop = asyncio.get_running_loop()
    manager = run.probe.manager

    def other() -> None:
        asyncio.run(run.asteps("other", 0.05))

    def waits(name: str) -> None:
        run.mark(f"{name}: {threading.Event().wait(0.05)}")  # steady: virtual time

    with ThreadPoolExecutor(4) as pool:
        calls: list[asyncio.Future[Any]] = [loop.run_in_executor(pool, other)]
        calls += [loop.run_in_executor(pool, waits, name) for name in "wx"]
        calls += [loop.run_in_executor(pool, run.steps, name, 0.05) for name in "yz"]
        for number in range(3):
            clock.call_at(0.05, lambda it=number: run.mark(f"timer {it}"))  # type: ignore[misc]
            loop.call_later(0.05, run.mark, f"later {number}")
            manager.submit_nowait(run.steps, (f"t{number}", 0.05))
        await asyncio.gather(*calls, run.asteps("a", 0.05), run.asteps("b", 0.05))
        await run.probe.settled()


def joined_threads(run: Run) -> None:
    """Pools that are shut down by several threads at once, and portals that end."""

    def ends(name: str) -> None:
        with ThreadPoolExecutor(2) as inner:
            inner.submit(run.steps, name)
            inner.submit(run.steps, name.upper())
        run.mark(f"joined {name}")
        with anyio.from_thread.start_blocking_portal("asyncio") as portal:
            future = portal.start_task_soon(run.asteps, f"p{name}")
            run.mark(f"called {portal.call(run.asteps, f'q{name}')} {future.result()}")
        run.mark(f"ended {name}")

        async def runs() -> None:
            await asyncio.to_thread(run.steps, f"r{name}")

        asyncio.run(runs())
        run.mark(f"ran {name}")

    with ThreadPoolExecutor(3) as pool:
        wait([pool.submit(ends, name) for name in NAMES[:3]])


async def signals(run: Run) -> None:
    """Threads that wait for each other by all means of `threading` and `queue`."""
    manager = run.probe.manager
    numbers: queue.Queue[str] = queue.Queue(2)
    barrier = threading.Barrier(3)
    condition = threading.Condition()
    few = threading.Semaphore(2)
    opened: list[str] = []

    def produce(name: str) -> None:
        for number in range(3):
            numbers.put(f"{name}{number}")
            run.mark(f"put {name}{number}")

    def consume(name: str) -> None:
        for _ in range(3):
            run.mark(f"{name} got {numbers.get()}")

    def meet(name: str) -> None:
        with few:
            run.steps(f"few {name}")
        run.mark(f"{name} is {barrier.wait()}")
        with condition:
            condition.wait_for(lambda: opened)
            run.mark(f"{name} opened")

    for name in "ab":
        manager.submit_nowait(produce, (name,))
        manager.submit_nowait(consume, (name,))
    met = [asyncio.to_thread(meet, name) for name in "xyz"]
    gathered = asyncio.gather(*met)
    await asleep(1)
    with condition:
        opened.append("now")
        condition.notify_all()
    await gathered
    await run.probe.settled()


PROGRAMS: list[Program] = [
    def_endpoints,
    to_thread,
    run_in_executor,
    own_pools,
    anyio_threads,
    test_clients,
    several_loops,
    tasks,
    endings,
    routes,
    one_moment,
    joined_threads,
    signals,
]
