"""Tests that ask an app again and again without a sleep, as many do with a real clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi import FastAPI

from framework import background_task, setup_async_framework
from framework.http import Accepted, task_router
from pytest_asyncframe._toolkit.polling import FREE
from pytest_asyncframe.probe import Probe
from tests.plugin.clock.waits import asleep, sleep

in_modes = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode))
        for mode in ("auto", "virtual", "seeded")
    ],
)


@background_task
def on_a_thread(seconds: float) -> str:
    """Take some seconds on a thread."""
    sleep(seconds)
    return "done"


@background_task
async def on_the_loop(seconds: float) -> str:
    """Take some seconds on the loop."""
    await asleep(seconds)
    return "done"


FUNCTIONS = {"thread": on_a_thread, "loop": on_the_loop}


def shop() -> FastAPI:
    """Return an app that accepts tasks of both kinds."""
    app = FastAPI(lifespan=setup_async_framework)
    app.include_router(task_router())

    @app.post("/{kind}/{seconds}")
    async def begin(kind: str, seconds: float) -> Accepted[str]:
        return FUNCTIONS[kind](seconds)

    return app


@pytest.mark.extended("time")
@in_modes
def test_a_loop_without_a_sleep(asyncframe: Probe, mode: str) -> None:
    """A test that asks until its tasks have ended ends, soon after they have."""
    took = {}
    with asyncframe.client(shop()) as client:
        for kind, seconds in itertools.product(FUNCTIONS, (0.0, 5.0, 3_600.0)):
            begun = asyncframe.clock.monotonic()
            urls = [client.post(f"/{kind}/{seconds}").headers["location"] for _ in range(2)]
            while [client.get(url).json()["status"] for url in urls] != ["completed"] * 2:
                pass
            took[kind, seconds] = asyncframe.clock.monotonic() - begun
    late = {
        case: one for case, one in took.items() if not 0 <= one - case[1] <= 0.3 * case[1] + 0.2
    }
    assert not late, mode


@in_modes
async def test_a_loop_in_a_coroutine(asyncframe: Probe, mode: str) -> None:
    """The same in a coroutine, with a user's hook, which is called as well."""
    seen: list[Any] = []

    async def hook(response: Any) -> None:
        seen.append(response)

    async with asyncframe.client(shop(), event_hooks={"response": [hook]}) as client:
        for kind in FUNCTIONS:
            took = asyncframe.clock.monotonic()
            url = (await client.post(f"/{kind}/5")).headers["location"]
            while (await client.get(url)).json()["status"] != "completed":
                pass
    assert len(seen) > 2 * FREE, mode
    noted = [(one.at, one.what) for one in asyncframe._recorder.moments]
    assert noted.count((took, f"asks again and again for {url}: time moves on after each answer"))


def test_some_questions_are_free(asyncframe: Probe) -> None:
    """A test that asks a few times, or while nothing is to come, sees the same moment."""
    with asyncframe.client(shop()) as client:
        url = client.post("/thread/5").headers["location"]
        for _ in range(3):
            for _ in range(FREE - 1):
                assert client.get(url).json()["status"] == "pending"
            client.post("/thread/5")
        asyncframe.run_until_idle()
        ended = asyncframe.clock.monotonic()
        for _ in range(5 * FREE):
            assert client.get(url).json()["status"] == "completed"
    assert asyncframe.clock.monotonic() == ended
