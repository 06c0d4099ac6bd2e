"""A failure is logged at once and once, unless somebody waits for the task."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from framework import (
    Task,
    TaskManager,
    ThreadPoolExecutorEnhanced,
    async_task,
    background_task,
    current_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework.testing import override_framework
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.probe import Probe
from tests.children import python
from tests.framework.kinds import fail_with, in_thread, on_loop, reached
from tests.patience import PATIENCE

LOST = pytest.mark.asyncframe(lost_failures="off")
"""For failures that nobody reads, on purpose."""


@background_task
def send(text: str) -> None:
    """Fail as a mail server that is down would."""
    raise RuntimeError(text)


@background_task
async def asend(text: str) -> None:
    """Fail in the same way on the event loop."""
    raise RuntimeError(text)


class Lines(logging.Handler):
    """Keeps the ERROR records of the framework, and tells of each."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []
        self.written = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)
        self.written.set()

    @property
    def texts(self) -> list[str]:
        """The messages, without their ids and places."""
        texts = [one.getMessage() for one in self.records]
        return [re.sub(r"task \w{32}| \(submitted at .*\)", "", text) for text in texts]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Give what the framework logs at ERROR."""
    handler = Lines()
    logging.getLogger("asyncframe").addHandler(handler)
    yield handler
    logging.getLogger("asyncframe").removeHandler(handler)


def named(function: Any) -> str:
    """Return the name of a task of *function*, in brackets, as it stands in the log."""
    return f" ({function.__module__}.{function.__qualname__})"


# -- what is logged, and when


@LOST
def test_a_line_says_what_failed_where(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines
) -> None:
    """The line has the task's id, name, error, origin and traceback, and comes at its end."""
    task_id = send("smtp is down")
    assert lines.records == []
    task_executor.drain()
    (record,) = lines.records
    origin = rf"{re.escape(__file__)}:\d+ in test_a_line_says_what_failed_where"
    assert re.fullmatch(
        rf"task {task_id}{re.escape(named(send))} failed: RuntimeError: smtp is down "
        rf"\(submitted at {origin}\)",
        record.getMessage(),
    )
    assert (record.levelno, record.name) == (logging.ERROR, "asyncframe")
    assert record.exc_text is not None
    assert "raise RuntimeError(text)\nRuntimeError: smtp is down" in record.exc_text


@LOST
async def test_a_coroutine_is_logged_too(asyncframe: Probe, lines: Lines) -> None:
    """An `async def` task that fails is logged when it ends, and the asker is not needed."""
    asend("smtp is down")
    await asyncframe.settled()
    assert lines.texts == [f"{named(asend)} failed: RuntimeError: smtp is down"]


@LOST
async def test_a_time_limit_is_logged(asyncframe: Probe, lines: Lines) -> None:
    """A task that runs past its limit is logged at the limit."""
    event = asyncio.Event()

    @background_task(timeout=5)
    async def wait() -> None:
        await event.wait()

    wait()
    await asyncframe.settled()
    (text,) = lines.texts
    assert text == f"{named(wait)} timed out at its limit of 5 s"


@LOST
async def test_only_the_last_attempt_is_logged(
    asyncframe: Probe, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """An attempt that is repeated is no line at ERROR; the final line has their number."""

    @background_task
    @retry_task(max_retries=2, retry_delay=10)
    async def connect() -> None:
        raise ConnectionError("refused")

    connect()
    await asyncframe.settled()
    text = f"{named(connect)} failed after 3 attempts: ConnectionError: refused"
    assert lines.texts == [text]
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == lines.records


def test_attempts_are_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """With DEBUG on before the start, each attempt that is repeated has a line."""

    @retry_task(max_retries=1, retry_delay=0)
    def connect() -> None:
        raise ConnectionError("refused")

    with caplog.at_level(logging.DEBUG, "asyncframe"), override_framework() as manager:
        # Silent: if nobody waits yet when it ends, its line could come during another test.
        task_id = manager.submit_nowait(connect, on_error="silent")
        with pytest.raises(ConnectionError, match=r"^refused$"):
            manager.wait_result(task_id, PATIENCE)
    (told,) = [text for text in caplog.messages if text.startswith("attempt")]
    assert told == (
        f"attempt 1 of {named(connect)[2:-1]} failed and is repeated in 0 s: "
        f"ConnectionError: refused (task {task_id})"
    )


async def test_cancelled_tasks_are_not_logged(task_manager: TaskManager, lines: Lines) -> None:
    """A task that is cancelled has no line at ERROR: somebody wanted it so."""
    task_id = await task_manager.submit(asyncio.Event().wait)
    assert await task_manager.cancel_task(task_id)
    assert lines.records == []


@pytest.mark.parametrize("kept", [0, 100])
async def test_it_is_logged_once(lines: Lines, kept: int) -> None:
    """What was logged is not logged again when it is forgotten, or when the framework stops."""
    async with setup_async_framework(None, max_finished_tasks=kept):
        for text in ("first", "second"):
            send(text)
            await reached(lines.written)
            lines.written.clear()
            if text == "first":
                get_task_manager().cleanup_completed_tasks(0)
    assert [text.rpartition(" ")[2] for text in lines.texts] == ["first", "second"]


SCRIPT = """
import asyncio, sys
from framework import background_task, setup_async_framework

@background_task
def send():
    raise RuntimeError("smtp is down")

async def main():
    async with setup_async_framework(None):
        send()

asyncio.run(main())
"""


@pytest.mark.extended("processes")
def test_no_set_up_is_needed() -> None:
    """Without any configuration of logging the line and its traceback are on stderr."""
    done = python("-c", SCRIPT)
    first, *_, last = done.stderr.splitlines()
    assert re.fullmatch(
        r"task \w{32} \(__main__\.send\) failed: RuntimeError: smtp is down "
        r"\(submitted at <string>:11 in main\)",
        first,
    )
    assert last == "RuntimeError: smtp is down"
    assert done.stderr.count("RuntimeError: smtp is down") == 2


# -- who waits


@pytest.mark.parametrize("make", [in_thread, on_loop])
@pytest.mark.parametrize("wait", [True, False])
async def test_whoever_waits_gets_it_instead(
    task_manager: TaskManager, lines: Lines, make: Any, wait: bool
) -> None:
    """A failure that `submit(wait=True)` or `get_result` raises is not logged, then or later."""
    failing = make(fail_with(KeyError("k")))

    async def ask() -> None:
        await task_manager.get_result(await task_manager.submit(failing, wait=wait))

    with pytest.raises(KeyError, match=r"^'k'$"):
        await ask()
    assert task_manager.cleanup_completed_tasks(0) == 1
    assert lines.records == []


def test_a_thread_that_waits_gets_it_instead(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines
) -> None:
    """A failure that `wait_result` raises is not logged."""

    def outer() -> None:
        with pytest.raises(RuntimeError, match=r"^smtp is down$"):
            task_manager.wait_result(send("smtp is down"))

    task_manager.submit_nowait(outer)
    task_executor.drain()
    assert lines.records == []


@pytest.mark.parametrize("kind", ["thread", "loop", "suspended"])
async def test_an_awaited_async_task_is_not_logged(
    task_manager: TaskManager, lines: Lines, kind: str
) -> None:
    """The failure of an `async_task` belongs to whoever awaits the call."""

    @async_task
    def in_pool() -> None:
        raise KeyError("k")

    @async_task
    async def in_place(*, suspended: bool) -> None:
        if suspended:
            await asyncio.get_running_loop().run_in_executor(None, int)
        raise KeyError("k")

    with pytest.raises(KeyError, match=r"^'k'$"):
        await (in_pool() if kind == "thread" else in_place(suspended=kind == "suspended"))
    assert task_manager.cleanup_completed_tasks(0) == 1
    assert lines.records == []


@LOST
async def test_a_failure_that_its_awaiter_does_not_take(
    task_manager: TaskManager, lines: Lines
) -> None:
    """If the awaiter of an `async_task` is cancelled and the body fails then, that is logged."""
    started = asyncio.Event()

    @async_task
    async def body() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("rollback failed")

    awaiter = asyncio.ensure_future(body())
    await started.wait()
    awaiter.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await awaiter
    (text,) = lines.texts
    assert text == f"{named(body)} failed: RuntimeError: rollback failed; nobody read its error"
    assert task_manager.cleanup_completed_tasks(0) == 1
    assert len(lines.records) == 1


@LOST
async def test_whoever_cancels_does_not_read(task_manager: TaskManager, lines: Lines) -> None:
    """`cancel_task` waits for the end of a coroutine, but its failure is logged all the same."""
    started = asyncio.Event()

    async def body() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("rollback failed")

    task_id = await task_manager.submit(body)
    await started.wait()
    assert not await task_manager.cancel_task(task_id)
    assert lines.texts == [f"{named(body)} failed: RuntimeError: rollback failed"]


@LOST
async def test_a_wait_that_was_given_up(task_manager: TaskManager, lines: Lines) -> None:
    """A wait whose timeout has passed does not keep the failure out of the log."""
    gate = threading.Event()

    def body() -> None:
        gate.wait(PATIENCE)
        raise RuntimeError("late")

    task_id = await task_manager.submit(body)
    with pytest.raises(
        TimeoutError, match=r"^task \w+ \(.*\) is running after 0 s of waiting; it goes on$"
    ):
        await task_manager.get_result(task_id, timeout=0)
    gate.set()
    await reached(lines.written)
    assert lines.texts == [f"{named(body)} failed: RuntimeError: late"]


# -- on_error


@LOST
def test_silent_is_never_logged(lines: Lines) -> None:
    """`on_error="silent"` logs neither the failure nor, when it is forgotten, that it was lost."""
    with ThreadPoolExecutorEnhanced(1) as pool, override_framework(pool=pool) as manager:
        manager.submit_nowait(send, ("quiet",), on_error="silent")
        send.options(on_error="silent")("quiet")
        background_task(on_error="silent")(send.fn)("quiet")
        pool.shutdown()
        assert manager.get_stats()["failed"] == 3
    assert lines.records == []


@LOST
def test_log_takes_the_place_of_silent(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines
) -> None:
    """A submission's `on_error="log"` counts, whatever the decorator says."""
    quiet = background_task(on_error="silent")(send.fn)
    task_manager.submit_nowait(quiet, ("loud",), on_error="log")
    quiet.options(on_error="log")("loud")
    task_executor.drain()
    assert len(lines.records) == 2


@LOST
@pytest.mark.parametrize("reads", [True, False])
def test_a_hook_comes_first(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines, reads: bool
) -> None:
    """A failure is logged after its hook has run, unless the hook reads the error."""
    seen: list[object] = []

    def hook(task: Task) -> None:
        seen.append(len(lines.records))
        if reads:
            seen.append(task.error)

    task_manager.submit_nowait(send, ("hooked",), on_error=hook)
    task_executor.drain()
    assert seen[0] == 0
    assert len(lines.records) == (0 if reads else 1)


@LOST
def test_a_decorator_takes_a_hook(
    task_manager: TaskManager, task_executor: DeterministicExecutor
) -> None:
    """`background_task(on_error=hook)` calls the hook for each task that fails."""
    seen: list[str] = []
    watched = background_task(on_error=lambda task: seen.append(str(task.error)))(send.fn)
    watched("one")
    watched("two")
    task_executor.drain()
    assert seen == ["one", "two"]


@LOST
async def test_a_hook_of_a_time_limit_comes_first(
    task_manager: TaskManager, task_clock: VirtualClock, lines: Lines
) -> None:
    """At a time limit the hook runs on a thread of its own, and the line is written there."""
    started, gate, where = threading.Event(), threading.Event(), []

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)

    def hook(_: Task) -> None:
        where.append(threading.get_ident())
        assert lines.records == []

    await task_manager.submit(body, timeout=1.0, on_error=hook)
    await reached(started)
    task_clock.advance(1.0)
    await reached(lines.written)
    gate.set()
    assert [one.thread for one in lines.records] == where


# -- handlers that do harm


@LOST
async def test_a_handler_that_raises_ends_nothing(
    task_manager: TaskManager, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a logging handler raises is printed, and the task, its thread and loop go on."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:  # as declared there
            raise OSError("the disk is full")

    broken = Broken()
    logging.getLogger("asyncframe").addHandler(broken)
    try:
        for function in (send, asend):
            task_id = await task_manager.submit(function, ("down",))
            while (task := await task_manager.get_task(task_id)) and not task.status.is_final:
                await asyncio.get_running_loop().run_in_executor(None, int)
        assert await task_manager.submit(int, wait=True) == 0
    finally:
        logging.getLogger("asyncframe").removeHandler(broken)
    assert "OSError: the disk is full" in capsys.readouterr().err


@LOST
def test_no_lock_is_held(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines
) -> None:
    """While the line is written another thread can use the manager."""
    done = threading.Event()

    def use() -> None:
        task_manager.get_all_tasks()
        task_manager.get_stats()
        task_manager.cleanup_completed_tasks(0)
        task_manager.submit_nowait(int)
        done.set()

    def look(_: logging.LogRecord) -> bool:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(PATIENCE)
        return True

    lines.addFilter(look)
    send("smtp is down")
    task_executor.drain()
    assert done.is_set()


@LOST
def test_handlers_know_the_task(
    task_manager: TaskManager, task_executor: DeterministicExecutor, lines: Lines
) -> None:
    """While the line is written, `current_task()` is the task, and nothing after that."""
    seen: list[object] = []

    def look(_: logging.LogRecord) -> bool:
        task = current_task()
        seen.append(None if task is None else task.task_id)
        return True

    lines.addFilter(look)
    task_id = send("smtp is down")
    task_executor.drain()
    assert seen == [task_id]
    assert current_task() is None


# -- many at once


@LOST
def test_a_burst_has_ten_tracebacks_a_minute(
    task_manager: TaskManager,
    task_executor: DeterministicExecutor,
    task_clock: VirtualClock,
    lines: Lines,
) -> None:
    """Of failures of one kind, ten in a minute have tracebacks; each has a line."""
    for _ in range(12):
        send("smtp is down")
    task_manager.submit_nowait(fail_with(KeyError("another kind")))
    task_executor.drain()
    assert [one.exc_info is not None for one in lines.records] == [True] * 10 + [False] * 2 + [True]
    left_out = "; without its traceback, as ten of this kind were logged in this minute"
    assert [one.getMessage().endswith(left_out) for one in lines.records[9:12]] == [
        False,
        True,
        True,
    ]
    task_clock.advance(60)
    send("smtp is down")
    task_executor.drain()
    assert lines.records[-1].exc_info is not None


@LOST
async def test_the_late_error_of_a_body(
    task_manager: TaskManager, task_clock: VirtualClock, lines: Lines
) -> None:
    """What a body raises after its time limit is counted, and has no line of its own."""
    started, gate, late = threading.Event(), threading.Event(), threading.Event()
    task_manager.subscribe(lambda _: late.set(), kinds={"late_result"})

    def body() -> None:
        started.set()
        gate.wait(PATIENCE)
        raise RuntimeError("late")

    await task_manager.submit(body, timeout=1.0)
    await reached(started)
    task_clock.advance(1.0)
    gate.set()
    await reached(late)
    (text,) = lines.texts
    assert text == f"{named(body)} timed out at its limit of 1 s"
