"""The scope of an attempt: what is opened and closed, and what its end is."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from framework import (
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework._tasks.injection import injected
from framework._threads.clock import SystemClock
from framework.http._depends.drivers import Companion, _Errand, _ThreadCall
from framework.http._depends.scope import Step
from pytest_asyncframe.probe import Probe
from tests.framework.kinds import reached
from tests.patience import PATIENCE


class Log(list[str]):
    """What happened, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        """Set when a sync dependency is open."""
        self.closed = threading.Event()
        """Set when it is closed."""
        self.thread: threading.Thread | None = None
        """The thread that closed it."""
        self.opened_async = threading.Event()
        """Set when an async dependency is open."""
        self.task: asyncio.Task[Any] | None = None
        """The asyncio task in which that was opened."""

    def scope(self, name: str) -> Callable[[], Iterator[str]]:
        """Return a sync dependency that logs its opening, its end and the error it is told."""

        def opened() -> Iterator[str]:
            self.append(f"{name} opened")
            self.opened.set()
            try:
                yield name
            except BaseException as error:
                self.append(f"{name} told {type(error).__name__}")
                raise
            finally:
                self.append(f"{name} closed")
                self.thread = threading.current_thread()
                self.closed.set()

        return opened

    def async_scope(self, name: str) -> Callable[[], AsyncIterator[str]]:
        """Return an async dependency that does the same."""

        async def opened() -> AsyncIterator[str]:
            self.append(f"{name} opened")
            self.task = asyncio.current_task()
            self.opened_async.set()
            try:
                yield name
            except BaseException as error:
                self.append(f"{name} told {type(error).__name__}")
                raise
            finally:
                self.append(f"{name} closed")

        return opened


@pytest.fixture
def log() -> Log:
    """Return an empty log."""
    return Log()


@pytest.fixture(params=["thread", "loop"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return where the task runs."""
    return str(request.param)


def of_kind(kind: str, fn: Callable[..., Any], **dependencies: Any) -> Any:
    """Return *fn* as a function with dependencies for a thread or the loop.

    The one argument of a call goes first; the values of the dependencies follow it.
    """

    def sync(number: int = 0, **values: Any) -> Any:
        return fn(number, **values)

    async def on_loop(number: int = 0, **values: Any) -> Any:
        return fn(number, **values)

    chosen: Any = on_loop if kind == "loop" else sync
    first = inspect.Parameter("number", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=0)
    rest = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=depends)
        for name, depends in dependencies.items()
    ]
    chosen.__signature__ = inspect.Signature([first, *rest])
    return chosen


# -- a session of a database


@pytest.fixture
def engine() -> Iterator[Any]:
    """Return a database with an empty table."""
    made = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    with made.begin() as connection:
        connection.execute(text("create table orders (number integer)"))
    yield made
    made.dispose()


async def test_a_session_for_each_attempt(asyncframe: Probe, engine: Any, kind: str) -> None:
    """An attempt that fails is rolled back; the next one has a session of its own."""
    sessions: list[Session] = []

    def get_session() -> Iterator[Session]:
        with Session(engine) as session, session.begin():
            sessions.append(session)
            yield session

    def add(number: int, session: Session) -> int:
        session.execute(text("insert into orders values (:number)"), {"number": number})
        if len(sessions) < 3:
            raise ConnectionError("lost")
        return int(session.execute(text("select count(*) from orders")).scalar_one())

    task = background_task(retry_task(of_kind(kind, add, session=Depends(get_session))))
    done = await asyncframe.completed(task(7))
    assert (done.result, done.attempts) == (1, 3)
    assert len(set(map(id, sessions))) == 3
    assert not any(session.in_transaction() for session in sessions)
    with engine.connect() as connection:
        assert connection.execute(text("select number from orders")).scalars().all() == [7]


# -- overrides


async def test_overrides(asyncframe: Probe, log: Log, kind: str) -> None:
    """An app's overrides apply in its tasks, at any depth, and may be of another kind."""

    def get_url() -> str:
        raise AssertionError("the dependency itself is called")

    def get_client(url: str = Depends(get_url)) -> str:
        return f"client of {url}"

    async def other_url() -> AsyncIterator[str]:
        log.append("opened")
        yield "test"
        log.append("closed")

    app = FastAPI(lifespan=setup_async_framework)
    app.dependency_overrides[get_url] = other_url
    use = background_task(of_kind(kind, lambda _, client: client, client=Depends(get_client)))
    async with asyncframe.client(app):
        assert (await asyncframe.completed(use())).result == "client of test"
        assert log == ["opened", "closed"]
        app.dependency_overrides[get_client] = lambda: "another one"
        assert (await asyncframe.completed(use())).result == "another one"
        app.dependency_overrides.clear()
        with pytest.raises(AssertionError, match=r"^the dependency itself is called$"):
            await asyncframe.completed(use())


async def test_overrides_of_two_apps(asyncframe: Probe) -> None:
    """Each app's tasks have the overrides of their own app."""

    def get_name() -> str:
        raise AssertionError

    @background_task
    def name(found: str = Depends(get_name)) -> str:
        return found

    def made(name_of_app: str) -> FastAPI:
        app = FastAPI(lifespan=setup_async_framework)
        app.dependency_overrides[get_name] = lambda: name_of_app
        app.post("/")(name)
        return app

    first, second = made("first"), made("second")
    async with asyncframe.client(first) as one, asyncframe.client(second) as two:
        answers = [await one.post("/"), await two.post("/")]
        found = [(await asyncframe.completed(answer)).result for answer in answers]
    assert found == ["first", "second"]


async def test_an_override_that_needs_a_request(asyncframe: Probe) -> None:
    """An override that a task cannot have fails the task, and says why."""

    def get_name() -> str:
        raise AssertionError

    def needs(x_name: str) -> str:
        return x_name

    @background_task
    def name(found: str = Depends(get_name)) -> str:
        return found

    app = FastAPI(lifespan=setup_async_framework)
    app.dependency_overrides[get_name] = needs
    async with asyncframe.client(app):
        task = await asyncframe.completed(name(), check=False)
    assert str(task.error).startswith(
        "name cannot run as a task, because its dependency needs needs the parameter 'x_name' of a "
    )


# -- caching


async def test_the_cache(asyncframe: Probe, kind: str) -> None:
    """Within an attempt a dependency is called once, but where use_cache is False."""
    calls: list[int] = []

    def count() -> int:
        calls.append(len(calls))
        return calls[-1]

    def left(number: int = Depends(count)) -> int:
        return number

    def right(number: int = Depends(count), fresh: int = Depends(count, use_cache=False)) -> Any:
        return number, fresh

    use = background_task(
        of_kind(kind, lambda _, **found: found, one=Depends(left), two=Depends(right))
    )
    assert (await asyncframe.completed(use())).result == {"one": 0, "two": (0, 1)}
    assert (await asyncframe.completed(use())).result == {"one": 2, "two": (2, 3)}


async def test_an_object_that_is_no_key(asyncframe: Probe) -> None:
    """An object without a hash is a dependency too."""

    class Numbers(list[int]):
        def __call__(self) -> int:
            return sum(self)

    @background_task
    def use(number: int = Depends(Numbers([1, 2]))) -> int:
        return number

    assert (await asyncframe.completed(use())).result == 3


# -- errors


async def test_an_error_in_the_function(asyncframe: Probe, log: Log, kind: str) -> None:
    """All dependencies are told the error, the latest first."""

    def fail(_: int, **__: str) -> None:
        raise KeyError("no")

    task = background_task(
        of_kind(kind, fail, one=Depends(log.scope("one")), two=Depends(log.async_scope("two")))
    )
    failed = await asyncframe.completed(task(), check=False)
    assert isinstance(failed.error, KeyError)
    assert log == [
        *("one opened", "two opened", "two told KeyError", "two closed"),
        *("one told KeyError", "one closed"),
    ]


async def test_an_error_in_opening(asyncframe: Probe, log: Log, kind: str) -> None:
    """If one cannot be opened, the attempt fails, and those that are open are told."""
    attempts: list[int] = []

    def broken() -> Iterator[str]:
        attempts.append(1)
        if len(attempts) < 2:
            raise ConnectionError("refused")
        yield "mended"

    def use(_: int, one: str, two: str) -> str:
        log.append("body")
        return one + two

    task = background_task(
        retry_task(of_kind(kind, use, one=Depends(log.scope("one")), two=Depends(broken)))
    )
    done = await asyncframe.completed(task())
    assert (done.result, done.attempts) == ("onemended", 2)
    assert log == [
        *("one opened", "one told ConnectionError", "one closed"),
        *("one opened", "body", "one closed"),
    ]


async def test_an_error_in_closing(asyncframe: Probe, log: Log, kind: str) -> None:
    """If one cannot be closed, the attempt has failed, and the others are closed and told."""

    def broken() -> Iterator[str]:
        yield "broken"
        raise ConnectionError("lost")

    task = background_task(
        of_kind(
            kind, lambda _, **__: "fine", one=Depends(log.async_scope("one")), two=Depends(broken)
        )
    )
    failed = await asyncframe.completed(task(), check=False)
    assert (failed.status, str(failed.error)) == (TaskStatus.FAILED, "lost")
    assert log == ["one opened", "one told ConnectionError", "one closed"]


async def test_a_caught_error(asyncframe: Probe, log: Log, kind: str) -> None:
    """A dependency that catches the error does not make a success of the attempt."""

    def catching() -> Iterator[str]:
        try:
            yield "catching"
        except KeyError:
            log.append("caught")

    def fail(_: int, **__: str) -> None:
        raise KeyError("no")

    task = background_task(
        of_kind(kind, fail, one=Depends(log.scope("one")), two=Depends(catching))
    )
    failed = await asyncframe.completed(task(), check=False)
    assert isinstance(failed.error, KeyError)
    assert log == ["one opened", "caught", "one told KeyError", "one closed"]


async def test_no_event_loop(task_manager: TaskManager, log: Log) -> None:
    """Without a loop, an async dependency fails the task, and says what to do."""

    def use(value: str = Depends(log.async_scope("one"))) -> str:
        return value

    def submit_and_wait() -> str:
        task_id = task_manager.submit_nowait(use)
        said = (
            r"^an async dependency needs the event loop of an app, but there is none here: set up "
            r"the framework on an event loop, or make the dependency a plain function$"
        )
        with pytest.raises(RuntimeError, match=said):
            task_manager.wait_result(task_id, timeout=PATIENCE)
        return task_id

    task = await task_manager.get_task(await asyncio.to_thread(submit_and_wait))
    assert task is not None
    assert task.status is TaskStatus.FAILED


# -- limits and cancellation


@pytest.mark.asyncframe(mode="virtual")
async def test_a_thread_over_its_limit(asyncframe: Probe, log: Log) -> None:
    """The scope of a thread closes when the thread ends, and is told of the earlier TIMEOUT."""
    gate = threading.Event()

    @background_task(timeout=5)
    @retry_task(max_retries=2)
    def late(value: str = Depends(log.scope("one"))) -> str:
        gate.wait()
        log.append("body ends")
        return value

    task_id = late()
    said = rf"^task '{task_id}' \(\S+\.late\) ran past its time limit of 5 s$"
    with pytest.raises(TaskTimeoutError, match=said):
        await get_task_manager().get_result(task_id)
    assert log == ["one opened"]
    gate.set()
    await reached(log.closed)
    assert log == ["one opened", "body ends", "one told TaskTimeoutError", "one closed"]


@pytest.mark.asyncframe(mode="threads", leaks="off")
async def test_a_thread_that_outlives_its_app(asyncframe: Probe, log: Log) -> None:
    """The scope of a thread is told that its task was INTERRUPTED by the shutdown."""
    running, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @background_task
    def late(value: str = Depends(log.scope("one"))) -> str:
        loop.call_soon_threadsafe(running.set)
        gate.wait(PATIENCE)
        return value

    app = FastAPI(lifespan=setup_async_framework(graceful_shutdown_timeout=0))
    async with asyncframe.client(app):
        late()
        await running.wait()
    gate.set()
    await reached(log.closed)
    assert log == ["one opened", "one told TaskInterruptedError", "one closed"]


async def test_a_coroutine_over_its_limit(asyncframe: Probe, log: Log) -> None:
    """The scope of a coroutine is told that it was cancelled at its limit."""

    @background_task(timeout=5)
    async def late(
        one: str = Depends(log.scope("one")), two: str = Depends(log.async_scope("two"))
    ) -> None:
        await asyncio.Event().wait()

    task = await asyncframe.completed(late(), check=False)
    assert task.status is TaskStatus.TIMEOUT
    await reached(log.closed)
    assert log == [
        *("one opened", "two opened", "two told CancelledError", "two closed"),
        *("one told CancelledError", "one closed"),
    ]


@pytest.mark.parametrize("layer", [background_task, async_task])
async def test_a_cancelled_coroutine(asyncframe: Probe, log: Log, layer: Any) -> None:
    """A cancelled coroutine has closed its scope when the cancellation is answered."""
    running = asyncio.Event()

    async def forever(value: str = Depends(log.scope("one"))) -> None:
        running.set()
        await asyncio.Event().wait()

    called = layer(forever)()
    awaiter = asyncio.ensure_future(called) if layer is async_task else None
    await running.wait()
    (task_id,) = asyncframe.manager.get_active_tasks()
    assert await asyncframe.manager.cancel_task(task_id)
    assert log == ["one opened", "one told CancelledError", "one closed"]
    if awaiter is not None:
        await asyncio.wait((awaiter,))
        assert awaiter.exception() is not None


@pytest.mark.asyncframe(mode="threads")
async def test_cancelled_while_it_opens(asyncframe: Probe, log: Log) -> None:
    """What a thread opens for a coroutine that is cancelled meanwhile is closed again."""
    opening, gate = threading.Event(), threading.Event()

    @background_task
    async def use(value: str = Depends(gated(log, opening, gate))) -> str:
        log.append("body")
        return value

    task_id = use()
    await reached(opening)
    cancelling = asyncio.ensure_future(asyncframe.manager.cancel_task(task_id))
    # Its first step asks the task, whatever that answers later.
    await asyncio.wait((cancelling,), timeout=0)
    found = await asyncframe.manager.get_task(task_id)
    assert found is not None
    assert found.cancel_requested
    gate.set()
    await cancelling
    task = await asyncframe.completed(task_id, check=False)
    assert task.status is TaskStatus.CANCELLED
    assert log == ["one opened", "one told CancelledError", "one closed"]


def gated(log: Log, opening: threading.Event, gate: threading.Event) -> Callable[[], Iterator[str]]:
    """Return a sync dependency that sets *opening* and waits for *gate* when it is opened."""

    def opened() -> Iterator[str]:
        opening.set()
        gate.wait(PATIENCE)
        yield from log.scope("one")()

    return opened


@pytest.mark.asyncframe(mode="threads")
async def test_abandoned_while_it_opens(log: Log) -> None:
    """What a thread opens for a coroutine that is closed meanwhile is closed again."""
    opening, gate = threading.Event(), threading.Event()

    async def use(value: str = Depends(gated(log, opening, gate))) -> str:
        return value

    coroutine = injected(use)()
    coroutine.send(None)
    await reached(opening)
    coroutine.close()
    assert log == []
    gate.set()
    await reached(log.closed)
    assert log == ["one opened", "one told GeneratorExit", "one closed"]
    assert log.thread not in (None, threading.current_thread())


@pytest.mark.asyncframe(mode="threads", leaks="off")
async def test_an_abandoned_coroutine(asyncframe: Probe, log: Log) -> None:
    """The scope of a coroutine that a shutdown abandons is closed all the same, and in order."""
    running, gate = asyncio.Event(), asyncio.Event()

    async def waiting() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await gate.wait()
            log.append("waiting closed")

    @background_task
    async def stubborn(
        one: str = Depends(log.scope("one")),
        two: None = Depends(waiting),
        three: str = Depends(log.async_scope("three")),
    ) -> None:
        running.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    app = FastAPI(lifespan=setup_async_framework(graceful_shutdown_timeout=0))
    async with asyncframe.client(app):
        stubborn()
        await running.wait()
    assert log == ["one opened", "three opened", "three told GeneratorExit", "three closed"]
    gate.set()
    await reached(log.closed)
    assert log[4:] == ["waiting closed", "one told GeneratorExit", "one closed"]


def test_a_coroutine_without_its_loop(log: Log) -> None:
    """If no loop is left, what a coroutine has opened on threads is closed where it is dropped."""
    running = asyncio.Event()

    def broken() -> Iterator[None]:
        try:
            yield
        finally:
            raise ConnectionError("lost")

    async def use(one: str = Depends(log.scope("one")), two: None = Depends(broken)) -> None:
        running.set()
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    coroutine = injected(use)()
    task = loop.create_task(coroutine)
    loop.run_until_complete(running.wait())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # as this test wants it
    loop.close()
    coroutine.close()
    assert log == ["one opened", "one told ConnectionError", "one closed"]


@pytest.mark.asyncframe(mode="threads", lost_failures="off")
async def test_a_loop_that_cancels_all(asyncframe: Probe, log: Log) -> None:
    """If a loop cancels its tasks, a thread cannot close what is async, and closes the rest."""
    gate = threading.Event()

    @background_task
    def use(
        one: str = Depends(log.scope("one")), two: str = Depends(log.async_scope("two"))
    ) -> None:
        gate.wait(PATIENCE)

    task_id = use()
    await reached(log.opened_async)
    assert log.task is not None
    assert log.task.get_name().endswith("Depends")
    log.task.cancel()
    await asyncio.wait((log.task,))
    gate.set()
    task = await asyncframe.completed(task_id, check=False)
    assert str(task.error) == "the event loop of the task's app has ended"
    # What is async is left to the loop, which closes generators that nobody refers to.
    assert log[:4] == ["one opened", "two opened", "one told RuntimeError", "one closed"]


async def test_a_loop_that_cancels_at_once() -> None:
    """An errand whose asyncio task is cancelled before its first step ends as well."""
    companion = Companion()
    companion._loop = asyncio.get_running_loop()

    async def never() -> None:
        raise AssertionError

    errand = _Errand(never, SystemClock())
    companion._take(errand, "name")
    task = companion._task
    assert task is not None
    task.cancel()
    await asyncio.wait((task,))
    with pytest.raises(RuntimeError, match=r"^the event loop of the task's app has ended$"):
        errand.outcome()


def test_a_loop_that_ends() -> None:
    """A thread that waits for its app's loop goes on when the loop ends, with an error."""
    told: list[str] = []
    opening, opened, left = threading.Event(), threading.Event(), threading.Event()
    ended = threading.Barrier(3)

    async def never() -> AsyncIterator[str]:
        opening.set()
        await asyncio.Event().wait()
        yield "never"

    async def soon() -> AsyncIterator[str]:
        yield "soon"

    def waits_for_opening(value: str = Depends(never)) -> str:
        return value

    def waits_for_closing(value: str = Depends(soon)) -> str:
        opened.set()
        left.wait(PATIENCE)
        return value

    def telling(fn: Callable[[], object]) -> Callable[[], None]:
        def tell() -> None:
            try:
                injected(fn)()
            except BaseException as error:
                told.append(f"{fn.__name__}: {type(error).__name__}")
            ended.wait(PATIENCE)

        return tell

    async def main() -> None:
        async with setup_async_framework(None, graceful_shutdown_timeout=0):
            for fn in (waits_for_opening, waits_for_closing):
                await get_task_manager().submit(telling(fn))
            await asyncio.gather(reached(opening), reached(opened))

    asyncio.run(main())
    left.set()
    ended.wait(PATIENCE)
    assert sorted(told) == [
        "waits_for_closing: RuntimeError",
        "waits_for_opening: CancelledError",
    ]


# -- threads


@pytest.mark.asyncframe(mode="threads")
async def test_closing_needs_no_free_thread(asyncframe: Probe) -> None:
    """More tasks than there are connections finish, though their openings block threads."""
    connections = threading.BoundedSemaphore(3)

    def connect() -> Iterator[str]:
        assert connections.acquire(timeout=PATIENCE)
        try:
            yield "connection"
        finally:
            connections.release()

    @background_task
    async def use(value: str = Depends(connect)) -> str:
        await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0)
        return value

    ids = [use() for _ in range(100)]
    done = [await asyncframe.completed(one) for one in ids]
    assert {task.result for task in done} == {"connection"}


@pytest.mark.asyncframe(mode="threads")
async def test_a_full_pool(asyncframe: Probe, log: Log) -> None:
    """A thread may wait for a coroutine whose dependency needs a thread, in a pool of one."""

    @background_task
    async def inner(value: str = Depends(log.scope("inner"))) -> str:
        return value

    @background_task
    def outer(value: str = Depends(log.async_scope("outer"))) -> str:
        return value + str(get_task_manager().wait_result(inner(), timeout=PATIENCE))

    app = FastAPI(lifespan=setup_async_framework(max_workers=1))
    async with asyncframe.client(app):
        assert (await asyncframe.completed(outer())).result == "outerinner"
    assert log == ["outer opened", "inner opened", "inner closed", "outer closed"]


# -- context variables


async def test_variables(asyncframe: Probe, kind: str) -> None:
    """Each dependency sees what those before it set, and can reset its own."""
    variable = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    def first() -> Iterator[None]:
        token = variable.set("first")
        yield
        variable.reset(token)
        seen.append(variable.get())

    async def second() -> AsyncIterator[None]:
        token = variable.set(variable.get() + " second")
        yield
        variable.reset(token)
        seen.append(variable.get())

    def third() -> Iterator[None]:
        token = variable.set(variable.get() + " third")
        yield
        variable.reset(token)
        seen.append(variable.get())

    async def fourth() -> str:
        return variable.get()

    task = background_task(
        of_kind(
            kind,
            lambda _, four, **__: (variable.get(), four),
            one=Depends(first),
            two=Depends(second),
            three=Depends(third),
            four=Depends(fourth),
        )
    )
    assert (await asyncframe.completed(task())).result == ("first second third",) * 2
    assert seen == ["first second", "first", ""]
    assert variable.get() == ""


async def test_one_asyncio_task(asyncframe: Probe, kind: str) -> None:
    """An async dependency is left in the asyncio task in which it was entered."""
    tasks: list[Any] = []

    async def limited() -> AsyncIterator[None]:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks.append(asyncio.current_task())
            group.create_task(asyncio.Event().wait()).cancel()
            yield
        tasks.append(asyncio.current_task())

    task = background_task(of_kind(kind, lambda *_, **__: None, value=Depends(limited)))
    await asyncframe.completed(task())
    assert tasks[0] is tasks[1]
    await asyncio.wait(tasks[:1])


async def test_an_error_of_a_thread_is_not_kept() -> None:
    """What a call on a thread has raised is raised once: kept, it would refer to itself."""

    def fail() -> None:
        raise ValueError("closed")

    call = _ThreadCall(Step(fail, is_async=False), contextvars.copy_context())
    assert await call.ended() is None
    with pytest.raises(ValueError, match=r"^closed$"):
        call.outcome()
    assert call.error is None
