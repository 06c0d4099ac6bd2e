"""The programs of `programs` as coroutines of asyncio and tasks of the framework, explored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from framework import TaskId, get_task_manager
from pytest_asyncframe._explore.edges import Edges
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Step, Strategy
from pytest_asyncframe._turns.actors import nothing
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.explore.oracle.on_threads import Threads, thread
from tests.explore.oracle.programs import END, Note, Operation, Program, is_thread

Here: TypeAlias = tuple[int, ...]
"""An actor, and the place of an operation in it."""


class Shared:
    """What the coroutines of one run share."""

    def __init__(self) -> None:
        self.notes = list[Note]()
        self.event = asyncio.Event()
        self.queue = asyncio.Queue[int]()
        self.lock = asyncio.Lock()
        self.condition = asyncio.Condition(self.lock)
        self.semaphore = asyncio.Semaphore(1)
        self.tasks = list[asyncio.Task[None]]()
        self.ids = dict[int, TaskId[None]]()
        self.threads = Threads(self.notes, self._call_soon)

    def _call_soon(self, operation: Operation) -> None:
        kind, number = operation
        calls: dict[str, Callable[[], object]] = {
            "set": self.event.set,
            "put": lambda: self.queue.put_nowait(0),
            "cancel": self.tasks[number].cancel,
        }
        # The loop may be closed where the rest is ended.
        with suppress(RuntimeError):
            self.tasks[0].get_loop().call_soon_threadsafe(calls[kind])

    async def sequence(self, here: Here, operations: Sequence[Operation]) -> None:
        """Run operations of an actor, and note the end of each."""
        for number, (kind, *rest) in enumerate(operations):
            place = (*here, number)
            try:
                await getattr(self, f"_do_{kind}")(place, *rest)
            except TimeoutError:
                self.notes.append((*place, "timeout"))
            except asyncio.CancelledError:
                self.notes.append((*place, "cancelled"))
                raise
            else:
                self.notes.append(place)

    async def _do_pass(self, here: Here) -> None:
        await asyncio.sleep(0)  # noqa: TID251  # of no time

    async def _do_sleep(self, here: Here, seconds: int) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251  # of virtual time

    async def _do_set(self, here: Here, event: int) -> None:
        self.event.set()

    async def _do_clear(self, here: Here, event: int) -> None:
        self.event.clear()

    async def _do_wait(self, here: Here, event: int) -> None:
        await self.event.wait()

    async def _do_put(self, here: Here, queue: int) -> None:
        self.queue.put_nowait(0)

    async def _do_get(self, here: Here, queue: int) -> None:
        await self.queue.get()

    async def _do_cancel(self, here: Here, other: int) -> None:
        self.tasks[other].cancel()

    async def _do_lock(self, here: Here, lock: int, operations: Sequence[Operation]) -> None:
        async with self.lock:
            await self.sequence(here, operations)

    async def _do_await(self, here: Here) -> None:
        async with self.condition:
            await self.condition.wait()

    async def _do_notify(self, here: Here, many: int) -> None:
        async with self.condition:
            self.condition.notify(many)

    async def _do_limit(self, here: Here, operations: Sequence[Operation]) -> None:
        async with self.semaphore:
            await self.sequence(here, operations)

    async def _do_tset(self, here: Here) -> None:
        self.threads.event.set()

    async def _do_tclear(self, here: Here) -> None:
        self.threads.event.clear()

    async def _do_result(self, here: Here, other: int) -> None:
        await get_task_manager().get_result(self.ids[other])

    async def _do_to_thread(self, here: Here, operations: Sequence[Operation]) -> None:
        await asyncio.to_thread(self.threads.sequence, here, operations)

    async def _do_timeout(self, here: Here, seconds: int, operations: Sequence[Operation]) -> None:
        async with asyncio.timeout(seconds):
            await self.sequence(here, operations)

    async def _do_shield(self, here: Here, operations: Sequence[Operation]) -> None:
        try:
            await self.sequence(here, operations)
        except asyncio.CancelledError:
            self.notes.append((*here, "shielded"))


Ended: TypeAlias = Callable[[tuple[Note, ...]], object]


async def run(program: Program, ended: Ended) -> None:
    """Run a program; tell what has happened, and only then end what is left."""
    shared = Shared()
    shared.tasks += [
        asyncio.create_task(shared.sequence((actor,), operations), name=f"actor {actor}")
        for actor, operations in enumerate(program)
        if not is_thread(operations)
    ]
    for actor, operations in enumerate(program):
        if is_thread(operations):
            shared.ids[actor] = thread(shared.threads, actor, operations)
    await asyncio.sleep(END)  # noqa: TID251  # of virtual time
    ended(tuple(shared.notes))
    # The loop waits for the threads of its own.
    shared.threads.event.set()
    while left := [task for task in shared.tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.sleep(0)  # noqa: TID251  # of no time


def run_threads(program: Program, probe: Probe, ended: Ended) -> None:
    """Run a program that has threads alone."""
    notes = list[Note]()
    threads = Threads(notes, nothing)
    for actor, operations in enumerate(program):
        thread(threads, actor, operations)
    probe.clock.sleep(END)
    ended(tuple(notes))


class Counting:
    """Counts the choices of a strategy."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.count = 0

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        self.count += 1
        return self._strategy.choose(number, step)


Found: TypeAlias = tuple[set[tuple[Note, ...]], str]
"""All that a program has done, and what the policy says of it."""


def outcomes(
    program: Program, level: Level = "awaits", policy: str = "exhaustive", most: int = 10**6
) -> Found:
    """Explore a program wholly, with more points if something could notice them."""
    return (
        outcomes_with(program, level, policy, most, edges=False)
        or outcomes_with(program, level, policy, most, edges=True)
        or (set(), "")
    )


def outcomes_with(
    program: Program, level: Level, policy: str, most: int = 10**6, *, edges: bool
) -> Found | None:
    """Explore a program wholly; None if something could notice that edges are no points."""
    made, found = make_policy(policy, 0), set[tuple[Note, ...]]()
    runs = 0
    while runs < most and (strategy := made.next()) is not None:
        runs += 1
        counting, choices = Counting(strategy), list[int]()
        points = Edges(are_points=edges)

        def ended(notes: tuple[Note, ...]) -> None:
            found.add(notes)
            choices.append(counting.count)  # noqa: B023  # called in this turn

        def body(probe: Probe) -> None:
            if all(map(is_thread, program)):
                run_threads(program, probe, ended)
            else:
                asyncio.run(run(program, ended))

        steps = one_run(body, counting, level, edges=points)
        if points.noticed:
            return None
        # What ends the rest is not explored.
        made.ended(steps[: choices[0]])
    return found, made.claim(runs)
