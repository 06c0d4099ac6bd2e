"""The parts of one test: clock, executor, pool, manager and recorder.

Guarantees: every test gets its own parts, which end with it, whatever happened.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import datetime
from types import CodeType, ModuleType
from typing import Protocol

import pytest

from framework import TaskManager, ThreadPoolExecutorEnhanced
from framework.protocols import TaskEvent
from framework.testing import (
    ControlledEngine,
    lasting_schedules,
    override_framework,
    override_when_used,
    own_schedules,
    rate_limits,
    set_up_apps,
    worker_bound,
)
from pytest_asyncframe._backends.back_end import BackEnd, Parts
from pytest_asyncframe._backends.elsewhere import Elsewhere
from pytest_asyncframe._backends.names import require_memory
from pytest_asyncframe._faults.injector import Injector
from pytest_asyncframe._faults.searched import Choices
from pytest_asyncframe._seen import rules
from pytest_asyncframe._seen.always import Invariants
from pytest_asyncframe._seen.matchers import Expectation
from pytest_asyncframe._seen.names import Names, Scope
from pytest_asyncframe._seen.pool_calls import PoolCalls
from pytest_asyncframe._seen.recorder import Recorder
from pytest_asyncframe._seen.sinks import Sinks
from pytest_asyncframe._toolkit import pristine
from pytest_asyncframe._toolkit.clients import Client, LiveServer, ServingProcess
from pytest_asyncframe._toolkit.options import Settings
from pytest_asyncframe._toolkit.pace import Pace
from pytest_asyncframe._toolkit.polling import Polling
from pytest_asyncframe._turns.choices import Chooser, RandomChooser
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock, _stalls
from pytest_asyncframe.clock._blocked import BlockedLoops, RealTimeReads
from pytest_asyncframe.clock._patched import patches
from pytest_asyncframe.clock._patched.runners import AnyioRunner
from pytest_asyncframe.clock._patched.threads import StartedThreads, lasting
from pytest_asyncframe.executor import DeterministicExecutor, SequencedExecutor
from pytest_asyncframe.faults import FaultPlan
from pytest_asyncframe.histories import History

_POOL_NAME = "asyncframe-"


class Process(ServingProcess, Protocol):
    """What runs the apps of a test, and may die: then it is another one, on the same store.

    A framework that is made anew for it, by `Toolkit.framework`, takes the place of the
    one that has died.
    """

    def begun(self, toolkit: Toolkit) -> AbstractContextManager[Parts]:
        """Bring the store of a framework that is made now, and who takes part in its tasks."""
        ...

    @property
    def died_at(self) -> Sequence[str]:
        """The points at which it has died so far."""
        ...

    def crash(self) -> None:
        """Die now; called on the thread of the test."""

    def unseen(self) -> AbstractContextManager[None]:
        """Die nowhere inside the block."""
        ...

    def tells(self, event: TaskEvent) -> bool:
        """Whether it tells an event later, by `Toolkit.hear`."""
        ...


class Exploration(Protocol):
    """One run of a test that is run under many schedules, as its toolkit knows it.

    Attributes:
        chooser: Decides what comes next in this run.
        seed: Seed of jitter, the same in all runs of the test.
        start: Date and time at second 0 of virtual time, if the test sets none; aware.
    """

    chooser: Chooser
    seed: int
    start: datetime

    @property
    def process(self) -> Process | None:
        """What runs its apps if that may die; None where the test itself runs them."""
        ...

    def new_id(self) -> str:
        """Return the id of the next task."""
        ...

    def installed(self, explored: Toolkit) -> AbstractContextManager[object]:
        """Install what makes this run like all others, and its points, inside the block.

        Entered on the thread of the test when all parts of *explored* exist, and left before
        the first of them ends.
        """
        ...


class ReportedRun(Exploration, Protocol):
    """One run of such a test by pytest.

    Attributes:
        replays: Whether its tasks are replayed from their steps at its end.
    """

    replays: bool

    def end(self) -> None:
        """Free what the run has left behind; called when all parts of it have ended.

        Raises:
            Exception: What pytest makes of an error that nobody could raise, if warnings are
                errors.
        """
        ...

    def reported(self, report: pytest.TestReport) -> pytest.TestReport:
        """Return the report that users see, given that of a phase of the test."""
        ...


class Toolkit:
    """Everything behind the fixtures of one test.

    The framework with its pool is made when something first uses it, since most of what a
    toolkit costs would be for nothing in a test without tasks.

    Args:
        settings: The settings of the test.
        fixtures: Names of the fixtures that it requests.
        exploration: The run, if the test is run under many schedules; else None.
        find_own: Returns the code of the test function and its fixtures.
        back_end: What keeps its tasks and runs them; None for memory.

    Attributes:
        clock: The virtual clock; None where time is real.
        is_virtual: Whether time is virtual.
        pace: What happens by itself in it.
        recorder: Records the tasks of the test.
        sinks: What hears the events of each framework that it has.
        expectations: The failures that the test expects.
        clients: The clients and servers that the test has created.
        not_awaited: Waits of the test that were never awaited, a line each.
        threads: The threads that the test has started.
        reads: Counts reads of real time; None in the mode ``threads``.
        blocked: Records what blocks its event loops.
        module: The module of the test; None if it is in none.
        foreign: Names of other tests' modules.
        invariants: What the test says must always hold.
        histories: Histories that are compared with models at the end of the test.
        cut_short: Whether an exception has ended the test: it has failed, or is skipped.
    """

    def __init__(
        self,
        settings: Settings,
        fixtures: Collection[str],
        exploration: Exploration | None = None,
        find_own: Callable[[], Collection[CodeType]] = tuple,
        back_end: BackEnd | None = None,
    ) -> None:
        self.settings = settings
        self.back_end: BackEnd = back_end or BackEnd()
        self._exploration = exploration
        self.mode: str = settings.mode if "asyncframe" in fixtures else _mode(fixtures)
        self.expectations: list[Expectation] = []
        self.clients: list[Client | LiveServer] = []
        self.threads: StartedThreads = StartedThreads()
        self.module: ModuleType | None = None
        self.foreign: Collection[str] = ()
        self.cut_short: bool = False
        self._anyio: AnyioRunner | None = None
        self._manager: TaskManager | None = None
        self._elsewhere: Elsewhere | None = None
        self._calls: PoolCalls | None = None
        self._make_framework: Callable[[], object] = lambda: None
        self._most_workers = self._stopped = 0
        self._stack = ExitStack()
        self.is_virtual: bool = self.mode != "threads" and (
            "asyncframe" in fixtures or "task_clock" in fixtures
        )
        moves = "asyncframe" in fixtures and self.mode != "manual"
        sequencer = None if self.mode == "threads" else self._make_sequencer(moves)
        self.sequencer: Sequencer | None = sequencer
        self.clock: VirtualClock | None = None
        if sequencer is not None and self.is_virtual:
            self.clock = self._make_clock(sequencer)
        self.not_awaited: list[str] = [] if self.clock is None else self.clock.not_awaited
        now = self._real_now if self.clock is None else self.clock.monotonic
        self.recorder: Recorder = Recorder(now)
        self.recorder.pollers = settings.pollers
        self.sinks: Sinks = Sinks()
        self.invariants: Invariants = Invariants(self.recorder)
        self.histories: list[History] = []
        self.blocked: BlockedLoops = BlockedLoops(now, find_own)
        self.reads: RealTimeReads | None = None
        if sequencer is not None:
            self.reads = RealTimeReads(lambda: sequencer.now, self.recorder.note)
        self.pace: Pace = Pace(sequencer, self.mode, moves=moves, drains=settings.drains)

    def open(self) -> None:
        """Open the parts; from now on the manager is current, once it is used."""
        pristine.note()
        stack = self._stack
        stack.enter_context(self.threads.recording())
        try:
            if self.sequencer is not None:
                self._control(self.sequencer, stack)
            stack.callback(self._end)
            stack.callback(self._note_stop)
            self._make_framework = stack.enter_context(override_when_used(self.framework))
            self.recorder.begin(self.clock)
            if self._exploration is not None:
                # Made now, so that it takes none of the choices of the test.
                self._make_framework()
                stack.enter_context(self._exploration.installed(self))
        except BaseException:  # raised again: nobody else closes what is half open
            stack.close()
            raise

    def add_invariant(self, predicate: Callable[[], object]) -> None:
        """Check a predicate of the test from now on; see `Invariants.add`."""
        __tracebackhide__ = True
        if self.sequencer is not None:
            self.invariants.undivided = self.undivided
            self.sequencer.before_point = self.invariants.at_point
        self.invariants.add(predicate)

    def undivided(self) -> AbstractContextManager[object]:
        """Let nobody else run inside the block, as far as the sequencer decides that."""
        return nullcontext() if self.sequencer is None else self.sequencer.undivided()

    def end_of_call(self, *, passed: bool) -> str:
        """Check what the test has said must hold, when its function has ended.

        Args:
            passed: Whether it has passed so far.

        Returns:
            What is wrong, for users; "" if nothing is.
        """
        # Before the fixtures end: what a predicate looks at may end with them.
        broken = self.invariants.end(check=passed)
        found = [one.finding() for one in self.histories] if passed else []
        return "\n".join(text for text in (broken, *found) if text)

    def _real_now(self) -> float:
        return self.manager.clock.monotonic()

    def _control(self, sequencer: Sequencer, stack: ExitStack) -> None:
        """Let the threads of the test take turns, and wait on its clock."""
        if self.clock is not None and self.reads is not None:
            self.clock.on_block = self.blocked.recording
            self.clock.on_read = self.reads.count
        _stalls.watch(sequencer, self.mode, self.threads.before, self.recorder.note)
        # Everything is undone in reverse order: the manager stops while its pool and clock still
        # work, and the patches go once no thread of the test waits on the clock.
        sequencer.first = stack.enter_context(sequencer.working())
        if self.clock is not None:
            stack.enter_context(patches.installed(self.clock, wall=True))
            self._anyio = AnyioRunner()
            stack.enter_context(self._anyio.exchanged())

    @contextmanager
    def framework(self) -> Iterator[TaskManager]:
        """Make a new framework of the test current inside the block."""
        run, pool = self._exploration, self._make_pool()
        engine, rng = None, None
        if isinstance(pool, SequencedExecutor):
            engine = ControlledEngine(pool, hold=self.mode != "virtual")
            rng = random.Random(self.settings.seed if run is None else run.seed)
        process = self.process
        with (
            self.back_end.opened() if process is None else process.begun(self) as parts,
            override_framework(
                clock=self.clock,
                engine=engine or parts.engine,
                pool=pool,
                store=parts.store,
                interceptor=parts.interceptor or self.recorder,
                new_id=None if run is None else run.new_id,
                rng=rng,
                asking_clock=None if process is None else self.clock,
                app_rules=self.settings.app_rules == "on",
                offers=parts.offers,
            ) as manager,
        ):
            self._manager, self._calls = manager, PoolCalls(pool)
            manager.subscribe(self._on_event)
            self.sinks.attach(manager)
            if parts.are_elsewhere:
                self._elsewhere = Elsewhere(self.back_end, manager, self.recorder)
            yield manager

    @property
    def process(self) -> Process | None:
        """What runs the apps of the test if that may die; None if it cannot."""
        return None if self._exploration is None else self._exploration.process

    def _make_sequencer(self, moves: bool) -> Sequencer:
        sequencer = Sequencer(
            moves=moves,
            starts=self.mode != "manual",
            hold=self.mode != "virtual",
            one_at_a_time=self.mode in ("auto", "seeded"),
            chooser=self._make_chooser(),
        )
        sequencer.watchdog.patience = self.settings.stuck_timeout
        return sequencer

    def _make_chooser(self) -> Chooser | None:
        if self._exploration is not None:
            return self._exploration.chooser
        return RandomChooser(self.settings.seed) if self.mode == "seeded" else None

    def _make_clock(self, sequencer: Sequencer) -> VirtualClock:
        run = self._exploration
        start = self.settings.start or (None if run is None else run.start)
        return VirtualClock(sequencer, None if start is None else start.timestamp())

    def _make_pool(self) -> ThreadPoolExecutorEnhanced:
        if self.sequencer is None:
            return ThreadPoolExecutorEnhanced(thread_name_prefix=_POOL_NAME)
        kind = SequencedExecutor if self.mode == "virtual" else DeterministicExecutor
        return kind(self.sequencer, thread_name_prefix=_POOL_NAME, clock=self.clock)

    def _on_event(self, event: TaskEvent) -> None:
        teller = self._elsewhere or self.process
        if teller is None or not teller.tells(event):
            self.hear(event)

    def hear(self, event: TaskEvent) -> None:
        """Record an event of a task."""
        if self.sequencer is not None:
            self.sequencer.moved = 0
        if event.kind == "started":
            # An app may set another number when it starts.
            self._most_workers = max(self._most_workers, worker_bound(self.pool))
        self.recorder.on_event(event)
        self.invariants.on_event(event)

    @property
    def manager(self) -> TaskManager:
        """The manager of the test, which is made now if nothing has used it."""
        self._make_framework()
        if self._manager is None:
            raise RuntimeError("the test has ended, and nothing has used its framework")
        return self._manager

    @property
    def pool(self) -> ThreadPoolExecutorEnhanced:
        """The thread pool of the manager, which is made now if nothing has used it."""
        return self.manager.pool

    @property
    def has_called_pool(self) -> bool:
        """Whether something was submitted to the pool of the manager itself."""
        return self._calls is not None and self._calls.were_made

    def broken_rules(self) -> list[str]:
        """Return which rules the framework has broken; each would be a bug of asyncframe."""
        if self._manager is None or self.process is not None:
            # Two lives of a process make two histories of a task.
            return []
        limits = rules.Limits(rate_limits(self.manager), self._most_workers, f"{_POOL_NAME}_")
        recorder = self.recorder
        return rules.broken(tuple(recorder.moments), tuple(recorder.starts), limits)

    def started_after_stop(self) -> list[str]:
        """Return which tasks have started after `close` had stopped the framework."""
        return rules.started_after_stop(tuple(self.recorder.moments), self._stopped)

    def _note_stop(self) -> None:
        self._stopped = len(self.recorder.moments)

    def unfinished_calls(self, grace: float) -> list[str]:
        """Return the calls of the pool that do not end within *grace* real seconds, or at all."""
        calls = self._calls
        return [] if calls is None else calls.left(grace if self.sequencer is None else 0.0)

    def _end(self) -> None:
        """End the threads of the test, with an error if they wait on its clock."""
        sequencer = self.sequencer
        if sequencer is not None:
            sequencer.moves = sequencer.starts = False
            sequencer.end_waits()
        if self._manager is not None:
            self._manager.pool.shutdown(cancel_futures=True, timeout=1.0)
        if sequencer is not None:
            sequencer.end()

    def close(self) -> None:
        """End all parts."""
        # Also those that were never entered: a server opens its socket when it is created.
        for client in self.clients:
            client.discard()
        self._stack.close()
        if self.clock is not None:
            self.clock.end()

    @property
    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """Creates event loops for the test."""
        return asyncio.new_event_loop if self.clock is None else self.clock.new_event_loop

    # -- for the fixtures

    def require_clock(self, name: str) -> VirtualClock:
        """Return the clock.

        Raises:
            RuntimeError: If time is real.
        """
        if self.clock is None:
            require_memory(self.back_end.name, name, "time is real")
            raise RuntimeError(f"{name}: time is real in the mode {self.mode!r}")
        return self.clock

    def require_loop(self, what: str) -> None:
        """Check that the running event loop uses the test's clock, if that is virtual.

        Raises:
            RuntimeError: If it does not.
        """
        # A thread that the clock does not control keeps nobody from running.
        if self.clock is not None and self.clock.sequencer.here is not None:
            self.clock.require_loop(what)

    def require_executor(self, name: str) -> DeterministicExecutor:
        """Return the executor.

        Raises:
            RuntimeError: If tasks start by themselves.
        """
        require_memory(self.back_end.name, name, "tasks start by themselves")
        if self.mode in ("virtual", "threads"):
            raise RuntimeError(
                f"{name}: tasks start by themselves in the mode {self.mode!r}; use the mode "
                "'auto', 'manual' or 'seeded'"
            )
        pool = self.pool
        assert isinstance(pool, DeterministicExecutor)
        return pool

    def scope(self) -> Scope:
        """Return what decides between functions of the same name."""
        apps: list[object] = [client.app for client in self.clients]
        scheduled: dict[str, Callable[..., object]] = {}
        if self._manager is not None:
            apps += set_up_apps(self.manager)
            scheduled = own_schedules(self.manager)
        modules = [] if self.module is None else [self.module]
        return Scope(modules, self.foreign, apps, scheduled)

    @functools.cached_property
    def _injector(self) -> Injector:
        """Takes part in the tasks of the test from now on."""
        recorder = self.recorder
        recorder.injector = injector = Injector(recorder, self.manager.clock, self.pool.submit)
        return injector

    @property
    def searches_faults(self) -> bool:
        """Whether faults that no test has planned may take place."""
        injector = self.recorder.injector
        return injector is not None and injector.is_searching

    def search_faults(self, choices: Choices) -> None:
        """Let faults take place where *choices* decides so."""
        self._injector.search(choices)

    @functools.cached_property
    def faults(self) -> FaultPlan:
        """The fault plan, which takes part in the tasks once somebody has asked for it.

        Raises:
            RuntimeError: If the test runs on what users deploy.
        """
        require_memory(self.back_end.name, "asyncframe.faults", "nothing is injected")
        recorder = self.recorder
        return FaultPlan(
            recorder,
            self._injector,
            Names(recorder, self.scope),
            real_time="" if self.clock is not None else self.mode,
            seed=self.settings.seed if self._exploration is None else self._exploration.seed,
        )

    def unfired_faults(self) -> list[str]:
        """Return the planned faults that did not take place in a whole test, a line each."""
        is_planned = not self.cut_short and self.recorder.injector is not None
        return self.faults.findings() if is_planned else []

    def polling(self) -> Polling | None:
        """Return what lets time pass while a test asks an app again and again."""
        if self.clock is None or self.mode == "manual":
            return None
        recorder = self.recorder
        return Polling(self.clock, lambda: bool(recorder.unsettled), recorder.note)

    def leaving(self) -> AbstractContextManager[object]:
        """Return a context in which a client is closed: tasks that it waits for run."""
        return self.pace.waiting() if self.settings.drains else nullcontext()

    def away(self) -> AbstractContextManager[object]:
        """Let others run while the calling thread waits for them in real time."""
        return nullcontext() if self.sequencer is None else self.sequencer.away()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Let the calling thread wait in real time, and create what outlives the test."""
        with ExitStack() as stack:
            stack.enter_context(lasting_schedules())
            if self.sequencer is not None:
                stack.enter_context(self.sequencer.real())
            if self._anyio is not None:
                stack.enter_context(self._anyio.exchanged())
            with self.threads.lasting() as made:
                yield
        if self.sequencer is not None:
            self.sequencer.outside.watch(lasting(made))


def _mode(fixtures: Collection[str]) -> str:
    if "task_executor" in fixtures:
        return "manual"
    return "virtual" if "task_clock" in fixtures else "threads"
