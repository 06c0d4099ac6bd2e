"""Processes that are killed or ended while their tasks sleep, receive and await their children."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from framework import get_task_manager, setup_async_framework
from framework.steps import Message
from framework.stores.sql import SQLStore
from framework.stores.sql._dialects.chosen import checked_url
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.schema import MESSAGES, STEPS_OF_TASKS, TASKS
from tests.patience import PATIENCE
from tests.processes.work.test_requeue_kills import Run
from tests.processes.work.test_resume_kills import bodies_in

PROGRAM = Path(__file__).parents[1] / "apps" / "waited.py"
APPROVAL = Message("approval", str)
KEYS = ["sent-0", "sent-1", "sent-2"]
PARTS = {
    "waited.sleeps": ["first", "last", "second", "third"],
    "waited.sleeps_on_a_thread": ["first", "last"],
    "waited.receives": ["first", *KEYS],
    "waited.receives_on_a_thread": ["first", *KEYS],
    "waited.awaits": ["last"],
    "waited.awaits_on_a_thread": ["last"],
    "waited.child": ["begins", "ends"],
    "waited.failing_child": ["fails"],
}
"""The parts of each function, in the order of their names."""

LONG_PATIENCE = 5 * PATIENCE
"""Seconds within which those that are left have done what some hundred tasks had to do."""

REFUSED = "its submission was cancelled"
"""Why a child ends whose parent leaves while it submits it."""


class Kept(NamedTuple):
    """What the database has.

    Attributes:
        names: Of each task the function, by its id.
        statuses: How it ended.
        reasons: Why.
        records: Of each task and part the tokens that are recorded.
        sent: Of each task the messages, by their keys: the value, and whether it was taken.
    """

    names: dict[str, str]
    statuses: dict[str, str]
    reasons: dict[str, str]
    records: dict[str, list[str]]
    sent: dict[str, dict[str, tuple[str, int]]]


def kept(url: str) -> Kept:
    """Read it, without the framework."""
    made = Kept({}, {}, {}, defaultdict(list), defaultdict(dict))
    engine = sa.create_engine(checked_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        for row in connection.execute(sa.select(TASKS)):
            made.names[row.task_id], made.statuses[row.task_id] = row.name, row.status
            made.reasons[row.task_id] = row.reason
        for row in connection.execute(sa.select(STEPS_OF_TASKS)):
            if row.function.endswith((".on_loop", ".on_thread")):
                made.records[row.task_id].append(json.loads(row.answer))
        for row in connection.execute(sa.select(MESSAGES)):
            made.sent[row.task_id][row.key] = json.loads(row.value), row.taken
    return made


async def outcomes(url: str, ledger: Path) -> dict[str, Any]:
    """Send each task what it has not got, and return the results of all that return one."""
    bodies = bodies_in(ledger)
    before = kept(url)
    for (task_id, key), values in bodies.items():
        if key in KEYS and values[0].startswith(f"{task_id}:"):
            # Its sending has returned.
            assert before.sent[task_id][key][0] == values[0].replace(":", " ")
    store = SQLStore(url)
    # As often as the others, who would give it up.
    store._pace = Pace(beat=0.1)
    async with setup_async_framework(None, store=store):
        for task_id, name in before.names.items():
            for key in KEYS if ".receives" in name else ():
                if key not in before.sent[task_id]:
                    await APPROVAL.send(task_id, f"{task_id} {key}", key=key)
        manager = get_task_manager()
        return {
            task_id: await manager.get_result(task_id, timeout=LONG_PATIENCE)
            for task_id, name in before.names.items()
            if "child" not in name
        }


def check(run: Run, url: str, ledger: Path, results: dict[str, Any]) -> None:
    """See that nothing is lost, stuck, or done twice."""
    after, bodies = kept(url), bodies_in(ledger)
    assert after.names.keys() >= run.accepted.keys()
    for task_id, name in after.names.items():
        if (after.statuses[task_id], after.reasons[task_id]) == ("cancelled", REFUSED):
            # Its parent had to leave, and has submitted another one in its place.
            assert "child" in name
            assert not any(one == task_id for one, _ in bodies)
            continue
        is_failing = name == "waited.failing_child"
        assert after.statuses[task_id] == ("failed" if is_failing else "completed"), name
        # Whoever ran a recorded step again would have left a later line, or a second record.
        last = {part: _bodies_of(bodies, task_id, part) for part in PARTS[name]}
        assert sorted(after.records[task_id]) == sorted(some[-1] for some in last.values())
        assert all(len(some) <= 1 + run.ended for some in last.values())
        assert sorted(part for one, part in bodies if one == task_id) == PARTS[name]
    children = dict[str, str]()
    for task_id, result in results.items():
        own = {part: _bodies_of(bodies, task_id, part)[-1] for part in PARTS[after.names[task_id]]}
        given = {one: token for one, token in result.items() if one not in own}
        assert result == own | given
        children |= given
        assert len(given) == {"waited.awaits": 4, "waited.awaits_on_a_thread": 1}.get(
            after.names[task_id], 0
        )
    # Each child was submitted once, and each parent was given what it has returned.
    assert children.keys() == {
        one
        for one, name in after.names.items()
        if "child" in name and after.reasons[one] != REFUSED
    }
    for task_id, token in children.items():
        part = "fails" if "failing" in after.names[task_id] else "ends"
        assert token == bodies[task_id, part][-1]
    for task_id, sent in after.sent.items():
        assert sent == {key: (f"{task_id} {key}", 1) for key in KEYS}


def _bodies_of(bodies: dict[tuple[str, str], list[str]], task_id: str, part: str) -> list[str]:
    """Return what the bodies of a part have left, without what tells of a message."""
    return [one for one in bodies[task_id, part] if ":" not in one]


async def disturbed(url: str, folder: Path, ways: list[str], *, count: int, seed: int) -> Run:
    """Disturb processes of which up to four live at a time, and wait until all have ended."""
    run = Run(url, folder / "ledger", count, seed, PROGRAM)
    with contextlib.closing(run):
        for _ in range(3):
            run.start()
        for how in ways:
            run.start()
            run.disturb(how)
            run.keep(4)
        assert all(one.done.wait(PATIENCE) for one in run.alive)
        results = await outcomes(url, folder / "ledger")
        check(run, url, folder / "ledger", results)
    return run


@pytest.mark.extended("processes")
async def test_killed_amid_waits(sql_url: str, tmp_path: Path) -> None:
    """Tasks of killed processes wait on elsewhere: no message, child or step twice, or lost."""
    run = await disturbed(sql_url, tmp_path, ["kill", "end", "kill"], count=4, seed=1)

    assert len(run.accepted) > 20


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_killed_sixty_times_amid_waits(sql_url: str, tmp_path: Path) -> None:
    """The same after sixty of them."""
    await disturbed(sql_url, tmp_path, ["kill", "kill", "end"] * 20, count=4, seed=2)
