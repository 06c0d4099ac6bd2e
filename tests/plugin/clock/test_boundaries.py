"""What is in virtual time and what is not: the rows of docs/testing/boundaries.md."""

from __future__ import annotations

import asyncio
import functools
import re
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from pytest_asyncframe._turns import outside
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.boundary_rows import (
    DETECTED,
    HOUR,
    IN_THREADS,
    MOMENT,
    PATCHED,
    SIMULATED,
    UNSEEN,
    WAITED_FOR,
    Wait,
    get,
)
from tests.plugin.clock.waits import HAS_SIGNALS
from tests.plugin.endings import LOOPS, PLAIN

PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing" / "boundaries.md"


@background_task
def run(wait: Wait) -> None:
    """Wait in a task."""
    wait()


# Each test goes through all rows, since time moves on from one to the next.
@pytest.mark.parametrize("where", ["in the test", "in a task", "in a def endpoint"])
def test_waits_of_threads_are_on_the_clock(asyncframe: Probe, where: str) -> None:
    """A wait of an hour takes an hour of virtual time on any thread."""
    app, waits = FastAPI(), list(PATCHED.values())
    app.get("/{number}")(lambda number: waits[int(number)]() and None)
    took = {}
    with asyncframe.client(app) as client:
        for number, row in enumerate(PATCHED):
            begun = asyncframe.clock.monotonic()
            if where == "in the test":
                PATCHED[row]()
            elif where == "in a task":
                asyncframe.run_until_complete(run(PATCHED[row]))
            else:
                client.get(f"/{number}").raise_for_status()
            took[row] = asyncframe.clock.monotonic() - begun

    assert took == dict.fromkeys(PATCHED, HOUR)


async def test_waits_of_coroutines_are_on_the_clock(asyncframe: Probe) -> None:
    """A wait of an hour takes an hour of virtual time in a coroutine."""
    took = {}
    for row, wait in (SIMULATED | IN_THREADS).items():
        begun = asyncframe.clock.monotonic()
        await wait()
        took[row] = asyncframe.clock.monotonic() - begun

    assert took == dict.fromkeys([*SIMULATED, *IN_THREADS], HOUR)


def marked(rows: Iterable[str]) -> list[Any]:  # pytest does not export the type
    """Return rows as parameters, those with a process marked."""
    apart = pytest.mark.extended("processes")
    return [pytest.param(row, marks=apart if "process" in row else ()) for row in rows]


@pytest.mark.extended("processes")
@pytest.mark.parametrize("where", ["in the test", "in a task", "in a thread"])
def test_what_holds_time_still(asyncframe: Probe, where: str) -> None:
    """A timer that is due in a second does not fire meanwhile."""
    seen: dict[str, float] = {}

    def look(row: str) -> None:
        DETECTED[row]()
        seen[row] = asyncframe.clock.monotonic()

    timer = asyncframe.clock.call_at(1, lambda: None)
    for row in DETECTED:
        if where == "in the test":
            look(row)
        elif where == "in a task":
            asyncframe.run_until_complete(run(functools.partial(look, row)))
        else:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(look, row).result()

    assert seen == dict.fromkeys(DETECTED, 0)
    timer.cancel()


@pytest.mark.parametrize("row", marked(WAITED_FOR))
async def test_what_time_waits_for(
    asyncframe: Probe, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout of a second does not fire if this ends before the silence is long enough."""
    # Half a second may be too short for a process to start on a busy machine.
    monkeypatch.setattr(outside, "FILE_SILENCE", 60)
    at_once = threading.Event()
    at_once.set()
    await asyncio.wait_for(WAITED_FOR[row](at_once), 1)

    assert asyncframe.clock.monotonic() == 0


@pytest.mark.asyncframe(blocked_loop="off")  # subprocess.run blocks it too
@pytest.mark.parametrize("row", marked([*UNSEEN, *WAITED_FOR]))
async def test_what_time_does_not_wait_for(asyncframe: Probe, row: str) -> None:
    """A timer that is due in a second fires before this ends if it takes long."""
    moved = threading.Event()
    asyncframe.clock.call_at(1, moved.set)
    await (UNSEEN | WAITED_FOR)[row](moved)

    assert asyncframe.clock.monotonic() >= 1


async def test_a_limit_around_what_takes_long(asyncframe: Probe) -> None:
    """A client's own timeout fires after a silence that is long enough for time to move."""
    with pytest.raises(httpx.ReadTimeout, match=r"^$"):
        await get(threading.Event(), timeout=HOUR)


def test_a_live_server_is_in_real_time(asyncframe: Probe) -> None:
    """Timers on a live server's loop take real seconds, and no virtual ones."""
    app = FastAPI(lifespan=setup_async_framework)

    @app.get("/")
    async def nap() -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(MOMENT)  # noqa: TID251  # what is tested here
        return loop.time() - begun

    with asyncframe.live_server(app) as server:
        took = httpx.get(server.url, trust_env=False).json()

    assert took > MOMENT / 2
    assert asyncframe.clock.monotonic() == 0


@HAS_SIGNALS
async def test_an_alarm_is_in_real_time(asyncframe: Probe) -> None:
    """An alarm set for a day does not fire when an hour of virtual time passes."""
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    seconds, _ = signal.setitimer(signal.ITIMER_REAL, HOUR / 2)
    try:
        await asyncio.sleep(HOUR)  # noqa: TID251  # what is tested here
        left, _ = signal.getitimer(signal.ITIMER_REAL)
    finally:
        # The alarm belongs to pytest-timeout.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        signal.signal(signal.SIGALRM, handler)

    assert left > HOUR / 4
    assert rung == []


@HAS_SIGNALS
async def test_time_does_not_wait_for_a_signal(asyncframe: Probe) -> None:
    """A timer is not delayed by a signal that may arrive."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    try:
        await asyncio.sleep(HOUR)  # noqa: TID251  # what is tested here
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)

    assert asyncframe.clock.monotonic() == HOUR


# -- what tells the time


def test_clocks(asyncframe: Probe) -> None:
    """With time-machine the wall clock is virtual; the other clocks are real."""
    today, before = datetime.now(UTC), clock_times()
    asyncframe.clock.advance(HOUR)
    wall, monotonic, counter = (now - then for now, then in zip(clock_times(), before, strict=True))

    assert (datetime.now(UTC) - today).total_seconds() == pytest.approx(HOUR)
    assert wall == pytest.approx(HOUR)
    assert monotonic < HOUR
    assert counter < HOUR


def clock_times() -> tuple[float, float, float]:
    """Return the times of the clocks in the module time."""
    return time.time(), time.monotonic(), time.perf_counter()  # noqa: TID251  # steady: what is tested


@pytest.mark.extended("processes")
def test_clocks_without_time_machine(pytester: pytest.Pytester) -> None:
    """Without time-machine, datetime.now() and time.time() are real too."""
    pytester.makeconftest("import sys; sys.modules['time_machine'] = None")
    pytester.makepyfile("""
    import time
    from datetime import datetime

    def test_clocks(asyncframe):
        begun = datetime.now(), time.time()
        asyncframe.clock.advance(3600)
        assert (datetime.now() - begun[0]).total_seconds() < 3600
        assert time.time() - begun[1] < 3600
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_policy_of_uvloops(pytester: pytest.Pytester) -> None:
    """Tests with a virtual clock do not use uvloop even if pytest-asyncio is configured to."""
    pytest.importorskip("uvloop")
    pytester.makeini("[pytest]\nasyncio_mode = auto")
    pytester.makeconftest("""
    import pytest
    import uvloop

    def pytest_asyncio_loop_factories(config, item):
        return {"uvloop": uvloop.new_event_loop}
    """)
    pytester.makepyfile("""
    import asyncio
    import uvloop

    async def test_real():
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)

    async def test_virtual(asyncframe):
        await asyncio.sleep(3600)
        assert asyncframe.clock.monotonic() == 3600
    """)
    pytester.runpytest_inprocess(*PLAIN, *LOOPS).assert_outcomes(passed=2)


# -- the page


OTHERS = {
    "httpx.AsyncClient(timeout=s)": "awaited",
    "live_server(app)": "real",
    "signal.alarm(s)": "real",
    "loop.add_signal_handler(number, fn)": "real",
    "os.fork()": "real",
    "datetime.now(), time.time() with time-machine": "patched",
    "datetime.now(), time.time() without it": "real",
    "time.monotonic(), time.perf_counter()": "real",
    "uvloop": "replaced",
}
"""Rows with a test of their own, above or in `test_outside`."""


def test_the_page_lists_the_tested_rows() -> None:
    """The rows of the page are those that are tested, each with its kind."""
    rows = re.findall(r"^\| `([^|]+)` \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    tested = dict.fromkeys(SIMULATED, "simulated")
    tested |= dict.fromkeys([*PATCHED, *IN_THREADS], "patched")
    tested |= dict.fromkeys(DETECTED, "detected")
    tested |= dict.fromkeys(WAITED_FOR, "awaited")
    tested |= dict.fromkeys(UNSEEN, "real")
    tested |= OTHERS

    assert len(rows) == len(dict(rows))
    assert {row.replace("`", ""): kind for row, kind in rows} == tested
