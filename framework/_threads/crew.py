"""The threads of a pool, and the queue of items that they run.

Guarantees: an item that was put in the queue is run once or dropped once. While items wait,
all idle threads are woken, each by the one woken before it, and new threads are started
while there is room. A thread abandoned at a limit is replaced while at most `max_workers`
are abandoned, and ends when its item ends. When threads wait for items of this crew, with a
timeout or on an event loop of their own, other threads run those items, so the wait ends.

Relies on: handlers that never raise; atomic operations of `deque` and `set`.

Picking: an item is in `_queue` and in `_waiting`. The thread that removes it from `_waiting`
has picked it, and only that thread runs or drops it. An item that was picked elsewhere
stays in `_queue` until it comes up.

Lock order: `lock` is held to queue items, to close, and to start or abandon threads. Threads
take and count items without it: if one was switched out with the lock held, all others
would queue up for the lock at every item. The locks of the wait graph, of the clock and of
the standard library's shutdown may be taken under it; user code never runs under it. It is
reentrant, since a signal handler may shut down a pool whose lock its own thread holds.
`release` takes no lock, since the garbage collector may call it at any point of any thread.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import thread as _stdlib
from typing import Any, ClassVar

from framework._records.statuses import TaskStatus
from framework._threads.exits import ExitSignal, joined_at_exit
from framework._threads.levels import LevelQueue, place_of
from framework._threads.pool_threads import Item, PoolThread, current_pool_thread, forget_others
from framework._threads.watch.outflow import Outflow
from framework._threads.watch.wait_graph import WaitGraph
from framework.exceptions import QueueFullError

_LOGGER = logging.getLogger("concurrent.futures")
_NONE_ENDED = dict.fromkeys(TaskStatus, 0)
_TIMINGS_KEPT = 2_048
_SLACK = 64
"""How many picked items may stay in the queue, beyond as many as wait."""


class Crew:
    """The threads and the queue of a pool; it outlives the executor until the queue is done.

    Attributes:
        thread_type: The class of its threads.
        abandoned: How many threads run an item past its limit.
        blocked: How many of the others have stepped aside; see `step_aside`.
        most_blocked: The highest number that `blocked` ever had.
        cancelled: How many items were cancelled before they ran.
        ended: How many items ended with each status. Living threads keep their own counts.
        outflow: Measures how fast the queue empties; None for no such measure.
        timings: When the latest items were queued, started and ended, in monotonic seconds.

    Args:
        max_workers: How many threads work at once, 1 or more.
        name_prefix: Threads are named ``<prefix>_<n>``.
        initializer: Called first on each thread, or None.
        initargs: Arguments for *initializer*.
        queue_size: How many items may wait, 1 or more; None for no bound.
    """

    thread_type: ClassVar[type[PoolThread]] = PoolThread

    def __init__(
        self,
        max_workers: int,
        name_prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        queue_size: int | None,
    ) -> None:
        self.max_workers = max_workers
        self.queue_size = queue_size
        self.waits = WaitGraph()
        self.lock = threading.RLock()
        self._queue: deque[Any] | LevelQueue = deque()
        self._waiting: set[Any] = set()
        self.threads: set[PoolThread] = set()
        self.closed = False
        self.forked = False
        self.broken: str | None = None
        self.abandoned = 0
        self.blocked = 0
        self.most_blocked = 0
        # Awaited by threads that stepped aside, for others to run. The latest is run first:
        # the earlier ones may wait for it, and each of them would occupy one more thread.
        self._wanted: dict[Any, None] = {}
        # Awaited by threads that stepped aside, and will be run by those threads themselves.
        self._inline: set[Any] = set()
        self.rejected = 0
        self.submitted = 0
        self.cancelled = 0
        self.ended: dict[TaskStatus, int] = _NONE_ENDED.copy()
        self.timings: deque[tuple[float, float, float]] = deque(maxlen=_TIMINGS_KEPT)
        self._name_prefix = name_prefix
        self._initializer = initializer
        self._initargs = initargs
        self._parked: list[PoolThread] = []
        # Whether a woken thread has yet to look at the queue. Until it does, no other thread
        # is woken: it often finishes all short items by itself.
        self._coming = False
        self._started = 0
        self.outflow: Outflow | None = None
        _CREWS.add(self)

    @property
    def degraded(self) -> bool:
        """Whether more threads are abandoned than are replaced."""
        return self.abandoned > self.max_workers

    @property
    def queued(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    def place_of(self, item: Any, more: Sequence[Any]) -> tuple[int, int] | None:
        """Return the position of *item*, and how many wait; see `levels.place_of`."""
        return place_of(self._queue, self._waiting.__contains__, item, more)

    def put(self, item: Item) -> None:
        """Queue *item* and wake or start a thread for it.

        Raises:
            QueueFullError: If `queue_size` items wait.
            BrokenThreadPool: If the initializer failed.
            RuntimeError: If the crew was shut down or forked, or if it has no thread and
                none can be started.
        """
        with self.lock:
            self._check_open()
            if self.queue_size is not None and self.queued >= self.queue_size:
                raise self.queue_full(self.queue_size)
            refused = self.put_all((item,))
        for _, error in refused:
            raise error

    def queue_full(self, size: int) -> QueueFullError:
        """Count a refusal and return its error, which says when to come back; lock held."""
        self.rejected += 1
        if self.outflow is None:
            return QueueFullError(size)
        return QueueFullError(size, self.outflow.next_place(self.submitted - self.queued))

    def put_all(self, items: Sequence[Any]) -> list[tuple[Any, Exception]]:
        """Queue *items*, regardless of `queue_size`; return those that were refused, and why."""
        with self.lock:
            try:
                self._check_open()
            except RuntimeError as error:
                return [(item, error) for item in items]
            # In this order: a thread skips what it finds in the queue alone.
            self._waiting.update(items)
            self._queue.extend(items)
            self.submitted += len(items)
            refusal: Exception | None = None
            try:
                self._summon(len(items))
                # A signal handler or interpreter exit may have closed the crew meanwhile.
                self._check_open()
            except Exception as error:  # the caller raises it, or fails the item with it
                refusal = error
            if refusal is None:
                return []
            refused = [(item, refusal) for item in items if self._pick(item)]
            self.submitted -= len(refused)
            return refused

    def use_levels(self) -> None:
        """Start items by their level from now on; before that, the queue is a plain deque."""
        with self.lock:
            if isinstance(self._queue, deque):
                self._queue = LevelQueue(self._queue)

    def _pick(self, item: Item) -> bool:
        """Pick *item*, which may be waiting; False if another thread was quicker."""
        try:
            self._waiting.remove(item)
        except KeyError:
            return False
        return True

    def _next(self) -> Any | None:  # Any: an Item
        """Pick the first item that waits; None if there is none."""
        queue = self._queue
        while queue:
            try:
                item = queue.popleft()
            except IndexError:  # another thread was quicker
                return None
            if self._pick(item):
                return item
        return None

    def discard(self, item: Item) -> bool:
        """Cancel *item* if it still waits; False if it was picked before."""
        with self.lock:
            picked = self._pick(item)
            self.cancelled += picked
            if picked:
                self._tidy()
            return picked

    def _tidy(self) -> None:
        """Drop picked items from the queue, which would pile up while all threads are busy."""
        if len(self._queue) <= 2 * len(self._waiting) + _SLACK:
            return
        with self.lock:
            # A thread may take an item from the copied queue meanwhile. The item is then put
            # back here, but only one thread can pick it.
            waiting = [one for one in self._queue.copy() if one in self._waiting]
            self._queue.clear()
            self._queue.extend(waiting)
            # A thread may have parked while the queue was empty.
            self._wake_one()

    def run_inline(self, item: Item) -> bool:
        """Run *item* on the calling thread, if that is one of ours and the item waits here."""
        thread = current_pool_thread()
        if thread is None or thread.crew is not self or not self._pick(item):
            return False
        thread.stack.append(item)
        self._tidy()
        thread.work(item)
        thread.count()
        return True

    def step_aside(self, thread: PoolThread, item: Item, *, inline: bool = False) -> bool:
        """Let other threads run while *thread* waits for *item*.

        Until `step_back` the thread does not count as one of the `max_workers` that work at
        once. A spare thread runs the awaited items, and if all threads stepped aside,
        everything else that is queued.

        Args:
            thread: The calling thread, one of this crew.
            item: What it waits for.
            inline: Whether *thread* will run *item* itself if that is queued later, so that
                no other thread is needed for it.

        Returns:
            False if *item* waits for a thread and none can be started.
        """
        with self.lock:
            if not thread.abandoned:
                self.blocked += not thread.waits
                self.most_blocked = max(self.most_blocked, self.blocked)
                thread.waits += 1
            if not inline:
                return self.want(item)
            self._inline.add(item)
            return self._start_spare()

    def step_back(self, thread: PoolThread, item: Item) -> None:
        """End the wait of *thread* for *item*, which began with `step_aside`."""
        with self.lock:
            self._inline.discard(item)
            if thread.waits:
                thread.waits -= 1
                self.blocked -= not thread.waits
            if not self.blocked:
                self._wanted.clear()

    def want(self, item: Item) -> bool:
        """Let a spare thread run *item*, if it is queued, for a thread that stepped aside.

        Returns:
            False if it waits for a thread and none can be started.
        """
        with self.lock:
            waits = item in self._waiting
            if waits:
                self._wanted[item] = None
            return self._start_spare() or not waits

    def _start_spare(self) -> bool:
        """Start a spare thread if one is needed; False if none can be started; lock held.

        One is needed if an item is wanted, or if every thread stepped aside: what they wait
        for, such as a coroutine, may itself wait for something that is queued.
        """
        active = len(self.threads) - self.blocked
        stuck = active <= self.abandoned and not self._waiting <= self._inline
        if (
            not (self._wanted or stuck)
            or self._parked
            or self._coming
            or active - self.abandoned >= self.max_workers
            # Abandoned threads still run; the total is bounded as in `_room`.
            or active >= 2 * self.max_workers
        ):
            return True
        try:
            self._start_thread(spare=True)
        except RuntimeError:
            return False
        return True

    def take_wanted(self, thread: PoolThread) -> Any | None:  # Any: an Item
        """Count what a spare *thread* has just run; return its next item, None if it must end."""
        if thread.stack:
            thread.count()
        with self.lock:
            if thread.abandoned:
                return None
            others = len(self.threads) - self.abandoned - self.blocked - 1
            if others < self.max_workers:
                item = self._next_for_spare(others)
                if item is not None:
                    thread.stack.append(item)
                    self._tidy()
                    return item
            # Removed under the same lock: from now on `want` starts another spare thread.
            self._remove(thread)
            if self._waiting:
                # The one that it stood beside may have been abandoned, and so be gone as well.
                self._replace()
            return None

    def _next_for_spare(self, others: int) -> Any | None:  # Any: an Item
        """Pick a wanted item, or the oldest one if no *others* work; None for neither."""
        while self._wanted:
            item, _ = self._wanted.popitem()
            if self._pick(item):
                return item
        return self._next() if self.blocked and others <= 0 else None

    def abandon(self, item: Item) -> None:
        """Abandon the thread that runs *item*, and replace it if items wait."""
        with self.lock:
            for thread in self.threads:
                if item in thread.stack and not thread.abandoned:
                    thread.abandoned = True
                    # 1 the item is seen on the stack, 2 it ends, and the thread finds itself
                    # not abandoned and goes on, 3 the flag is set. So look again after 3.
                    if item not in thread.stack:
                        thread.abandoned = False
                        return
                    self.abandoned += 1
                    self.blocked -= thread.waits > 0
                    thread.waits = 0
                    self._replace()
                    return

    def begin(self) -> bool:
        """Run the initializer on a new thread; False if that broke the crew."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException:  # as in the standard pool, any error breaks the pool
            _LOGGER.critical("Exception in initializer:", exc_info=True)
            self._break("A thread initializer failed, the thread pool is not usable anymore")
            return False
        return True

    def take(self, thread: PoolThread) -> Any | None:  # Any: an Item
        """Count what *thread* has just run and wait for its next item; None if it must end."""
        # No lock, and `_pick` and `_next` written out: every item passes here.
        queue, waiting, stack = self._queue, self._waiting, thread.stack
        if stack:
            thread.count()
        while True:
            # Asked again under the lock, under which `abandon` may take it back.
            if thread.abandoned and self._is_abandoned(thread):
                return None
            try:
                item = queue.popleft()
            except IndexError:
                if not self._park(thread):
                    return None
                # `use_levels` may have replaced it.
                queue = self._queue
                continue
            # On the stack before it is picked, so that figures never miss it in between.
            stack.append(item)
            try:
                waiting.remove(item)
            except KeyError:  # it was discarded, or its waiter runs it
                stack.pop()
                continue
            # `put_all` wakes one thread for all its items, and each wakes the next.
            if queue and self._parked and not self._coming:
                self._wake_one()
            return item

    def _is_abandoned(self, thread: PoolThread) -> bool:
        with self.lock:
            return thread.abandoned

    def _park(self, thread: PoolThread) -> bool:
        """Wait until there may be work; False if there will never be any."""
        if self._over():
            return False
        self._parked.append(thread)
        # 1 this thread finds the queue empty, 2 an item is queued, or `release` closes the
        # crew, and parked threads are woken, 3 this thread parks. So look again after 3.
        if self._queue or self.closed:
            try:
                self._parked.remove(thread)
            except ValueError:  # another thread is about to open our gate
                pass
            else:
                return not self._over()
        thread.gate.acquire()
        # Cleared before this thread looks at the queue: an item queued while the flag was
        # still set woke nobody, and is found by that look.
        self._coming = False
        return True

    def _over(self) -> bool:
        """Whether no item waits and none will come."""
        if not self.closed:
            return False
        # With the lock, since `_tidy` empties the queue for a moment.
        with self.lock:
            return not self._queue

    def _wake_one(self) -> None:
        try:
            thread = self._parked.pop()
        except IndexError:  # another thread was quicker, or all are busy
            return
        # In this order: the woken thread clears the flag, and a flag set later would stay.
        self._coming = True
        thread.gate.release()

    def leave(self, thread: PoolThread) -> None:
        """Forget *thread*, which ends, if it was abandoned, and replace it if items wait."""
        with self.lock:
            if thread.abandoned:
                self.abandoned -= 1
                self._remove(thread)
                self._replace()

    def _remove(self, thread: PoolThread) -> None:
        for status, count in thread.ended.items():
            self.ended[status] += count
        # A new set, since others iterate over the old one without the lock.
        self.threads = self.threads - {thread}

    def close(self, *, drop: bool) -> list[Item]:
        """Refuse further items; with *drop* empty the queue and return what was in it."""
        with self.lock:
            self.closed = True
            dropped = self._empty() if drop else []
            self.cancelled += len(dropped)
        self.release()
        return dropped

    def _empty(self) -> list[Item]:
        """Pick everything in the queue and return it; lock held."""
        waiting = [item for item in self._queue.copy() if self._pick(item)]
        self._queue.clear()
        return waiting

    def release(self) -> None:
        """Let the threads end once the queue is empty; takes no lock, from any thread."""
        self.closed = True
        while self._parked:
            self._wake_one()

    def others(self, me: threading.Thread) -> Iterator[PoolThread]:
        """Yield every thread but *me*, including those that are started meanwhile."""
        seen: set[threading.Thread] = {me}
        while left := self.threads - seen:
            yield from left
            seen |= left

    def skip_at_exit(self, thread: PoolThread) -> None:
        """Do not wait for *thread* when the process ends."""
        joined_at_exit().pop(thread, None)

    def forget_threads(self) -> None:
        """Reset and close the crew in a forked child, where none of its threads exists."""
        # New, since a thread of the parent may have held the old one during the fork.
        self.lock = threading.RLock()
        self.waits = WaitGraph()
        self._queue = deque()
        self._waiting = set()
        # Otherwise the child would join them at its exit, and would join the thread it
        # runs on if that is one of them.
        for thread in self.threads:
            self.skip_at_exit(thread)
        self.threads = set()
        self.abandoned = self.blocked = 0
        self._wanted = {}
        self._inline = set()
        self._parked = []
        self._coming = False
        self.closed = self.forked = True

    def _check_open(self) -> None:
        if self.broken is not None:
            raise _stdlib.BrokenThreadPool(self.broken)
        if self.forked:
            raise RuntimeError(
                "cannot schedule new futures in a forked child: the pool's threads do not "
                "exist here; create a new pool after the fork"
            )
        if _stdlib._shutdown:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _summon(self, items: int) -> None:
        """Wake or start threads for the *items* just queued; lock held.

        One parked thread is woken, which wakes the next. New threads are started for items
        that exceed the parked threads.
        """
        if self.closed:
            return
        # All that wait are counted: parked threads may be needed for items queued before,
        # while the first woken thread is still on its way.
        missing = min(items, len(self._waiting) - len(self._parked) - self._coming)
        if not self._coming:
            self._wake_one()
        while missing > 0 and self.queued and self._room():
            self._start_thread()
            missing -= 1
        if self.blocked:
            self._start_spare()

    def _room(self) -> bool:
        """Whether one more thread may start; at most `max_workers` abandoned ones are replaced."""
        return (
            len(self.threads) - self.abandoned < self.max_workers
            and len(self.threads) < 2 * self.max_workers
        )

    def _replace(self) -> None:
        """Start a thread in place of an abandoned one, if items wait; lock held."""
        if self.blocked:
            # There was no room for a spare thread beside it.
            self._start_spare()
        if self.queued and not self._parked and self._room():
            try:
                self._start_thread()
            except RuntimeError:
                _LOGGER.warning("could not replace a pool thread", exc_info=True)

    def _start_thread(self, *, spare: bool = False) -> None:
        thread = self.thread_type(self, f"{self._name_prefix}_{self._started}")
        thread.spare = spare
        # Held so that interpreter exit either joins this thread or forbids its start.
        with _stdlib._global_shutdown_lock:
            if _stdlib._shutdown:
                self._check_open()
            # The thread is given its first item here: it may be slow to come, and a shutdown
            # that cancels the queue may be quicker. Not before an initializer, which may block.
            if self._initializer is None:
                others = len(self.threads) - self.abandoned - self.blocked
                thread.first = self._next_for_spare(others) if spare else self._next()
            try:
                thread.start()
            except RuntimeError:
                if thread.first is not None:
                    self._waiting.add(thread.first)
                    self._queue.appendleft(thread.first)
                    # A thread may have parked while the queue was empty.
                    if not self._coming:
                        self._wake_one()
                # Too many threads in the process: our other threads will run the item.
                if len(self.threads) > self.abandoned and not spare:
                    return
                raise
            # Only now, since the start may fail. The thread cannot end before: it needs the lock.
            self._started += 1
            self.threads = self.threads | {thread}
            joined_at_exit()[thread] = ExitSignal(self)

    def _break(self, reason: str) -> None:
        with self.lock:
            self.broken = reason
            dropped = self._empty()
            self.ended[TaskStatus.FAILED] += len(dropped)
        for item in dropped:
            item.handler.drop(item, _stdlib.BrokenThreadPool(reason))


_CREWS: weakref.WeakSet[Crew] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    forget_others()
    for crew in list(_CREWS):
        crew.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
