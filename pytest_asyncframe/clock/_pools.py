"""Pools of a user's own: what is handed to them holds time while a thread works on it.

Relies on: a future asking for its callbacks to be invoked once it has its result.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from framework.testing import ControlledExecutor
from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.sequencer import Sequencer

Submit = Callable[..., Future[Any]]


def thread_pool_submit(sequencer: Sequencer, real: Submit) -> Submit:
    """Return a thread pool's `submit` whose calls are counted."""
    lanes: dict[Executor, _Lane] = {}

    @functools.wraps(real)
    def submit(
        self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:  # Any: a thread pool, whose inner parts are used
        if isinstance(self, ControlledExecutor) or sequencer.here is None:
            return real(self, fn, *args, **kwargs)
        lane = lanes.get(self)
        if lane is None:
            lane = lanes[self] = _Lane(sequencer, self._max_workers)
        return lane.submit(functools.partial(real, self), fn, args, kwargs)

    return submit


def when_told(future: Any, call: Callable[[], object]) -> None:
    """Have *call* called once all callbacks of *future* have run.

    Args:
        future: A `Future`, whose inner parts are used.
        call: What to call; at once if the future is done.
    """
    invoke = future._invoke_callbacks

    def invoke_and_call() -> None:
        try:
            invoke()
        finally:
            call()

    with future._condition:
        done = future.done()
        if not done:
            future._invoke_callbacks = invoke_and_call
    if done:
        call()


class _Lane:
    """A thread pool: as many of its calls are announced as it has threads for.

    Calls get their threads in the order in which they were submitted, and so do their
    places among those that are ready.
    """

    def __init__(self, sequencer: Sequencer, places: int) -> None:
        self.sequencer = sequencer
        self._free = places
        self._lock = threading.Lock()
        self._waiting: dict[_Visit, None] = {}

    def submit(
        self,
        real: Submit,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call that is counted from now until its future's callbacks have run."""
        visit = _Visit(self)
        with self._lock:
            self._waiting[visit] = None
            self._announce()
        try:
            # It may start a thread, and looks whether one is idle.
            with self.sequencer.real():
                future = real(visit.run, fn, args, kwargs)
        except BaseException:
            self.end(visit)
            raise
        visit.follow(future)
        return future

    def begin(self, visit: _Visit) -> Arrival | None:
        """Let a call have a place, also one that was not announced; return as what it was."""
        with self._lock:
            if visit in self._waiting:
                del self._waiting[visit]
                self._free -= 1
            return visit.arrival

    def end(self, visit: _Visit) -> None:
        """Let the next call have the place of one that has ended, or that never began."""
        with self._lock:
            if visit in self._waiting:
                del self._waiting[visit]
            else:
                self._free += 1
            self._announce()
        self.sequencer.give_up(visit.arrival)

    def _announce(self) -> None:
        while self._free > 0 and self._waiting:
            visit = next(iter(self._waiting))
            del self._waiting[visit]
            self._free -= 1
            visit.arrival = self.sequencer.expect()


class _Visit:
    """One call in a lane.

    Its thread is an actor until the callbacks of its future have run, since these wake
    who waits for it: the future tells of that, being asked to invoke them. At a limit that
    happens on another thread, while the call goes on.

    Attributes:
        arrival: As which its thread was announced; None while it has no place.
    """

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._told = False
        self._followed = threading.Lock()
        self._followed.acquire()
        self.arrival: Arrival | None = None

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call on the pool's thread, as an actor."""
        # Its end is told by the future, which its submitter is just getting hold of.
        self._followed.acquire()
        self._thread = threading.get_ident()
        sequencer = self._lane.sequencer
        actor = sequencer.enter(threading.current_thread().name, self._lane.begin(self))
        try:
            return fn(*args, **kwargs)
        finally:
            with self._lock:
                told = self._told
            if told:
                sequencer.leave(actor)

    def follow(self, future: Future[Any]) -> None:
        """Leave once the callbacks of *future* have run."""
        when_told(future, self._leave)
        self._followed.release()

    def _leave(self) -> None:
        self._lane.end(self)
        if self._thread is None:  # cancelled
            return
        if self._thread == threading.get_ident():
            actor = self._lane.sequencer.here
            if actor is not None:
                self._lane.sequencer.leave(actor)
            return
        with self._lock:
            self._told = True
