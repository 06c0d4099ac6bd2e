"""The user's own thread pools: time stands still while one of their threads works.

Relies on: a future calling its `_invoke_callbacks` once it has its result.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any
from weakref import WeakKeyDictionary

from framework.testing import ControlledExecutor, function_name
from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.sequencer import Sequencer

Submit = Callable[..., Future[Any]]


def counted_submit(sequencer: Sequencer, real: Submit) -> Submit:
    """Return a `submit` for thread pools that counts their calls."""
    # Weakly, since a pool ends its threads when nobody refers to it any more.
    pools: WeakKeyDictionary[Executor, _CountedPool] = WeakKeyDictionary()

    @functools.wraps(real)
    def submit(
        self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:  # Any: a thread pool, whose private attributes are used
        if isinstance(self, ControlledExecutor) or sequencer.here is None:
            return real(self, fn, *args, **kwargs)
        pool = pools.get(self)
        if pool is None:
            pool = pools[self] = _CountedPool(sequencer, self._max_workers)
        return pool.submit(functools.partial(real, self), fn, args, kwargs)

    return submit


def after_callbacks(future: Any, call: Callable[[], object]) -> None:
    """Call *call* after all callbacks of *future*; at once if it is done.

    Args:
        future: A `Future`, whose private attributes are used.
        call: The function.
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


class _CountedPool:
    """A thread pool that announces as many of its calls as it has threads.

    Calls are announced in the order of their submission, which is also the order in which
    they get their turns.
    """

    def __init__(self, sequencer: Sequencer, threads: int) -> None:
        self.sequencer = sequencer
        self._free = threads
        self._lock = threading.Lock()
        self._waiting: dict[_CountedCall, None] = {}

    def submit(
        self,
        real: Submit,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call, counted from now until the callbacks of its future have run."""
        call = _CountedCall(self, function_name(fn))
        with self._lock:
            self._waiting[call] = None
            self._announce()
        try:
            # It may wait for a new thread to start.
            with self.sequencer.real():
                future = real(call.run, fn, args, kwargs)
        except BaseException:
            self.end(call)
            raise
        call.follow(future)
        return future

    def begin(self, call: _CountedCall) -> Arrival | None:
        """Give a call a thread; return its announcement, None if it was not announced."""
        with self._lock:
            if call in self._waiting:
                del self._waiting[call]
                self._free -= 1
            return call.arrival

    def end(self, call: _CountedCall) -> None:
        """Give the thread of a call that has ended, or was cancelled, to the next one."""
        with self._lock:
            if call in self._waiting:
                del self._waiting[call]
            else:
                self._free += 1
            self._announce()
        self.sequencer.give_up(call.arrival)

    def _announce(self) -> None:
        while self._free > 0 and self._waiting:
            call = next(iter(self._waiting))
            del self._waiting[call]
            self._free -= 1
            call.arrival = self.sequencer.expect(call.name)


class _CountedCall:
    """One call of a pool.

    Its thread is an actor until the callbacks of its future have run, since these wake
    whoever waits for the result. At a time limit they run on another thread, while the call
    is still running.

    Attributes:
        name: The name of its function.
        arrival: The announcement of its thread; None while no thread is free.
    """

    def __init__(self, pool: _CountedPool, name: str) -> None:
        self.name: str = name
        self._pool = pool
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._ended = False
        self._followed = threading.Lock()
        self._followed.acquire()
        self.arrival: Arrival | None = None

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call on the pool's thread, as an actor."""
        # Not before `follow`: the submitter may not have the future yet.
        self._followed.acquire()
        self._thread = threading.get_ident()
        sequencer = self._pool.sequencer
        actor = sequencer.enter(self._pool.begin(self))
        try:
            return fn(*args, **kwargs)
        finally:
            with self._lock:
                ended = self._ended
            if ended:
                sequencer.leave(actor)

    def follow(self, future: Future[Any]) -> None:
        """Leave once the callbacks of *future* have run; see `run`."""
        after_callbacks(future, self._leave)
        self._followed.release()

    def _leave(self) -> None:
        self._pool.end(self)
        if self._thread is None:  # cancelled
            return
        if self._thread == threading.get_ident():
            actor = self._pool.sequencer.here
            if actor is not None:
                self._pool.sequencer.leave(actor)
            return
        with self._lock:
            self._ended = True
