"""A process that is killed: nothing is reported of its tasks that did not happen."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from framework import TaskInterruptedError, TaskManager, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace
from tests.patience import PATIENCE

PROGRAM = Path(__file__).parents[1] / "apps" / "killed.py"
ROOT = Path(__file__).resolve().parents[3]
QUICK = Pace(beat=0.1)
"""The survivor gives a process up after less than a second, so that a test need not take ten."""


class Process:
    """A process with tasks, which is killed at the end at the latest."""

    def __init__(self, url: str, folder: Path, count: int, *options: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), url, str(folder), str(count), *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> list[str]:
        """Return the words of its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def read_log(self, text: str) -> bool:
        """Read what it logs up to a line with *text*; False if it ends before."""
        assert self._process.stderr is not None
        return any(text in line for line in self._process.stderr)

    def let_run(self, count: int) -> None:
        """Let so many tasks go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n" * count)
        self._process.stdin.flush()

    def suspend(self) -> None:
        """Let it stand still."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as the kernel would for want of memory."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def process(url: str, folder: Path, count: int, *options: str) -> Iterator[Process]:
    """Run a process with tasks."""
    made = Process(url, folder, count, *options)
    try:
        yield made
    finally:
        if made._process.poll() is None:
            made.kill()


def survivor(url: str) -> SQLStore:
    """Return a store that gives others up sooner than in earnest."""
    store = SQLStore(url)
    # The one that is killed beats once a second: seen by this one, it stands still between.
    store._pace = QUICK
    return store


async def ends(manager: TaskManager, ids: list[str]) -> dict[str, str]:
    """Wait for each task's end and return how it ended."""
    for task_id in ids:
        with suppress(TaskInterruptedError):
            assert await manager.get_result(task_id, timeout=PATIENCE) == task_id
    return {task_id: str(manager.get_all_tasks()[task_id]["status"]) for task_id in ids}


def left_in(folder: Path) -> dict[str, str]:
    """Return what each task that ran has left."""
    return {file.name: file.read_text("utf-8") for file in folder.iterdir()}


async def check_after_kill(url: str, folder: Path, ids: list[str]) -> dict[str, str]:
    """See that after a kill every task has the end that it had, and no other; return the ends."""
    async with setup_async_framework(None, store=survivor(url)):
        manager = get_task_manager()
        found = await ends(manager, ids)
    ran = left_in(folder)
    completed = {task_id for task_id, status in found.items() if status == "completed"}
    assert completed <= ran.keys(), "none is COMPLETED that did not finish"
    assert {ran[task_id] for task_id in completed} <= {"ran\n"}
    assert set(ran.values()) <= {"", "ran\n"}, "none ran twice"
    assert set(found.values()) <= {"completed", "interrupted"}
    return found


@pytest.mark.extended("processes")
@pytest.mark.parametrize("running", [0, 3])
async def test_killed_with_tasks(sql_url: str, tmp_path: Path, running: int) -> None:
    """Tasks that wait or run when their process is killed end INTERRUPTED, the finished stay."""
    folder = tmp_path / "ran"
    folder.mkdir()
    with process(sql_url, folder, 8) as killed:
        word, *ids = killed.read()
        assert word == "tasks"
        async with setup_async_framework(None, store=SQLStore(sql_url)):
            manager = get_task_manager()
            assert await manager.get_task(ids[-1]) is not None, "they are written"
            killed.let_run(running)
            for task_id in ids[:running]:
                await manager.get_result(task_id, timeout=PATIENCE)
        killed.kill()
    found = await check_after_kill(sql_url, folder, ids)

    assert sum(status == "completed" for status in found.values()) == running


@pytest.mark.extended("processes")
@pytest.mark.parametrize("turn", range(2))
async def test_killed_at_a_random_moment(sqlite_url: str, tmp_path: Path, turn: int) -> None:
    """Whenever a process is killed, none of its tasks is said to have finished that has not."""
    await kill_at_random(sqlite_url, tmp_path, random.Random(turn))


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("turn", range(50))
async def test_killed_fifty_times(sql_url: str, tmp_path: Path, turn: int) -> None:
    """Every accepted task survives the kill of its process, in each of fifty runs."""
    await kill_at_random(sql_url, tmp_path, random.Random(turn))


async def kill_at_random(url: str, folder: Path, rng: random.Random) -> None:
    """Kill a process that accepts tasks durably while it runs them, after some answers."""
    ran = folder / "ran"
    ran.mkdir()
    accepted: list[str] = []
    stop = rng.randrange(1, 60)
    with process(url, ran, 60, "durable") as killed:
        while len(accepted) < stop:
            word, task_id = killed.read()
            assert word == "accepted"
            accepted.append(task_id)
            if rng.random() < 0.5:
                killed.let_run(1)
        # The kernel may run it for a while longer, or not.
        if rng.random() < 0.5:
            killed.read()
        killed.kill()
    found = await check_after_kill(url, ran, accepted)
    assert found.keys() == set(accepted), "what was acknowledged is there"


@pytest.mark.extended("processes")
async def test_suspended_process_changes_nothing(sql_url: str, tmp_path: Path) -> None:
    """A process that was given up and continues does not bring its tasks back."""
    folder = tmp_path / "ran"
    folder.mkdir()
    with process(sql_url, folder, 4) as suspended:
        _, *ids = suspended.read()
        async with setup_async_framework(None, store=survivor(sql_url)):
            manager = get_task_manager()
            assert await manager.get_task(ids[-1]) is not None
            suspended.suspend()
            for task_id in ids:
                with pytest.raises(
                    TaskInterruptedError,
                    match=r"^task .* was interrupted before ",
                ):
                    await manager.get_result(task_id, timeout=PATIENCE)
            suspended.let_run(4)
            suspended.resume()
            # It has two workers, whose tasks run on; it says so when it finds out.
            assert suspended.read_log("consider it dead")
            assert {str(manager.get_all_tasks()[task_id]["status"]) for task_id in ids} == {
                "interrupted"
            }
