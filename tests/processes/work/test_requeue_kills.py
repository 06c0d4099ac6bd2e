"""Processes that are killed, suspended or ended: no task is lost, and none starts twice."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework import (
    TaskCancelledError,
    TaskInterruptedError,
    get_task_manager,
    setup_async_framework,
)
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE

PROGRAM = Path(__file__).parents[1] / "apps" / "requeued.py"
ROOT = Path(__file__).resolve().parents[3]
WORKERS = 2
"""Threads of a process, so how many tasks of a thread a kill can cut off."""

CUT_OFF = (TaskInterruptedError, TaskCancelledError)
"""How a task ends that had started; a coroutine is cancelled if its process ends in order."""

GIVEN_UP = 1.5
"""Seconds after which the others have given up a process that stands still."""


class Process:
    """A process that submits tasks, and a thread that reads what it says.

    Attributes:
        accepted: The kind of each task whose record is safe, by id.
        some: Set when a few tasks are accepted.
        done: Set when all are.
    """

    def __init__(self, url: str, ledger: Path, count: int, program: Path = PROGRAM) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(program), url, str(ledger), str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.accepted: dict[str, str] = {}
        self.some = threading.Event()
        self.done = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *rest = line.split()
            if word == "done":
                self.done.set()
            elif len(rest) == 2 and line.endswith("\n"):
                self.accepted[rest[0]] = rest[1]
                self.some.set()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as the kernel would for want of memory."""
        self._process.kill()
        self._close()

    def end(self) -> None:
        """End it in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._close()

    def _close(self) -> None:
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Run:
    """Some processes one after the other, and what they have accepted.

    Args:
        url: Their database.
        ledger: Where each function that starts appends its task's id.
        count: How many tasks of each kind each process submits.
        seed: Of the moments.
        program: What they run.
    """

    def __init__(
        self, url: str, ledger: Path, count: int, seed: int, program: Path = PROGRAM
    ) -> None:
        self._url = url
        self._program = program
        self._ledger = ledger
        self._count = count
        self._rng = random.Random(seed)
        self._never = threading.Event()
        self._processes: list[Process] = []
        self.alive: list[Process] = []
        self.suspended = 0

    def start(self) -> Process:
        """Start one more process."""
        made = Process(self._url, self._ledger, self._count, self._program)
        self._processes.append(made)
        self.alive.append(made)
        return made

    def disturb(self, how: str) -> None:
        """Kill, end or suspend one of the processes at a random moment."""
        one = self.alive.pop(0)
        assert one.some.wait(PATIENCE)
        self._never.wait(self._rng.uniform(0.0, 0.3))
        if how == "suspend":
            one.send(signal.SIGSTOP)
            self._never.wait(GIVEN_UP)
            one.send(signal.SIGCONT)
            self.alive.append(one)
            self.suspended += 1
        elif how == "end":
            one.end()
        else:
            one.kill()

    def keep(self, most: int) -> None:
        """Kill the oldest of those that live, if there are too many."""
        while len(self.alive) > most:
            self.alive.pop(0).kill()

    @property
    def ended(self) -> int:
        """How many processes have ended or stood still."""
        return len(self._processes) - len(self.alive) + self.suspended

    def close(self) -> None:
        """Kill those that live."""
        for one in self.alive:
            one.kill()

    @property
    def accepted(self) -> dict[str, str]:
        """The kind of each accepted task, by id."""
        return {task_id: kind for one in self._processes for task_id, kind in one.accepted.items()}

    async def check(self, cut_off: int) -> None:
        """See that every accepted task has ended, and which of them have started how often."""
        store = SQLStore(self._url)
        store._pace = store._pace.__class__(beat=0.1)
        statuses: dict[str, str] = {}
        async with setup_async_framework(None, store=store):
            manager = get_task_manager()
            for task_id in self.accepted:
                with contextlib.suppress(*CUT_OFF):
                    assert await manager.get_result(task_id, timeout=PATIENCE) == task_id
                task = await manager.get_task(task_id)
                assert task is not None
                statuses[task_id] = task.status.value
        starts = Counter(self._ledger.read_text("utf-8").split())
        for task_id, kind in self.accepted.items():
            status, often = statuses[task_id], starts[task_id]
            most = 3 if kind == "retried" else 1
            if kind == "again":
                assert (status, often >= 1) == ("completed", True), (task_id, status, often)
            elif status == "completed":
                assert often == most, (task_id, kind, often)
            else:
                assert status in ("interrupted", "cancelled"), (task_id, status)
                assert often <= most, (task_id, often)
        found = Counter(statuses.values())
        assert found["interrupted"] + found["cancelled"] <= cut_off, "only what had started"


@contextlib.contextmanager
def running(url: str, folder: Path, count: int, seed: int) -> Iterator[Run]:
    """Run processes, and kill those that are left."""
    made = Run(url, folder / "ledger", count, seed)
    try:
        yield made
    finally:
        made.close()


async def disturbed(url: str, folder: Path, how: list[str], *, count: int, seed: int) -> Run:
    """Disturb processes of which two live at a time, and check what became of their tasks."""
    with running(url, folder, count, seed) as run:
        run.start()
        for one in how:
            run.start()
            run.disturb(one)
            run.keep(3)
        assert all(one.done.wait(PATIENCE) for one in run.alive)
        # Of each process at most: what its threads ran, what its loop had started, and what had
        # failed a moment ago and was not written yet.
        await run.check(run.ended * (WORKERS + 2 * count))
        return run


@pytest.mark.extended("processes")
async def test_killed_under_load(sqlite_url: str, tmp_path: Path) -> None:
    """What processes accepted before they were killed runs in others, and only once."""
    run = await disturbed(sqlite_url, tmp_path, ["kill"], count=12, seed=1)

    assert len(run.accepted) > 72


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["kill", "suspend", "end", "all"])
async def test_disturbed_fifty_times(sql_url: str, tmp_path: Path, how: str) -> None:
    """No accepted task is lost and none starts twice, whatever happens to its process."""
    ways = ["kill", "suspend", "end"] if how == "all" else [how]
    chosen = random.Random(how).choices(ways, k=50)
    await disturbed(sql_url, tmp_path, chosen, count=15, seed=2)
