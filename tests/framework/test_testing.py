"""What `framework.testing` says about threads and running tasks."""

from __future__ import annotations

import threading

from framework import ThreadPoolExecutorEnhanced, background_task
from framework.testing import is_pool_thread, time_limits
from pytest_asyncframe.probe import Probe


def test_which_threads_are_of_a_pool() -> None:
    """`is_pool_thread` is true of a pool's threads and of no others."""
    with ThreadPoolExecutorEnhanced(1) as pool:
        assert is_pool_thread(pool.submit(threading.current_thread).result())

    assert not is_pool_thread(threading.current_thread())


def test_time_limits_are_those_of_running_tasks(asyncframe: Probe) -> None:
    """`time_limits` has a task and when it is over, as long as the task runs."""
    seen = list[dict[str, float]]()

    def look() -> None:
        limits = time_limits(asyncframe.manager)
        seen.append({task.name.rpartition(".")[2]: seconds for task, seconds in limits})

    @background_task(timeout=30)
    def limited() -> None:
        asyncframe.clock.sleep(1)
        look()

    @background_task
    def unlimited() -> None:
        look()

    asyncframe.run_until_complete(unlimited())
    asyncframe.run_until_complete(limited())
    look()
    assert seen == [{}, {"limited": 30.0}, {}]
