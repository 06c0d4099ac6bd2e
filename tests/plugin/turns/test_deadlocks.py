"""The error for a test that cannot continue."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio.to_thread
import pytest

from framework import ThreadPoolExecutorEnhanced, background_task
from pytest_asyncframe.clock import VirtualDeadlockError
from pytest_asyncframe.probe import Probe
from tests.plugin.endings import PLAIN


@background_task
def process(number: int) -> int:
    """Return the argument."""
    return number


async def forever() -> None:
    """Wait forever."""
    await asyncio.Event().wait()


WAITS: dict[str, Callable[[Probe, str], Awaitable[object]]] = {
    "completed": lambda probe, task_id: probe.completed(task_id),
    "settled": lambda probe, _: probe.settled(),
    "get_result": lambda probe, task_id: probe.manager.get_result(task_id),
    "sleep": lambda probe, _: probe.clock.asleep(5),
    "wait_for": lambda probe, task_id: asyncio.wait_for(
        probe.completed(task_id),
        5,  # steady: virtual time
    ),
    "gather": lambda probe, task_id: asyncio.gather(probe.completed(task_id), forever()),
    "task": lambda *_: asyncio.ensure_future(forever()),
    "task of a task": lambda *_: asyncio.ensure_future(
        asyncio.wait([asyncio.ensure_future(forever())])
    ),
    "shield": lambda *_: asyncio.shield(forever()),
    "queue": lambda *_: asyncio.Queue[int]().get(),
}


@pytest.mark.asyncframe(mode="manual")
async def test_it_is_raised_at_the_await(asyncframe: Probe) -> None:
    """A test can catch the error at its await, more than once, and continue."""
    task_id = process(7)
    raised_elsewhere = {}
    for how, wait in WAITS.items():
        for _ in range(2):
            with pytest.raises(
                VirtualDeadlockError,
                match=r"^nothing can continue at 0 s of virtual "
                r"time:\n(?s:.*)\ntasks do not start by themselves here: call run_next\(\)",
            ) as caught:
                await wait(asyncframe, task_id)
            if str(caught.traceback[0].path) != __file__:
                raised_elsewhere[how] = caught.traceback[0]
    asyncframe.executor.run_next()

    assert raised_elsewhere == {}
    assert (await asyncframe.completed(task_id)).result == 7


@pytest.mark.asyncframe(mode="manual")
def test_it_is_raised_in_a_loop_of_a_sync_test(asyncframe: Probe) -> None:
    """In a loop run by a sync test, the error is raised at the await too."""
    task_id = process(7)

    async def main() -> None:
        with pytest.raises(
            VirtualDeadlockError,
            match=r"^nothing can continue at 0 s of virtual time:\n(?s:.*)\ntasks "
            r"do not start by themselves here: call run_next\(\)",
        ):
            await asyncframe.completed(task_id)

    asyncio.run(main())
    asyncframe.executor.drain()


@pytest.fixture
def without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test as on a system without ``/proc``, which tells nothing of a thread."""
    read_text, listdir = Path.read_text, os.listdir

    def read(self: Path, *args: Any) -> str:
        if self.is_relative_to("/proc"):
            raise FileNotFoundError(str(self))
        return read_text(self, *args)

    def listed(path: Any = ".") -> list[str]:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return listdir(path)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(os, "listdir", listed)


@pytest.mark.usefixtures("without_proc")
@pytest.mark.parametrize("pool_type", [ThreadPoolExecutor, ThreadPoolExecutorEnhanced])
def test_beside_an_idle_pool_thread(asyncframe: Probe, pool_type: type[ThreadPoolExecutor]) -> None:
    """An idle pool thread does not keep the error away, even on systems without ``/proc``."""
    with pool_type(1) as pool:
        assert pool.submit(int).result() == 0
        with pytest.raises(
            VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time:\n"
        ):
            threading.Event().wait()
    assert asyncframe.clock.monotonic() == 0


@pytest.mark.usefixtures("without_proc")
async def test_beside_an_idle_thread_of_anyio(asyncframe: Probe) -> None:
    """An idle thread of anyio does not keep the error away either."""
    assert await anyio.to_thread.run_sync(int) == 0
    with pytest.raises(
        VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time:\n"
    ):
        await asyncio.Event().wait()
    assert asyncframe.clock.monotonic() == 0


@pytest.fixture(scope="module")
def old_thread() -> Iterator[SimpleQueue[Callable[[], object] | None]]:
    """The queue of a thread from before the test, which runs what is put into it."""
    work = SimpleQueue[Callable[[], object] | None]()

    def serve() -> None:
        while (call := work.get()) is not None:
            call()

    thread = threading.Thread(target=serve)
    thread.start()
    yield work
    work.put(None)
    thread.join()


@pytest.mark.usefixtures("without_proc")
async def test_beside_a_thread_from_before(
    asyncframe: Probe,
    old_thread: SimpleQueue[Callable[[], object] | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread from before keeps the error away while it works for the test, and no longer."""
    loop, sequencer = asyncio.get_running_loop(), asyncframe.clock.sequencer
    told, answer, begun = sequencer.on_stall, SimpleQueue[None](), SimpleQueue[None]()

    def on_stall() -> BaseException | None:
        error = told()
        if error is None:
            answer.put(None)
        return error

    def work() -> None:
        begun.put(None)
        answer.get()
        loop.call_soon_threadsafe(result.set_result, 7)

    # The thread works until it was decided whether this is a deadlock.
    monkeypatch.setattr(sequencer, "on_stall", on_stall)
    result = loop.create_future()
    old_thread.put(work)
    begun.get()
    assert await result == 7

    with pytest.raises(
        VirtualDeadlockError, match=r"^nothing can continue at 0 s of virtual time:\n"
    ):
        await asyncio.Event().wait()


@pytest.mark.parametrize("marker", ["", "@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_a_test_that_fails_with_it(pytester: pytest.Pytester, marker: str) -> None:
    """A test that fails with the error shows its own line, and no client in its timeline."""
    pytester.makepyfile(f"""
        import asyncio
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        {marker}
        async def test_it(asyncframe):
            await asyncio.Event().wait()
    """)
    text = run(pytester)

    assert ">       await asyncio.Event().wait()" in text
    assert "loop    the test fails with VirtualDeadlockError: nothing can continue at 0 s" in text
    assert "its client" not in text


def test_a_loop_that_catches_every_error(pytester: pytest.Pytester) -> None:
    """A loop that catches every error is cancelled when its test ends, as the timeline shows."""
    pytester.makepyfile("""
        import asyncio

        async def test_it(asyncframe):
            while True:
                try:
                    await asyncio.Event().wait()
                except Exception:
                    pass
    """)
    text = run(pytester)

    assert "VirtualDeadlockError: nothing can continue at 0 s of virtual time:" in text
    assert "loop    the test exits with CancelledError" in text


def test_a_fixture_that_fails_with_it(pytester: pytest.Pytester) -> None:
    """A fixture that waits forever shows its own line."""
    pytester.makepyfile("""
        import asyncio
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def ready(asyncframe):
            await asyncio.Event().wait()

        async def test_it(ready):
            pass
    """)
    text = run(pytester, "-o", "asyncio_mode=auto")

    assert re.search(r"^> +await asyncio\.Event\(\)\.wait\(\)$", text, re.MULTILINE)
    assert "VirtualDeadlockError: nothing can continue at 0 s of virtual time:" in text


def run(pytester: pytest.Pytester, *options: str) -> str:
    """Run the tests in the folder; return the output."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    return pytester.runpytest_inprocess(*PLAIN, *options).stdout.str()
