"""The programs of `programs` as coroutines of asyncio, explored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.schedule import Step, Strategy
from pytest_asyncframe.probe import Probe
from tests.explore.one_run import one_run
from tests.explore.oracle.programs import END, Note, Operation, Program

Here: TypeAlias = tuple[int, ...]
"""An actor, and the place of an operation in it."""


class Shared:
    """What the coroutines of one run share."""

    def __init__(self) -> None:
        self.notes = list[Note]()
        self.event = asyncio.Event()
        self.queue = asyncio.Queue[int]()
        self.lock = asyncio.Lock()
        self.tasks = list[asyncio.Task[None]]()

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

    async def _do_timeout(self, here: Here, seconds: int, operations: Sequence[Operation]) -> None:
        async with asyncio.timeout(seconds):
            await self.sequence(here, operations)

    async def _do_shield(self, here: Here, operations: Sequence[Operation]) -> None:
        try:
            await self.sequence(here, operations)
        except asyncio.CancelledError:
            self.notes.append((*here, "shielded"))


async def run(program: Program, ended: Callable[[tuple[Note, ...]], object]) -> None:
    """Run a program; tell what has happened, and only then end what is left."""
    shared = Shared()
    shared.tasks += [
        asyncio.create_task(shared.sequence((actor,), operations), name=f"actor {actor}")
        for actor, operations in enumerate(program)
    ]
    await asyncio.sleep(END)  # noqa: TID251  # of virtual time
    ended(tuple(shared.notes))
    while left := [task for task in shared.tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.sleep(0)  # noqa: TID251  # of no time


class Counting:
    """Counts the choices of a strategy."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.count = 0

    def choose(self, number: int, step: Step) -> int:
        """Return the index of the option to take; see `Strategy`."""
        self.count += 1
        return self._strategy.choose(number, step)


def outcomes(program: Program) -> tuple[set[tuple[Note, ...]], str]:
    """Explore a program wholly; return all that it has done, and what the policy says of it."""
    policy, found = make_policy("exhaustive", 0), set[tuple[Note, ...]]()
    runs = 0
    while (strategy := policy.next()) is not None:
        runs += 1
        counting, choices = Counting(strategy), list[int]()

        def ended(notes: tuple[Note, ...]) -> None:
            found.add(notes)
            choices.append(counting.count)  # noqa: B023  # called in this turn

        def body(probe: Probe) -> None:
            asyncio.run(run(program, ended))

        steps = one_run(body, counting, "awaits")
        # What ends the rest is not explored.
        policy.ended(steps[: choices[0]])
    return found, policy.proof(runs)
