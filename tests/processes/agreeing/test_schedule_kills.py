"""Processes that share a schedule and are killed: each due time is run once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

PROGRAM = Path(__file__).parents[1] / "apps" / "scheduled.py"
ROOT = Path(__file__).resolve().parents[3]
EVERY = 0.25


class Processes:
    """Processes with one schedule, and what they have told.

    Args:
        url: The database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        reader, self._writer = os.pipe()
        self._pipe = os.fdopen(reader, encoding="utf-8")
        self._told: list[list[str]] = []
        self.live: list[subprocess.Popen[bytes]] = []

    def start(self, mode: str = "return", left: str = "interrupt") -> subprocess.Popen[bytes]:
        """Start a process."""
        arguments = [self._url, str(self._writer), str(EVERY), mode, left]
        made = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            cwd=ROOT,
            pass_fds=[self._writer],
            stderr=subprocess.DEVNULL,
        )
        self.live.append(made)
        return made

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a process at once."""
        process.kill()
        process.wait()
        self.live.remove(process)

    def told(self, kind: str) -> list[list[str]]:
        """Return the due times, tasks and processes of the lines of one kind."""
        return [line[1:] for line in self._told if line[0] == kind]

    def read_until(self, what: Callable[[], bool]) -> None:
        """Read what the processes tell until something has been told."""
        while not what():
            self._told.append(self._pipe.readline().split())

    def end(self) -> None:
        """End all processes, and read what they have told before."""
        for process in list(self.live):
            self.kill(process)
        os.close(self._writer)
        self._told += [line.split() for line in self._pipe]

    def close(self) -> None:
        """End what still runs after a failure."""
        for process in list(self.live):
            self.kill(process)
        self._pipe.close()


@contextmanager
def processes(url: str) -> Iterator[Processes]:
    """Run processes, which are ended at the end."""
    made = Processes(url)
    try:
        yield made
    finally:
        made.close()


async def check(made: Processes, url: str) -> Counter[str]:
    """See that each due time was claimed once, and run once at most; return how the tasks ended."""
    claims, runs = made.told("claimed"), made.told("ran")
    assert max(Counter(due for due, _, _ in claims).values()) == 1
    assert max(Counter(task_id for _, task_id, _ in runs).values()) == 1
    owners = {task_id: pid for _, task_id, pid in claims}
    assert {(task_id, pid) for _, task_id, pid in runs} <= set(owners.items())
    async with setup_async_framework(None, store=SQLStore(url)):
        manager = get_task_manager()
        ended = {one["task_id"]: str(one["status"]) for one in manager.get_all_tasks().values()}
    # Also those of processes that were killed right after their claim.
    assert owners.keys() <= ended.keys()
    return Counter(ended.values())


@pytest.mark.extended("processes")
async def test_killed_in_a_run(sqlite_url: str) -> None:
    """While a killed process is not missed yet, its run is live; then others run what is due."""
    url = sqlite_url
    with processes(url) as made:
        hanging = made.start("hang")
        made.read_until(lambda: bool(made.told("ran")))
        for _ in range(2):
            made.start()
        made.read_until(
            lambda: len({pid for _, _, pid in made.told("busy")} - {str(hanging.pid)}) > 0
        )
        made.kill(hanging)
        made.read_until(lambda: len(made.told("claimed")) > 4)
        made.end()
        ended = await check(made, url)
    assert ended["interrupted"] >= 1
    assert ended["completed"] >= 2


@pytest.mark.extended("processes")
async def test_a_run_that_is_requeued(sqlite_url: str) -> None:
    """A run that may be repeated is run again by another process, under the same id."""
    with processes(sqlite_url) as made:
        hanging = made.start("hang", "requeue")
        made.read_until(lambda: bool(made.told("ran")))
        ((_, task_id, _),) = made.told("ran")
        other = made.start("return", "requeue")
        made.read_until(lambda: any(pid == str(other.pid) for _, _, pid in made.told("busy")))
        made.kill(hanging)
        made.read_until(lambda: len(made.told("ran")) > 2)
        made.end()
    ran = [(task, pid) for _, task, pid in made.told("ran")]
    assert ran[1] == (task_id, str(other.pid))
    assert len({task for task, _ in ran[1:]}) == len(ran) - 1


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_killed_again_and_again(sql_url: str) -> None:
    """Of four processes one is killed and another one started, twenty times, at any moment."""
    drawn, url = random.Random(1), sql_url
    with processes(url) as made:
        for _ in range(4):
            made.start()
        for _ in range(20):
            count = len(made.told("claimed"))
            made.read_until(lambda: len(made.told("claimed")) > count + 2)  # noqa: B023  # at once
            made.kill(drawn.choice(made.live))
            made.start()
        made.end()
        ended = await check(made, url)
    assert ended["completed"] >= 40
