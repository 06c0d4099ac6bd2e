"""Steps on threads: those of a sync task are its own, those of a second loop are refused."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from framework import background_task, retry_task
from framework.steps import step
from framework.steps._matching import Matching
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE

RUNS: list[str] = []
LATE = threading.Event()


@step
def stamp(number: int) -> int:
    """Note that it runs."""
    RUNS.append(f"stamp {number}")
    return number


@step
async def weigh(number: int) -> int:
    """Return the number."""
    return number


@background_task(on_restart="resume", name="tests.stamps")
@retry_task(max_retries=1, retry_delay=1)
def stamps() -> list[int]:
    """Stamp on two threads; the second attempt begins with what is not recorded."""
    is_first = not RUNS

    def recorded() -> list[int]:
        if not is_first:
            LATE.wait(PATIENCE)
        return [stamp(number) for number in range(3)]

    with ThreadPoolExecutor(2) as pool:
        others = pool.submit(contextvars.copy_context().run, recorded)
        new = [] if is_first else [pool.submit(contextvars.copy_context().run, stamp, 9)]
        numbers = [*others.result(), *(one.result() for one in new)]
    if is_first:
        raise ConnectionError
    return numbers


@pytest.mark.asyncframe(replay_steps="off")
async def test_another_thread_may_ask(asyncframe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is refused as one with new arguments only if no other thread asks for the records."""
    ask = Matching.ask

    def spied(matching: Matching, branch: Any, call: Any) -> Any:
        found = ask(matching, branch, call)
        if found.what == "hold":
            LATE.set()
        return found

    monkeypatch.setattr(Matching, "ask", spied)
    numbers = await asyncframe.manager.get_result(stamps())

    assert numbers == [0, 1, 2, 9]
    assert RUNS == ["stamp 0", "stamp 1", "stamp 2", "stamp 9"]


@background_task(on_restart="resume", name="tests.weighs_elsewhere")
async def weighs_elsewhere() -> int:
    """Call a step on a loop of its own."""
    return await asyncio.to_thread(lambda: asyncio.run(weigh(1)))


async def test_a_second_loop_is_refused(asyncframe: Probe) -> None:
    """A step on another loop than the task's is refused, since its result might never come."""
    asyncframe.expect_failure(weighs_elsewhere, RuntimeError)
    with pytest.raises(RuntimeError, match=r"^step .*weigh was called on another event loop .*: "):
        await asyncframe.manager.get_result(weighs_elsewhere())
