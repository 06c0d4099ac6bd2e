"""The model of exploration: each kind of choice that the docs list finds a race of its own."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework import background_task, current_task
from pytest_asyncframe._explore.early.moments import EarlyTimeouts
from pytest_asyncframe._explore.points import awaits
from pytest_asyncframe._explore.points.levels import Level
from pytest_asyncframe._explore.policies.by_name import make_policy
from pytest_asyncframe._explore.policies.haste import Trial
from pytest_asyncframe._turns.actors import Actor, Timer, Timers, nothing
from pytest_asyncframe._turns.points import Candidate, Points
from pytest_asyncframe.probe import Probe
from tests.explore.locks.locking import pause
from tests.explore.one_run import one_run

pytestmark = pytest.mark.extended("time")

Race = Callable[[Probe], bool]
"""What a test would do; returns whether it would fail."""

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "exploration.md"


def is_found(race: Race, level: Level, runs: int = 60) -> bool:
    """Whether the default policy finds a race in so many runs; it is not in the default order."""
    policy, failed = make_policy("delays", 0), list[bool]()

    def body(probe: Probe) -> None:
        failed.append(race(probe))

    for number in range(runs):
        strategy = policy.next()
        if strategy is None:
            return False
        policy.ended(one_run(body, strategy, level))
        if isinstance(strategy, Trial):
            strategy.failed = failed[-1]
        elif failed[-1]:
            assert number > 0
            return True
    return False


# -- races


def starts(probe: Probe) -> bool:
    """The first of two tasks need not start first."""
    log: list[str] = []
    note = background_task(log.append)
    note("a")
    note("b")
    probe.run_until_idle()
    return log[0] == "b"


def is_paused(probe: Probe) -> bool:
    """Two tasks read before either writes."""
    values = {"n": 0}

    @background_task
    def increase() -> None:
        seen = values["n"]
        pause()
        values["n"] = seen + 1

    increase()
    increase()
    probe.run_until_idle()
    return values["n"] == 1


def steps(probe: Probe) -> bool:
    """A coroutine makes two steps between two of another one."""
    log: list[str] = []

    async def twice(name: str) -> None:
        log.append(name)
        await asyncio.sleep(0)  # noqa: TID251  # of no time
        log.append(name)

    async def main() -> None:
        await asyncio.gather(twice("a"), twice("b"))

    asyncio.run(main())
    return log == ["a", "b", "b", "a"]


def callbacks(probe: Probe) -> bool:
    """What follows a group comes before a step that was ready when the group's task ended."""
    log: list[str] = []

    async def note(name: str) -> None:
        log.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(note("a"))
            other = asyncio.create_task(note("b"))
        log.append("after")
        await other

    asyncio.run(main())
    return log == ["a", "after", "b"]


def threads(probe: Probe) -> bool:
    """A task on a thread sees what holds between two steps of a coroutine."""
    values, seen = {"x": 0}, list[int]()

    @background_task
    def look() -> None:
        seen.append(values["x"])

    async def main() -> None:
        look()
        values["x"] = 1
        await asyncio.sleep(0)  # noqa: TID251  # of no time
        values["x"] = 2

    asyncio.run(main())
    probe.run_until_idle()
    return seen == [1]


class Slot:
    """One place, which a waiter may be given when it times out."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None] | None = None
        self.is_lost = False

    async def take(self, limit: float) -> None:
        """Wait for the place; a request that is cancelled may have it already."""
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit):
                await self.waiter
        except TimeoutError:
            self.is_lost = not self.waiter.cancelled()

    def give(self) -> None:
        """Give the place to the one who waits, if anybody still does."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def handed_over(limit: float) -> bool:
    """Give a place after a second to one that waits so long; return whether it is lost."""
    slot = Slot()

    async def give() -> None:
        await asyncio.sleep(1)  # noqa: TID251  # of virtual time
        slot.give()

    async def main() -> None:
        await asyncio.gather(slot.take(limit), give())

    asyncio.run(main())
    return slot.is_lost


def timers_of_a_loop(probe: Probe) -> bool:
    """What the first of two timers wakes runs before the second one fires."""
    return handed_over(1)


def early_timeouts_of_coroutines(probe: Probe) -> bool:
    """A waiter that has been served times out long before its time."""
    return handed_over(30)


def early_timeouts_of_threads(probe: Probe) -> bool:
    """A thread that waits gives up where another one has seen that it still waits."""
    there, gone, given = threading.Event(), list[bool](), list[bool]()

    @background_task
    def take() -> None:
        if not there.wait(timeout=30):
            gone.append(True)

    @background_task
    def give() -> None:
        pause()
        if not gone:
            pause()
            given.append(True)
            there.set()

    take()
    give()
    probe.run_until_idle()
    return bool(gone and given)


def early_limits(probe: Probe) -> bool:
    """The time limit of a task passes between two of its steps."""
    done, ended = list[int](), threading.Event()

    @background_task(timeout=30)
    def work() -> None:
        try:
            for step in range(2):
                pause()
                current_task().check_cancelled()  # type: ignore[union-attr]
                done.append(step)
        finally:
            ended.set()

    work()
    ended.wait()
    return len(done) == 1


def other_timers(probe: Probe) -> bool:
    """The first of two timers of the framework need not fire first."""
    log: list[str] = []
    for name in "ab":
        probe.clock.call_at(1, lambda name=name: log.append(name))  # type: ignore[misc]
    probe.clock.sleep(2)
    return log[0] == "b"


def locks(probe: Probe) -> bool:
    """Who has waited longer for a lock need not get it first."""
    lock, asked, got = threading.Lock(), list[str](), list[str]()
    waiting = list[str]()

    @background_task
    def use(name: str) -> None:
        asked.append(name)
        with lock:
            got.append(name)
            probe.clock.sleep(1)
            waiting.append("".join(asked))

    for name in "abc":
        use(name)
    probe.run_until_idle()
    return waiting[0] == "abc" and got == ["a", "c", "b"]


# -- the model without them


def without_starts(patch: pytest.MonkeyPatch) -> None:
    """Let the first come where nobody can go on by itself."""
    _choose_only(patch, lambda preempts: preempts)


def without_pauses(patch: pytest.MonkeyPatch) -> None:
    """Let nobody be paused who can go on."""
    _choose_only(patch, lambda preempts: not preempts)


def _choose_only(patch: pytest.MonkeyPatch, when: Callable[[bool], bool]) -> None:
    real = Points._choose

    def choose(
        self: Points, kind: str, what: str, candidates: list[Candidate], *, preempts: bool = False
    ) -> Candidate:
        offered = candidates if when(preempts) else candidates[:1]
        return real(self, kind, what, offered, preempts=preempts)

    patch.setattr(Points, "_choose", choose)


def without_steps(patch: pytest.MonkeyPatch) -> None:
    """Let the steps of a loop come in their order."""
    patch.setattr(Points, "choose_step", lambda *_: 0)


def without_callbacks(patch: pytest.MonkeyPatch) -> None:
    """Let callbacks run once all steps before them have run."""
    patch.setattr(awaits.Passing, "may", lambda *_: False)


def without_threads(patch: pytest.MonkeyPatch) -> None:
    """Let no thread run between two steps of a loop."""
    patch.setattr(Points, "between_steps", nothing)


def without_timers_of_a_loop(patch: pytest.MonkeyPatch) -> None:
    """Let the timers of a loop fire as other callbacks do."""
    patch.setattr(awaits, "_is_timer", lambda *_: False)


def without_early_timeouts_of_coroutines(patch: pytest.MonkeyPatch) -> None:
    """Let time stand still while a loop can make a step."""
    patch.setattr(EarlyTimeouts, "before_step", nothing)


def without_early_timeouts_of_threads(patch: pytest.MonkeyPatch) -> None:
    """Let no time pass until a thread gives up."""
    patch.setattr(EarlyTimeouts, "_find_waits", nothing)


def without_early_limits(patch: pytest.MonkeyPatch) -> None:
    """Let no time pass until the limit of a task."""
    patch.setattr(EarlyTimeouts, "_find_limits", nothing)


def without_other_timers(patch: pytest.MonkeyPatch) -> None:
    """Let the other timers fire in their order."""
    real = Timers.due

    def due(self: Timers, now: int) -> list[Timer]:
        return real(self, now)[:1]

    patch.setattr(Timers, "due", due)


def without_locks(patch: pytest.MonkeyPatch) -> None:
    """Let who has waited longest have a lock."""
    real = Points._others

    def others(self: Points, *args: Any, **keywords: Any) -> list[Candidate]:
        found = real(self, *args, **keywords)
        waiting = [one for one in found if isinstance(one, Actor) and one.free is not None]
        return [one for one in found if one not in waiting[1:]]

    patch.setattr(Points, "_others", others)


MODEL: dict[str, tuple[Race, Callable[[pytest.MonkeyPatch], None]]] = {
    "Who starts or goes on": (starts, without_starts),
    "Where a thread is paused": (is_paused, without_pauses),
    "Which step of a loop comes next": (steps, without_steps),
    "Callbacks before steps of a loop": (callbacks, without_callbacks),
    "Threads between two steps of a loop": (threads, without_threads),
    "Timers of a loop that are due at one moment": (timers_of_a_loop, without_timers_of_a_loop),
    "Other timers that are due at one moment": (other_timers, without_other_timers),
    "Early timeouts of coroutines": (
        early_timeouts_of_coroutines,
        without_early_timeouts_of_coroutines,
    ),
    "Early timeouts of threads": (early_timeouts_of_threads, without_early_timeouts_of_threads),
    "Early time limits of tasks": (early_limits, without_early_limits),
    "Who gets a lock": (locks, without_locks),
}
"""The lines of the page, a race that only this choice finds, and what takes the choice away."""


@pytest.mark.parametrize("line", MODEL)
def test_each_choice_finds_a_race(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A race is found by a choice of the model, and is not found without that choice."""
    race, take_away = MODEL[line]
    # Elsewhere a task may also be paused before its first line.
    level: Level = "tasks" if race is starts else "framework"
    assert is_found(race, level)
    take_away(monkeypatch)
    assert not is_found(race, level)


def test_the_page_lists_the_model() -> None:
    """The page lists these choices, and no others."""
    [section] = re.findall(
        r"## What may be reordered\n(.*?)\n## ", PAGE.read_text("utf-8"), re.DOTALL
    )
    assert re.findall(r"^- \*\*(.*?)\.?\*\*", section, re.MULTILINE) == list(MODEL)
