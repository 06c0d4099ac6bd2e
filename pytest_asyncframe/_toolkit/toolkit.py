"""The parts of one test, put together: clock, executor, manager, and what was seen of them.

Guarantees: everything is of this test alone, and is ended when the test ends, whatever
happened in it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from framework import TaskManager, ThreadPoolExecutorEnhanced
from framework.protocols import Clock, TaskEvent
from framework.testing import ControlledEngine, lasting_schedules, override_framework
from pytest_asyncframe._seen.calls import PoolCalls
from pytest_asyncframe._seen.matchers import Expectation
from pytest_asyncframe._seen.recorder import Recorder
from pytest_asyncframe._toolkit import pristine
from pytest_asyncframe._toolkit.clients import Client, LiveServer
from pytest_asyncframe._toolkit.options import Settings
from pytest_asyncframe._turns.actors import TestEndedError
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import StuckError, VirtualClock, _patches, _stalls
from pytest_asyncframe.clock._blocked import BlockedLoops
from pytest_asyncframe.clock._polled import RealTimeReads
from pytest_asyncframe.clock._runners import Runners
from pytest_asyncframe.clock._threads import StartedThreads
from pytest_asyncframe.executor import DeterministicExecutor, SequencedExecutor

_POOL_NAME = "asyncframe-"

_GRACE = 0.2
"""Real seconds that whoever works has to come to rest when the test ends."""


class Toolkit:
    """What the fixtures of one test give.

    Args:
        settings: What holds for the test.
        fixtures: Names of the fixtures that it asks for.

    Attributes:
        clock: The virtual clock; None where time is real.
        executor: The deterministic executor; None where real threads start by themselves.
        pool: The pool of the manager.
        manager: The manager; current while the toolkit is open.
        is_virtual: Whether its time is virtual.
        recorder: What was seen of the test's tasks.
        expectations: The failures that the test expects.
        clients: The clients and servers that it has made.
        threads: The threads that it has started.
        reads: What has read real time too often; None where the plugin has no say in time.
        blocked: What has blocked its event loops.
        calls: The calls of its bare pool.
        foreign: Names of the test modules of other tests.
    """

    manager: TaskManager
    pool: ThreadPoolExecutorEnhanced
    calls: PoolCalls
    recorder: Recorder

    def __init__(self, settings: Settings, fixtures: Collection[str]) -> None:
        self.settings = settings
        self.mode: str = settings.mode if "asyncframe" in fixtures else _mode(fixtures)
        self.expectations: list[Expectation] = []
        self.clients: list[Client | LiveServer] = []
        self.threads: StartedThreads = StartedThreads()
        self.blocked: BlockedLoops = BlockedLoops(self._now)
        self.foreign: Collection[str] = ()
        self.sequencer: Sequencer | None = None
        self.clock: VirtualClock | None = None
        self.executor: DeterministicExecutor | None = None
        self.reads: RealTimeReads | None = None
        self._runners: Runners | None = None
        self._stack = ExitStack()
        self.is_virtual: bool = self.mode != "threads" and (
            "asyncframe" in fixtures or "task_clock" in fixtures
        )
        self._moves = "asyncframe" in fixtures and self.mode != "manual"

    def open(self) -> None:
        """Make everything, and make the manager current."""
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
            self.manager.subscribe(self._on_event)
            self.recorder.begin(self.clock)
        except BaseException:
            stack.close()
            raise

    def _open_pool(self) -> None:
        self.pool = ThreadPoolExecutorEnhanced(thread_name_prefix=_POOL_NAME)
        self._stack.callback(self.pool.shutdown, cancel_futures=True, timeout=1.0)
        self.recorder = Recorder(self._now)
        self.manager = self._stack.enter_context(
            override_framework(
                pool=self.pool, interceptor=self.recorder, app_rules=self.settings.app_rules == "on"
            )
        )

    def _open_sequenced(self, stack: ExitStack) -> None:
        mode = self.mode
        sequencer = self.sequencer = Sequencer(
            moves=self._moves,
            starts=mode != "manual",
            hold=mode != "virtual",
            one_at_a_time=mode in ("auto", "seeded"),
            choose=random.Random(self.settings.seed).randrange if mode == "seeded" else None,
        )
        sequencer.patience = self.settings.stuck_timeout
        self.recorder = Recorder(self._now)
        self.reads = RealTimeReads(lambda: sequencer.now, self.recorder.note)
        _stalls.watch(sequencer, mode, self.threads.before, self.recorder.note)
        clock: Clock | None = None
        if self.is_virtual:
            start = self.settings.start
            clock = self.clock = VirtualClock(
                sequencer, None if start is None else start.timestamp()
            )
            clock.on_block = self.blocked.noting
            clock.on_read = self.reads.count
        if mode == "virtual":
            pool = SequencedExecutor(sequencer, thread_name_prefix=_POOL_NAME, clock=clock)
        else:
            pool = self.executor = DeterministicExecutor(
                sequencer, thread_name_prefix=_POOL_NAME, clock=clock
            )
        self.pool = pool
        sequencer.first = stack.enter_context(sequencer.working(threading.current_thread().name))
        if self.clock is not None:
            stack.enter_context(_patches.installed(self.clock, wall=True))
            self._runners = Runners(self.clock)
            stack.enter_context(self._runners.installed())
        stack.callback(_end, sequencer, pool)
        engine = ControlledEngine(pool, hold=mode != "virtual")
        self.manager = stack.enter_context(
            override_framework(
                clock=clock,
                engine=engine,
                pool=pool,
                interceptor=self.recorder,
                rng=random.Random(self.settings.seed),
                app_rules=self.settings.app_rules == "on",
            )
        )

    def _on_event(self, event: TaskEvent) -> None:
        if self.sequencer is not None:
            self.sequencer.moved = 0
        self.recorder.on_event(event)

    def _now(self) -> float:
        return self.manager.clock.monotonic()

    def come_to_rest(self) -> None:
        """Let what is just ending end, without any time, nor what begins by turns only."""
        if self.sequencer is None:
            unfinished = self.recorder.unfinished
            ended = threading.Semaphore(0)
            with ExitStack() as watches:
                for one in unfinished:
                    watches.enter_context(self.recorder.watching(one.record, ended.release))
                # Until nothing ends any more: what lasts is a finding.
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
        except StuckError:  # somebody blocks; the findings will tell
            pass
        finally:
            sequencer.starts, sequencer.patience = kept

    def left_calls(self) -> list[str]:
        """Return which calls of the bare pool have not ended, after `come_to_rest`."""
        return self.calls.left(_GRACE if self.sequencer is None else 0.0)

    def close(self) -> None:
        """End everything."""
        # Those too that were never entered: a server has its socket from the beginning.
        for client in self.clients:
            client.discard()
        self._stack.close()

    @property
    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """Makes the test's event loops."""
        return asyncio.new_event_loop if self.clock is None else self.clock.new_event_loop

    # -- what the fixtures give

    def require_clock(self, name: str) -> VirtualClock:
        """Return the clock.

        Raises:
            RuntimeError: If time is real.
        """
        if self.clock is None:
            raise RuntimeError(f"{name}: time is real in the mode {self.mode!r}")
        return self.clock

    def require_loop(self, what: str) -> None:
        """Check that a coroutine of the test's runs on the test's clock, if that is virtual.

        Raises:
            RuntimeError: If it does not.
        """
        # On a thread that the clock does not see everybody else can go on.
        if self.clock is not None and self.clock.sequencer.here is not None:
            self.clock.require_loop(what)

    def require_executor(self, name: str) -> DeterministicExecutor:
        """Return the executor.

        Raises:
            RuntimeError: If threads start by themselves.
        """
        if self.executor is None:
            raise RuntimeError(
                f"{name}: threads start by themselves in the mode {self.mode!r}; it needs the "
                "mode 'auto', 'manual' or 'seeded'"
            )
        return self.executor

    @property
    def open_clients(self) -> list[Client | LiveServer]:
        """The clients and servers that were not closed."""
        return [client for client in self.clients if client.running]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let time move while the test waits, beside a live server too."""
        sequencer = self.sequencer
        if sequencer is None or not self._moves:
            yield
            return
        kept, sequencer.moves = sequencer.moves, True
        try:
            yield
        finally:
            sequencer.moves = kept

    def away(self) -> AbstractContextManager[object]:
        """Let others go on while the calling thread waits for them for real."""
        return nullcontext() if self.sequencer is None else self.sequencer.away()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Let the calling thread wait for real, and use and make what outlives the test."""
        with ExitStack() as stack:
            stack.enter_context(lasting_schedules())
            if self.sequencer is not None:
                stack.enter_context(self.sequencer.real())
            if self._runners is not None:
                stack.enter_context(self._runners.exchanged())
            yield

    @contextmanager
    def beside_server(self) -> Iterator[None]:
        """Let tasks begin while the test waits for a socket, and time stand still."""
        sequencer = self.sequencer
        if sequencer is None or self.mode == "manual":
            yield
            return
        kept = sequencer.hold, sequencer.moves, sequencer.one_at_a_time
        sequencer.hold = sequencer.moves = sequencer.one_at_a_time = False
        try:
            yield
        finally:
            sequencer.hold, sequencer.moves, sequencer.one_at_a_time = kept


def _end(sequencer: Sequencer, pool: SequencedExecutor) -> None:
    """End the threads of a test; those that wait on its clock get an error."""
    sequencer.moves = sequencer.starts = False
    for actor in list(sequencer.actors.values()):
        if actor is not sequencer.first:
            sequencer.fail(actor, TestEndedError("the test has ended"))
    pool.shutdown(cancel_futures=True, timeout=1.0)


def _mode(fixtures: Collection[str]) -> str:
    if "task_executor" in fixtures:
        return "manual"
    return "virtual" if "task_clock" in fixtures else "threads"
