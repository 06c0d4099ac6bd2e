"""What explain() shows: the pending timers, and who waits for them where."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from fastapi import FastAPI

from framework import background_task
from pytest_asyncframe.probe import Probe


def test_explain_pending_timers(asyncframe: Probe) -> None:
    """explain() lists the pending timers, earliest first, and says which are in the background."""
    clock = asyncframe.clock
    clock.call_at(9, print, background=True)
    clock.call_at(3, len)  # type: ignore[arg-type]  # it is only named
    told = clock.explain().splitlines()

    assert told == ["t+3 s len", "t+9 s print, in the background"]
    for timer in clock.sequencer.timers():
        timer.cancel()
    assert clock.explain() == "no pending timers"


@background_task
def ship(event: threading.Event) -> bool:
    """Wait in a thread."""
    return event.wait(50)  # steady: virtual time


@background_task
async def pack() -> None:
    """Wait on a loop."""
    await asyncio.sleep(70)  # noqa: TID251  # what is tested


async def limited() -> None:
    """Wait on a loop with a timeout."""
    async with asyncio.timeout(30):
        await asyncio.Event().wait()


def by_place(told: str) -> list[str]:
    """Return the lines of a text without ids and line numbers."""
    return [re.sub(r"#[0-9a-f]{8}|(?<=\.py:)\d+", "", line) for line in told.splitlines()]


async def test_explain_a_running_loop(asyncframe: Probe) -> None:
    """explain() shows coroutines and threads with their tasks and the lines they are at."""
    ship(threading.Event())
    pack()
    waits = asyncio.create_task(limited(), name="limited")
    loop = asyncio.get_running_loop()
    handle = loop.call_later(99, print)
    await asyncframe.clock.run_for(20)

    assert by_place(asyncframe.clock.explain()) == [
        "t+10 s a limit of limited: at test_explain.py: in limited",
        "t+30 s asyncframe-_0: ship at test_explain.py: in ship",
        "t+50 s asyncframe tests.plugin.turns.test_explain.pack: pack at test_explain.py: in pack",
        "t+79 s print",
    ]
    handle.cancel()
    await asyncframe.settled()
    with pytest.raises(TimeoutError, match=r"^$"):
        await waits


def test_explain_another_loop(asyncframe: Probe) -> None:
    """explain() shows what waits on the loop of an app, called from a sync test."""
    app = FastAPI()

    @app.post("/")
    async def start() -> None:
        pack()
        pack.options(name="second")()
        app.state.handle = asyncio.get_running_loop().call_later(99, print)

    with asyncframe.client(app) as client:
        client.post("/")
        asyncframe.clock.advance(20)
        told = by_place(asyncframe.clock.explain())
        app.state.handle.cancel()
        asyncframe.run_until_idle()

    assert told == [
        "t+50 s asyncframe tests.plugin.turns.test_explain.pack: pack at test_explain.py: in pack",
        "t+50 s asyncframe second: second at test_explain.py: in pack",
        "t+79 s print",
    ]
