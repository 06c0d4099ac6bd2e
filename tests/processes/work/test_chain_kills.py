"""Processes that are killed while tasks wait for those of others: none is stuck or starts early."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.work.test_requeue_kills import Run

PROGRAM = Path(__file__).parents[1] / "apps" / "chained.py"


async def disturbed(url: str, folder: Path, ways: list[str], *, count: int, seed: int) -> Run:
    """Disturb processes of which two live at a time, and wait until all tasks have ended."""
    run = Run(url, folder / "ledger", count, seed, PROGRAM)
    with contextlib.closing(run):
        run.start()
        for how in ways:
            run.start()
            run.disturb(how)
            run.keep(3)
        assert all(one.done.wait(PATIENCE) for one in run.alive)
        await check(run, url, folder / "ledger")
    return run


async def check(run: Run, url: str, ledger: Path) -> None:
    """See that each has ended by the rule, and began after all that it waited for had ended."""
    async with setup_async_framework(None, store=SQLStore(url)):
        manager = get_task_manager()
        await manager.gather(list(run.accepted), timeout=PATIENCE, return_exceptions=True)
        tasks = {one: await manager.get_task(one) for one in run.accepted}
    first, last = begins_and_ends(ledger)
    for task_id, kind in run.accepted.items():
        task = tasks[task_id]
        assert task is not None
        assert task.status.value == kind, task.explain()
        assert (task_id in first) == (kind != "cancelled")
        for parent in task.after:
            if task_id in first and parent in last:
                assert last[parent] < first[task_id]


def begins_and_ends(ledger: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return where each task has begun first, and where it has ended last."""
    first, last = dict[str, int](), dict[str, int]()
    for number, line in enumerate(ledger.read_text("utf-8").splitlines()):
        word, task_id = line.split()
        if word == "begin":
            first.setdefault(task_id, number)
        else:
            last[task_id] = number
    return first, last


@pytest.mark.extended("processes")
async def test_killed_while_others_wait(sql_url: str, tmp_path: Path) -> None:
    """Whoever dies, tasks that wait run, or are cancelled, and all after what they waited for."""
    run = await disturbed(sql_url, tmp_path, ["kill", "end", "kill"], count=4, seed=1)

    assert len(run.accepted) > 20


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_killed_sixty_times_while_others_wait(sql_url: str, tmp_path: Path) -> None:
    """The same after sixty of them."""
    await disturbed(sql_url, tmp_path, ["kill", "kill", "end"] * 20, count=8, seed=2)
