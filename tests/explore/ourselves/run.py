"""What a scenario has to work with: pools and managers, threads, time, and what must hold."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, TypeAlias

from framework._manager.core import Core, Parts
from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import Framework
from framework._manager.settings import Settings
from framework._records.statuses import EVENT_OF, FINAL
from framework._threads.clock import SystemClock
from framework._threads.crew import Crew
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.pool_threads import PoolThread
from framework.protocols import TaskEvent
from tests.explore.ourselves.locks import put
from tests.explore.ourselves.standins import ModelLoop, Threads, sleep
from tests.explore.ourselves.turns import Turns

ENDS = set(EVENT_OF.values())
AFTER_THE_END = {"late_result", "evicted"}


class Thread(PoolThread):
    """A thread of a pool, at the same place of a set in every run."""

    numbers: Iterator[int] = itertools.count()

    def __init__(self, crew: Any, name: str) -> None:
        # First, since the base class puts the thread into a set.
        self._hash = next(Thread.numbers)
        super().__init__(crew, name)

    def __hash__(self) -> int:
        return self._hash


class _Crew(Crew):
    """The production threads and queue."""

    thread_type: ClassVar[type[PoolThread]] = Thread


class Pool(ThreadPoolExecutorEnhanced):
    """The production pool, with threads of the same order in every run."""

    _crew_type: ClassVar[type[Crew]] = _Crew


class Gate:
    """Holds threads up until it is opened."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        """Wait until it is open."""
        self._event.wait()

    def open(self) -> None:
        """Let all pass."""
        self._event.set()


class Late:
    """A value that one thread sets and others wait for."""

    def __init__(self) -> None:
        self._gate = Gate()
        self._value: Any = None

    def set(self, value: Any) -> None:
        """Set it."""
        self._value = value
        self._gate.open()

    def get(self) -> Any:
        """Wait for it."""
        self._gate.wait()
        return self._value


class Run:
    """One run of a scenario.

    Args:
        turns: Its turns.
        threads: Its threads.

    Attributes:
        clock: The production clock, on virtual time.
        random: Yields the same in every run.
        stack: Is closed after the run.
        frameworks: Those of its managers.
    """

    def __init__(self, turns: Turns, threads: Threads) -> None:
        self._turns = turns
        self._threads = threads
        self.clock = SystemClock()
        self.random = random.Random(0)
        self.stack = ExitStack()
        self.frameworks: list[Framework] = []
        self._events: dict[str, list[str]] = {}

    # -- what is explored

    def pool(self, workers: int = 1, **options: Any) -> Pool:
        """Return a pool, which the scenario shuts down and checks."""
        return Pool(workers, "pool", clock=self.clock, **options)

    def manager(self, workers: int = 1, **settings: Any) -> TaskManager:
        """Return a manager, which is stopped and checked after the scenario."""
        ids = itertools.count(1)
        parts = Parts(
            clock=self.clock,
            pool=self.pool(workers),
            new_id=lambda: f"{next(ids):032x}",
            rng=self.random,
        )
        framework = Framework(parts, Settings(**settings))
        self.frameworks.append(framework)
        framework.manager.subscribe(self._note)
        return framework.manager

    def _note(self, event: TaskEvent) -> None:
        if event.task_id is not None:
            self._events.setdefault(event.task_id, []).append(event.kind)

    def loop(self) -> ModelLoop:
        """Return an event loop, which the scenario closes; if it fails, the run does."""
        loop = ModelLoop(self._turns)
        self.stack.callback(loop.close)
        return loop

    # -- what happens

    def together(self, *bodies: Callable[[], object]) -> None:
        """Call all functions at once, each on a thread, and wait for their ends."""
        names = [getattr(body, "__name__", "thread") for body in bodies]
        threads = [
            threading.Thread(target=body, name=name)
            for body, name in zip(bodies, names, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_errors()

    def run_in_loop(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run a coroutine on an event loop of the calling thread."""
        loop = self.loop()
        try:
            loop.run_until_complete(make())
        finally:
            loop.close()

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass; it moves when nobody can run."""
        sleep(self._turns, seconds)

    def hurry(self) -> None:
        """Move time on at some moment of the run, as if all others were held up for long."""
        self._turns.point("lock", "move time on")
        self._turns.hurry()

    def refuse_threads(self, refused: Callable[[str], bool]) -> None:
        """Let the system refuse to start threads of some names."""
        self._threads.refused = lambda thread: refused(thread.name)

    def replace(self, owner: Any, name: str, new: Any) -> None:
        """Replace an attribute until the run is over."""
        put(self.stack, owner, name, new)

    # -- what must hold

    def _check_errors(self) -> None:
        error = self._threads.error("")
        if error is not None:
            raise error

    def close(self) -> None:
        """Stop everything, and check what must hold then."""
        for framework in self.frameworks:
            framework.core.stop()
            framework.pool.shutdown()
            self.check_pool(framework.pool)
            self.check_manager(framework.manager)
        self.clock.close()
        # Threads in their last lines belong to nobody any more. They end before time moves.
        self.sleep(1e-6)
        self._check_errors()
        actors, first = self._turns.sequencer.actors, self._turns.sequencer.first
        left = [actor.identity for actor in actors.values() if actor is not first]
        assert not left, f"threads left: {', '.join(left)}"

    def check_pool(self, pool: ThreadPoolExecutorEnhanced) -> None:
        """Check a pool that was shut down: its counters add up, and nothing is left."""
        stats, crew = pool.get_stats(), pool._crew
        ends = sum(stats[name] for name in ("completed", "failed", "cancelled", "timed_out"))
        assert stats["submitted"] == ends, stats
        assert stats["threads"] == 0, stats
        left = (crew.abandoned, crew.spares.blocked, crew.queue.waiting, crew.spares.wanted)
        assert not any(left), left
        assert not any(thread.waits for thread in crew.threads)

    def check_manager(self, manager: TaskManager) -> None:
        """Check a manager that has stopped: counters and events agree, and nothing is left."""
        core = manager._core
        figures, told = core.overview.figures(), Counter[str]()
        assert figures["pending"] == figures["running"] == 0, figures
        assert figures["submitted"] == sum(figures[status.value] for status in FINAL), figures
        assert not any(home.live for home in core.ledger.homes)
        for kinds in self._events.values():
            told.update(kinds)
            check_history(kinds)
        for status in FINAL:
            assert told[EVENT_OF[status]] == figures[status.value], (told, figures)
        assert told["submitted"] == figures["submitted"], (told, figures)
        assert told["late_result"] == figures.get("late_results", 0), (told, figures)
        assert not core.policies._sleepers
        assert not len(core.places.delays)
        assert not core.places._tasks
        assert not core.endings.limits._deadlines._queues


async def asleep(seconds: float) -> None:
    """Suspend the calling coroutine for some virtual seconds."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    timer = loop.call_later(seconds, ended.set_result, None)
    try:
        await ended
    finally:
        timer.cancel()


def check_history(kinds: list[str]) -> None:
    """Check that the events of a task come in an order that can be."""
    ends = [place for place, kind in enumerate(kinds) if kind in ENDS]
    assert (kinds[0], len(ends)) == ("submitted", 1), kinds
    assert set(kinds[ends[0] + 1 :]) <= AFTER_THE_END, kinds
    assert AFTER_THE_END.isdisjoint(kinds[: ends[0]]), kinds


Scenario: TypeAlias = Callable[[Run], None]


def watching(*files: str) -> Callable[[Scenario], Scenario]:
    """Return a decorator for a scenario that stops at the lines of more files, too."""

    def mark(scenario: Scenario) -> Scenario:
        vars(scenario)["watched"] = files
        return scenario

    return mark


def wind_down(core: Core) -> None:
    """Accept no more tasks, and wake those that sleep in a retry or a throttle."""
    for sleeper in core.begin_wind_down():
        sleeper.interrupt()
