"""Waiting for many tasks: those of some ids, and those of one function for many items.

Guarantees: a map never has more than `max_running` tasks that have not ended, and takes an item
only when it may submit one; leaving it early ends no task.
Relies on: the manager, which submits and waits.
Lock order: none is held here; all state belongs to the coroutine that iterates.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sized,
)
from typing import Any, Generic, TypeVar

from framework._records import checks
from framework._records.records import TaskRecord
from framework._records.statuses import COMPLETED
from framework._running.outcomes import raise_or_return
from framework._tasks.live import current_record
from framework._tasks.task import Task
from framework.exceptions import DeadlockError, QueueFullError

I = TypeVar("I")  # noqa: E741  # an item
T = TypeVar("T")


async def gather(
    get: Callable[[str], Awaitable[Any]], task_ids: Iterable[str], return_exceptions: bool
) -> list[Any]:
    """Return the results of some tasks; see `TaskManager.gather`.

    Args:
        get: Waits for the result of one task.
        task_ids: The tasks.
        return_exceptions: Whether errors take the place of results.
    """
    if isinstance(task_ids, str) or not isinstance(task_ids, Iterable):
        raise TypeError(
            "task_ids must be a list of task ids or another iterable of them, not "
            f"{checks.show(task_ids)}"
        )
    checks.flag("return_exceptions", return_exceptions)
    ids = list(task_ids)
    caller = current_record.get()
    if caller is not None and caller.task_id in ids:
        raise DeadlockError((caller.name, caller.name))
    waits = {task_id: asyncio.ensure_future(get(task_id)) for task_id in ids}
    try:
        return await asyncio.gather(
            *(waits[task_id] for task_id in ids), return_exceptions=return_exceptions
        )
    finally:
        # After an error some still wait; their tasks go on without them.
        for wait in waits.values():
            wait.cancel()


class MapItem(Generic[I, T]):
    """One item of a `TaskMap` whose task has ended.

    Attributes:
        item: The item.
        number: Its index among all items, from 0.
        task: Its final task.
    """

    __slots__ = ("_record", "item", "number", "task")

    # Any: a record, which is not public
    def __init__(self, item: I, number: int, record: Any) -> None:
        self._record: TaskRecord = record
        self.item: I = item
        self.number: int = number
        self.task: Task = Task(record)

    def result(self) -> T:
        """Return what the function returned for this item.

        Raises:
            BaseException: What `TaskManager.get_result` raises for a task that has no result.
        """
        result: T = raise_or_return(self._record)
        return result

    def __repr__(self) -> str:
        return f"<MapItem {self.number} {self.task!r}>"


class TaskMap(Generic[I, T]):
    """The tasks of one function for many items, see `TaskManager.map`.

    Iterate over it with ``async for`` to get a `MapItem` whenever a task ends, or await it to get
    all results in the order of the items. Either can be done once. Use it on one event loop.

    Attributes:
        total: How many items there are; None before the last one, if they have no ``len()``.
        submitted: For how many items a task was submitted.
        ended: How many of these tasks have ended, and were handed out.
        failed: How many of those are not COMPLETED.
    """

    # Any: the functions are the manager's, and what they return is not public
    def __init__(
        self,
        items: Iterable[I] | AsyncIterable[I],
        max_running: int,
        submit: Any,
        until_final: Any,
    ) -> None:
        self._submit: Callable[[list[I]], Awaitable[list[TaskRecord | str | Exception]]] = submit
        self._until_final: Callable[[TaskRecord | str], Awaitable[TaskRecord]] = until_final
        self._items = _one_by_one(items)
        # Of the others the next one may take long to come.
        self._are_there = isinstance(items, Iterable)
        # The waits that are over, and whether there is one, or the last item has come.
        self._over: list[asyncio.Future[TaskRecord]] = []
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._max_running = max_running
        # Those that were taken, and are not submitted yet.
        self._next: list[tuple[int, I]] = []
        # Why there are no more items.
        self._broken: Exception | None = None
        self._waits: dict[asyncio.Future[TaskRecord], tuple[int, I]] = {}
        self._begun = False
        self.total: int | None = len(items) if isinstance(items, Sized) else None
        self.submitted: int = 0
        self.ended: int = 0
        self.failed: int = 0

    @property
    def progress(self) -> float | None:
        """The fraction of items whose tasks have ended, 0.0 to 1.0; None without `total`."""
        if self.total is None:
            return None
        return self.ended / self.total if self.total else 1.0

    def __aiter__(self) -> AsyncIterator[MapItem[I, T]]:
        """Iterate over the items in the order in which their tasks end."""
        if self._begun:
            raise RuntimeError(
                "this map was used before: its items are gone; call manager.map() again"
            )
        self._begun = True
        return self._iterate()

    def __await__(self) -> Generator[Any, None, list[T]]:
        """Wait for all tasks, and return the results in the order of the items.

        The first error ends the wait, and no further task is submitted.
        """
        return self._results().__await__()

    async def _results(self) -> list[T]:
        results: dict[int, T] = {}
        async for one in self:
            results[one.number] = one.result()
        return [results[number] for number in range(len(results))]

    async def _iterate(self) -> AsyncIterator[MapItem[I, T]]:
        # In a task of its own: the next item may take long to come.
        feeder = asyncio.ensure_future(self._feed())
        feeder.add_done_callback(lambda _: self._changed.set())
        try:
            while self._waits or not feeder.done():
                await self._changed.wait()
                self._changed.clear()
                over, self._over = self._over, []
                if over:
                    ended = [self._end(one) for one in over]
                    self._room.set()
                    # Before they are handed out, so that others run meanwhile.
                    await asyncio.sleep(0)  # noqa: TID251  # the feeder's turn
                    for one in sorted(ended, key=lambda item: item.number):
                        self.ended += 1
                        self.failed += one.task.status is not COMPLETED
                        yield one
            refused = feeder.result()
            if refused is not None:
                raise refused
        finally:
            feeder.cancel()
            for wait in self._waits:
                wait.cancel()
            # What it was taking an item from ends before this does.
            await asyncio.wait({feeder})

    def _end(self, wait: asyncio.Future[TaskRecord]) -> MapItem[I, T]:
        number, item = self._waits.pop(wait)
        return MapItem(item, number, wait.result())

    async def _feed(self) -> Exception | None:
        """Submit tasks for all items, as many at a time as may run; return why one was refused."""
        while True:
            try:
                await self._take()
                if not self._next:
                    self.total = self.submitted
                    return None
                outcomes = await self._submit([item for _, item in self._next])
            except Exception as error:
                return error
            refused = None
            for task in outcomes:
                if isinstance(task, Exception):
                    refused = refused or task
                else:
                    self._follow(task)
            # One of our own makes room when it ends; without any, nobody would try again.
            if refused is not None and not (isinstance(refused, QueueFullError) and self._waits):
                return refused
            if refused is None and len(self._waits) < self._max_running:
                continue
            self._room.clear()
            await self._room.wait()

    async def _take(self) -> None:
        """Take as many items as may run, if they are there; else the next one."""
        room = self._max_running - len(self._waits) if self._are_there else 1
        while len(self._next) < room:
            try:
                if self._broken is not None:
                    raise self._broken
                taken = await anext(self._items, None)
            except Exception as error:
                # Those that came before it are submitted first.
                self._broken = error
                if not self._next:
                    raise
                return
            if taken is None:
                return
            self._next.append(taken)

    def _follow(self, task: TaskRecord | str) -> None:
        """Wait for the task of the first item that was taken."""
        number, item = self._next.pop(0)
        self.submitted += 1
        wait = asyncio.ensure_future(self._until_final(task))
        self._waits[wait] = number, item
        wait.add_done_callback(self._note)

    def _note(self, wait: asyncio.Future[TaskRecord]) -> None:
        self._over.append(wait)
        self._changed.set()


async def _one_by_one(items: Iterable[I] | AsyncIterable[I]) -> AsyncIterator[tuple[int, I]]:
    """Yield each item with its number."""
    if isinstance(items, AsyncIterable):
        number = 0
        async for item in items:
            yield number, item
            number += 1
        return
    for number, item in enumerate(items):
        yield number, item
