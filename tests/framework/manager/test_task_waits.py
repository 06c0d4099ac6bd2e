"""Tasks that wait for tasks: run inline, refused, or simply waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from framework import (
    TaskManager,
    ThreadPoolExecutorEnhanced,
    async_task,
    current_task,
)
from framework.exceptions import DeadlockError
from framework.testing import override_framework
from pytest_asyncframe.probe import Probe
from tests.framework.kinds import Body, fail_with
from tests.framework.running.messages import DEADLOCK
from tests.patience import PATIENCE

# -- tasks that wait for tasks


@pytest.fixture
def one_thread() -> Iterator[TaskManager]:
    """Give a manager whose pool has one thread."""
    with ThreadPoolExecutorEnhanced(1) as pool, override_framework(pool=pool) as manager:
        yield manager


async def test_a_nested_wait_runs_inline(one_thread: TaskManager) -> None:
    """A task that waits for a queued task of its full pool runs it on its own thread."""

    def outer() -> tuple[int, int]:
        inner = one_thread.submit_nowait(threading.get_ident)
        return threading.get_ident(), one_thread.wait_result(inner)

    here, there = await one_thread.submit(outer, wait=True)
    assert here == there


async def test_a_nested_wait_inside_a_loop_of_its_own(one_thread: TaskManager) -> None:
    """A task may submit and await on a full pool from a loop that it runs itself."""

    def outer() -> int:
        async def main() -> int:
            async def on_this_loop() -> int:
                return 7

            # Its home is a loop elsewhere or none; without one it is this.
            return await one_thread.submit(on_this_loop, wait=True)

        return asyncio.run(main())

    assert await one_thread.submit(outer, wait=True) == 7


async def test_an_inline_task_has_its_own_identity(one_thread: TaskManager) -> None:
    """A task that is run inline is the current one while it runs, and then the outer again."""

    def name() -> str:
        task = current_task()
        assert task is not None
        return task.task_id

    def outer() -> list[str]:
        inner = one_thread.submit_nowait(name)
        return [name(), one_thread.wait_result(inner), name(), inner]

    before, inside, after, inner = await one_thread.submit(outer, wait=True)
    assert before == after != inside
    assert inside == inner


async def test_a_failing_inline_task_fails_alone(one_thread: TaskManager) -> None:
    """An error in a task run inline goes to its waiter and ends that task only."""

    def outer() -> str:
        inner = one_thread.submit_nowait(fail_with(KeyError("inner")))
        try:
            one_thread.wait_result(inner)
        except KeyError:
            return "caught"
        return "nothing raised"

    assert await one_thread.submit(outer, wait=True) == "caught"


async def test_wait_result_on_a_loop_is_refused(task_manager: TaskManager) -> None:
    """wait_result() on the thread of a running loop raises and names what to use there."""
    task_id = await task_manager.submit(int)
    with pytest.raises(
        RuntimeError,
        match=r"^wait_result\(\) would block the event loop of this thread: use "
        r"'await get_result\(task_id\)' here$",
    ):
        task_manager.wait_result(task_id)


class Waiting:
    """Tasks of any kind that wait for each other by name."""

    def __init__(self, manager: TaskManager) -> None:
        self.manager = manager
        self.ids: dict[str, str] = {}
        self.known = threading.Event()

    def thread(self, target: str) -> Body:
        """Return a thread task that waits for *target*."""

        def thread_task() -> Any:
            assert self.known.wait(PATIENCE)
            return self.manager.wait_result(self.ids[target])

        return thread_task

    def loop(self, target: str) -> Body:
        """Return a coroutine task that waits for *target*."""

        async def coroutine_task() -> Any:
            return await self.manager.get_result(self.ids[target])

        return coroutine_task

    async def run(self, **tasks: Body) -> list[Any]:
        """Submit tasks under their names; return what each ended with."""
        for name, body in tasks.items():
            self.ids[name] = await self.manager.submit(body)
        self.known.set()
        ends = (self.manager.get_result(self.ids[name]) for name in tasks)
        return await asyncio.gather(*ends, return_exceptions=True)


async def test_a_thread_task_that_waits_for_itself(task_manager: TaskManager) -> None:
    """A thread task that waits for its own id gets DeadlockError."""
    waiting = Waiting(task_manager)
    (error,) = await waiting.run(a=waiting.thread("a"))
    assert isinstance(error, DeadlockError)


async def test_a_coroutine_task_that_waits_for_itself(task_manager: TaskManager) -> None:
    """A coroutine task that waits for its own id gets DeadlockError."""
    waiting = Waiting(task_manager)
    (error,) = await waiting.run(a=waiting.loop("a"))
    assert isinstance(error, DeadlockError)


@pytest.mark.parametrize("first", ["thread", "loop"])
@pytest.mark.parametrize("second", ["thread", "loop"])
async def test_two_tasks_that_wait_for_each_other(
    task_manager: TaskManager, first: str, second: str
) -> None:
    """Two tasks of any kind that wait for each other both end with DeadlockError."""
    waiting = Waiting(task_manager)
    errors = await waiting.run(
        a=getattr(waiting, first)("b"),
        b=getattr(waiting, second)("a"),
    )
    assert [type(error) for error in errors] == [DeadlockError, DeadlockError]


async def test_a_circle_of_three(task_manager: TaskManager) -> None:
    """A circle of threads and a coroutine is found, and the error names all of it."""
    waiting = Waiting(task_manager)
    errors = await waiting.run(a=waiting.thread("b"), b=waiting.loop("c"), c=waiting.thread("a"))
    assert {type(error) for error in errors} == {DeadlockError}
    (chain,) = {error.chain for error in errors if isinstance(error, DeadlockError)}
    assert len(chain) == 4
    assert chain[0] == chain[-1]


async def test_an_in_place_task_that_waits_for_what_awaits_it(
    task_manager: TaskManager,
) -> None:
    """An in-place body that waits for the task that awaits it gets DeadlockError."""
    outer_id: list[str] = []

    @async_task
    async def inner() -> Any:
        return await task_manager.get_result(outer_id[0])

    async def outer() -> Any:
        return await inner()

    outer_id.append(await task_manager.submit(outer))
    with pytest.raises(DeadlockError, match=DEADLOCK):
        await task_manager.get_result(outer_id[0])


async def test_a_wait_with_a_timeout_is_not_refused(asyncframe: Probe) -> None:
    """A task that waits for itself with a timeout gets a plain TimeoutError when it passes."""

    async def body() -> Any:
        task = current_task()
        assert task is not None
        return await asyncframe.manager.get_result(task.task_id, timeout=5.0)

    with pytest.raises(TimeoutError) as caught:
        await asyncframe.completed(await asyncframe.manager.submit(body))
    assert type(caught.value) is TimeoutError
    assert asyncframe.clock.monotonic() == 5.0


async def test_a_coroutine_beside_a_task_does_not_hold_it_up(
    task_manager: TaskManager,
) -> None:
    """A coroutine that a task starts with create_task() may wait for that task."""
    beside: list[asyncio.Task[Any]] = []

    async def body() -> str:
        task = current_task()
        assert task is not None
        beside.append(asyncio.create_task(task_manager.get_result(task.task_id)))
        return "ended"

    assert await task_manager.submit(body, wait=True) == "ended"
    assert await beside[0] == "ended"


async def test_a_wait_beside_others_in_a_tasks_own_loop_is_not_refused(
    task_manager: TaskManager,
) -> None:
    """A wait that its task may give up again, in a loop of its own, is no deadlock."""
    ids: dict[str, str] = {}
    known, waits = threading.Event(), threading.Event()

    def outer() -> str:
        async def main() -> str:
            side = asyncio.create_task(task_manager.get_result(ids["other"]))
            assert await asyncio.to_thread(waits.wait, PATIENCE)
            side.cancel()
            with pytest.raises(asyncio.CancelledError, match=r"^$"):
                await side
            return "gave up"

        assert known.wait(PATIENCE)
        return asyncio.run(main())

    async def other() -> Any:
        asyncio.get_running_loop().call_soon(waits.set)
        return await task_manager.get_result(ids["outer"])

    ids["outer"] = await task_manager.submit(outer)
    ids["other"] = await task_manager.submit(other)
    known.set()
    assert await task_manager.get_result(ids["other"]) == "gave up"
