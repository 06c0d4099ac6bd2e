"""Pools of a user's own: what is handed to them holds time while a thread works on it.

Relies on: a future asking for its callbacks to be invoked once it has its result.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from framework.testing import ControlledExecutor
from pytest_asyncframe._sequencer import Sequencer

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


def process_pool() -> Any:
    """Return the class of process pools if anybody has imported it, or None."""
    module = sys.modules.get("concurrent.futures.process")
    return None if module is None else module.ProcessPoolExecutor


def process_pool_submit(sequencer: Sequencer, real: Submit) -> Submit:
    """Return a process pool's `submit`, whose calls are counted from then to their end."""

    @functools.wraps(real)
    def submit(self: Executor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if sequencer.here is None:
            return real(self, fn, *args, **kwargs)
        sequencer.expect()
        try:
            with sequencer.real():
                future = real(self, fn, *args, **kwargs)
        except BaseException:
            sequencer.expect(-1)
            raise
        _when_told(future, lambda: sequencer.expect(-1))
        return future

    return submit


def _when_told(future: Any, call: Callable[[], object]) -> None:
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
    """A thread pool: counts as many of its queued calls as it has threads for."""

    def __init__(self, sequencer: Sequencer, places: int) -> None:
        self.sequencer = sequencer
        self._places = places
        self._lock = threading.Lock()
        self._waiting = self._working = self._counted = 0

    def submit(
        self,
        real: Submit,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call that is counted from now until its future's callbacks have run."""
        visit = _Visit(self)
        self.count(waiting=1)
        try:
            # It may start a thread, and looks whether one is idle.
            with self.sequencer.real():
                future = real(visit.run, fn, args, kwargs)
        except BaseException:
            self.count(waiting=-1)
            raise
        visit.follow(future)
        return future

    def count(self, waiting: int = 0, working: int = 0) -> None:
        """Count calls that wait or are worked on."""
        with self._lock:
            self._waiting += waiting
            self._working += working
            more = self._recount()
        if more:
            self.sequencer.expect(more)

    def begin(self) -> bool:
        """Count a call as worked on, and return whether its thread is expected."""
        with self._lock:
            expected = self._counted > 0
            self._counted -= expected
            self._waiting -= 1
            self._working += 1
            more = self._recount()
        if more:
            self.sequencer.expect(more)
        return expected

    def _recount(self) -> int:
        due = min(self._waiting, max(0, self._places - self._working))
        more, self._counted = due - self._counted, due
        return more


class _Visit:
    """One call in a lane.

    Its thread is an actor until the callbacks of its future have run, since these wake
    who waits for it: the future tells of that, being asked to invoke them. At a limit that
    happens on another thread, while the call goes on.
    """

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._told = False
        self._followed = threading.Lock()
        self._followed.acquire()

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call on the pool's thread, as an actor."""
        # Its end is told by the future, which its submitter is just getting hold of.
        self._followed.acquire()
        self._thread = threading.get_ident()
        sequencer = self._lane.sequencer
        actor = sequencer.enter(threading.current_thread().name, expected=self._lane.begin())
        try:
            return fn(*args, **kwargs)
        finally:
            with self._lock:
                told = self._told
            if told:
                sequencer.leave(actor)

    def follow(self, future: Future[Any]) -> None:
        """Leave once the callbacks of *future* have run."""
        _when_told(future, self._leave)
        self._followed.release()

    def _leave(self) -> None:
        if self._thread is None:  # cancelled
            self._lane.count(waiting=-1)
            return
        self._lane.count(working=-1)
        if self._thread == threading.get_ident():
            actor = self._lane.sequencer.here
            if actor is not None:
                self._lane.sequencer.leave(actor)
            return
        with self._lock:
            self._told = True
