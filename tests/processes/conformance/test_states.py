"""What is known of tasks while they live and after, on every backend."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from framework import QueueFullError, Task, TaskManager, TaskStatus
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import SPAN, Backend, Heard
from tests.words import timeless

UNFIT = r"^task_id must have 1 to 200 characters, all of them "


async def known(manager: TaskManager, task_id: str) -> Task:
    """Return a task that is known."""
    task = await manager.get_task(task_id)
    assert task is not None
    return task


async def test_id(manager: TaskManager) -> None:
    """An id is 32 hexadecimal digits, no two are the same, and its task is known at once."""
    ids = {tasks.add(1) for _ in range(20)}
    names = {(await known(manager, one)).name for one in ids}
    assert len(ids) == 20
    assert all(len(bytes.fromhex(one)) == 16 for one in ids)
    assert names == {"tests.processes.conformance.tasks.add"}


async def test_completed(manager: TaskManager, heard: Heard) -> None:
    """A task that returned is COMPLETED, once begun; its stamps and its events are in order."""
    before = datetime.now(UTC)
    task_id = tasks.add(1)
    await manager.get_result(task_id, timeout=PATIENCE)
    task = await known(manager, task_id)
    assert (task.status, task.attempts, task.error) == (TaskStatus.COMPLETED, 1, None)
    assert task.started_at is not None
    assert task.ended_at is not None
    assert before <= task.created_at <= task.started_at <= task.ended_at <= datetime.now(UTC)
    assert task.duration is not None
    assert task.duration >= 0
    await heard.event(task_id, "completed")
    assert heard.of(task_id) == ["submitted", "started", "completed"]


async def test_running(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A task is RUNNING and active while its body is, and says so; a `Task` is a snapshot."""
    gate = backend.gate()
    task_id = tasks.hold(gate.path)
    await heard.event(task_id, "started")
    task = await known(manager, task_id)
    assert (task.status, task.ended_at, task.attempts) == (TaskStatus.RUNNING, None, 1)
    assert re.fullmatch(rf"running since T, for {SPAN}", timeless(task.explain()))
    assert (task.reason, task.to_dict()["cancel"]) == ("", None)
    assert (set(manager.get_active_tasks()), manager.get_active_count()) == ({task_id}, 1)
    gate.open("done")
    assert await manager.get_result(task_id, timeout=PATIENCE) == "done"
    ended = await known(manager, task_id)
    assert ended.status is TaskStatus.COMPLETED
    assert re.fullmatch(rf"completed at T after {SPAN}", timeless(ended.explain()))
    assert task.status is TaskStatus.RUNNING
    assert (manager.get_active_tasks(), manager.get_active_count()) == ({}, 0)


async def test_description(manager: TaskManager) -> None:
    """A task has its function's description or one of its own, and knows itself from inside."""
    own = await manager.submit(tasks.plain, (1,))
    given = await manager.submit(tasks.plain, (1,), description="of its own")
    inside = tasks.about_itself()
    assert (await known(manager, own)).description == "gives back what it gets"
    assert (await known(manager, given)).description == "of its own"
    assert await manager.get_result(inside, timeout=PATIENCE) == {
        "task_id": inside,
        "name": "tests.processes.conformance.tasks.about_itself",
        "status": "running",
        "attempts": 1,
    }


async def test_chosen_id(manager: TaskManager) -> None:
    """An id of up to 200 characters of any script may be chosen, and no other task has it."""
    for given in ("order-7", "\N{GREEK SMALL LETTER ALPHA}" * 200):
        assert await manager.submit(tasks.add, (1,), task_id=given) == given
        assert await manager.get_result(given, timeout=PATIENCE) == 11
        with pytest.raises(
            ValueError,
            match=r"^task_id must be one that no task has, not '\w+(-7)?': choose another, or "
            r"leave it out for a random one$",
        ):
            await manager.submit(tasks.add, (1,), task_id=given)


async def test_unfit_id(manager: TaskManager) -> None:
    """An id that is too long or not printable is refused at once, by every submission."""
    for given in ("", "x" * 201, "a\nb", "a\x00b", "\x1b[31m", "\ud800"):
        with pytest.raises(ValueError, match=UNFIT):
            await manager.submit(tasks.add, (1,), task_id=given)
        with pytest.raises(ValueError, match=UNFIT):
            manager.submit_nowait(tasks.add, (1,), task_id=given)
    assert manager.get_stats()["submitted"] == 0


async def test_progress(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Progress has an event while the task runs, and `get_task` shows it."""
    gate = backend.gate()
    task_id = tasks.report(gate.path)
    event = await heard.event(task_id, "progress")
    assert (event.progress, event.message) == (0.25, "a quarter")
    task = await known(manager, task_id)
    assert (task.progress, task.to_dict()["progress_message"]) == (0.25, "a quarter")
    gate.open()
    await manager.get_result(task_id, timeout=PATIENCE)


async def test_all_tasks(manager: TaskManager) -> None:
    """The lists of all tasks and of those with a status agree, and so do the counters."""
    good, bad = [tasks.add(one) for one in range(5)], [tasks.fail() for _ in range(2)]
    waiting = (manager.get_result(one, timeout=PATIENCE) for one in good + bad)
    await asyncio.gather(*waiting, return_exceptions=True)
    shown = manager.get_all_tasks()
    assert set(shown) == {*good, *bad}
    assert shown[good[0]] == (await known(manager, good[0])).to_dict()
    assert set(manager.get_tasks_by_status("completed")) == set(good)
    assert set(manager.get_tasks_by_status(TaskStatus.FAILED)) == set(bad)
    stats = manager.get_stats()
    assert (stats["submitted"], stats["completed"], stats["failed"]) == (7, 5, 2)
    assert stats["kept"] == 7
    assert stats["submitted"] == sum(stats[status.value] for status in TaskStatus)


async def test_pages(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """Pages have every task once, in the order of submission, although tasks end meanwhile."""
    ids = [tasks.fail(), *(tasks.add(number) for number in range(5))]
    await asyncio.wait([asyncio.ensure_future(manager.get_result(one)) for one in ids])
    gate = backend.gate()
    held = tasks.hold(gate.path)
    await heard.event(held, "started")
    page = await manager.list_tasks(limit=3)
    found = [str(task.task_id) for task in page.tasks]
    gate.open()
    await manager.get_result(held, timeout=PATIENCE)
    while page.next is not None:
        page = await manager.list_tasks(limit=3, after=page.next)
        found += [str(task.task_id) for task in page.tasks]
    assert found == [held, *ids[::-1]]
    (failed,) = (await manager.list_tasks(status="failed")).tasks
    assert (failed.task_id, failed.name) == (ids[0], "tests.processes.conformance.tasks.fail")
    page = await manager.list_tasks(name=failed.name, status="completed")
    assert (page.tasks, page.next) == ([], None)
    page = await manager.list_tasks(oldest_first=True, limit=1, status="completed")
    assert [task.task_id for task in page.tasks] == [ids[1]]


async def test_clean_up(backend: Backend, manager: TaskManager, heard: Heard) -> None:
    """A clean-up forgets what ended long enough ago, and nothing else."""
    gate = backend.gate()
    done, runs = tasks.add(1), tasks.hold(gate.path)
    await manager.get_result(done, timeout=PATIENCE)
    await heard.event(runs, "started")
    assert manager.cleanup_completed_tasks(max_age=3_600) == 0
    assert await manager.get_task(done) is not None
    assert manager.cleanup_completed_tasks(max_age=0) == 1
    assert set(manager.get_all_tasks()) == {runs}
    assert await manager.get_task(done) is None
    gate.open()
    await manager.get_result(runs, timeout=PATIENCE)


async def test_delayed(manager: TaskManager) -> None:
    """A delayed task does not run before its time has come, and runs then."""
    task_id = await manager.submit(tasks.now, delay=0.2)
    ran_at: Any = await manager.get_result(task_id, timeout=PATIENCE)
    # The delay is of another clock than these two moments.
    assert (ran_at - (await known(manager, task_id)).created_at).total_seconds() >= 0.19


async def test_queue_bound(backend: Backend) -> None:
    """No more tasks may wait than the bound says."""
    async with backend.run(queue_size=2) as manager:
        ids = [await manager.submit(tasks.add, (1,), delay=30) for _ in range(2)]
        full = r"^the task queue is full: 2 tasks are waiting; try again in \d+ s, or increase "
        with pytest.raises(QueueFullError, match=full):
            tasks.add(1)
        for one in ids:
            assert await manager.cancel_task(one)


async def test_hooks(manager: TaskManager) -> None:
    """on_complete is called after a success, and on_error after every other end."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[tuple[str, TaskStatus]]()

    def tell(which: str, task: Task) -> None:
        loop.call_soon_threadsafe(told.put_nowait, (which, task.status))

    await manager.submit(
        tasks.add, (1,),
        on_complete=lambda task: tell("complete", task),
        on_error=lambda task: tell("error", task),
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        assert await told.get() == ("complete", TaskStatus.COMPLETED)
    await manager.submit(tasks.fail, on_error=lambda task: tell("error", task))
    async with asyncio.timeout(PATIENCE):
        assert await told.get() == ("error", TaskStatus.FAILED)
