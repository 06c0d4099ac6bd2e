"""Replays of tasks: what goes the same way is passed, wherever it was cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from framework import get_task_manager, setup_async_framework
from framework._manager.inside import core_of
from framework._records.steps import StepRecord
from framework._replays.hurried import HurriedLoop
from framework._replays.replay import Recorded, Replay, silent_framework
from framework._tasks.live import LiveTask
from framework._threads.clock import SystemClock
from tests.steps.replayed import PROGRAMS


async def _run_all() -> list[tuple[LiveTask, Sequence[StepRecord]]]:
    async with setup_async_framework(None):
        manager = get_task_manager()
        found: list[tuple[LiveTask, Sequence[StepRecord]]] = []
        for program in PROGRAMS:
            task = core_of(manager).ledger.find(program())
            assert isinstance(task, LiveTask)
            with contextlib.suppress(ValueError):
                await manager.get_result(task.task_id)
            assert task.steps is not None
            found.append((task, [replace(one) for one in task.steps.stored]))
        return found


@pytest.mark.filterwarnings("error")
def test_the_same_code_goes_the_same_way_from_wherever_it_was_cut_off() -> None:
    """A replay of the first steps of a task, however many they are, finds no difference.

    What a process that is killed leaves behind are the first records, in the order of their ends.
    """
    loop, different = HurriedLoop(SystemClock()), []
    many = 0
    tasks = asyncio.run(_run_all())
    with silent_framework() as core:
        for task, records in tasks:
            for count in range(len(records) + 1):
                is_whole = count == len(records)
                one = Recorded(
                    str(task.task_id),
                    task.spec,
                    (),
                    {},
                    records[:count],
                    is_complete=is_whole and task.status == "completed",
                    error=task.error if is_whole else None,
                )
                replay = Replay(core, one)
                loop.begin(replay.on_loop(), replay.may_hurry)
                ended = loop.go_on(20.0)
                many += 1
                if not ended or replay.differences():
                    different.append((task.name, count, replay.line, replay.differences()))
    loop.close()
    assert not different
    assert many > 50
