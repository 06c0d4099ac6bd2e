"""The system's clock: its timers fire once, in order, and leave no thread behind."""

from __future__ import annotations

import math
import threading

import pytest

from framework._threads.clock import SystemClock, join_all
from tests.patience import PATIENCE

FAR = 3_600.0
"""Seconds that no test waits for."""


@pytest.fixture
def system_clock() -> SystemClock:
    """Return a clock of the test's own."""
    return SystemClock()


def test_timers_fire_in_order(system_clock: SystemClock) -> None:
    """Timers fire by their time, and equal ones in the order of their making."""
    fired: list[str] = []
    done = threading.Event()
    first_may = threading.Event()
    system_clock.call_at(-math.inf, lambda: first_may.wait(PATIENCE))
    for when, name in [(2.0, "d"), (1.0, "b"), (1.0, "c"), (0.0, "a")]:
        system_clock.call_at(when - FAR, lambda name=name: fired.append(name))  # type: ignore[misc]  # bound early
    system_clock.call_at(3.0 - FAR, done.set)
    first_may.set()
    assert done.wait(PATIENCE)
    assert fired == ["a", "b", "c", "d"]


def test_a_timer_that_raises_harms_no_other(
    system_clock: SystemClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that a timer raises is logged, and the next timer fires."""
    done = threading.Event()

    def fail() -> None:
        raise SystemExit

    system_clock.call_at(0.0, fail)
    system_clock.call_at(0.0, done.set)
    assert done.wait(PATIENCE)
    assert "a timer raised" in caplog.text


def test_a_clock_without_timers_has_no_thread(system_clock: SystemClock) -> None:
    """The timer thread ends when its last timer is cancelled, and a later timer gets one."""
    timer = system_clock.call_at(system_clock.monotonic() + FAR, lambda: None)
    thread = system_clock._thread
    assert thread is not None
    timer.cancel()
    timer.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    done = threading.Event()
    system_clock.call_at(0.0, done.set)
    assert done.wait(PATIENCE)


def test_cancelled_timers_are_forgotten(system_clock: SystemClock) -> None:
    """A thousand cancelled timers beside one that is not do not stay in memory."""
    kept = system_clock.call_at(system_clock.monotonic() + FAR, lambda: None)
    for _ in range(1_000):
        system_clock.call_at(system_clock.monotonic() + 2 * FAR, lambda: None).cancel()
    assert len(system_clock._heap) < 100
    kept.cancel()


def test_a_closed_clock_fires_nothing(system_clock: SystemClock) -> None:
    """Closing cancels every timer and waits for the thread to end."""
    system_clock.call_at(system_clock.monotonic() + FAR, lambda: None)
    thread = system_clock._thread
    system_clock.close()
    assert thread is not None
    assert not thread.is_alive()


def test_a_timer_whose_thread_cannot_start_is_not_set(
    system_clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, the caller gets the error, and nothing is left behind."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        system_clock.call_at(0.0, lambda: None)
    assert (system_clock._heap, system_clock._thread) == ([], None)


async def test_a_coroutine_sleeps_on_it(system_clock: SystemClock) -> None:
    """Sleeping for no time suspends and comes back."""
    before = system_clock.monotonic()
    await system_clock.asleep(0.0)
    assert system_clock.monotonic() >= before
    assert system_clock.time() > 1_700_000_000.0


def test_close_waits_for_a_thread_that_is_about_to_end() -> None:
    """Closing joins the thread of earlier timers too, which may end late."""
    about_to_end, may_end = threading.Event(), threading.Event()
    ran: list[threading.Thread] = []

    class Late(SystemClock):
        def _run(self) -> None:
            super()._run()
            ran.append(threading.current_thread())
            if len(ran) == 1:
                about_to_end.set()
                may_end.wait(PATIENCE)

    late = Late()
    late.call_at(-FAR, lambda: None)
    assert about_to_end.wait(PATIENCE)
    late.call_at(-FAR, lambda: None)
    join = ran[0].join

    def joined(timeout: float | None = None) -> None:
        may_end.set()
        join(timeout)

    ran[0].join = joined  # type: ignore[method-assign]
    late.close()
    assert may_end.is_set()
    assert not ran[0].is_alive()


def test_joining_gives_up_on_those_that_do_not_end() -> None:
    """Threads alive after the time are returned, and the others are not."""
    never = threading.Event()
    stuck = threading.Thread(target=never.wait, args=(PATIENCE,), daemon=True)
    quick = threading.Thread(target=int)
    stuck.start()
    quick.start()
    quick.join()
    assert join_all([stuck, quick], 0.0) == [stuck]
    never.set()
    assert join_all([stuck], None) == []


def test_a_wait_longer_than_the_platform_allows_is_cut(system_clock: SystemClock) -> None:
    """A condition may be waited for with any timeout, infinity too."""
    condition = threading.Condition()

    def wake() -> None:
        with condition:
            condition.notify()

    with condition:
        threading.Thread(target=wake).start()
        assert system_clock.wait(condition, math.inf)


def test_frozen_time_stops_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock made while a test has frozen the time module has its date, but real seconds."""
    for name in "time", "monotonic", "sleep":
        monkeypatch.setattr(f"time.{name}", lambda *_: 0.0)
    clock = SystemClock()
    assert clock.monotonic() > 0.0
    assert clock.sleep is SystemClock.sleep
    assert clock.time() == 0.0
