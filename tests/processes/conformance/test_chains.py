"""Tasks that wait for others to end, on every backend."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytest

from framework import (
    TaskCancelledError,
    TaskId,
    TaskManager,
    TaskStatus,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.exceptions import DeadlockError
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.conformance import tasks
from tests.processes.conformance.backends import Backend

REFUSED: Final = {
    "memory+subprocess": r"^\S+ cannot be submitted with after: its tasks run on workers, and noth",
    "jsonl+local": r"^\S+ cannot be submitted with after: its store does not keep which tasks ",
}
"""What is said where a task cannot wait for others."""

GATES: Final[dict[str, threading.Event]] = {}
LOG: Final[list[tuple[str, int]]] = []


class NodeError(Exception):
    """A task of the model that has no result."""


def run(number: int, fails: bool, gate: str) -> int:
    """Run a node."""
    LOG.append(("start", number))
    if gate:
        GATES[gate].wait(PATIENCE)
    LOG.append(("end", number))
    if fails:
        raise NodeError
    return number


@background_task(on_error="silent")
def node(number: int, fails: bool = False, gate: str = "") -> int:
    """Run on a thread."""
    return run(number, fails, gate)


@background_task(on_error="silent")
async def async_node(number: int, fails: bool = False) -> int:
    """Run on the loop."""
    return run(number, fails, "")


@background_task(on_error="silent", on_restart="requeue", max_running=2)
def requeued_node(number: int, fails: bool = False) -> int:
    """Run on a thread, of this process or of another one."""
    return run(number, fails, "")


def only(*_: object) -> str:
    """Return the same key for all calls."""
    return "key"


@dataclass(frozen=True)
class Node:
    """A task of the model."""

    fails: bool
    after: tuple[int, ...]
    mode: Literal["cancel", "run"]
    kind: int


def drawn(rng: random.Random, many: int) -> list[Node]:
    """Draw tasks, of which the first holds up most of the others."""
    nodes = [Node(rng.random() < 0.2, (), "cancel", 0)]
    for number in range(1, many):
        most = min(number, rng.choice((1, 1, 2, 3)))
        after = tuple(rng.sample(range(number), most))
        mode: Literal["cancel", "run"] = rng.choice(("cancel", "cancel", "run"))
        nodes.append(Node(rng.random() < 0.2, after, mode, rng.randrange(3)))
    return nodes


def expected(nodes: list[Node]) -> list[str]:
    """Return how each has to end: by the rule, one after the other."""
    ends = list[str]()
    for one in nodes:
        without = [number for number in one.after if ends[number] != "completed"]
        if without and one.mode == "cancel":
            ends.append("cancelled")
        else:
            ends.append("failed" if one.fails else "completed")
    return ends


async def submitted(manager: TaskManager, nodes: list[Node]) -> list[TaskId[int]]:
    """Submit the nodes, of which the first ends amid them."""
    gate = str(id(nodes))
    GATES[gate] = threading.Event()
    made = [await manager.submit(node, (0, nodes[0].fails, gate))]
    for number, one in enumerate(nodes[1:], 1):
        if number == len(nodes) // 2:
            GATES[gate].set()
        fn = (node, async_node, requeued_node)[one.kind]
        parents = [made[parent] for parent in one.after]
        made.append(
            await manager.submit(fn, (number, one.fails), after=parents, after_failure=one.mode)
        )
    return made


async def check(manager: TaskManager, seed: int) -> None:
    """Run a drawn model, and compare what has become of it with the rule."""
    nodes = drawn(random.Random(seed), 24)
    LOG.clear()
    made = await submitted(manager, nodes)
    await manager.gather(made, return_exceptions=True, timeout=PATIENCE)
    found = [await manager.get_task(task_id) for task_id in made]
    ends = expected(nodes)
    assert [str(task.status) for task in found if task is not None] == ends, seed
    at = {step: place for place, step in enumerate(LOG)}
    assert len(at) == len(LOG), "none ran twice"
    for number, (one, task) in enumerate(zip(nodes, found, strict=True)):
        assert task is not None
        assert task.after == [made[parent] for parent in one.after]
        assert (("start", number) in at) == (ends[number] != "cancelled")
        for parent in one.after:
            if ("start", number) in at and ("end", parent) in at:
                assert at["end", parent] < at["start", number], (seed, parent, number)
        if ends[number] == "cancelled":
            words = {"failed": "failed", "cancelled": "was cancelled"}
            reasons = {
                f"it was to run after task {made[parent]}, which {words[ends[parent]]}"
                for parent in one.after
                if ends[parent] in words
            }
            assert task.reason in reasons


@pytest.mark.extended("time")
@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_what_runs_and_in_which_order(kept: str, tmp_path: Path) -> None:
    """Tasks with drawn parents run, or are cancelled, as the rule says, and after their parents."""
    store = None if kept == "memory" else SQLStore(f"sqlite:///{tmp_path / 'tasks.db'}")
    async with setup_async_framework(None, store=store):
        for seed in range(6):
            await check(get_task_manager(), seed)


async def test_how_a_task_waits(backend: Backend) -> None:
    """It says for what it waits, is cancelled as it waits, and its delay counts from then on."""
    gate = backend.gate()
    async with backend.run() as manager:
        first = await manager.submit(tasks.hold, (gate.path,))
        if backend.name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[backend.name]):
                await manager.submit(tasks.add, (1,), after=first)
            gate.open()
            await manager.get_result(first, timeout=PATIENCE)
            return
        second = await manager.submit(tasks.add, (1,), after=first, delay=0.05)
        third = await manager.submit(tasks.add, (2,), after=[first, second], after_failure="run")
        fourth = await manager.submit(tasks.add, (3,), after=[third, first, third])
        told = [await manager.get_task(one) for one in (second, third, fourth)]
        assert [task.explain() for task in told if task is not None] == [
            f"waits for task {first} to end",
            f"waits for tasks {first} and {second} to end",
            f"waits for tasks {third} and {first} to end",
        ]
        assert await manager.cancel_task(second)
        gate.open()
        assert await manager.get_result(fourth, timeout=PATIENCE) == 13
        ended = await manager.get_task(second)
        assert ended is not None
        assert ended.status is TaskStatus.CANCELLED
        assert ended.reason == "it was cancelled before it started"
        assert ended.to_dict()["after"] == [first]
        late = await manager.submit(tasks.add, (4,), after=[first, fourth], delay=0.05)
        assert await manager.get_result(late, timeout=PATIENCE) == 14
        bad = await manager.submit(tasks.fail.options(on_error="silent"))
        never = await manager.submit(tasks.add, (5,), after=bad)
        with pytest.raises(TaskCancelledError, match=rf"^task '{never}' .* was cancelled$"):
            await manager.get_result(never, timeout=PATIENCE)
        lost = await manager.get_task(never)
        assert lost is not None
        assert lost.reason == f"it was to run after task {bad}, which failed"
        with pytest.raises(LookupError, match=r"^\S+ cannot wait for task 'nobody': no task has "):
            await manager.submit(tasks.add, (6,), after=[first, "nobody"])
        assert manager.get_stats()["submitted"] == 7


@pytest.mark.extended("time")
@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_places_are_taken_when_the_others_have_ended(kept: str, tmp_path: Path) -> None:
    """Of unique tasks that wait, the first that may start is the only one, or is replaced."""
    store = None if kept == "memory" else SQLStore(f"sqlite:///{tmp_path / 'tasks.db'}")
    async with setup_async_framework(None, store=store):
        manager, gate = get_task_manager(), threading.Event()
        GATES["first"] = GATES["unique"] = gate
        first = await manager.submit(node, (0, False, "first"))
        unique = node.options(unique=only, after=first)
        one, two = [await manager.submit(unique, (number, False, "")) for number in (1, 2)]
        assert one != two
        gate.set()
        ends = await manager.gather([one, two], return_exceptions=True, timeout=PATIENCE)
        # The second one may come after the first has ended.
        assert ends[0] == 1
        task = await manager.get_task(two)
        assert task is not None
        assert task.reason in ("", f"a duplicate of task {one}")
        last = await manager.submit(unique, (3, False, ""), on_duplicate="replace")
        assert await manager.get_result(last, timeout=PATIENCE) == 3


@pytest.mark.extended("time")
@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_a_task_that_waits_for_what_waits_for_it(kept: str, tmp_path: Path) -> None:
    """Whoever waits in a task for one that is to run after it is told that this never ends."""
    store = None if kept == "memory" else SQLStore(f"sqlite:///{tmp_path / 'tasks.db'}")
    async with setup_async_framework(None, store=store):
        manager = get_task_manager()

        async def on_loop() -> None:
            own = current_task()
            assert own is not None
            await manager.submit(int, after=own.task_id, wait=True)

        def on_thread() -> None:
            own = current_task()
            assert own is not None
            manager.wait_result(manager.submit_nowait(int, after=own.task_id))

        for fn in (on_loop, on_thread):
            with pytest.raises(DeadlockError, match=r"^deadlock: .* waits for builtins.int waits "):
                await manager.submit(fn, wait=True, on_error="silent")


@pytest.mark.extended("time")
@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_a_shutdown_while_tasks_wait(kept: str, tmp_path: Path) -> None:
    """What waits for a task that ends in time runs, unless its delay would only begin then."""
    store = None if kept == "memory" else SQLStore(f"sqlite:///{tmp_path / 'tasks.db'}")
    gate = GATES["shutdown"] = threading.Event()
    LOG.clear()
    async with setup_async_framework(None, store=store, graceful_shutdown_timeout=PATIENCE):
        manager = get_task_manager()
        first = await manager.submit(node, (0, False, "shutdown"))
        second = await manager.submit(node, (1,), after=first)
        third = await manager.submit(
            node, (2,), after=first, delay=3_600, on_error=lambda _: gate.set()
        )
    tasks = manager.get_all_tasks()
    assert tasks[second]["status"] == "completed"
    assert (tasks[third]["status"], tasks[third]["reason"]) == (
        "cancelled",
        "the framework shut down",
    )
    assert LOG == [("start", 0), ("end", 0), ("start", 1), ("end", 1)]


@pytest.mark.extended("time")
async def test_tasks_of_a_process_that_only_submits(sql_url: str) -> None:
    """They wait where nobody has them, and the next process runs them in their order."""
    LOG.clear()
    async with setup_async_framework(None, store=SQLStore(sql_url, durable=True), max_workers=0):
        manager = get_task_manager()
        first = await manager.submit(requeued_node, (0,))
        second = await manager.submit(requeued_node, (1, True), after=first, delay=0.05)
        third = await manager.submit(requeued_node, (2,), after=[first, second])
        last = await manager.submit(requeued_node, (3,), after=third, after_failure="run")
        told = await manager.get_task(second)
        assert told is not None
        assert told.explain() == f"waits for task {first} to end"
    async with setup_async_framework(None, store=SQLStore(sql_url)):
        manager = get_task_manager()
        assert await manager.get_result(last, timeout=PATIENCE) == 3
        lost = await manager.get_task(third)
        assert lost is not None
        assert lost.reason == f"it was to run after task {second}, which failed"
        assert lost.after == [first, second]
    assert [number for word, number in LOG if word == "start"] == [0, 1, 3]
