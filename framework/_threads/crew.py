"""The threads of a pool: when they start, which stand in for others, and when they end.

Guarantees: an item that was put in the queue is run once or dropped once. While items wait,
new threads are started while there is room. A thread abandoned at a limit is replaced while at
most `max_workers` are abandoned, and ends when its item ends. When threads wait for items of
this crew, with a timeout or on an event loop of their own, other threads run those items, so
the wait ends.

Relies on: handlers that never raise; the `ItemQueue`, which gives each item to one thread; the
`Spares`, which say when a thread must stand in for those that wait.

Lock order: `lock` is held to queue items, to close, and to start or abandon threads; the queue
and the spares use the same one. The locks of the wait graph, of the clock and of the standard
library's shutdown may be taken under it; user code never runs under it. It is reentrant, since
a signal handler may shut down a pool whose lock its own thread holds.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import thread as _stdlib
from contextlib import contextmanager
from typing import Any, ClassVar

from framework._records.statuses import TaskStatus
from framework._threads.exits import ExitSignal, joined_at_exit
from framework._threads.loggers import SafeLogger
from framework._threads.pool_threads import PoolThread, current_pool_thread, forget_others
from framework._threads.queue.item_queue import ItemQueue
from framework._threads.queue.spares import Spares
from framework._threads.watch.outflow import Outflow
from framework._threads.watch.wait_graph import WaitGraph
from framework.exceptions import QueueFullError
from framework.protocols._engines import Item

_LOGGER = SafeLogger("concurrent.futures")
_NONE_ENDED = dict.fromkeys(TaskStatus, 0)
_TIMINGS_KEPT = 2_048


class Crew:
    """The threads and the queue of a pool; it outlives the executor until the queue is done.

    Attributes:
        thread_type: The class of its threads.
        lock: The lock of the crew, its queue and its spares.
        queue: What its threads take their items from.
        take: What a thread takes its next item with; see `ItemQueue.take`.
        spares: Which of its threads have stepped aside; see `step_aside`.
        abandoned: How many threads run an item past its limit.
        cancelled: How many items were cancelled before they ran.
        ended: How many items ended with each status. Living threads keep their own counts.
        timings: When the latest items were queued, started and ended, in monotonic seconds.

    Args:
        max_workers: How many threads work at once, 1 or more.
        name_prefix: Threads are named ``<prefix>_<n>``.
        initialize: Called first on each thread; None for nothing.
        queue_size: How many items may wait, 1 or more; None for no bound.
        outflow: Measures how fast the queue empties.
    """

    thread_type: ClassVar[type[PoolThread]] = PoolThread

    def __init__(
        self,
        max_workers: int,
        name_prefix: str,
        initialize: Callable[[], object] | None,
        queue_size: int | None,
        outflow: Outflow,
    ) -> None:
        self.max_workers = max_workers
        self.queue_size = queue_size
        self.waits = WaitGraph()
        self.lock = threading.RLock()
        self.queue = ItemQueue(self.lock)
        # Bound here, since each item would pay for a call between the two.
        self.take = self.queue.take
        self.spares = Spares(self.queue)
        self.threads: set[PoolThread] = set()
        self.forked = False
        self.broken: str | None = None
        self.abandoned = 0
        self.rejected = 0
        self.submitted = 0
        self.cancelled = 0
        self.ended: dict[TaskStatus, int] = _NONE_ENDED.copy()
        self.timings: deque[tuple[float, float, float]] = deque(maxlen=_TIMINGS_KEPT)
        self._name_prefix = name_prefix
        self._initialize = initialize
        self._started = 0
        self._outflow = outflow
        _CREWS.add(self)

    @property
    def degraded(self) -> bool:
        """Whether more threads are abandoned than are replaced."""
        return self.abandoned > self.max_workers

    @property
    def queued(self) -> int:
        """How many items wait."""
        return len(self.queue.waiting)

    @property
    def is_full(self) -> bool:
        """Whether no thread is free for one more item, nor may be started."""
        return not (self.queue.parked or self.queue.coming or self._room())

    @property
    def is_stuck(self) -> bool:
        """Whether all threads wait for items, so that a spare one would run what is queued."""
        blocked = self.spares.blocked
        return blocked > 0 and len(self.threads) - self.abandoned - blocked <= 0

    def put(self, item: Item) -> None:
        """Queue *item* and wake or start a thread for it.

        Raises:
            QueueFullError: If `queue_size` items wait.
            BrokenThreadPool: If the initializer failed.
            RuntimeError: If the crew was shut down or forked, or if it has no thread and
                none can be started.
        """
        with self.lock:
            if self.queue_size is not None:
                self._check_open()
                if self.queued >= self.queue_size:
                    raise self.queue_full(self.queue_size)
            refused = self.put_all((item,))
        for _, error in refused:
            raise error

    def queue_full(self, size: int) -> QueueFullError:
        """Count a refusal and return its error, which says when to come back; lock held."""
        self.rejected += 1
        return QueueFullError(size, self._outflow.next_place(self.submitted - self.queued))

    def put_all(self, items: Sequence[Any]) -> list[tuple[Any, Exception]]:
        """Queue *items*, regardless of `queue_size`; return those that were refused, and why."""
        with self.lock:
            try:
                self._check_open()
            except RuntimeError as error:
                return [(item, error) for item in items]
            missing = self.queue.add(items)
            self.submitted += len(items)
            try:
                if missing > 0 or self.spares.blocked:
                    self._summon(missing)
                # A signal handler or interpreter exit may have closed the crew meanwhile.
                self._check_open()
            except Exception as error:  # the caller raises it, or fails the item with it
                refused = [(item, error) for item in items if self.queue.pick(item)]
                self.submitted -= len(refused)
                return refused
            return []

    def discard(self, item: Item) -> bool:
        """Cancel *item* if it still waits; False if it was picked before."""
        with self.lock:
            picked = self.queue.pick(item)
            self.cancelled += picked
            if picked:
                self.queue.tidy()
            return picked

    def run_inline(self, item: Item) -> bool:
        """Run *item* on the calling thread, if that is one of ours and the item waits here."""
        thread = current_pool_thread()
        if thread is None or thread.crew is not self or not self.queue.pick(item):
            return False
        thread.stack.append(item)
        self.queue.tidy()
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
            self.spares.step_aside(thread)
            if not inline:
                return self.want(item)
            self.spares.inline.add(item)
            return self._start_spare()

    def step_back(self, thread: PoolThread, item: Item) -> None:
        """End the wait of *thread* for *item*, which began with `step_aside`."""
        with self.lock:
            self.spares.step_back(thread, item)

    @contextmanager
    def standing_in(self, thread: PoolThread | None) -> Iterator[None]:
        """Let other threads run while *thread* waits for what none of them will run.

        Args:
            thread: The calling thread, if it is one of this crew; None to do nothing.
        """
        if thread is None:
            yield
            return
        with self.lock:
            self.spares.step_aside(thread)
            self._start_spare()
        try:
            yield
        finally:
            with self.lock:
                self.spares.step_back(thread, None)

    def want(self, item: Item) -> bool:
        """Let a spare thread run *item*, if it is queued, for a thread that stepped aside.

        Returns:
            False if it waits for a thread and none can be started.
        """
        with self.lock:
            waits = self.spares.want(item)
            return self._start_spare() or not waits

    def _start_spare(self) -> bool:
        """Start a spare thread if one is needed; False if none can be started; lock held."""
        active = len(self.threads) - self.spares.blocked
        if (
            not self.spares.needed(active - self.abandoned, self.max_workers)
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
            others = len(self.threads) - self.abandoned - self.spares.blocked - 1
            if others < self.max_workers:
                item = self.spares.pick(others)
                if item is not None:
                    thread.stack.append(item)
                    self.queue.tidy()
                    return item
            # Removed under the same lock: from now on `want` starts another spare thread.
            self._remove(thread)
            if self.queue.waiting:
                # The one that it stood beside may have been abandoned, and so be gone as well.
                self._replace()
            return None

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
                    self.spares.forget(thread)
                    self._replace()
                    return

    def begin(self) -> bool:
        """Run the initializer on a new thread; False if that broke the crew."""
        if self._initialize is None:
            return True
        try:
            self._initialize()
        except BaseException:  # as in the standard pool, any error breaks the pool
            _LOGGER.critical("Exception in initializer:", exc_info=True)
            self._break("A thread initializer failed, the thread pool is not usable anymore")
            return False
        return True

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
            self.queue.closed = True
            dropped = self.queue.pick_all() if drop else []
            self.cancelled += len(dropped)
        self.release()
        return dropped

    def release(self) -> None:
        """Let the threads end once the queue is empty; takes no lock, from any thread."""
        self.queue.release()

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
        self.queue.reset(self.lock)
        self.spares.reset()
        # Otherwise the child would join them at its exit, and would join the thread it
        # runs on if that is one of them.
        for thread in self.threads:
            self.skip_at_exit(thread)
        self.threads = set()
        self.abandoned = 0
        self.queue.closed = self.forked = True

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
        if self.queue.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _summon(self, missing: int) -> None:
        """Start so many threads for what was just queued, and a spare one if needed; lock held."""
        queue = self.queue
        if queue.closed:
            return
        while missing > 0 and queue.waiting and self._room():
            self._start_thread()
            missing -= 1
        if self.spares.blocked:
            self._start_spare()

    def _room(self) -> bool:
        """Whether one more thread may start; at most `max_workers` abandoned ones are replaced."""
        return (
            len(self.threads) - self.abandoned < self.max_workers
            and len(self.threads) < 2 * self.max_workers
        )

    def _replace(self) -> None:
        """Start a thread in place of an abandoned one, if items wait; lock held."""
        if self.spares.blocked:
            # There was no room for a spare thread beside it.
            self._start_spare()
        if self.queued and not self.queue.parked and self._room():
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
            if self._initialize is None:
                others = len(self.threads) - self.abandoned - self.spares.blocked
                thread.first = self.spares.pick(others) if spare else self.queue.pick_first()
            try:
                thread.start()
            except RuntimeError:
                if thread.first is not None:
                    self.queue.put_back(thread.first)
                # Too many threads in the process: our other threads will run the item.
                if len(self.threads) > self.abandoned and not spare:
                    return
                raise
            # Only now, since the start may fail. The thread cannot end before: it needs the lock.
            self._started += 1
            self.threads = self.threads | {thread}
            joined_at_exit()[thread] = ExitSignal(self.release)

    def _break(self, reason: str) -> None:
        with self.lock:
            self.broken = reason
            dropped = self.queue.pick_all()
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
