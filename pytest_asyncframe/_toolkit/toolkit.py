"""The parts of one test: clock, executor, pool, manager and recorder.

Guarantees: every test gets its own parts, which end with it, whatever happened.
"""

from __future__ import annotations

import asyncio
import functools
import random
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from framework import TaskManager, ThreadPoolExecutorEnhanced
from framework.protocols import Clock, TaskEvent
from framework.testing import (
    ControlledEngine,
    lasting_schedules,
    override_framework,
    rate_limits,
    worker_bound,
)
from pytest_asyncframe._seen import rules
from pytest_asyncframe._seen.always import Invariants
from pytest_asyncframe._seen.calls import PoolCalls
from pytest_asyncframe._seen.matchers import Expectation
from pytest_asyncframe._seen.names import Names
from pytest_asyncframe._seen.recorder import Recorder
from pytest_asyncframe._toolkit import pristine
from pytest_asyncframe._toolkit.clients import Client, LiveServer
from pytest_asyncframe._toolkit.exploring import Exploration
from pytest_asyncframe._toolkit.options import Settings
from pytest_asyncframe._turns.actors import TestEndedError
from pytest_asyncframe._turns.choices import Chooser, RandomChooser
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import StuckError, VirtualClock, _patches, _stalls
from pytest_asyncframe.clock._blocked import BlockedLoops
from pytest_asyncframe.clock._polled import RealTimeReads
from pytest_asyncframe.clock._runners import AnyioRunner
from pytest_asyncframe.clock._threads import StartedThreads
from pytest_asyncframe.executor import DeterministicExecutor, SequencedExecutor
from pytest_asyncframe.faults import FaultPlan

_POOL_NAME = "asyncframe-"

_GRACE = 0.2
"""Real seconds that running work has to finish when the test ends."""


class Toolkit:
    """Everything behind the fixtures of one test.

    Args:
        settings: The settings of the test.
        fixtures: Names of the fixtures that it requests.
        exploration: The run, if the test is run under many schedules; else None.

    Attributes:
        clock: The virtual clock; None where time is real.
        executor: The deterministic executor; None where tasks start by themselves.
        pool: The thread pool of the manager.
        manager: The manager, which is current while the toolkit is open.
        is_virtual: Whether time is virtual.
        recorder: Records the tasks of the test.
        expectations: The failures that the test expects.
        clients: The clients and servers that the test has created.
        threads: The threads that the test has started.
        reads: Counts reads of real time; None in the mode ``threads``.
        blocked: Records what blocks its event loops.
        calls: The calls submitted to its pool directly.
        foreign: Names of other tests' modules.
        invariants: What the test says must always hold.
        cut_short: Whether an exception has ended the test: it has failed, or is skipped.
    """

    manager: TaskManager
    pool: ThreadPoolExecutorEnhanced
    calls: PoolCalls
    recorder: Recorder
    invariants: Invariants

    def __init__(
        self,
        settings: Settings,
        fixtures: Collection[str],
        exploration: Exploration | None = None,
    ) -> None:
        self.settings = settings
        self._exploration = exploration
        self.mode: str = settings.mode if "asyncframe" in fixtures else _mode(fixtures)
        self.expectations: list[Expectation] = []
        self.clients: list[Client | LiveServer] = []
        self.threads: StartedThreads = StartedThreads()
        self.blocked: BlockedLoops = BlockedLoops(self._now)
        self.foreign: Collection[str] = ()
        self.cut_short: bool = False
        self.sequencer: Sequencer | None = None
        self.clock: VirtualClock | None = None
        self.executor: DeterministicExecutor | None = None
        self.reads: RealTimeReads | None = None
        self._anyio: AnyioRunner | None = None
        self._most_workers = 0
        self._waits = self._servers = 0
        self._stopped = 0
        self._stack = ExitStack()
        self.is_virtual: bool = self.mode != "threads" and (
            "asyncframe" in fixtures or "task_clock" in fixtures
        )
        self._moves = "asyncframe" in fixtures and self.mode != "manual"

    def open(self) -> None:
        """Create the parts, and make the manager current."""
        pristine.note()
        stack = self._stack
        stack.enter_context(self.threads.recording())
        try:
            if self.mode == "threads":
                self._open_pool()
            else:
                self._open_sequenced(stack)
            self.calls = PoolCalls(self.pool)
            self.recorder.pollers = self.settings.pollers
            self.invariants = Invariants(self.recorder)
            self.manager.subscribe(self._on_event)
            self.recorder.begin(self.clock)
            if self._exploration is not None:
                stack.enter_context(self._exploration.installed(self))
        except BaseException:
            stack.close()
            raise

    def add_invariant(self, predicate: Callable[[], object]) -> None:
        """Check a predicate of the test from now on; see `Invariants.add`."""
        __tracebackhide__ = True
        if self.sequencer is not None:
            self.invariants.undivided = self.sequencer.undivided
            self.sequencer.before_point = self.invariants.at_point
        self.invariants.add(predicate)

    def _open_pool(self) -> None:
        self.pool = ThreadPoolExecutorEnhanced(thread_name_prefix=_POOL_NAME)
        self._stack.callback(self.pool.shutdown, cancel_futures=True, timeout=1.0)
        self._stack.callback(self._note_stop)
        self.recorder = Recorder(self._now)
        self.manager = self._stack.enter_context(
            override_framework(
                pool=self.pool, interceptor=self.recorder, app_rules=self.settings.app_rules == "on"
            )
        )

    def _open_sequenced(self, stack: ExitStack) -> None:
        run = self._exploration
        sequencer = self._make_sequencer()
        clock: Clock | None = None
        if self.is_virtual:
            clock = self.clock = self._make_clock(sequencer)
        pool = self._make_pool(sequencer, clock)
        # Everything is undone in reverse order: the manager stops while its pool and clock still
        # work, and the patches go once no thread of the test waits on the clock.
        sequencer.first = stack.enter_context(sequencer.working())
        if self.clock is not None:
            stack.enter_context(_patches.installed(self.clock, wall=True))
            self._anyio = AnyioRunner()
            stack.enter_context(self._anyio.exchanged())
        stack.callback(_end, sequencer, pool)
        stack.callback(self._note_stop)
        self.manager = stack.enter_context(
            override_framework(
                clock=clock,
                engine=ControlledEngine(pool, hold=self.mode != "virtual"),
                pool=pool,
                interceptor=self.recorder,
                new_id=None if run is None else run.new_id,
                rng=random.Random(self.settings.seed if run is None else run.seed),
                app_rules=self.settings.app_rules == "on",
            )
        )

    def _make_sequencer(self) -> Sequencer:
        mode = self.mode
        sequencer = self.sequencer = Sequencer(
            moves=self._moves,
            starts=mode != "manual",
            hold=mode != "virtual",
            one_at_a_time=mode in ("auto", "seeded"),
            chooser=self._make_chooser(),
        )
        sequencer.patience = self.settings.stuck_timeout
        self.recorder = Recorder(self._now)
        self.reads = RealTimeReads(lambda: sequencer.now, self.recorder.note)
        _stalls.watch(sequencer, mode, self.threads.before, self.recorder.note)
        return sequencer

    def _make_chooser(self) -> Chooser | None:
        if self._exploration is not None:
            return self._exploration.chooser
        return RandomChooser(self.settings.seed) if self.mode == "seeded" else None

    def _make_clock(self, sequencer: Sequencer) -> VirtualClock:
        start = self.settings.start
        if start is None and self._exploration is not None:
            start = self._exploration.start
        clock = VirtualClock(sequencer, None if start is None else start.timestamp())
        clock.on_block = self.blocked.recording
        if self.reads is not None:
            clock.on_read = self.reads.count
        return clock

    def _make_pool(self, sequencer: Sequencer, clock: Clock | None) -> SequencedExecutor:
        if self.mode == "virtual":
            pool = SequencedExecutor(sequencer, thread_name_prefix=_POOL_NAME, clock=clock)
        else:
            pool = self.executor = DeterministicExecutor(
                sequencer, thread_name_prefix=_POOL_NAME, clock=clock
            )
        self.pool = pool
        return pool

    def _on_event(self, event: TaskEvent) -> None:
        if self.sequencer is not None:
            self.sequencer.moved = 0
        if event.kind == "started":
            # An app may set another number when it starts.
            self._most_workers = max(self._most_workers, worker_bound(self.pool))
        self.recorder.on_event(event)
        self.invariants.on_event(event)

    def _now(self) -> float:
        return self.manager.clock.monotonic()

    def finish_running_work(self) -> None:
        """Let running work finish; start nothing new and do not move time."""
        if self.sequencer is None:
            unfinished = self.recorder.unfinished
            ended = threading.Semaphore(0)
            with ExitStack() as watches:
                for one in unfinished:
                    watches.enter_context(self.recorder.watching(one.record, ended.release))
                # Until none ends any more. What remains is a finding.
                while unfinished and ended.acquire(timeout=_GRACE):
                    unfinished.pop()
            return
        sequencer, first = self.sequencer, self.sequencer.first
        kept = sequencer.starts, sequencer.patience
        sequencer.starts = sequencer.starts and not sequencer.hold
        sequencer.patience = min(sequencer.patience, _GRACE)
        assert first is not None
        try:
            sequencer.settle(first)
        except StuckError:  # a task blocks, which is a finding
            pass
        finally:
            sequencer.starts, sequencer.patience = kept

    def broken_rules(self) -> list[str]:
        """Return which rules the framework has broken; each would be a bug of asyncframe."""
        limits = rules.Limits(rate_limits(self.manager), self._most_workers, f"{_POOL_NAME}_")
        recorder = self.recorder
        return rules.broken(tuple(recorder.moments), tuple(recorder.starts), limits)

    def started_after_stop(self) -> list[str]:
        """Return which tasks have started after `close` had stopped the framework."""
        return rules.started_after_stop(tuple(self.recorder.moments), self._stopped)

    def _note_stop(self) -> None:
        self._stopped = len(self.recorder.moments)

    def unfinished_calls(self) -> list[str]:
        """Return the calls of the pool that have not ended after `finish_running_work`."""
        return self.calls.left(_GRACE if self.sequencer is None else 0.0)

    def close(self) -> None:
        """End all parts."""
        # Also those that were never entered: a server opens its socket when it is created.
        for client in self.clients:
            client.discard()
        self._stack.close()

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
        if self.executor is None:
            raise RuntimeError(
                f"{name}: tasks start by themselves in the mode {self.mode!r}; use the mode "
                "'auto', 'manual' or 'seeded'"
            )
        return self.executor

    @functools.cached_property
    def faults(self) -> FaultPlan:
        """The fault plan, which takes part in the tasks once somebody has asked for it."""
        clock: Clock = self.manager.clock
        return FaultPlan(
            self.recorder,
            Names(self.recorder, lambda: self.foreign),
            clock,
            self.pool.submit,
            real_time="" if self.clock is not None else self.mode,
            seed=self.settings.seed if self._exploration is None else self._exploration.seed,
        )

    def unfired_faults(self) -> list[str]:
        """Return the planned faults that did not take place in a whole test, a line each."""
        if self.cut_short or self.recorder.injector is None:
            return []
        return self.faults.findings()

    @property
    def open_clients(self) -> list[Client | LiveServer]:
        """The clients and servers that are still open."""
        return [client for client in self.clients if client.running]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let time move by itself while the test waits, also beside a live server.

        Where nothing starts by itself, and the test's waits are to run it, it starts too.
        """
        self._waits += 1
        self._set_pace()
        try:
            yield
        finally:
            self._waits -= 1
            self._set_pace()

    def _set_pace(self) -> None:
        """Set what happens by itself now: several waits and servers may overlap."""
        sequencer, mode = self.sequencer, self.mode
        if sequencer is None:
            return
        drains = self.settings.drains and mode == "manual"
        if drains:
            sequencer.starts = self._waits > 0
        beside = self._servers > 0 and mode != "manual"
        sequencer.hold = mode != "virtual" and not beside
        if self._waits:
            sequencer.moves = self._moves or drains
        else:
            sequencer.moves = self._moves and not beside
        in_turns = mode in ("auto", "seeded") or (drains and self._waits > 0)
        sequencer.one_at_a_time = in_turns and not beside

    def leaving(self) -> AbstractContextManager[object]:
        """Return a context in which a client is closed: tasks that it waits for run."""
        return self.waiting() if self.settings.drains else nullcontext()

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
            yield

    @contextmanager
    def beside_server(self) -> Iterator[None]:
        """Start tasks when they are submitted, and let time stand still, inside the block."""
        self._servers += 1
        self._set_pace()
        try:
            yield
        finally:
            self._servers -= 1
            self._set_pace()


def _end(sequencer: Sequencer, pool: SequencedExecutor) -> None:
    """End the threads of a test, with an error if they wait on its clock."""
    sequencer.moves = sequencer.starts = False
    for actor in list(sequencer.actors.values()):
        if actor is not sequencer.first:
            sequencer.fail(actor, TestEndedError("the test has ended"))
    pool.shutdown(cancel_futures=True, timeout=1.0)
    sequencer.end()


def _mode(fixtures: Collection[str]) -> str:
    if "task_executor" in fixtures:
        return "manual"
    return "virtual" if "task_clock" in fixtures else "threads"
