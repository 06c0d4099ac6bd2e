"""Benchmarks of an app's tasks; without --benchmark-only they run once, as tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from framework import async_task, background_task
from pytest_asyncframe.benchmark import TaskBenchmark

pytestmark = pytest.mark.benchmark(group="invoices")


@background_task
def sign(invoice: bytes) -> str:
    """Compute, on a thread of the pool."""
    return hashlib.sha256(invoice).hexdigest()


@background_task
def archive(invoice: bytes, folder: Path) -> int:
    """Write a file, on a thread of the pool."""
    return (folder / "invoice.txt").write_bytes(invoice)


@async_task
async def total(*amounts: int) -> int:
    """Add numbers, inside the awaiting coroutine."""
    return sum(amounts)


@pytest.fixture(autouse=True)
def once_unless_asked(benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Measure only if the command line asks for it."""
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True


def test_sign(task_benchmark: TaskBenchmark) -> None:
    """Everything about a task that computes."""
    assert len(task_benchmark(sign, b"3 books" * 1_000)) == 64


def test_total(task_benchmark: TaskBenchmark) -> None:
    """Everything about an awaited coroutine."""
    assert task_benchmark(total, 3, 4) == 7


def test_submit(task_benchmark: TaskBenchmark) -> None:
    """How long a route waits for the id."""
    assert task_benchmark.submit(sign, b"3 books")


def test_round_trip(task_benchmark: TaskBenchmark, tmp_path: Path) -> None:
    """How long a caller waits for the result."""
    assert task_benchmark.round_trip(archive, b"3 books", folder=tmp_path) == 7


@pytest.mark.parametrize("threads", [1, 4])
def test_throughput(task_benchmark: TaskBenchmark, tmp_path: Path, threads: int) -> None:
    """The time per task when many are waiting, for two pool sizes."""
    task_benchmark.max_workers = threads
    assert task_benchmark.throughput(archive, b"3 books", tmp_path, tasks=200) == 7
