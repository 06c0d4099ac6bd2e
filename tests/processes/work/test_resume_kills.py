"""Processes that are killed or ended while their tasks are amid steps: recorded steps stay done."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from framework import TaskManager, TaskStatus, get_task_manager, setup_async_framework
from framework._records.ids import following
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._reading.observer import Observer
from framework.stores.sql._tables.schema import STEPS_OF_TASKS, TASKS
from tests.patience import PATIENCE
from tests.processes.work.test_requeue_kills import Run

PROGRAM = Path(__file__).parents[1] / "apps" / "resumed.py"
PARTS = {
    "fanned": ["first", "a", "b", "c", "last"],
    "chained": ["one", "two", "three"],
}
BROKEN = ["first", "second", "third", "last"]


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


def bodies_in(ledger: Path) -> dict[tuple[str, str], list[str]]:
    """Return what the bodies of each part have left, by task and part."""
    bodies = defaultdict[tuple[str, str], list[str]](list)
    for line in ledger.read_text("utf-8").splitlines():
        task_id, part, token = line.split()
        bodies[task_id, part].append(token)
    return bodies


def ids_of(url: str, name: str) -> list[str]:
    """Return the ids of all stored tasks of a function."""
    engine = sa.create_engine(checked_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        asked = sa.select(TASKS.c.task_id).where(TASKS.c.name == name)
        return list(connection.scalars(asked))


async def gone_on(url: str, manager: TaskManager) -> dict[str, list[str]]:
    """Let all go on that have broken, and wait for them; return the ids of each by the last one."""
    engine = sa.create_engine(checked_url(url), poolclass=sa.NullPool)
    asked = sa.select(TASKS.c.task_id).where(
        TASKS.c.name == "resumed.broken", TASKS.c.run_again_of.is_(None)
    )
    with engine.connect() as connection:
        firsts = list(connection.scalars(asked))
    lines = {}
    for first in firsts:
        ids, status = [first], (await manager.wait(first, timeout=PATIENCE)).status
        while status is not TaskStatus.COMPLETED:
            following_id = following(ids[-1], goes_on=len(ids) > 1)
            if await manager.get_task(following_id) is None:
                with contextlib.closing(Observer(url)) as observer:
                    assert (
                        observer.run_again(ids[-1], datetime.now(UTC).timestamp()) == following_id
                    )
            ids.append(following_id)
            status = (await manager.wait(following_id, timeout=PATIENCE)).status
        lines[ids[-1]] = ids
    return lines


async def check(run: Run, url: str, ledger: Path) -> None:
    """See that each step has one record, and that it is what its body has done last."""
    results: dict[str, Any] = {}
    async with setup_async_framework(None, store=SQLStore(url)):
        manager = get_task_manager()
        for task_id in run.accepted:
            results[task_id] = await manager.get_result(task_id, timeout=PATIENCE)
        # Not only those of which a process could tell before it was killed.
        parents = ids_of(url, "resumed.parent") + ids_of(url, "resumed.parent_on_a_thread")
        submitted = [await manager.get_result(one, timeout=PATIENCE) for one in parents]
        children = [one for ids in submitted for one in ids]
        lines = await gone_on(url, manager)
        gone = {last: await manager.get_result(last, timeout=PATIENCE) for last in lines}
        for task_id in children:
            # A process that stops in order cancels those that run.
            await manager.wait(task_id, timeout=PATIENCE)
    bodies = bodies_in(ledger)
    for last, ids in lines.items():
        found = {part: [one for task in ids for one in bodies[task, part]] for part in BROKEN}
        assert gone[last] == {part: found[part][-1] for part in BROKEN}
        # What was recorded before the first one broke.
        assert not any(bodies[task, part] for task in ids[1:] for part in BROKEN[:2])
    # Each submission has one child, and there are no others.
    assert len(set(children)) == len(children) > 100
    made = ids_of(url, "resumed.child") + ids_of(url, "resumed.child_that_ends_with_its_process")
    assert len(made) == len(children) + 2 * len(lines)
    assert set(made).issuperset(children)
    engine = sa.create_engine(checked_url(url), poolclass=sa.NullPool)
    records = defaultdict[str, list[str]](list)
    with engine.connect() as connection:
        for row in connection.execute(sa.select(STEPS_OF_TASKS)):
            if row.state == "completed" and not row.function.startswith("framework.steps."):
                records[row.task_id].append(json.loads(row.answer))
    for task_id, kind in run.accepted.items():
        if kind not in PARTS:
            continue
        found = results[task_id]
        assert list(found) == PARTS[kind]
        # Whoever ran a recorded step again would have left a later line, or a second record.
        assert found == {part: bodies[task_id, part][-1] for part in PARTS[kind]}
        assert sorted(records[task_id]) == sorted(found.values())
        assert all(len(bodies[task_id, part]) <= 1 + run.ended for part in PARTS[kind])


@pytest.mark.extended("processes")
async def test_killed_amid_steps(sql_url: str, tmp_path: Path) -> None:
    """Tasks whose processes are killed or end go on elsewhere after their last recorded steps."""
    run = await disturbed(sql_url, tmp_path, ["kill", "end", "kill"], count=8, seed=1)

    assert len(run.accepted) > 30


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_killed_sixty_times_amid_steps(sql_url: str, tmp_path: Path) -> None:
    """The same after sixty of them."""
    await disturbed(sql_url, tmp_path, ["kill", "kill", "end"] * 20, count=25, seed=2)
