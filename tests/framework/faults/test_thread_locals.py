"""What tasks leave in `threading.local`: row C16 of the project's fault table."""

from __future__ import annotations

import threading

import pytest

from framework import TaskTimeoutError, ThreadPoolExecutorEnhanced
from framework.testing import override_framework
from tests.framework.running.messages import TIMED_OUT


async def test_c16_thread_locals_stay_on_their_thread() -> None:
    """The next task on a thread sees what the last one left in `threading.local`."""
    kept = threading.local()

    def leave() -> None:
        kept.connection = "open"

    def find() -> object:
        return getattr(kept, "connection", None)

    with override_framework(pool=ThreadPoolExecutorEnhanced(1)) as manager, manager.pool:
        await manager.submit(leave, wait=True)
        assert await manager.submit(find, wait=True) == "open"
    assert find() is None


async def test_c16_what_an_abandoned_thread_keeps_goes_with_it() -> None:
    """A task after one over its limit runs on a thread that knows nothing of the other's."""
    kept, gate = threading.local(), threading.Event()

    def leave() -> None:
        kept.connection = "open"
        gate.wait()

    def find() -> object:
        return getattr(kept, "connection", None)

    with override_framework(pool=ThreadPoolExecutorEnhanced(1)) as manager, manager.pool:
        with pytest.raises(TaskTimeoutError, match=TIMED_OUT):
            await manager.submit(leave, timeout=0.01, wait=True)
        assert await manager.submit(find, wait=True) is None
        gate.set()


async def test_c16_an_initializer_prepares_every_thread() -> None:
    """Every task sees what the initializer put into `threading.local`."""
    kept = threading.local()

    def prepare() -> None:
        kept.connection = "made"

    with (
        override_framework(pool=ThreadPoolExecutorEnhanced(2, initializer=prepare)) as manager,
        manager.pool,
    ):
        found = [await manager.submit(lambda: kept.connection, wait=True) for _ in range(4)]
    assert found == ["made"] * 4
