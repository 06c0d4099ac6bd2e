"""What a test leaves at its end: pollers, calls of the bare pool, memory."""

from __future__ import annotations

import pytest

from tests.plugin.endings import LOOPS, PASSED, PLAIN, Ending

# -- tests that end early


def test_a_test_that_is_skipped_in_its_middle(pytester: pytest.Pytester) -> None:
    """What a skipped test, or an expected failure, leaves behind is no second outcome."""
    pytester.makepyfile("""
        import time
        import unittest
        import pytest
        from framework import background_task

        @background_task
        def sleep_long():
            time.sleep(10)

        def test_skipped(asyncframe):
            sleep_long()
            pytest.skip("not here")

        @pytest.mark.xfail
        def test_expected(asyncframe):
            sleep_long()
            assert False

        class Case(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def probe(self, asyncframe):
                pass

            def test_skipped(self):
                sleep_long()
                self.skipTest("not here")

            @unittest.expectedFailure
            def test_expected(self):
                sleep_long()
                self.fail()
    """)

    assert pytester.inline_run(*PLAIN, *LOOPS).countoutcomes() == [0, 4, 0]


# -- pollers

POLLING = """
import asyncio, time
from contextlib import asynccontextmanager
import pytest
from fastapi import FastAPI
from framework import background_task, setup_async_framework

@background_task
async def poll():
    while True:
        await asyncio.sleep(60)

@background_task
def watch():
    while True:
        time.sleep(60)

@background_task
def work():
    time.sleep(100)

@asynccontextmanager
async def lifespan(app):
    async with setup_async_framework(app):
        poll(), watch()
        yield

app = FastAPI(lifespan=lifespan)

async def use(asyncframe):
    async with asyncframe.client(app):
        task_id = work()
        await asyncframe.settled()
        asyncframe.assert_idle()
        asyncframe.assert_transitions(task_id, "pending>running>completed")
        asyncframe.assert_submitted(poll, times=1)
    await asyncframe.settled()
"""


@pytest.mark.parametrize(
    "declared",
    [
        "@pytest.mark.asyncframe(pollers=[poll, watch])",
        "@pytest.mark.asyncframe(pollers=['poll', 'test_it.watch'])",
        "@pytest.mark.asyncframe(pollers=(poll.fn, 'watch'))",
        "@pytest.mark.asyncframe(pollers=poll)\n@pytest.mark.asyncframe(pollers='watch')",
    ],
)
def test_declared_pollers(ending: Ending, declared: str) -> None:
    """A declared poller may run until the app stops, and is not waited for."""
    test = f"{declared}\nasync def test_it(asyncframe):\n    await use(asyncframe)"

    assert ending(f"{POLLING}\n{test}") == PASSED


def test_pollers_of_the_ini_file(ending: Ending) -> None:
    """The ini file declares pollers for all tests, with or without a client."""
    tests = """
async def test_it(asyncframe):
    await use(asyncframe)

def test_alone(asyncframe):
    watch(), work()
    asyncframe.run_until_idle()
"""
    assert ending(POLLING + tests, "-o", "asyncframe_pollers=test_it.poll watch") == PASSED


def test_pollers_that_are_not_declared(ending: Ending) -> None:
    """Undeclared pollers are reported as cut short by the app's shutdown."""
    told = ending(
        POLLING
        + """
async def test_it(asyncframe):
    async with asyncframe.client(app):
        pass
"""
    )

    cut = "task cut short by the app's shutdown: test_it."
    assert told.startswith(f"teardown: {cut}poll (")
    assert f"\n{cut}watch (" in told


def test_a_poller_that_fails(ending: Ending) -> None:
    """A poller that fails is a lost failure, like any task."""
    told = ending("""
    import pytest
    from framework import background_task

    @background_task
    async def poll():
        raise LookupError("no table")

    @pytest.mark.asyncframe(pollers="poll")
    async def test_it(asyncframe):
        poll()
        await asyncframe.clock.run_for(1)
    """)

    assert told.startswith("teardown: lost failure: test_it.poll (")


def test_invalid_pollers(ending: Ending) -> None:
    """Pollers that are neither functions nor names are an error of the test."""
    told = ending("""
    import pytest

    @pytest.mark.asyncframe(pollers=[7])
    def test_it(asyncframe):
        pass
    """)

    assert told == (
        "setup: @pytest.mark.asyncframe(pollers=[7]): pollers must be a list of functions and names"
    )


# -- calls of the pool


@pytest.mark.extended("time")
def test_calls_that_are_left_behind(ending: Ending) -> None:
    """A running or queued call of the bare pool is a leak, shown with its submission."""
    told = ending("""
    import threading

    gate = threading.Event()

    def hold(begun):
        begun.wait()
        gate.wait()

    def test_it(task_pool):
        workers = task_pool.get_stats()["max_workers"]
        begun = threading.Barrier(workers + 1)
        for _ in range(workers + 1):
            task_pool.submit(hold, begun)
        begun.wait()

    def test_end():
        gate.set()
    """)

    lines = told.removeprefix("teardown: ").splitlines()
    start = "leaked call of the pool: test_it.hold, submitted at test_it.py:13 in test_it, "
    assert set(lines) == {f"{start}is running", f"{start}waits for a thread"}
    assert lines.count(f"{start}waits for a thread") == 1


@pytest.mark.parametrize(
    ("fixtures", "state"),
    [
        ("task_pool, task_executor", "waits for a thread"),
        ("task_pool, asyncframe", "waits for a thread"),
        ("task_pool, task_clock", "is running"),
    ],
)
def test_calls_on_virtual_time_are_left_behind(ending: Ending, fixtures: str, state: str) -> None:
    """The same with virtual time and with a deterministic executor."""
    told = ending(f"""
    import time

    def test_it({fixtures}):
        task_pool.submit(time.sleep, 60)
    """)

    assert told == (
        "teardown: leaked call of the pool: time.sleep, submitted at test_it.py:4 in test_it, "
        + state
    )


@pytest.mark.parametrize("fixtures", ["task_pool", "task_pool, task_clock"])
def test_calls_that_are_just_ending(ending: Ending, fixtures: str) -> None:
    """Calls that are about to end, were cancelled or have failed are not leaks."""
    told = ending(f"""
    import asyncio

    def test_it({fixtures}):
        for _ in range(50):
            task_pool.submit(sum, range(20_000))
        task_pool.submit(int, "no number")
        list(task_pool.map(abs, [1, 2]))
        with task_pool:
            task_pool.submit(sum, range(20_000)).cancel()
    """)

    assert told == PASSED


# -- memory


@pytest.mark.parametrize("mode", ["auto", "seeded", "virtual", "threads"])
def test_what_a_test_has_seen_is_not_kept(ending: Ending, mode: str) -> None:
    """A test's pool, its tasks and what was seen of them are free once it has ended."""
    told = ending(
        """
        import gc, weakref

        held = []

        def test_it(asyncframe, task_manager):
            held.extend(map(weakref.ref, (asyncframe, task_manager, task_manager.pool)))
            task = asyncframe.run_until_complete(task_manager.submit_nowait(int))
            assert task.result == 0

        def test_afterwards():
            gc.collect()
            assert [ref() for ref in held] == [None, None, None]
        """,
        "-o",
        f"asyncframe_mode={mode}",
    )

    assert told == PASSED


def test_a_test_without_tasks_is_freed_at_once(ending: Ending) -> None:
    """A test that uses no framework makes none, and leaves nothing to the garbage collector."""
    told = ending("""
        import gc, weakref

        held = []

        async def test_it(asyncframe):
            toolkit = asyncframe._toolkit
            held.extend(map(weakref.ref, (toolkit, asyncframe.clock, toolkit.recorder)))
            assert toolkit._manager is None
            gc.collect()
            gc.disable()

        def test_afterwards():
            found = [ref() for ref in held]
            gc.enable()
            assert found == [None, None, None]
    """)

    assert told == PASSED
