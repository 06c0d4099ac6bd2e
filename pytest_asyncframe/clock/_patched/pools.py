"""The user's own pools: time stands still while one of their threads or processes works.

Guarantees: while processes work, other actors get their turns, since a process may take any time.
Relies on: a future calling its `_invoke_callbacks` once it has its result; the threads of a
pool ending by themselves once it is shut down and has no more calls; `multiprocessing.pool`
keeping a result in the cache of its pool until it has arrived, and waking whoever waits for it
before it is removed from there.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from framework.testing import ControlledExecutor
from pytest_asyncframe._turns.actors import Actor, Arrival
from pytest_asyncframe._turns.hearing import ENDED
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._patched.call_names import name_of_call, named

Submit = Callable[..., Future[Any]]


class Pools:
    """The user's pools that actors of a test use.

    Args:
        sequencer: The test's.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        # Weakly, since a pool ends its threads when nobody refers to it any more.
        self._pools: WeakKeyDictionary[Executor, _CountedPool] = WeakKeyDictionary()
        self._shared: WeakSet[Executor] = WeakSet()
        # The results that pools of `multiprocessing` owe the test.
        self._owed: set[Any] = set()

    def submit(
        self, real: Submit, pool: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:  # Any: a thread pool, whose private attributes are used
        """Submit a call to *pool*, whose own `submit` is *real*, and count it."""
        if isinstance(pool, ControlledExecutor):
            return real(pool, fn, *args, **kwargs)
        if self._sequencer.here is None:
            self._shared.add(pool)
            return real(pool, fn, *args, **kwargs)
        counted = self._pools.get(pool)
        if counted is None:
            counted = self._pools[pool] = _CountedPool(self._sequencer, pool._max_workers)
        return counted.submit(functools.partial(real, pool), fn, args, kwargs)

    def shut_down(
        self,
        real: Callable[..., None],
        pool: Any,  # as above
        wait: bool = True,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Shut down *pool*, whose own `shutdown` is *real*; wait for all calls on the clock.

        The threads of a pool are in no order, and which one has run which call is chance. So
        who joins them one after another would be woken in between in some runs only.
        """
        if timeout is not None:
            options["timeout"] = timeout
        counted = self._pools.get(pool)
        if not wait or counted is None or pool in self._shared or counted.works_here:
            real(pool, wait, **options)
            self._sequencer.listeners.acquired(ENDED)
            return
        real(pool, wait=False, **options)
        if counted.wait_until_idle(timeout):
            # The threads have nothing left to do, so this takes no virtual time.
            with self._sequencer.real():
                real(pool, wait=True)
        else:
            real(pool, wait=True, timeout=0)
        self._sequencer.listeners.acquired(ENDED)

    # -- pools of processes

    def submit_to_process(
        self, real: Submit, pool: Executor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Submit a call to *pool*, whose own `submit` is *real*; count it until it has ended."""
        sequencer = self._sequencer
        if sequencer.here is None:
            return real(pool, fn, *args, **kwargs)
        sequencer.count_elsewhere(1)
        try:
            with sequencer.real():
                future = real(pool, fn, *args, **kwargs)
        except BaseException:  # raised again: nothing was submitted
            sequencer.count_elsewhere(-1)
            raise
        after_callbacks(future, lambda: sequencer.count_elsewhere(-1))
        return future

    # -- the results of `multiprocessing`, each counted until it arrives

    def expect(self, real: Callable[..., None], result: Any, *args: Any, **options: Any) -> None:
        """Count a new result, whose own `__init__` is *real*."""
        if self._sequencer.here is not None:
            self._owed.add(result)
            self._sequencer.count_elsewhere(1)
        real(result, *args, **options)

    def take_out(self, real: Callable[..., None], cache: Any, job: int) -> None:
        """Stop counting a result that has arrived, and is removed from the cache of its pool."""
        result = cache[job]
        real(cache, job)
        self._come(result)

    def give_up(self, real: Callable[..., None], pool: Any) -> None:
        """Stop counting the results of a pool that is terminated, which never arrive."""
        try:
            real(pool)
        finally:
            for result in list(getattr(pool, "_cache", {}).values()):
                self._come(result)

    def _come(self, result: Any) -> None:
        if result in self._owed:
            self._owed.discard(result)
            self._sequencer.count_elsewhere(-1)


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
        # With one thread, a call comes after the one before.
        self.in_order = threads == 1
        self._lock = threading.Lock()
        self._waiting: dict[_CountedCall, None] = {}
        self._idle = threading.Condition()
        self._unfinished: set[_CountedCall] = set()

    @property
    def works_here(self) -> bool:
        """Whether the calling thread runs a call of the pool."""
        me = threading.get_ident()
        with self._idle:
            return any(call.thread == me for call in self._unfinished)

    def wait_until_idle(self, timeout: float | None) -> bool:
        """Wait on the clock until all calls have ended; False after *timeout* seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._unfinished, timeout)

    def finish(self, call: _CountedCall) -> None:
        """Forget a call that needs no thread any more."""
        with self._idle:
            self._unfinished.discard(call)
            if not self._unfinished:
                self._idle.notify_all()

    def submit(
        self,
        real: Submit,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[Any]:
        """Submit a call, counted from now until the callbacks of its future have run."""
        call = _CountedCall(self, name_of_call(fn, args, kwargs))
        self.sequencer.listeners.released(call)
        with self._idle:
            self._unfinished.add(call)
        with self._lock:
            self._waiting[call] = None
            self._announce()
        try:
            # It may wait for a new thread to start.
            with self.sequencer.real():
                future = real(named(call.run, call.name), fn, args, kwargs)
        except BaseException:  # raised again: nothing was submitted
            self.end(call)
            self.finish(call)
            raise
        call.follow(future)
        self.sequencer.has_started("submit()")
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
    whoever waits for the result. At a time limit they run while the call is still running,
    on any thread: its own may wait on the clock, and fire the timer itself.

    Attributes:
        name: The name of its function.
        arrival: The announcement of its thread; None while no thread is free.
        thread: The identifier of the thread that runs it; None before.
    """

    def __init__(self, pool: _CountedPool, name: str) -> None:
        self.name: str = name
        self._pool = pool
        self._lock = threading.Lock()
        self.thread: int | None = None
        self._actor: Actor | None = None
        # Of the two ends, that of the call and that of its future, the second one leaves.
        self._half_ended = False
        self._followed = threading.Lock()
        self._followed.acquire()
        self.arrival: Arrival | None = None

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the call on the pool's thread, as an actor."""
        # Not before `follow`: the submitter may not have the future yet.
        self._followed.acquire()
        self.thread = threading.get_ident()
        sequencer = self._pool.sequencer
        self._actor = sequencer.enter(self._pool.begin(self))
        sequencer.listeners.acquired(self)
        if self._pool.in_order:
            sequencer.listeners.acquired(self._pool)
        try:
            return fn(*args, **kwargs)
        finally:
            if self._pool.in_order:
                sequencer.listeners.released(self._pool)
            self._end_half()

    def follow(self, future: Future[Any]) -> None:
        """Leave once the callbacks of *future* have run; see `run`."""
        after_callbacks(future, self._leave)
        self._followed.release()

    def _leave(self) -> None:
        self._pool.end(self)
        if self.thread is None:  # cancelled
            self._pool.finish(self)
            return
        self._end_half()

    def _end_half(self) -> None:
        """Leave if both the call and its future have ended."""
        with self._lock:
            both, self._half_ended = self._half_ended, True
        if both and self._actor is not None:
            self._pool.finish(self)
            self._pool.sequencer.leave(self._actor)
