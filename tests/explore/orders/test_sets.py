"""Sets of tasks, futures, coroutines and scopes are gone through in one order."""

from __future__ import annotations

import asyncio

import pytest

from pytest_asyncframe._explore import world
from pytest_asyncframe.clock import VirtualClock
from tests.explore.sessions import run

HEAD = """
import anyio, asyncio, pytest
pytestmark = pytest.mark.interleave(seeds=20)

async def wait(seconds=100):
    await asyncio.sleep(seconds)
"""

BODIES = {
    "a group of asyncio": """
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(wait())
                await asyncio.sleep(1)
                raise ValueError
    """,
    "a group of anyio": """
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(wait)
            await asyncio.sleep(1)
            group.cancel_scope.cancel()
    """,
    "what ends with the loop": """
        global kept
        kept = [asyncio.create_task(wait()) for _ in range(8)]
        await asyncio.sleep(1)
    """,
    "coroutines as they end": """
        for one in asyncio.as_completed([wait(seconds % 3) for seconds in range(8)]):
            await one
    """,
    "tasks that are waited for": """
        tasks = {asyncio.create_task(wait(seconds)) for seconds in range(8)}
        done, pending = await asyncio.wait(tasks, timeout=3.5)
        assert (len(done), len(pending)) == (4, 4)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
    """,
    "a set of futures": """
        loop = asyncio.get_running_loop()
        futures = {loop.create_future() for _ in range(8)}
        waiting = [asyncio.ensure_future(asyncio.wait_for(one, 10)) for one in futures]
        await asyncio.sleep(1)
        for future in futures:
            future.set_result(None)
        await asyncio.gather(*waiting)
    """,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_order_is_the_same_in_each_run(pytester: pytest.Pytester, body: str) -> None:
    """What goes through a set does so in the same order, wherever its members are in memory."""
    source = f"{HEAD}\nasync def test_it(asyncframe):\n" + "\n".join(
        line[4:] for line in body.splitlines()
    )
    options = ("--asyncframe-check-determinism", "-p", "no:asyncio")
    result = run(pytester, source, *options, ini="asyncframe_leaks = off")
    result.assert_outcomes(passed=1)


def test_a_task_looks_as_usual() -> None:
    """The tasks and futures of such a loop are shown as asyncio's own."""
    clock = VirtualClock()
    with world.ordered(clock):
        loop = clock.new_event_loop()
    waiting = loop.create_task(asyncio.Event().wait(), name="mine")
    future = loop.create_future()
    assert repr(waiting).startswith("<Task pending name='mine' coro=<Event.wait() ")
    assert repr(future).startswith("<Future pending")
    assert {waiting, future} == {future, waiting}
    assert (hash(waiting), hash(future)) == (1, 2)
    waiting.cancel()
    loop.run_until_complete(asyncio.wait([waiting]))
    loop.close()


def test_tasks_have_the_same_names() -> None:
    """The tasks of each run are counted from 1, also if others come before."""
    for _ in range(2):
        clock = VirtualClock()
        with world.ordered(clock):
            loop = clock.new_event_loop()
        waiting = [loop.create_task(asyncio.Event().wait()) for _ in range(2)]
        assert [task.get_name() for task in waiting] == ["Task-1", "Task-2"]
        for task in waiting:
            task.cancel()
        loop.run_until_complete(asyncio.wait(waiting))
        loop.close()


def test_loops_of_others_are_as_before() -> None:
    """After the block, a loop has asyncio's own tasks."""
    clock = VirtualClock()
    with world.ordered(clock):
        pass
    loop = clock.new_event_loop()
    assert loop.get_task_factory() is None
    assert not hasattr(asyncio.tasks, "set")
    loop.close()
