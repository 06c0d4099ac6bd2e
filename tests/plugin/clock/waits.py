"""Waits on the virtual clock, and work that takes real time."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

asleep = asyncio.sleep  # noqa: TID251  # on virtual time, which is what is tested here

SEES_THREADS = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="what a thread does is seen in /proc only"
)
"""For a test of threads that compute, or wait for something real."""

HAS_SIGNALS = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1"), reason="Windows has no such signals"
)
"""For a test in which a signal comes."""


def sleep(seconds: float) -> None:
    """Sleep with the patched function."""
    time.sleep(seconds)  # noqa: TID251  # as above


def compute(seconds: float = 0.03) -> float:
    """Compute for *seconds* of the thread's own processor time."""
    until = time.thread_time() + seconds  # steady: others take none of it
    while time.thread_time() < until:  # steady: as above
        pass
    return seconds
