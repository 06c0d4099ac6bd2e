"""What keeps an event loop from turning is named in the log, once, and nothing else is."""

from __future__ import annotations

import asyncio
import bdb
import logging
import re
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, Final

import pytest

from framework import get_task_manager, setup_async_framework
from framework._manager.overview import Overview
from framework._running.ledger import Ledger
from framework._tasks.live import Home
from framework._threads.clock import SystemClock, Timer
from framework._threads.watch import loop_watch
from framework._threads.watch.loop_watch import LoopWatch
from framework._threads.watch.stacks import frames_of, place, turn_of
from framework.stores.memory import MemoryStore
from pytest_asyncframe.probe import Probe
from tests.framework.refusing import told_by
from tests.patience import PATIENCE

MEANWHILE = (
    "; meanwhile no request, timer or coroutine goes on: run blocking code in a def function, "
    "or with asyncio.to_thread()"
)


class HandClock(SystemClock):
    """A clock whose latest timer is fired by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.monotonic = lambda: self.now
        self.timer: Timer | None = None

    def call_at(self, when: float, fn: Callable[[], object], *, background: bool = False) -> Timer:
        """Keep a timer, which must be a background one."""
        assert background
        self.timer = Timer(self, when, fn, background)
        return self.timer

    def _cancel(self, timer: Timer) -> None:
        timer.fn = None

    def fire(self, times: int = 1, late: float = 0.0) -> None:
        """Fire the timer so often, each so many seconds late."""
        for _ in range(times):
            assert self.timer is not None
            assert self.timer.fn is not None
            self.now = self.timer.when + late
            self.timer.fn()


async def turn() -> None:
    """Let the loop turn."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


async def watched(clock: HandClock) -> LoopWatch:
    """Return a watch of this loop that looks at it twice a second, and has begun."""
    core: Any = SimpleNamespace(ledger=Ledger(clock, MemoryStore(), 1))
    watch = LoopWatch(clock, Home(core, None, asyncio.get_running_loop()), 1.0)
    watch.start(sys._getframe())
    await turn()
    return watch


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages, with "X" for the line that fires the timers."""
    return [_FIRES.sub("X", message) for message in caplog.messages]


_FIRES: Final = re.compile(
    rf"{re.escape(__file__)}:\d+ in HandClock\.fire, in \S+/stacks\.py:\d+ in frames_of"
)


async def test_a_block_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """A line says after the limit what blocks the loop, and one more when it turns again."""
    clock = HandClock()
    watch = await watched(clock)
    clock.fire()  # asks for a sign of life
    clock.fire(1)
    assert caplog.messages == []
    clock.fire(5)
    assert lines(caplog) == [f"the event loop has not turned for 1.0 s: X blocks it{MEANWHILE}"]
    clock.now += 0.2
    await turn()
    clock.fire()
    assert watch._suspect is None
    assert lines(caplog)[1:] == [
        "the event loop turns again after 3.2 s or a little more; it was found at X"
    ]
    await turn()
    clock.fire(2)
    assert len(caplog.messages) == 2
    watch.stop()


async def test_a_second_block_is_named_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """Each block has its own two lines, and is counted."""
    clock = HandClock()
    watch = await watched(clock)
    for _ in range(2):
        clock.fire(4)
        await turn()
        clock.fire()
        await turn()
    levels = {record.levelno for record in caplog.records}
    assert (len(caplog.messages), levels) == (4, {logging.WARNING})
    ledger = watch._home.core.ledger
    assert isinstance(ledger, Ledger)
    assert Overview(ledger).own_figures()["loop_blocks"] == 2
    watch.stop()


async def test_a_loop_that_turns(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of a loop that turns between two looks at it."""
    clock = HandClock()
    watch = await watched(clock)
    for _ in range(10):
        clock.fire(2)
        await turn()
    assert caplog.messages == []
    watch.stop()


async def test_time_in_which_the_process_stood_still(caplog: pytest.LogCaptureFixture) -> None:
    """If the timer is late as well, neither the code nor the time before is to blame."""
    clock = HandClock()
    watch = await watched(clock)
    clock.fire(2)
    clock.fire(1, late=60.0)
    clock.fire(1)
    clock.fire(10, late=0.2)
    assert caplog.messages == []
    clock.fire(2, late=0.1)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the event loop has not turned for 1.2 s: ")
    watch.stop()


@pytest.mark.parametrize("debugger", [bdb.__file__, "C:\\lib\\debugpy\\_x\\a.py"])
async def test_a_debugger_waits(caplog: pytest.LogCaptureFixture, debugger: str) -> None:
    """Code that a debugger has stopped blocks nothing."""
    clock, names = HandClock(), dict[str, Any]()
    watch = await watched(clock)
    exec(compile("def interact(call, *args): call(*args)", debugger, "exec"), names)
    names["interact"](clock.fire, 10)
    assert caplog.messages == []
    clock.fire()
    assert caplog.messages == []
    watch.stop()


def test_a_loop_that_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said of a loop that is idle, or is not run at the moment."""
    clock = HandClock()
    with asyncio.Runner() as runner:
        watch = runner.run(watched(clock))
        clock.fire(10)
    # It is closed now, so there is no further timer.
    last = clock.timer
    clock.fire()
    assert clock.timer is last
    assert (caplog.messages, watch.told) == ([], None)
    assert watch._home.loop not in loop_watch._WATCHES


async def test_a_file_with_the_name_of_a_debugger(caplog: pytest.LogCaptureFixture) -> None:
    """An app's own code.py may block the loop like any other file."""
    clock, names = HandClock(), dict[str, Any]()
    watch = await watched(clock)
    exec(compile("def work(call, *args): call(*args)", "/app/code.py", "exec"), names)
    names["work"](clock.fire, 3)
    assert len(caplog.messages) == 1
    watch.stop()


async def test_many_callbacks(caplog: pytest.LogCaptureFixture) -> None:
    """If another callback is found each time, it is only one of many."""
    clock, loop = HandClock(), asyncio.get_running_loop()
    watch = await watched(clock)
    loop.call_soon(lambda: clock.fire(2))
    loop.call_soon(clock.fire)
    await turn()
    told = "the event loop has not turned for 1.0 s: X is one of many callbacks without a pause"
    assert lines(caplog) == [f"{told}{MEANWHILE}"]
    watch.stop()
    assert len(caplog.messages) == 2


async def test_two_apps_on_one_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A loop that two apps share is named once; if one app leaves, the other one watches."""
    clocks = HandClock(), HandClock()
    watches = [await watched(clock) for clock in clocks]
    for _ in range(4):
        clocks[0].fire()
        clocks[1].fire()
    assert len(caplog.messages) == 1
    watches[0].stop()
    assert len(caplog.messages) == 2
    await turn()
    clocks[1].fire(4)
    assert len(caplog.messages) == 3
    watches[1].stop()


async def test_setting_up_may_block(caplog: pytest.LogCaptureFixture) -> None:
    """There is no timer before the loop has turned once after the start, nor after the end."""
    clock = HandClock()
    core: Any = None
    watch = LoopWatch(clock, Home(core, None, asyncio.get_running_loop()), 1.0)
    watch.start(sys._getframe())
    assert clock.timer is None
    watch.stop()
    await turn()
    assert clock.timer is None


async def test_a_task_is_named() -> None:
    """A task that blocks its loop is named with its id and function, in real time."""
    found: list[str] = []
    named = threading.Event()

    class Listen(logging.Handler):
        """Sets the event at the first line about the loop."""

        def emit(self, record: logging.LogRecord) -> None:
            """Keep the line, unless it is of another subject."""
            if "event loop" in record.getMessage():
                found.append(record.getMessage())
                named.set()

    async def block() -> None:
        await turn()
        named.wait(PATIENCE)

    logger, handler = logging.getLogger("asyncframe"), Listen(logging.WARNING)
    logger.addHandler(handler)
    try:
        async with setup_async_framework(None, slow_loop=0.4):
            task_id = await get_task_manager().submit(block)
            await turn()
            await turn()
    finally:
        logger.removeHandler(handler)
    name = block.__qualname__
    assert f"(task {task_id}, {__name__}.{name})" in found[0]
    assert f" in {name}, in " in found[0]


async def test_none_in_virtual_time(asyncframe: Probe) -> None:
    """In a test with virtual time no loop is watched."""
    async with setup_async_framework(None):
        assert asyncio.get_running_loop() not in loop_watch._WATCHES


async def test_off() -> None:
    """slow_loop=0 watches nothing; by default the loop is watched until the app ends."""
    loop = asyncio.get_running_loop()
    async with setup_async_framework(None, slow_loop=0):
        assert loop_watch._WATCHES.get(loop, []) == []
    async with setup_async_framework(None):
        assert len(loop_watch._WATCHES[loop]) == 1
    assert loop_watch._WATCHES[loop] == []


BAD = {
    0.05: "slow_loop must be 0, to switch it off, or at least 0.1, not 0.05",
    -1: "slow_loop must be a number at least 0 or a timedelta, not -1",
    float("inf"): "slow_loop must be a number at least 0 or a timedelta, not inf",
}


def test_a_wrong_limit() -> None:
    """A limit that cannot be looked for is refused, with what is allowed."""
    told = {given: told_by(setup_async_framework, slow_loop=given) for given in BAD}
    assert told == {given: (ValueError, message) for given, message in BAD.items()}


# -- which line is to blame


def found_in(path: str) -> tuple[CodeType, str]:
    """Return a function's code in a file at *path* that calls the standard library, and blame."""
    names: dict[str, Any] = {}
    exec(compile("def work(call):\n    import functools; call()", path, "exec"), names)
    seen: list[list[FrameType]] = []
    names["work"](lambda: seen.append(frames_above(names["work"].__code__)))
    told = place(seen[0], None)
    seen.clear()
    return names["work"].__code__, told


def frames_above(code: CodeType) -> list[FrameType]:
    """Return the frames of this thread down to *code*, without those of this file."""
    frames, frame = [], sys._getframe()
    while True:
        assert frame.f_back is not None
        frame = frame.f_back
        if frame.f_code.co_filename != __file__:
            frames.append(frame)
        if frame.f_code is code:
            return frames


def test_installed_code() -> None:
    """If no code of the user's is on the stack, the innermost package is to blame."""
    _, told = found_in("/srv/app/venv/lib/python3.11/site-packages/shop/api.py")
    assert told == "/srv/app/venv/lib/python3.11/site-packages/shop/api.py:2 in work"


def test_the_caller_of_coroutines() -> None:
    """The code that runs coroutines is found from within nested ones, with any loop."""

    async def inner() -> CodeType | None:
        return turn_of(sys._getframe())

    async def outer() -> CodeType | None:
        return await inner()

    with pytest.raises(StopIteration) as stopped:
        outer().send(None)
    assert stopped.value.value is test_the_caller_of_coroutines.__code__
    assert frames_of(threading.get_ident(), None) == []
