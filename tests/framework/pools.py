"""What tests of a pool share: its clock, a call that is stuck, counters, another process."""

from __future__ import annotations

import subprocess
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Future

from framework import ThreadPoolExecutorEnhanced
from pytest_asyncframe.clock import VirtualClock
from tests.children import python
from tests.patience import PATIENCE

STATS_KEYS = {
    "max_workers", "threads", "busy", "idle", "queued", "abandoned", "submitted", "completed",
    "failed", "cancelled", "timed_out", "rejected", "degraded", "wait_time", "run_time",
}  # fmt: skip
SUMMARY_KEYS = {"count", "mean", "min", "max", "p50", "p95", "p99"}


def clock_apart() -> VirtualClock:
    """Return a clock that stands at second 0 until it is advanced."""
    # For pools with threads of their own, of which `task_clock` would know nothing: it would
    # take a test that waits for one of them to be stuck.
    return VirtualClock()


class Stuck:
    """A call that runs until it is let go; knows its thread."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        """Say that it runs, and wait."""
        self.thread = threading.current_thread()
        self.started.set()
        assert self.gate.wait(PATIENCE)
        return "late"

    def let_go_and_join(self) -> None:
        """End the call, and wait for its thread to end, which it must."""
        self.gate.set()
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def start_stuck(pool: ThreadPoolExecutorEnhanced) -> tuple[Stuck, Future[str]]:
    """Submit a stuck call and wait until it runs."""
    stuck = Stuck()
    future = pool.submit(stuck)
    assert stuck.started.wait(PATIENCE)
    return stuck, future


def settle(pool: ThreadPoolExecutorEnhanced) -> None:
    """Have every call of the pool tallied: its threads end only after that."""
    pool.shutdown()


def counters(pool: ThreadPoolExecutorEnhanced) -> dict[str, int]:
    """Return the counters that add up to what was submitted."""
    stats = pool.get_stats()
    return {
        name: stats[name] for name in ("submitted", "completed", "failed", "cancelled", "timed_out")
    }


def raises(error: BaseException) -> Callable[[], None]:
    """Return a function that raises *error*."""

    def call() -> None:
        raise error

    return call


def run_script(body: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which must end by itself."""
    return python(*options, "-c", textwrap.dedent(body), status=None)
