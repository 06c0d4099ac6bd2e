"""Other ways to run functions in the background, each on four threads or on the loop.

Every peer is set up as its documentation says, with the shortest intervals where it polls,
unless its name says otherwise. Peers are imported when they are used, by name, so that
type checking does not depend on what is installed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.floors import THREADS, Calls, Subject, Work

RUN_IN_EXECUTOR = "loop.run_in_executor"
CREATE_TASK = "asyncio.create_task"
TASKIQ_SYNC = "taskiq, sync function"
TASKIQ_ASYNC = "taskiq, async function"
TASKIQ_POLL = "taskiq, default poll"
HUEY = "huey"
AIOJOBS = "aiojobs"


# -- of the standard library


@asynccontextmanager
async def run_in_executor(work: Work) -> AsyncIterator[Calls]:
    """``loop.run_in_executor`` with a pool of its own."""
    with ThreadPoolExecutor(THREADS) as pool:
        run = asyncio.get_running_loop().run_in_executor
        yield Calls(
            submit=partial(run, pool, work.touch), round_trip=partial(run, pool, work.answer)
        )


@asynccontextmanager
async def to_thread(work: Work) -> AsyncIterator[Calls]:
    """``asyncio.to_thread``; submitted as a task that is held, as asyncio asks for."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    yield Calls(
        submit=_as_task(partial(asyncio.to_thread, work.touch)),
        round_trip=partial(asyncio.to_thread, work.answer),
    )


@asynccontextmanager
async def create_task(work: Work) -> AsyncIterator[Calls]:
    """``asyncio.create_task``, held until done; the function runs in the loop."""
    yield Calls(
        submit=_as_task(work.touch_on_loop),
        round_trip=lambda: asyncio.create_task(work.answer_on_loop()),
    )


# -- of other packages


@asynccontextmanager
async def anyio_thread(work: Work) -> AsyncIterator[Calls]:
    """``anyio.to_thread.run_sync`` with a limiter; submitted as a task that is held."""
    to_thread = import_module("anyio.to_thread")
    limiter = import_module("anyio").CapacityLimiter(THREADS)
    yield Calls(
        submit=_as_task(partial(to_thread.run_sync, work.touch, limiter=limiter)),
        round_trip=partial(to_thread.run_sync, work.answer, limiter=limiter),
    )


@asynccontextmanager
async def starlette_background(work: Work) -> AsyncIterator[Calls]:
    """Starlette's ``BackgroundTask`` on a sync function: a whole request for each task."""
    task = import_module("starlette.background").BackgroundTask
    response = import_module("starlette.responses").PlainTextResponse
    route = import_module("starlette.routing").Route

    async def endpoint(request: object) -> object:
        return response("ok", background=task(work.touch))

    app = import_module("starlette.applications").Starlette(
        routes=[route("/", endpoint, methods=["POST"])]
    )
    # Starlette takes its threads from anyio, which has 40 by default.
    import_module("anyio.to_thread").current_default_thread_limiter().total_tokens = THREADS
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/", "raw_path": b"/", "root_path": "", "query_string": b"",
        "headers": [], "server": ("localhost", 80), "client": ("localhost", 50_000),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"the request failed: {message}")

    yield Calls(submit=lambda: app({**scope}, receive, send), awaited=True, burst=2_000)


def taskiq(*, on_loop: bool, interval: float, only_round_trip: bool = False) -> Subject:
    """Return taskiq's ``InMemoryBroker``, whose results are polled.

    Args:
        on_loop: Whether the functions are async and run in the loop, not in a thread.
        interval: Seconds between polls.
        only_round_trip: Whether to leave submission out.
    """

    @asynccontextmanager
    async def subject(work: Work) -> AsyncIterator[Calls]:
        broker = import_module("taskiq").InMemoryBroker(sync_tasks_pool_size=THREADS)
        touch = broker.register_task(
            work.touch_on_loop if on_loop else work.touch, task_name="touch"
        )
        answer = broker.register_task(
            work.answer_on_loop if on_loop else work.answer, task_name="answer"
        )

        async def round_trip() -> int:
            task = await answer.kiq()
            result = await task.wait_result(check_interval=interval)
            result.raise_for_error()
            value: int = result.return_value
            return value

        await broker.startup()
        yield Calls(
            submit=None if only_round_trip else touch.kiq,
            round_trip=round_trip,
            awaited=True,
            round_trips=400 if interval < 0.01 else 8,
        )
        await broker.wait_all()
        await broker.shutdown()

    return subject


@asynccontextmanager
async def huey(work: Work) -> AsyncIterator[Calls]:
    """Huey in memory, with a consumer whose threads poll every 1 to 10 ms."""
    logging.getLogger("huey").setLevel(logging.CRITICAL)
    queue = import_module("huey").MemoryHuey("benchmark")
    wait = import_module("huey.contrib.asyncio").aget_result
    touch, answer = queue.task()(work.touch), queue.task()(work.answer)
    consumer = queue.create_consumer(
        workers=THREADS, periodic=False, initial_delay=0.001, max_delay=0.01
    )
    consumer.start()
    yield Calls(submit=touch, round_trip=lambda: wait(answer()), round_trips=12)
    consumer.stop(graceful=True)


@asynccontextmanager
async def dramatiq(work: Work) -> AsyncIterator[Calls]:
    """Dramatiq's stub broker and a worker; whoever waits for a result does so in a thread."""
    logging.getLogger("dramatiq").setLevel(logging.CRITICAL)
    package = import_module("dramatiq")
    broker = import_module("dramatiq.brokers.stub").StubBroker()
    backend = import_module("dramatiq.results.backends").StubBackend()
    broker.add_middleware(import_module("dramatiq.results").Results(backend=backend))
    package.set_broker(broker)
    touch = package.actor(work.touch, broker=broker, actor_name="touch")
    answer = package.actor(work.answer, broker=broker, actor_name="answer", store_results=True)
    _threads_to_wait_in()

    async def round_trip() -> int:
        message = answer.send()
        return await asyncio.to_thread(message.get_result, block=True, timeout=10_000)

    worker = package.Worker(broker, worker_threads=THREADS, worker_timeout=10)
    worker.start()
    yield Calls(submit=touch.send, round_trip=round_trip, round_trips=20)
    worker.stop()


@asynccontextmanager
async def celery(work: Work) -> AsyncIterator[Calls]:
    """Celery in memory with a worker of threads; it polls every 1 ms in place of every 1 s."""
    logging.disable(logging.CRITICAL)
    app = import_module("celery").Celery("b", broker="memory://", backend="cache+memory://")
    app.conf.broker_transport_options = {"polling_interval": 0.001}
    touch = app.task(work.touch, name="touch", ignore_result=True)
    answer = app.task(work.answer, name="answer")
    start = import_module("celery.contrib.testing.worker").start_worker
    _threads_to_wait_in()

    async def round_trip() -> int:
        result = answer.delay()
        return await asyncio.to_thread(result.get, 10, interval=0.001)

    with ExitStack() as stack:
        running = start(app, concurrency=THREADS, pool="threads", perform_ping_check=False)
        await asyncio.to_thread(stack.enter_context, running)
        yield Calls(submit=touch.delay, round_trip=round_trip, burst=1_500, round_trips=12)
        await asyncio.to_thread(stack.close)


@asynccontextmanager
async def aiojobs(work: Work) -> AsyncIterator[Calls]:
    """An aiojobs scheduler without a limit; the function runs in the loop."""
    scheduler = import_module("aiojobs").Scheduler(limit=None)

    async def round_trip() -> int:
        job = await scheduler.spawn(work.answer_on_loop())
        value: int = await job.wait()
        return value

    yield Calls(
        submit=lambda: scheduler.spawn(work.touch_on_loop()), round_trip=round_trip, awaited=True
    )
    await scheduler.close()


@asynccontextmanager
async def apscheduler(work: Work) -> AsyncIterator[Calls]:
    """APScheduler 3 with a job that is due at once; it gives no result."""
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    pool = import_module("apscheduler.executors.pool").ThreadPoolExecutor(THREADS)
    scheduler = import_module("apscheduler.schedulers.background").BackgroundScheduler(
        executors={"default": pool}, timezone="UTC"
    )
    scheduler.start()
    yield Calls(submit=partial(scheduler.add_job, work.touch, misfire_grace_time=None), burst=1_000)
    scheduler.shutdown()


@asynccontextmanager
async def pydocket(work: Work) -> AsyncIterator[Calls]:
    """Docket in memory with a worker that looks every 5 ms; functions run in the loop."""
    logging.disable(logging.CRITICAL)
    package, often = import_module("docket"), timedelta(milliseconds=5)
    async with AsyncExitStack() as stack:
        docket = await stack.enter_async_context(package.Docket(name="b", url="memory://"))
        docket.register(work.touch_on_loop)
        docket.register(work.answer_on_loop)
        worker = await stack.enter_async_context(
            package.Worker(
                docket,
                concurrency=THREADS,
                minimum_check_interval=often,
                scheduling_resolution=often,
            )
        )
        running = asyncio.create_task(worker.run_forever())

        async def submit() -> object:
            return await docket.add(work.touch_on_loop)()

        async def round_trip() -> int:
            execution = await docket.add(work.answer_on_loop)()
            value: int = await execution.get_result()
            return value

        yield Calls(
            submit=submit,
            round_trip=round_trip,
            awaited=True,
            burst=1_000,
            round_trips=100,
        )
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _as_task(make: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], None]:
    tasks: set[asyncio.Task[object]] = set()

    def submit() -> None:
        task = asyncio.create_task(make())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return submit


def _threads_to_wait_in() -> None:
    # By default there are six on two cores, fewer than those who wait at the same time.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16))


STDLIB_PEERS: dict[str, Subject] = {
    RUN_IN_EXECUTOR: run_in_executor,
    "asyncio.to_thread": to_thread,
    CREATE_TASK: create_task,
}
"""By name; they need no installing."""

PEERS: dict[str, Subject] = {
    "anyio.to_thread": anyio_thread,
    "Starlette BackgroundTask": starlette_background,
    TASKIQ_SYNC: taskiq(on_loop=False, interval=0.001),
    TASKIQ_ASYNC: taskiq(on_loop=True, interval=0.001),
    TASKIQ_POLL: taskiq(on_loop=False, interval=0.2, only_round_trip=True),
    HUEY: huey,
    "dramatiq": dramatiq,
    "celery": celery,
    AIOJOBS: aiojobs,
    "APScheduler": apscheduler,
    "pydocket": pydocket,
}
"""By name; installed with ``requirements.txt``."""
