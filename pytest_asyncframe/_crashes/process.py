"""The process that serves the apps of a test, which may die and then is another one.

Each life of it has a thread with an event loop, on which its apps run, and a framework with a
store, all on the virtual time of the test. Where it dies, its threads stop for ever in the middle
of what they do, as by ``kill -9``: no ``finally`` runs, and its store commits nothing more. The
next life begins at once, on the disk of the one before. The test itself lives on.

Guarantees: of all threads of a test, its own alone goes on after a death. What is asked of the
process is answered, repeated in its next life, or refused with `ProcessDiedError`.
Relies on: `Sequencer.kill`, with one actor that runs at a time.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from framework.protocols import TaskRecord
from framework.testing import abandon_framework
from pytest_asyncframe._backends.back_end import Parts
from pytest_asyncframe._crashes.disk import Disk, ProcessStore
from pytest_asyncframe._crashes.lasting import Lasting
from pytest_asyncframe._crashes.points import Points
from pytest_asyncframe._crashes.requests import answer, async_client, sync_client
from pytest_asyncframe._crashes.strand import Strand, unlisted
from pytest_asyncframe._crashes.watched import Watched
from pytest_asyncframe._toolkit.lifespan import Lifespan
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._turns.actors import (
    Arrival,
    ProcessDeadError,
    halt,
    hide,
    leave_dead,
    nothing,
)

_DEAD: list[object] = []
"""What belongs to dead processes: a coroutine that is freed would run its ``finally``."""

_PAUSE = 1_000_000_000
"""Nanoseconds of virtual time until the next life begins."""

_NAME = "process"
"""What its thread is called."""


class ProcessDiedError(Exception):
    """The process has died that was to answer: nobody knows what it has done."""


Work: TypeAlias = Callable[["Life"], Coroutine[Any, Any, Any]]
"""Makes what a life of the process is to do."""


@dataclass(eq=False)
class Job:
    """What is asked of the process.

    Attributes:
        work: What it is to do.
        again: Whether the next life does it if one dies meanwhile.
        done: Its answer.
    """

    work: Work
    again: bool
    done: Future[Any] = field(default_factory=Future)


class Process:
    """What runs the apps of one run of a test; see `toolkit.Process`.

    Args:
        points: Where it may die, and where it does.
        died: Called with each point at which it has died.

    Attributes:
        points: Like the argument.
    """

    def __init__(self, points: Points, died: Callable[[str], object] = nothing) -> None:
        self.points: Points = points
        self._died = died
        self.disk: Disk = Disk()
        # How many clients each app has.
        self._apps: Counter[Any] = Counter()
        self._life: Life | None = None
        self._waiting: list[Job] = []
        self._frameworks = ExitStack()
        self._lasting: Lasting | None = None

    # -- for the toolkit

    @contextmanager
    def begun(self, toolkit: Toolkit) -> Iterator[Parts]:
        """Bring the parts of a new life; called on the thread that makes its framework."""
        if self._lasting is None:
            self._lasting = Lasting(toolkit, self.disk)
        self._life = life = Life(self, toolkit, self._lasting)
        yield Parts(store=life.store, interceptor=life.interceptor)

    @contextmanager
    def running(self, toolkit: Toolkit) -> Iterator[None]:
        """Let it live inside the block, and end in order."""
        try:
            with _daemons():
                yield
        finally:
            # None while the next life is about to begin: the test may be faster.
            if self._life is None or self._life.has_thread:
                self.ask(Life.end, again=True).result()
            if self._life is not None:
                self._life.strand.end()
            self._frameworks.close()
            if self._lasting is not None:
                self._lasting.end()

    def tells(self, event: Any) -> bool:
        """Whether an event is told later, once it is committed; see `Lasting.tells`."""
        return self._lasting is not None and self._lasting.tells(event)

    # -- for clients, on the thread of the test

    def start(self, app: Any) -> Future[Any]:
        """Run an app in this life and in each one after it, until `stop`."""
        self._apps[app] += 1
        return self.ask(lambda life: life.enter(app), again=True)

    def stop(self, app: Any) -> Future[Any]:
        """End an app in order with its last client, in whichever life that succeeds."""
        return self.ask(lambda life: life.leave(app), again=True)

    def clients_of(self, app: Any) -> int:
        """Return how many clients an app has."""
        return self._apps[app]

    def left(self, app: Any) -> None:
        """Take note that a client has gone; until then, a new life runs the app for it."""
        self._apps[app] -= 1

    def client(self, app: Any, options: dict[str, Any], *, raises: bool, again: bool) -> Any:
        """Return an ``httpx.AsyncClient`` of an app that was started; see `ServingProcess`."""
        return async_client(self._asking(app, raises, again), ProcessDiedError, options)

    def sync_client(self, app: Any, options: dict[str, Any], *, raises: bool, again: bool) -> Any:
        """Return an ``httpx.Client`` of an app that was started; see `ServingProcess`."""
        return sync_client(self._asking(app, raises, again), ProcessDiedError, options)

    def _asking(self, app: Any, raises: bool, again: bool) -> Callable[[Any], Future[Any]]:
        def ask(request: Any) -> Future[Any]:
            return self.ask(
                lambda life: answer(app, life.state_of(app), request, raises, life.point),
                again=again,
            )

        return ask

    def ask(self, work: Work, *, again: bool = False) -> Future[Any]:
        """Let the process do something on its event loop; return its answer."""
        job, life = Job(work, again), self._life
        if life is not None and life.is_up:
            life.take(job)
            return job.done
        self._waiting.append(job)
        # The first life begins with what it is asked first, the others at once.
        if life is not None and not life.has_thread:
            life.begin()
        return job.done

    def next_jobs(self) -> Sequence[Job]:
        """Return what waits for a new life, which does it now."""
        waiting, self._waiting = self._waiting, []
        return waiting

    @property
    def apps(self) -> Sequence[Any]:
        """The apps that a new life has to run."""
        return list(+self._apps)

    def unseen(self) -> AbstractContextManager[None]:
        """Meet no points inside the block."""
        return self.points.unseen()

    @property
    def died_at(self) -> Sequence[str]:
        """The points at which it has died so far."""
        return self.points.died_at

    @property
    def met(self) -> Sequence[str]:
        """The points that it has come to so far."""
        return self.points.met

    @property
    def missed(self) -> Sequence[str]:
        """Those at which it was to die and has not, so far."""
        return self.points.missed

    def crash(self) -> None:
        """Die now; called on the thread of the test."""
        life = self._life
        assert life is not None
        self.points.died_at.append("asyncframe.crash()")
        self._die(life, "asyncframe.crash()")

    # -- dying

    def is_dead(self, life: Life) -> bool:
        """Whether a life is over."""
        return life is not self._life

    def meet(self, life: Life, what: str) -> None:
        """Pass a point of a life, or die there; then it does not return."""
        if self.is_dead(life):
            halt()
        if life.is_outside or not self.points.meet(what):
            return
        actor = life.sequencer.here
        self._die(life, self.points.died_at[-1])
        life.sequencer.dispatch()
        (halt if actor is None or actor.loop is not None else actor.stop)()

    def _die(self, life: Life, where: str) -> None:
        """End a life, and let the next one begin."""
        toolkit, sequencer = life.toolkit, life.sequencer
        toolkit.recorder.note(f"the process dies: {where}")
        mine = set(threading.enumerate()) - toolkit.threads.before
        stopped = sequencer.actors.keys() - {sequencer.first and sequencer.first.ident}
        _DEAD.append((life, life.coroutines()))
        arrival = sequencer.kill(mine, "process")
        self._died(where)
        toolkit.threads.before.update(mine)
        for thread in mine:
            if thread.ident in stopped:
                hide(thread.ident)
        abandon_framework()
        life.leave_apps()
        self._life = None
        self._waiting += [job for job in life.under_way if job.again]
        assert self._lasting is not None
        self._lasting.remember()
        life.end_idle_threads()
        _thread.start_new_thread(unlisted(self._live_again, _NAME), (toolkit, arrival))
        for job in life.under_way:
            if not job.again:
                with suppress(InvalidStateError):  # its client may have given up
                    job.done.set_exception(ProcessDiedError())

    def _live_again(self, toolkit: Toolkit, arrival: Arrival) -> None:
        sequencer = toolkit.sequencer
        assert sequencer is not None
        with sequencer.working(arrival):
            # Nothing starts again in no time: what reads the clock reads another one.
            sequencer.let_pass(sequencer.now + _PAUSE)
            self._frameworks.enter_context(toolkit.framework())
            toolkit.recorder.note("another process begins")
            life = self._life
            assert life is not None
            life.run()


@contextmanager
def _daemons() -> Iterator[None]:
    """Let the interpreter not wait at its exit for threads that are started inside the block."""
    real = threading.Thread.start

    @functools.wraps(real)
    def start(self: threading.Thread) -> None:
        if not self.is_alive():
            self.daemon = True
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        yield


class Life:
    """One life of the process.

    Args:
        process: The process.
        toolkit: The parts of the test.
        lasting: The tasks that outlive it.

    Attributes:
        under_way: What it was asked and has not answered.
        has_thread: Whether its thread has begun.
        is_up: Whether it takes jobs.
    """

    def __init__(self, process: Process, toolkit: Toolkit, lasting: Lasting) -> None:
        assert toolkit.sequencer is not None
        self.toolkit = toolkit
        self.sequencer = toolkit.sequencer
        self.strand: Strand = Strand(toolkit.sequencer, "store")
        self.store: ProcessStore = ProcessStore(process.disk, self)
        self.interceptor: Watched = Watched(toolkit.recorder, lasting.of, self.point)
        self.under_way: list[Job] = []
        self.has_thread: bool = False
        self.is_up: bool = False
        self._process = process
        self._lasting = lasting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lifespans: dict[Any, tuple[Lifespan, dict[str, Any]]] = {}
        self._failed: dict[Any, Exception] = {}
        # What served its apps before it had begun.
        self._stacks: dict[Any, Any] = {}
        self._takes_over = True
        self._doing: set[asyncio.Task[None]] = set()

    @property
    def is_outside(self) -> bool:
        """Whether the calling thread is that of the test, and so none of the process."""
        first = self.sequencer.first
        return first is not None and first.ident == _thread.get_ident()

    # -- what its store commits by

    def post(self, job: Callable[[], object]) -> None:
        """See `Commits`."""
        if self._process.is_dead(self):
            halt()
        self.strand.post(job)

    def point(self, what: str) -> None:
        """Pass a point, or die there."""
        self._process.meet(self, what)

    def noted(self, record: TaskRecord) -> None:
        """See `Commits`.

        Raises:
            RuntimeError: If the test itself submits it.
        """
        if self.is_outside and not self._lasting.knows(record):
            raise RuntimeError(
                f"this test submits {record.name} itself, but with crash_points it is outside of "
                "the process that runs tasks: let a route of the app submit it, and ask for that "
                "by asyncframe.client(app)"
            )
        self._lasting.noted(record)

    def stored(self, record: TaskRecord) -> None:
        """See `Commits`."""
        self._lasting.stored(record)

    # -- its thread

    def begin(self) -> None:
        """Start its thread, whose framework is there."""
        self.has_thread = True
        _thread.start_new_thread(unlisted(self._run, _NAME), (self.sequencer.expect(_NAME),))

    def _run(self, arrival: Arrival) -> None:
        with self.sequencer.working(arrival):
            self.run()

    def run(self) -> None:
        """Serve on the calling thread until it ends, or is dead."""
        self.has_thread = True
        actor = self.sequencer.here
        assert actor is not None
        # While it waits in its loop, no code of the app is on its stack.
        actor.stop = leave_dead
        runner = asyncio.Runner(loop_factory=self.toolkit.loop_factory)
        try:
            ended = runner.run(self._main())
        except ProcessDeadError:
            # Not closed: that would cancel what is under way.
            return
        runner.close()
        ended.set_result(None)

    def end_idle_threads(self) -> None:
        """End the threads that have nothing to do once it is dead."""
        self.strand.end()
        executor = getattr(self._loop, "_default_executor", None)
        if executor is not None:
            executor.shutdown(wait=False)

    def leave_apps(self) -> None:
        """Take itself off its apps once it is dead: a process that begins finds them bare."""
        for app, stack in self._stacks.items():
            app.middleware_stack = stack

    async def _main(self) -> Future[Any]:
        self._loop = loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Future[Any]] = loop.create_future()
        for app in self._process.apps:
            # Whoever asks it something hears why it has not started.
            with suppress(Exception):
                await self.enter(app)
        self.is_up = True
        for job in self._process.next_jobs():
            self._begin(job)
        return await self._ending

    def take(self, job: Job) -> None:
        """Do a job; on the thread of the test."""
        assert self._loop is not None
        self.under_way.append(job)
        self._loop.call_soon_threadsafe(self._begin, job)

    def _begin(self, job: Job) -> None:
        assert self._loop is not None
        if job not in self.under_way:
            self.under_way.append(job)
        if job.work is Life.end:
            self._ending.set_result(job.done)
            return
        task = self._loop.create_task(self._do(job))
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _do(self, job: Job) -> None:
        try:
            result = await job.work(self)
        except BaseException as error:  # whoever has asked gets it
            self.under_way.remove(job)
            with suppress(InvalidStateError):  # or has given up waiting
                job.done.set_exception(error)
        else:
            self.under_way.remove(job)
            with suppress(InvalidStateError):  # as above
                job.done.set_result(result)

    async def end(self) -> None:
        """End in order; a job that `_begin` knows."""

    async def enter(self, app: Any) -> None:
        """Start an app, unless it runs.

        Raises:
            Exception: What has kept it from starting in this life.
        """
        if app in self._failed:
            raise self._failed[app]
        if app in self._lifespans:
            return
        lifespan = Lifespan(app)
        if hasattr(app, "middleware_stack"):
            self._stacks[app] = app.middleware_stack
        try:
            state = await lifespan.__aenter__()
        except Exception as error:
            self._failed[app] = error
            raise
        self._lifespans[app] = lifespan, state
        if self._takes_over:
            # Without an app, there would be no event loop for what the life before has left.
            self._takes_over = False
            self.store.take_over()

    async def leave(self, app: Any) -> None:
        """End an app, if this was its last client."""
        if self._process.clients_of(app) == 1 and app in self._lifespans:
            lifespan, _ = self._lifespans.pop(app)
            await lifespan.__aexit__()
            self._stacks.pop(app, None)
            await self._written()
        self._process.left(app)

    async def _written(self) -> None:
        """Wait until all is committed so far: a process that ends in order writes what it has."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self.post(lambda: loop.call_soon_threadsafe(done.set_result, None))
        await done

    def state_of(self, app: Any) -> dict[str, Any]:
        """Return the state that the lifespan of an app has set.

        Raises:
            Exception: What has kept it from starting in this life.
        """
        if app in self._failed:
            raise self._failed[app]
        _, state = self._lifespans[app]
        return state

    def coroutines(self) -> object:
        """Return what must not be freed once it is dead."""
        return None if self._loop is None else list(asyncio.all_tasks(self._loop))
