"""What the tracer of journeys counts."""

from __future__ import annotations

import asyncio
import threading

from framework import get_task_manager, setup_async_framework
from tests.docs.tracing import Journey, Tracer, room_of


def test_rooms() -> None:
    """A folder of a package is a room, and so is a module beside the folders."""
    assert room_of("framework/engines/celery/_engine.py") == "framework/engines"
    assert room_of("framework/doctor.py") == "framework/doctor.py"


def test_crossings_and_returns() -> None:
    """A call inside a room is no crossing; one into a room entered before is a return."""
    above, middle, below, beside = "p/a/one.py", "p/b/two.py", "p/c/three.py", "p/c/four.py"
    journey = Journey(
        [
            (None, above),
            (above, middle),
            (middle, below),
            (below, beside),
            (below, above),
            (above, middle),
            (None, below),
        ]
    )
    assert journey.files == [above, middle, below, beside]
    assert journey.rooms == ["p/a", "p/b", "p/c"]
    assert len(journey.crossings) == 4
    assert journey.returns == 2


async def test_a_coroutine_that_goes_on_is_not_called_again() -> None:
    """A coroutine that waits inside is called once, by the traced code, and no more."""
    released = threading.Event()
    async with setup_async_framework():
        manager = get_task_manager()
        task_id = manager.submit_nowait(released.wait)
        with Tracer() as tracer, tracer.journey() as journey:
            waiting = asyncio.create_task(manager.get_result(task_id))
            asyncio.get_running_loop().call_soon(released.set)
            assert await waiting
    into = [
        caller for caller, called in journey.calls if called.endswith("_manager/face/waiting.py")
    ]
    assert into.count(None) == 1
    assert set(into) == {None, "framework/_manager/face/waiting.py"}
