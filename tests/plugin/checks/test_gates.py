"""The findings at the end of a test, and fixtures and plugins that cannot be combined."""

from __future__ import annotations

import re

import pytest

from pytest_asyncframe._toolkit import last_work
from tests.patience import PATIENCE
from tests.plugin.clock.waits import SEES_THREADS
from tests.plugin.endings import PASSED, Ending

# -- tasks


def test_a_task_that_is_just_ending_is_not_a_leak(ending: Ending) -> None:
    """A task that needs no time to end is not a leak."""
    told = ending("""
    import pytest

    @pytest.mark.parametrize("number", range(50))
    def test_it(task_manager, task_clock, number):
        task_manager.submit_nowait(sum, (range(20_000),))
    """)

    assert told == PASSED


def test_a_task_that_is_just_ending_in_real_time(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where time is real, a task that ends while the test is looked at is not a leak."""
    monkeypatch.setattr(last_work, "GRACE", PATIENCE)
    told = ending("""
    import threading

    import pytest

    @pytest.mark.asyncframe(mode="threads")
    def test_it(asyncframe):
        recorder, looked_at = asyncframe._recorder, threading.Event()
        watching = recorder.watching

        def watched(*args, **options):
            looked_at.set()
            return watching(*args, **options)

        recorder.watching = watched
        asyncframe.manager.submit_nowait(looked_at.wait)
    """)

    assert told == PASSED


@pytest.mark.extended("time")
def test_a_task_that_blocks(ending: Ending) -> None:
    """A task that blocks outside the clock at the end of a test is a leak, reported at once."""
    told = ending("""
    import threading

    lock = threading.Lock()

    def stuck():
        with lock:
            pass

    def test_it(task_manager, task_clock):
        lock.acquire()
        task_manager.submit_nowait(stuck, task_id="stuck-1")

    def test_end():
        lock.release()
    """)

    assert told == (
        "teardown: leaked task: test_it.stuck (stuck-1) is running, submitted at "
        "test_it.py:11 in test_it"
    )


# -- failures


def test_settled_reads_no_failure(ending: Ending) -> None:
    """settled() and run_until_idle() do not mark failures as read."""
    told = ending("""
    from framework import background_task

    @background_task
    def fails():
        raise LookupError("no such thing")

    async def test_it(asyncframe):
        fails()
        await asyncframe.settled()
    """)

    assert re.match(r"teardown: lost failure: test_it.fails \(\w+\) is failed, ", told)
    assert told.endswith(
        "and nobody has read its error:\n    Traceback (most recent call last):\n"
        '      File "test_it.py", line 5, in fails\n'
        '        raise LookupError("no such thing")\n    LookupError: no such thing'
    )


def test_a_task_over_its_rate(ending: Ending) -> None:
    """A background task that its throttle rejects is a lost failure, shown with a hint."""
    told = ending("""
    from framework import RateLimitExceededError, background_task, throttled_task

    @background_task
    @throttled_task(rate_limit=1, time_window=60)
    def send(): pass

    def test_it(asyncframe):
        send(), send()
        asyncframe.run_until_idle()

    def test_announced(asyncframe):
        asyncframe.expect_failure(send, RateLimitExceededError)
        send(), send()
        asyncframe.run_until_idle()
    """)

    assert told.startswith("teardown: lost failure: test_it.send (")
    assert "has read its error (with when_limited='wait' a task waits for its turn):\n" in told
    assert told.count("lost failure") == 1


# -- threads


def test_a_leaked_thread(ending: Ending) -> None:
    """A thread that still works is named, with where it was started and where it is."""
    told = ending("""
    import threading

    gate = threading.Event()

    def poll():
        gate.wait()

    def test_it(asyncframe):
        threading.Thread(target=poll, name="poller").start()

    def test_end():
        gate.set()
    """)

    assert told == (
        "teardown: leaked thread: poller, started at test_it.py:9 in test_it, is at "
        "test_it.py:6 in poll"
    )


def test_a_leaked_thread_in_a_module_named_like_the_pools(
    ending: Ending, pytester: pytest.Pytester
) -> None:
    """A thread in the user's own ``thread.py`` is not mistaken for an idle one of a pool."""
    pytester.makepyfile(
        thread="""
        import threading

        gate = threading.Event()

        def _worker():
            gate.wait()
        """
    )
    told = ending("""
    import threading
    from thread import _worker, gate

    def test_it(asyncframe):
        threading.Thread(target=_worker, name="worker").start()

    def test_end():
        gate.set()
    """)

    assert "leaked thread: worker, started at test_it.py:5 in test_it, is at thread.py:6" in told


@pytest.mark.parametrize("mode", ["auto", "virtual", "threads"])
def test_a_leaked_thread_in_each_mode(ending: Ending, mode: str) -> None:
    """The same holds in real time, beside tasks, and for a thread that a task starts."""
    told = ending(f"""
    import threading
    import pytest

    gate = threading.Event()

    def begin():
        threading.Thread(target=gate.wait, name="poller", daemon=False).start()

    @pytest.mark.asyncframe(mode="{mode}")
    def test_it(asyncframe):
        asyncframe.run_until_complete(asyncframe.manager.submit_nowait(begin))

    def test_end():
        gate.set()
    """)

    assert told == "teardown: leaked thread: poller, started at test_it.py:7 in begin"


NO_LEAKS = (
    "threading.Thread(target=len, args=([],)).start()",
    "threading.Thread(target=gate.wait, daemon=True).start()",
    "pool.submit(len, [])",
    "pool.submit(len, []).result()",
    "own.submit(len, []).result()",
)


def in_tests(*bodies: str, kind: str = "def") -> str:
    """Return a test for each body, under their numbers."""
    return "".join(
        f"""
    {kind} test_{number}(asyncframe):
        {body}
    """
        for number, body in enumerate(bodies)
    )


def test_threads_that_are_not_leaks(ending: Ending) -> None:
    """A thread that is about to end, a daemon and an idle pool thread are not leaks."""
    told = ending(f"""
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from framework import ThreadPoolExecutorEnhanced

    gate = threading.Event()
    pool = ThreadPoolExecutor(1)
    own = ThreadPoolExecutorEnhanced(1)
    {in_tests(*NO_LEAKS)}
    def test_end():
        gate.set()
        pool.shutdown()
        own.shutdown()
    """)

    assert told == PASSED


# -- timers


LEAKED = (
    "asyncio.get_running_loop().call_later(30, print)",
    "asyncio.get_running_loop().call_at(30, print)",
    "asyncframe.clock.call_at(30, print)",
)


def test_a_leaked_timer(ending: Ending) -> None:
    """A timer that has not fired is named, with where it was set."""
    told = ending("\n    import asyncio\n" + in_tests(*LEAKED, kind="async def"))

    assert re.sub("py:[0-9]+", "py:N", told).splitlines() == [
        f"teardown: leaked timer: print, set at test_it.py:N in test_{number}, would fire 30 s "
        "after the end of the test"
        for number in range(len(LEAKED))
    ]


CURED = (
    "asyncio.get_running_loop().call_later(30, print).cancel()",
    "asyncframe.clock.call_at(32, print).cancel()",
    "asyncframe.clock.call_at(32, print, background=True)",
    "asyncio.create_task(asyncio.sleep(30))",
    "await asyncio.wait_for(asyncio.sleep(1), 30)",
    "await anyio.sleep(1)",
)


def test_timers_that_are_not_leaks(ending: Ending) -> None:
    """Cancelled timers, and those that other code than the user's has set, are not leaks."""
    head = "\n    import anyio\n    import asyncio\n"
    assert ending(head + in_tests(*CURED, kind="async def")) == PASSED


# -- clients


def test_a_leaked_client(ending: Ending) -> None:
    """A client that is still open is a leak, and its app is stopped."""
    told = ending("""
    from contextlib import asynccontextmanager
    from fastapi import FastAPI

    ended = []

    @asynccontextmanager
    async def lifespan(app):
        yield
        ended.append(app)

    app = FastAPI(title="shop", lifespan=lifespan)

    def test_it(asyncframe):
        asyncframe.client(app).__enter__()

    def test_end():
        assert ended == [app]
    """)

    assert told == (
        "teardown: leaked client: FastAPI 'shop', made at test_it.py:14 in test_it, is still open"
    )


def test_a_server_that_is_left_open(ending: Ending) -> None:
    """A live server that is still open is a leak, and is stopped."""
    told = ending("""
    import threading
    from fastapi import FastAPI

    def test_it(asyncframe):
        asyncframe.live_server(FastAPI()).__enter__()

    def test_end():
        assert "live server" not in {thread.name for thread in threading.enumerate()}
    """)

    assert told == (
        "teardown: leaked client: live server of FastAPI, made at test_it.py:5 in test_it, "
        "is still open"
    )


# -- slow work


@SEES_THREADS
def test_a_task_that_computes_for_long(ending: Ending) -> None:
    """A task that computes for longer than the stuck timeout is not reported as stuck."""
    told = ending(
        """
    import time

    def compute():
        until = time.thread_time() + 0.4
        while time.thread_time() < until:
            pass

    async def test_it(asyncframe):
        await asyncframe.completed(asyncframe.manager.submit_nowait(compute))
        assert asyncframe.clock.monotonic() == 0
    """,
        "-o",
        "asyncframe_stuck_timeout=0.05",
    )

    assert told == PASSED


def test_more_runs_than_threads(ending: Ending) -> None:
    """Running a task while all threads are busy is an error."""
    told = ending("""
    from framework import setup_async_framework

    async def test_it(asyncframe, task_executor):
        async with setup_async_framework(None, max_workers=1):
            for number in range(2):
                nap = asyncframe.clock.sleep, (5,)
                asyncframe.manager.submit_nowait(*nap, task_id=f"nap-{number}")
            task_executor.run_next()
            task_executor.run_next()
    """)

    assert (
        "RuntimeError: cannot run nap-1 (pytest_asyncframe.clock.VirtualClock.sleep): all 1 "
        "threads of the pool are busy; let them finish first, for example by advancing the clock"
    ) in told


# -- the next test


def test_schedules_of_a_test(ending: Ending) -> None:
    """A schedule created by a test does not run in the next one."""
    told = ending("""
    from framework import scheduled_task

    kept = []

    def test_first(asyncframe):
        @scheduled_task(every=10)
        def tick():
            pass

        kept.append(tick)

    def test_next(asyncframe):
        asyncframe.clock.advance(60)
        asyncframe.assert_not_submitted(kept[0])
    """)

    assert told == PASSED


def test_a_test_that_is_run_again(ending: Ending) -> None:
    """If a plugin reruns a failed test, the findings of the second run count."""
    told = ending(
        """
    from app import runs

    def test_it(asyncframe):
        runs.append(1)
        if len(runs) == 1:
            assert not "the first time"
        asyncframe.manager.submit_nowait(len, ([],), delay=9, task_id="late-1")
    """,
        "-p",
        "again",
    )

    assert "the first time" in told
    assert told.endswith(
        "teardown: leaked task: builtins.len (late-1) is pending, submitted at "
        "test_it.py:7 in test_it"
    )


@pytest.fixture(autouse=True)
def others(pytester: pytest.Pytester) -> None:
    """Write the plugin that runs each test twice, and the module that its tests share."""
    pytester.makepyfile(
        app="runs = []",
        again="""
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                item._initrequest()
                runtestprotocol(item, nextitem=nextitem)
            return True
        """,
    )
    pytester.syspathinsert()


def test_schedules_of_a_wider_fixture(ending: Ending) -> None:
    """A schedule of a wider fixture runs in all of its tests, a test's own in no other."""
    told = ending("""
    import gc
    import pytest
    from framework import scheduled_task, setup_async_framework

    ticks, kept = [], []

    def make_app(every):
        @scheduled_task(every=every)
        def tick():
            ticks.append(every)

        kept.append(tick)

    @pytest.fixture(scope="session")
    def app():
        make_app(10)
        yield
        # This run is inside another one, whose tests must not run the schedule.
        kept.clear()
        gc.collect()

    @pytest.fixture
    def own():
        make_app(7)

    @pytest.mark.parametrize("number", [1, 2, 3])
    async def test_it(asyncframe, app, own, number):
        ticks.clear()
        async with setup_async_framework(None):
            await asyncframe.clock.run_for(15)
        assert ticks == [7, 10, 7]
    """)

    assert told == PASSED


# -- wrong use

EXECUTOR = (
    "test_it requests task_executor, but tasks start by themselves in its mode '{}': use one of "
    "the modes manual, auto, seeded, or remove task_executor"
)
CLOCK = (
    "test_it requests task_clock, but time is real in its mode 'threads': use one of the modes "
    "manual, auto, virtual, seeded, or remove task_clock"
)
NO_MODE = (
    "test_it has a mode, which needs the fixture asyncframe, but requests only task_executor: "
    "request asyncframe, or remove the mode"
)


@pytest.mark.parametrize(
    ("mode", "fixtures", "message"),
    [
        (
            "threads",
            "asyncframe, task_executor",
            EXECUTOR.format("threads"),
        ),
        (
            "virtual",
            "asyncframe, task_executor",
            EXECUTOR.format("virtual"),
        ),
        (
            "threads",
            "asyncframe, task_clock",
            CLOCK,
        ),
        (
            "threads",
            "task_executor",
            NO_MODE,
        ),
    ],
)
def test_fixtures_and_modes_that_do_not_go_together(
    ending: Ending, mode: str, fixtures: str, message: str
) -> None:
    """A fixture that does not fit the mode is rejected, with the modes that fit."""
    told = ending(f"""
    import pytest

    @pytest.mark.asyncframe(mode="{mode}")
    def test_it({fixtures}):
        pass
    """)

    assert told == f"setup: {message}"


def test_frozen_time(ending: Ending, pytester: pytest.Pytester) -> None:
    """Freezegun around a test with a virtual clock is rejected, with what to use instead."""
    pytester.makepyfile(
        freezegun="""
        class api:
            freeze_factories = [1]
        """
    )
    told = ending("""
    import freezegun

    def test_it(asyncframe):
        pass
    """)

    assert told == (
        "setup: test_it has a virtual clock, but freezegun has frozen time around it: remove "
        "freezegun, since the virtual clock moves datetime.now() if time-machine is installed"
    )


def test_trio(ending: Ending) -> None:
    """A test that pytest-trio would run is rejected."""
    told = ending("""
    import pytest

    @pytest.mark.trio
    async def test_it(asyncframe):
        pass
    """)

    assert told == (
        "setup: test_it is run by trio, but its virtual clock needs an asyncio event loop: "
        "remove the marker trio and the setting trio_mode, or the fixture"
    )


def test_a_fixture_requested_during_the_test(ending: Ending) -> None:
    """request.getfixturevalue() is rejected, with how to request the fixture."""
    told = ending("""
    def test_it(request):
        request.getfixturevalue("task_clock")
    """)

    assert "task_clock was requested with request.getfixturevalue(): make it an argument" in told
