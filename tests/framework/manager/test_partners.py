"""The partners of a submission: in which order they are asked, and told what came of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from framework import TaskManager
from framework._manager.submitting.intake import Intake
from framework._manager.submitting.partner import Joined, Partner
from framework._records.records import TaskEvent
from framework._tasks.live import LiveTask
from framework._tasks.specs import spec_for
from framework._threads.clock import SystemClock
from framework._threads.waiters import Reply
from framework.testing import override_framework


class Noting(Partner):
    """A partner that notes what it is asked and told."""

    def __init__(self, name: str, joined: Joined, notes: list[str]) -> None:
        self.name = name
        self.notes = notes
        joined.join(self)

    def enter(self, task: LiveTask, patient: bool) -> Reply[Any] | None:
        """Note that."""
        self.notes.append(f"{self.name} asked")
        return None

    def settle(self, task: LiveTask, added: bool) -> None:
        """Note that."""
        self.notes.append(f"{self.name} {'added' if added else 'undone'}")


class Locking(Noting):
    """One that holds a lock while the ledger takes the task."""

    locks = True


class Failing(Noting):
    """One that refuses all tasks, or fails as soon as it was told of one."""

    def enter(self, task: LiveTask, patient: bool) -> Reply[Any] | None:
        """Refuse the task, or let it pass."""
        super().enter(task, patient)
        if self.name == "refusing":
            raise LookupError(self.name)
        return None

    def settle(self, task: LiveTask, added: bool) -> None:
        """Fail."""
        super().settle(task, added)
        raise LookupError(self.name)


class Waiting(Noting):
    """One that waits for an answer that never comes."""

    waits = True
    reply: Reply[None]

    def enter(self, task: LiveTask, patient: bool) -> Reply[Any] | None:
        """Wait for as long as it takes."""
        super().enter(task, patient)
        return self.reply


def intake_of(manager: TaskManager, joined: Joined) -> Intake:
    """Return an intake of a manager that has no partners but those that have joined."""
    core = manager._core
    return Intake(
        core.runner,
        core.places,
        joined.partners,
        joined,
        None,
        core.intake.new_id,
        core,
        in_place=True,
    )


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("refusing", ["one undone", "two undone"]),
        ("failing", ["failing added", "one added", "two added"]),
        ("waiting", ["waiting undone", "one undone", "two undone"]),
        ("", ["one added", "two added"]),
    ],
)
async def test_each_is_settled_once(
    task_manager: TaskManager, last: str, expected: list[str]
) -> None:
    """Whatever the last partner does, those that were asked are told once, the last first."""
    joined, notes = Joined(), list[str]()
    Noting("two", joined, notes)
    Noting("one", joined, notes)
    if last == "waiting":
        waiting = Waiting(last, joined, notes)
        waiting.reply = Reply(task_manager.clock, task_manager._core.boxes)
    elif last:
        Failing(last, joined, notes)
    intake, spec = intake_of(task_manager, joined), spec_for(int)
    submitting = asyncio.create_task(intake.submit_patiently(spec, (), {}, sys._getframe()))
    asked = ["two asked", "one asked", *([f"{last} asked"] if last else [])]
    if last == "waiting":
        while len(notes) < len(asked):
            await asyncio.wait([submitting], timeout=0)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError, match=r"^$"):
            await submitting
    elif last:
        with pytest.raises(LookupError, match=r"^(refusing|failing)$"):
            await submitting
    else:
        await submitting
    assert notes == [*asked, *expected]
    added = not last or last == "failing"
    assert task_manager.get_stats()["submitted"] == int(added)
    await task_manager.cancel_task(next(iter(task_manager.get_all_tasks()), ""))


def test_nobody_waits_with_a_lock(task_manager: TaskManager) -> None:
    """A partner that may wait must come before one that holds a lock."""
    joined, notes = Joined(), list[str]()
    Locking("one", joined, notes)
    intake_of(task_manager, joined)
    Waiting("two", joined, notes)
    with pytest.raises(
        ValueError,
        match=r"^Waiting must come before Locking among the partners of a submission: it may "
        r"wait, and the other one holds a lock then$",
    ):
        intake_of(task_manager, joined)


def test_both_ways_of_a_plain_submission_do_the_same() -> None:
    """The lines of a submission without partners have the effect of those with them.

    Whether the task completes or fails.
    """
    found: list[object] = []
    for function, partnered in ((int, False), (int, True), (len, False), (len, True)):
        joined, seen = Joined(), list[tuple[str, str, int]]()
        with override_framework(clock=SystemClock()) as manager:
            if partnered:
                Noting("one", joined, [])
            manager.subscribe(lambda event, to=seen: to.append(_state_of(event)))
            spec = spec_for(cast("Callable[..., Any]", function))
            task = intake_of(manager, joined).submit(spec, (), {}, sys._getframe())
            with suppress(TypeError):
                manager.wait_result(task.task_id)
            stats = manager.get_stats()
        assert [kind for kind, _, _ in seen][:2] == ["submitted", "started"]
        found.append((seen, stats, manager.get_all_tasks()[task.task_id]["status"]))
    assert (found[0], found[2]) == (found[1], found[3])
    assert found[0] != found[2]


def _state_of(event: TaskEvent) -> tuple[str, str, int]:
    return event.kind, str(event.status), event.attempt
