"""A pool and an engine that start nothing by themselves: a `Control` decides.

Guarantees: the control gets each queued item once, and the item starts only after its
`Queued.admit`, or inline on a thread that waits for it; `begin` and `end` are called in pairs on
the thread that runs it, and `end` after all its completions; an item that will never run is
withdrawn.
Relies on: a control that admits when it likes, and blocks only in `begin`.
Lock order: the crew's lock may be held when the control is called; the control must not hold a
lock of its own while it admits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import thread as _stdlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol, cast

from framework._records.records import TaskRecord
from framework._threads.crew import Crew
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.pool_threads import PoolThread, current_pool_thread
from framework._threads.queue.levels import level_of
from framework.engines.local import LocalEngine
from framework.protocols import EngineTask, Kind, Run
from framework.protocols._engines import Item


class Queued:
    """A task, or a call of the bare pool, that waits to be admitted.

    Attributes:
        kind: Where it will run.
        admitted: Whether it was handed to a thread, which will start it shortly.
        admit: Lets it start; does nothing if it has started or was withdrawn. Any thread.
    """

    __slots__ = ("_item", "admit", "admitted", "kind")

    def __init__(self, item: Any, kind: Kind, admit: Callable[[], object]) -> None:
        self._item = item
        self.kind: Kind = kind
        self.admitted: bool = False
        self.admit: Callable[[], object] = admit

    @property
    def record(self) -> TaskRecord | None:
        """The task's record; None for a call of the bare pool."""
        return self._item if isinstance(self._item, TaskRecord) else None

    @property
    def name(self) -> str:
        """Name of the function."""
        return str(self._item.name)

    @property
    def level(self) -> int:
        """The place of its priority: 0 for high, 1 for normal, 2 for low."""
        return level_of(self._item)


class Control(Protocol):
    """Decides when queued items start. Called on any thread."""

    def queued(self, queued: Queued) -> None:
        """Called when an item waits to be admitted."""

    def begin(self, queued: Queued) -> None:
        """Called before an item runs, on its thread; may block."""

    def end(self, queued: Queued) -> None:
        """Called when an item has ended, on its thread."""

    def withdrawn(self, queued: Queued) -> None:
        """Called when an item will not start, or not by being admitted."""

    def freed(self) -> None:
        """Called when there is room for one more, or the pool must be emptied."""

    def outside(self) -> AbstractContextManager[object]:
        """Return a context in which the calling thread waits for the pool's threads to end."""
        ...


class _ControlledThread(PoolThread):
    """A thread of a `_ControlledCrew`."""

    def work(self, item: Item) -> None:
        """Run one item between `Control.begin` and `Control.end`."""
        crew = cast("_ControlledCrew", self.crew)
        queued = crew.begin_item(item)
        crew.control.begin(queued)
        try:
            super().work(item)
        finally:
            crew.end_item(item)
            crew.control.end(queued)


class _ControlledCrew(Crew):
    """A crew whose items are held back until the control admits them."""

    thread_type: ClassVar[type[PoolThread]] = _ControlledThread
    control: Control

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: dict[Item, Queued] = {}
        # What was admitted and has not ended.
        self._out: dict[Item, Queued] = {}
        self._closing = False

    @property
    def queued(self) -> int:
        """How many items wait, held back or not."""
        return super().queued + len(self._held)

    @property
    def room(self) -> int:
        """How many more items could begin now."""
        missed = max(0, self.abandoned - self.max_workers)
        room = self.max_workers - len(self._out) - missed
        if room > 0 or room + self.spares.blocked <= 0:
            return room
        # As a spare thread of any crew: for what is wanted, or if all stand aside.
        wanted = any(item in self._held for item in self.spares.wanted)
        return 1 if wanted or len(self._out) <= self.spares.blocked else room

    @property
    def emptying(self) -> bool:
        """Whether held items must run although nobody admits them."""
        return self._closing

    def put(self, item: Item) -> None:
        """Hold *item* back; see `Crew.put` for the errors."""
        # Like `Crew.put`, and not shared with it: that is a pool's hot path, where one more
        # call would cost, and here the control is called after the lock.
        with self.lock:
            self._check_open()
            if self.queue_size is not None and self.queued >= self.queue_size:
                raise self.queue_full(self.queue_size)
            held = self._hold(item)
        self.control.queued(held)

    def put_all(self, items: Sequence[Any]) -> list[tuple[Any, Exception]]:
        """Hold many back at once; return those that could not be, and why."""
        with self.lock:
            try:
                self._check_open()
            except RuntimeError as error:
                return [(item, error) for item in items]
            held = [self._hold(item) for item in items]
        # By level, since the control may admit the first before it is told of the others.
        for queued in sorted(held, key=level_of):
            self.control.queued(queued)
        return []

    def _hold(self, item: Item) -> Queued:
        self.submitted += 1
        queued = self._held[item] = Queued(item, "thread", lambda: self._admit(item))
        return queued

    def _admit(self, item: Item) -> None:
        with self.lock:
            queued = self._held.pop(item, None)
            if queued is None:
                return
            self._out[item] = queued
            queued.admitted = True
            self.submitted -= 1
            closing, self._closing = self._closing, False
            refused = super().put_all((item,))
            self._closing = closing
        for _, error in refused:
            self._forget(item)
            item.handler.drop(item, error)
        self._close_if_empty()

    def _forget(self, item: Item) -> None:
        with self.lock:
            queued = self._out.pop(item, None)
        if queued is not None:
            self.control.withdrawn(queued)

    def _unhold(self, item: Item) -> bool:
        """Drop a held *item* that will not run; False if it is not held."""
        with self.lock:
            queued = self._held.pop(item, None)
            self.cancelled += queued is not None
        if queued is not None:
            self.control.withdrawn(queued)
        return queued is not None

    def begin_item(self, item: Item) -> Queued:
        """Record the start of an item, and return its `Queued`."""
        with self.lock:
            queued = self._out.get(item)
        return queued or Queued(item, "thread", lambda: None)

    def end_item(self, item: Item) -> None:
        """Record the end of an item."""
        with self.lock:
            self._out.pop(item, None)

    def discard(self, item: Item) -> bool:
        """Remove a waiting *item*; False if it has started."""
        removed = self._unhold(item)
        if not removed and super().discard(item):
            removed = True
            self._forget(item)
        if removed:
            self._close_if_empty()
        return removed

    def run_inline(self, item: Item) -> bool:
        """Run *item* on this thread, held back or not, if the thread is one of ours."""
        thread = current_pool_thread()
        if thread is not None and thread.crew is self:
            with self.lock:
                queued = self._held.pop(item, None)
                if queued is not None:
                    # From here on it waits like the items of any other crew.
                    self.queue.waiting.add(item)
            if queued is not None:
                self.control.withdrawn(queued)
            ran = super().run_inline(item)
            self._close_if_empty()
            return ran
        return False

    def want(self, item: Item) -> bool:
        """Tell the control that there is room for what a thread waits for."""
        with self.lock:
            if item in self._held:
                self.spares.wanted[item] = None
        self.control.freed()
        return True

    def _room(self) -> bool:
        return super()._room() or len(self.threads) - self.abandoned - self.spares.blocked < (
            self.max_workers
        )

    def abandon(self, item: Item) -> None:
        """Abandon the thread that runs *item*; another item may start."""
        super().abandon(item)
        with self.lock:
            self._out.pop(item, None)
        self.control.freed()

    def close(self, *, drop: bool) -> list[Item]:
        """Accept nothing more; held items are dropped, or run first."""
        with self.lock:
            self._closing = True
            held = list(self._held) if drop else []
        dropped = [item for item in held if self._unhold(item)]
        dropped += super().close(drop=True) if drop else []
        self._close_if_empty()
        self.control.freed()
        return dropped

    def release(self) -> None:
        """Let the threads end once nothing waits, held or not; takes no lock."""
        self._closing = True
        # At interpreter exit nobody is left to admit held items.
        if not self._held or _stdlib._shutdown:
            super().release()

    def _close_if_empty(self) -> None:
        with self.lock:
            ready = self._closing and not self._held and not self.queue.closed
        if ready:
            super().close(drop=False)

    def _check_open(self) -> None:
        super()._check_open()
        if self._closing:
            raise RuntimeError("cannot schedule new futures after shutdown")


class ControlledExecutor(ThreadPoolExecutorEnhanced):
    """A `ThreadPoolExecutorEnhanced` whose work starts when a `Control` says so.

    Args:
        control: Decides when queued items start.
        max_workers: Threads that work at once, from 1 on; None for the standard's default.
        options: Further parameters of `ThreadPoolExecutorEnhanced`.
    """

    _crew_type: ClassVar[type[Crew]] = _ControlledCrew

    def __init__(self, control: Control, max_workers: int | None = None, **options: Any) -> None:
        super().__init__(max_workers, **options)
        self._controlled = cast("_ControlledCrew", self._crew)
        self._controlled.control = control

    @property
    def room(self) -> Callable[[], int]:
        """Returns how many more could start now, 0 or less for none; keeps no pool alive."""
        crew = self._controlled
        return lambda: crew.room

    @property
    def emptying(self) -> Callable[[], bool]:
        """Returns whether the pool is shut down and finishes its queue; keeps no pool alive."""
        crew = self._controlled
        return lambda: crew.emptying

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None:
        """Accept no more calls; see `ThreadPoolExecutorEnhanced.shutdown`."""
        crew = self._controlled
        # With nothing to wait for, as in most tests, nobody else needs to continue.
        waits = crew.threads or crew.queued
        with crew.control.outside() if waits else nullcontext():
            super().shutdown(wait, cancel_futures=cancel_futures, timeout=timeout)


class ControlledEngine(LocalEngine):
    """Holds tasks of both kinds until the control of its pool admits them.

    Args:
        pool: Whose control decides.
        hold: Whether each task is held by itself, ``async def`` ones too, in the order of
            their submission. Otherwise those of one loop iteration come together, as in an app.
    """

    def __init__(self, pool: ControlledExecutor, *, hold: bool) -> None:
        super().__init__(pool)
        self._control = pool._controlled.control
        self._hold = hold
        self._held: dict[EngineTask, Queued] = {}

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Hold a task back; see `protocols.TaskEngine`."""
        if not self._hold:
            super().start(task, kind, run)
        elif kind == "thread":
            task.handler = run
            self._dispatch([task])
        else:
            self.loop_of(task)
            queued = Queued(task, kind, lambda: self._admit(task, run))
            self._held[task] = queued
            self._control.queued(queued)

    def _admit(self, task: EngineTask, run: Run) -> None:
        queued = self._held.pop(task, None)
        if queued is None:
            return
        self._control.withdrawn(queued)
        try:
            # Also on the loop's own thread: which one admits it must make no difference.
            self._post(self.loop_of(task), task, run)
        except RuntimeError as error:
            run.drop(task, error)

    def withdraw(self, task: EngineTask) -> None:
        """Drop a task that will not run any more."""
        queued = self._held.pop(task, None)
        if queued is None:
            super().withdraw(task)
        else:
            self._control.withdrawn(queued)
