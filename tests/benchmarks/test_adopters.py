"""The measurement of what adopters ask, made small, and what it does when something is missing."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from benchmarks import adopters
from benchmarks._measure import OURS
from benchmarks.adopters_app import configured, listening
from benchmarks.adopters_load import CONNECTIONS, Running, Sizes, figures
from benchmarks.ways import _task

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the CPU time of other processes is read as Linux tells it"
)

TINY = Sizes(one_by_one=2, at_once=CONNECTIONS, results=2, burst=20)
REQUESTS = {"request", "request_cpu", "request_p50", "request_p99"}
TASKS = {"task", "task_cpu", "broker_cpu"}


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mmap.mmap]:
    """Return marks of tasks for this process."""
    path = tmp_path / "marks"
    path.write_bytes(bytes(_task.TASKS))
    monkeypatch.setenv(_task.MARKS, str(path))
    monkeypatch.setenv(_task.URL, f"sqlite:///{tmp_path / 'tasks.db'}")
    with _task.marks(str(path)) as opened:
        monkeypatch.setattr(_task.Ran, "marks", opened)
        yield opened


class Served:
    """An app on a thread, where the benchmark has a process."""

    def __init__(self, way: str) -> None:
        self._listener = listening()
        self.port: int = self._listener.getsockname()[1]
        self._server = uvicorn.Server(configured(way))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        asyncio.run(self._server.serve([self._listener]))

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@asynccontextmanager
async def fake_workers(_: Any) -> AsyncIterator[_task.Way]:
    """Run tasks on threads that stand for worker processes."""

    async def start(number: int) -> asyncio.Future[int]:
        return asyncio.get_running_loop().run_in_executor(None, _task.note, number)

    async def result(handle: asyncio.Future[int]) -> int:
        return await handle

    yield _task.of_calls(start, lambda _: "id", result)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the way ``fake:workers`` known."""
    module = SimpleNamespace(workers=fake_workers)
    monkeypatch.setitem(sys.modules, "benchmarks.ways.fake", module)


def test_small(marks: mmap.mmap) -> None:
    """An app that is measured gives every figure of its kind, and has run each task once."""
    ways = {
        "nothing": (0, REQUESTS),
        "background:sync": (0, REQUESTS | TASKS),
        "in_process:create_task": (2, REQUESTS | TASKS | {"result"}),
        "fake:workers": (2, REQUESTS | TASKS | {"result"}),
        "ours:memory_sync": (2, REQUESTS | TASKS | {"result"}),
        "ours:stored": (2, REQUESTS | TASKS | {"result"}),
    }
    for way, (results, expected) in ways.items():
        marks[:] = bytes(len(marks))
        sizes = Sizes(TINY.one_by_one, TINY.at_once, results, TINY.burst)
        with Served(way) as served:
            running = Running(served.port, marks, os.getpid(), starts_tasks=way != "nothing")
            found = figures(running, sizes)

        assert found.keys() == expected | {"memory", "worker_memory"}, way
        assert all(found[name] > 0 for name in expected - {"broker_cpu"}), way


def test_wrong_work(marks: mmap.mmap) -> None:
    """Tasks that were lost, ran twice, or that nobody started are an error."""
    for ran, message in (
        ([1, 2, 0], "1 tasks ran more than once, 1 never"),
        ([1, 1, 1, 1], "more tasks ran than were started"),
    ):
        marks[: len(ran)] = bytes(ran)
        with pytest.raises(RuntimeError, match=f"^{message}$"):
            Running(0, marks, os.getpid(), used=3).check()


# -- rows

FOUND = dict.fromkeys(adopters.FIGURES, 10.0)


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> dict[str, adopters.Case]:
    """Put a few cases in the place of all, of which one is not installed and one fails."""
    made = {
        adopters.NO_TASK: adopters.Case("nothing", peer=False),
        adopters.CREATE_TASK: adopters.Case("in_process:create_task", peer=False),
        OURS: adopters.Case("ours:memory", peer=False),
        adopters.CELERY: adopters.Case("celery_alone:way"),
        "absent": adopters.Case("absent:way", needs=["absent_module"]),
        "broken": adopters.Case("broken:way"),
    }

    def measured(case: adopters.Case) -> dict[str, float]:
        if case.way == "broken:way":
            raise RuntimeError("3 tasks ran more than once\nand a log")
        return FOUND

    monkeypatch.setattr(adopters, "CASES", made)
    monkeypatch.setattr(adopters, "measured", measured)
    return made


def test_rows(cases: dict[str, adopters.Case]) -> None:
    """Each figure has a row, which says why cases are not in it."""
    rows = list(adopters.rows(9, peers=True))

    assert [row.key for row in rows] == [f"adopters_{name}" for name in adopters.FIGURES]
    assert rows[0].samples.keys() == cases.keys() - {"absent", "broken"}
    assert rows[0].missing == {
        "absent": "absent_module is not installed",
        "broken": "3 tasks ran more than once",
    }
    assert {len(one.values) for row in rows for one in row.samples.values()} == {adopters.ROUNDS}


def test_rows_without_peers(cases: dict[str, adopters.Case]) -> None:
    """Without peers, rows that are compared with one are left out."""
    rows = list(adopters.rows(1, peers=False))

    assert {row.floor for row in rows} == {adopters.NO_TASK, adopters.CREATE_TASK}
    assert rows[0].missing == {}


def test_ours_must_not_fail(
    cases: dict[str, adopters.Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not a peer fails the section."""
    monkeypatch.setitem(cases, OURS, adopters.Case("broken:way", peer=False))

    with pytest.raises(RuntimeError, match=r"^3 tasks ran more than once\nand a log$"):
        list(adopters.rows(1, peers=True))
