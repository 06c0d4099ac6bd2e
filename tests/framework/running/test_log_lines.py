"""What the log says: lines that nobody can forge, of bounded length, and of a drain in time."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from framework import (
    ThreadPoolExecutorEnhanced,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)
from framework._app.blocking import in_thread
from framework.protocols import Clock, TaskEvent
from framework.testing import override_framework
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

_CLEAN_UP = 60 * 10**9
"""Nanosecond of a framework's first periodic clean-up, the only timer that may be left."""

FORGED = "ERROR asyncframe all is lost"
EVIL = f"told\n{FORGED}\r\x1b[31m\u2028\x85\x00{FORGED}"
ESCAPED = EVIL.encode("unicode_escape").decode("ascii")


@pytest.fixture
def written() -> Iterator[Callable[[], str]]:
    """Give what a plain handler has written of the framework's log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("asyncframe")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream.getvalue
    logger.removeHandler(handler)
    logger.setLevel(before)


def require_honest(text: str) -> None:
    """Require that nothing in a log was forged or coloured, and that the evil text is there."""
    assert ESCAPED in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert not [line for line in text.split("\n") if line.startswith(FORGED)]


class EvilError(Exception):
    """An error whose text and representation forge lines."""

    def __str__(self) -> str:
        return EVIL

    __repr__ = __str__


def fail() -> None:
    """Raise an error of every shape: with notes, a cause, and a group."""
    error = EvilError()
    error.add_note(EVIL)
    raise ExceptionGroup(EVIL, [error, LookupError(EVIL)]) from error


def test_an_unread_failure_forges_no_line(written: Callable[[], str]) -> None:
    """Neither the message nor the traceback of an unread failure carries its text as it is."""
    with ThreadPoolExecutorEnhanced(1) as pool, override_framework(pool=pool) as manager:
        manager.submit_nowait(fail)
        pool.shutdown()
    text = written()
    require_honest(text)
    assert "Traceback (most recent call last):" in text
    assert "direct cause" in text


def test_a_hook_that_fails_forges_no_line(written: Callable[[], str]) -> None:
    """The error of a hook is logged escaped, its traceback with it."""

    def hook(_: object) -> None:
        raise EvilError

    with ThreadPoolExecutorEnhanced(1) as pool, override_framework(pool=pool) as manager:
        manager.submit_nowait(int, on_complete=hook)
        pool.shutdown()
    require_honest(written())


def test_a_reason_forges_no_line(written: Callable[[], str]) -> None:
    """A final state told at DEBUG has its reason, name and id escaped."""
    logging.getLogger("asyncframe").debug("task %s: %r %d", EVIL, EvilError(), 7)
    text = written()
    require_honest(text)
    assert text.endswith(f"{ESCAPED}: {ESCAPED} 7\n")


def test_other_handlers_have_the_error_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The record still has the exception, and its text is the framework's own template."""
    error = EvilError()
    logging.getLogger("asyncframe").error("task %s failed", "a", exc_info=error)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert (record.msg, record.getMessage()) == ("task %s failed", "task a failed")


# -- what is unfinished at shutdown


def shutdown_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log says about unfinished tasks, each in a line of its own."""
    begin = "unfinished at shutdown: "
    lines = [one for one in caplog.records if one.getMessage().startswith(begin)]
    assert {one.levelno for one in lines} <= {logging.WARNING}
    return [one.getMessage().removeprefix(begin) for one in lines]


@pytest.mark.parametrize("count", [100, 9_000])
async def test_the_unfinished_are_told_in_a_few_short_lines(
    caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """At WARNING the log groups unfinished tasks by function; at DEBUG it names each once."""
    gate, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        gate.wait()

    with caplog.at_level(logging.DEBUG, "asyncframe"):
        async with setup_async_framework(None, max_workers=1, graceful_shutdown_timeout=0):
            manager = get_task_manager()
            first = manager.submit_nowait(block)
            await asyncio.to_thread(started.wait)
            waiting = manager.submit_nowait(asyncio.Event().wait)
            later = manager.submit_nowait(int, delay=60)
            await asyncio.get_running_loop().run_in_executor(None, int)
            ids = [manager.submit_nowait(int) for _ in range(count)]
    gate.set()
    name, lines = f"{block.__module__}.{block.__qualname__}", shutdown_lines(caplog)
    cut_short = (
        f"1 interrupted, 1 cancelled while running, 1 cancelled while delayed, {count:,} never "
        "started"
    )
    assert lines == [
        f"{count + 3:,} tasks ({cut_short}); the log has each at DEBUG",
        f"1 of {name} interrupted: {first}",
        f"1 of asyncio.locks.Event.wait cancelled while running: {waiting}",
        f"1 of builtins.int cancelled while delayed: {later}",
        f"{count:,} of builtins.int never started: {', '.join(ids[:3])}, and {count - 3:,} more",
    ]
    assert max(map(len, lines)) < 180
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.DEBUG]
    found = re.findall(r"task (\w{32}) \(", " ".join(told))
    assert sorted(found) == sorted([first, waiting, later, *ids])


async def test_ids_of_started_tasks_go_on_in_further_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of each function the ids of up to twenty tasks that had started are told, in lines."""
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        ids = [manager.submit_nowait(asyncio.Event().wait) for _ in range(22)]
        await asyncio.get_running_loop().run_in_executor(None, int)
    head, *lines = shutdown_lines(caplog)
    assert head == "22 tasks (22 cancelled while running); the log has each at DEBUG"
    state = "asyncio.locks.Event.wait cancelled while running: "
    rows = [ids[first : first + 2] for first in range(0, 20, 2)]
    heads = ["22 of ", *["more of "] * 9]
    told = [f"{one}{state}{', '.join(row)}" for one, row in zip(heads, rows, strict=True)]
    assert lines == [*told[:-1], f"{told[-1]}, and 2 more"]


async def test_functions_beyond_the_tenth_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Unfinished tasks of ten functions have a line each, the most first; others are counted."""
    async with setup_async_framework(None, graceful_shutdown_timeout=0):
        for number in range(12):
            submit = background_task(name=f"of {number}")(int).options(delay=60)
            ids = [submit() for _ in range(1 + number)]
    head, *lines = shutdown_lines(caplog)
    assert head == "78 tasks (78 cancelled while delayed); the log has each at DEBUG"
    assert len(lines) == 11
    told = f"12 of of 11 cancelled while delayed: {', '.join(ids[:3])}, and 9 more"
    assert (lines[0], lines[-1]) == (told, "3 more, of other functions")


async def test_the_loop_has_its_turns_while_many_are_cancelled() -> None:
    """A drain that cancels 10,000 queued tasks cancels at most 500 in one turn of the loop."""
    gate, started = threading.Event(), threading.Event()
    turns = 0
    cancelled: Counter[int] = Counter()

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not gate.is_set():
            asyncio.get_running_loop().call_soon(turn)

    def note(_: TaskEvent) -> None:
        cancelled[turns] += 1

    def block() -> None:
        started.set()
        gate.wait()

    async with setup_async_framework(None, max_workers=1, graceful_shutdown_timeout=0):
        manager = get_task_manager()
        manager.subscribe(note, kinds={"cancelled"})
        manager.submit_nowait(block)
        await asyncio.to_thread(started.wait)
        for _ in range(10_000):
            manager.submit_nowait(int)
        turn()
    gate.set()
    assert cancelled.total() == 10_000
    assert max(cancelled.values()) <= 500


async def test_the_loop_has_its_turns_while_many_are_woken() -> None:
    """A drain wakes at most 500 coroutines that wait for a retry in one turn of the loop."""
    asleep, ended = asyncio.Event(), asyncio.Event()
    turns = 0
    sleeping: list[TaskEvent] = []
    failed: Counter[int] = Counter()

    def note_sleep(event: TaskEvent) -> None:
        sleeping.append(event)
        if len(sleeping) == 2_000:
            asleep.set()

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not ended.is_set():
            asyncio.get_running_loop().call_soon(turn)

    @background_task
    @retry_task(retry_delay=3_600.0)
    async def wait_for_retry() -> None:
        raise ConnectionError

    async with setup_async_framework(None, graceful_shutdown_timeout=60):
        manager = get_task_manager()
        manager.subscribe(note_sleep, kinds={"retrying"})
        manager.subscribe(lambda _: failed.update([turns]), kinds={"failed"})
        for _ in range(2_000):
            wait_for_retry()
        await asleep.wait()
        turn()
    ended.set()
    assert failed.total() == 2_000
    assert max(failed.values()) <= 500


async def test_a_drain_that_is_cancelled_in_a_turn_says_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cancelling a drain between two turns cancels all tasks, and no callback fails."""
    begun = asyncio.Event()

    async def app() -> None:
        async with setup_async_framework(None):
            manager = get_task_manager()
            manager.subscribe(lambda _: begun.set(), kinds={"cancelled"})
            for _ in range(2_000):
                manager.submit_nowait(int, delay=60)

    stopping = asyncio.ensure_future(app())
    await begun.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError, match=r"^$"):
        await stopping
    assert {one.name for one in caplog.records} == {"asyncframe"}
    assert shutdown_lines(caplog)[0].startswith("2,000 tasks (2,000 cancelled while delayed); ")


# -- what a drain waits for


def drain_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the level and the rest of each line about what a drain waits for."""
    found = [(one.levelname, one.getMessage()) for one in caplog.records]
    begin = "shutting down: "
    return [(level, text.removeprefix(begin)) for level, text in found if text.startswith(begin)]


@background_task
async def take(seconds: float) -> None:
    """Take so many seconds of the framework's time."""
    await get_task_manager().clock.asleep(seconds)


async def test_a_drain_says_what_it_waits_for(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A drain says at once, after a second, and every five seconds what it waits for."""
    with caplog.at_level(logging.INFO, "asyncframe"):
        async with setup_async_framework(None, graceful_shutdown_timeout=30):
            ids = [take(seconds) for seconds in (3.0, 8.0)]
            await asyncframe.clock.run_for(0)
    first, second = ids
    both = f"2 of {__name__}.take running: {first}, {second}"
    assert drain_lines(caplog) == [
        ("INFO", "waiting for 2 tasks (2 running) to end, 30 s at most"),
        ("INFO", both),
        ("WARNING", "still waiting after 1 s for 2 tasks (2 running) to end, 29 s at most"),
        ("WARNING", both),
        ("WARNING", "still waiting after 6 s for 1 task (1 running) to end, 24 s at most"),
        ("WARNING", f"1 of {__name__}.take running: {second}"),
    ]
    assert asyncframe.clock.monotonic() == 8.0


async def test_a_drain_without_limit_says_so(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A drain that waits as long as it takes says that, and names ten tasks of a function."""
    with caplog.at_level(logging.WARNING, "asyncframe"):
        async with setup_async_framework(None, graceful_shutdown_timeout=float("inf")):
            ids = [take(2.0) for _ in range(12)]
    (head, *lines) = drain_lines(caplog)
    assert head == (
        "WARNING",
        "still waiting after 1 s for 12 tasks (12 running) to end, as long as it takes",
    )
    assert {level for level, _ in lines} == {"WARNING"}
    assert re.findall(r"[0-9a-f]{32}", " ".join(text for _, text in lines)) == ids[:10]
    assert lines[-1][1].endswith(", and 2 more")


async def test_a_drain_that_is_quick_does_not_warn(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A short drain logs at INFO only, an empty one not at all; no timer is left."""
    with caplog.at_level(logging.INFO, "asyncframe"):
        for seconds in ((), (0.5,)):
            async with setup_async_framework(None):
                for one in seconds:
                    take(one)
    assert [level for level, _ in drain_lines(caplog)] == ["INFO", "INFO"]
    left = asyncframe.clock.sequencer.timers()
    assert min((timer.when for timer in left), default=_CLEAN_UP) >= _CLEAN_UP


class ClosingClock:
    """A clock that can only be read, like one that is being closed."""

    def __init__(self, inner: Clock) -> None:
        self.monotonic = inner.monotonic

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} of a closing clock")


async def test_a_store_that_is_slow_to_close(
    asyncframe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown that waits for a store says so after a second, and then every five."""
    closed = threading.Event()
    call, what = partial(closed.wait, PATIENCE), "SQLStore and the pool to close"
    clock: Any = ClosingClock(asyncframe.clock)
    closing = asyncio.ensure_future(in_thread(call, clock, what, 30.0))
    await asyncframe.clock.run_for(8)
    closed.set()
    await closing
    assert drain_lines(caplog) == [
        ("WARNING", f"still waiting after 1 s for {what}, 29 s at most"),
        ("WARNING", f"still waiting after 6 s for {what}, 24 s at most"),
    ]
