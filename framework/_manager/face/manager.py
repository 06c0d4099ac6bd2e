"""TaskManager: the public face of a framework's `Core`.

Guarantees: an accepted task becomes final exactly once; nothing here blocks an event loop.
Relies on: the ledger for the states of tasks, `results` for waiting.
Lock order: none is held here.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from framework._manager.cancelling import CancelAnswer, cancel, request_cancel
from framework._manager.core import Core
from framework._manager.face.again import run_again
from framework._manager.face.listing import (
    TaskPage,
    checked_query,
    checked_status,
    dicts_of,
    ended_between,
    failures_query,
    page_of,
)
from framework._manager.face.looking import find_task
from framework._manager.face.schedules import ScheduleControl
from framework._manager.face.steps import steps_of
from framework._manager.face.waiting import Waiting
from framework._manager.scene import ListScene
from framework._records import checks
from framework._records.about.meta import Meta
from framework._records.ids import TaskId
from framework._records.records import EVENT_KINDS, TaskRecord
from framework._records.statuses import PENDING, RUNNING, TaskStatus
from framework._records.steps import StepInfo
from framework._tasks.task import Task
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.protocols import Clock, EventSink, Telemetry

T = TypeVar("T")


class TaskManager(Waiting):
    """Submits tasks, returns their results, cancels them and forgets them.

    `setup_async_framework` creates it, and `get_task_manager` returns the current one. Methods
    that are not coroutines may be called from any thread.
    """

    @property
    def pool(self) -> ThreadPoolExecutorEnhanced:
        """The thread pool that runs sync tasks."""
        return self._core.pool

    @property
    def clock(self) -> Clock:
        """The framework's source of time."""
        return self._core.clock

    @property
    def rng(self) -> random.Random:
        """The random generator for jitter."""
        return self._core.rng

    @property
    def new_id(self) -> Callable[[], str]:
        """The function that creates task ids."""
        return self._core.intake.new_id

    @property
    def schedules(self) -> ScheduleControl:
        """The schedules of this framework, to be shown, paused, resumed and triggered."""
        return ScheduleControl(self._core)

    # -- looking up

    async def get_task(self, task_id: str) -> Task | None:
        """Return a snapshot of a task, or None if the id is unknown.

        Raises:
            TypeError: If *task_id* is not a string.
            StoreUnavailableError: If a store that several processes share cannot be used.
        """
        return await find_task(self._core, task_id)

    async def get_steps(self, task_id: str) -> list[StepInfo]:
        """Return the steps of a task with ``on_restart="resume"``, in the order of their ends.

        Those that run or wait come last; of a task in another process only those are known that
        are stored. Without a store that processes share, they are known as long as the task is in
        memory.

        Raises:
            TypeError: If *task_id* is not a string.
            TaskNotFoundError: If the id is unknown.
            StoreUnavailableError: If a store that several processes share cannot be read.
        """
        return await steps_of(self._core, task_id)

    async def list_tasks(
        self,
        *,
        status: TaskStatus | str | Collection[TaskStatus | str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        label: str | None = None,
        meta: Meta | None = None,
        search: str | None = None,
        limit: int = 50,
        offset: int = 0,
        after: str | None = None,
        oldest_first: bool = False,
        ended_since: datetime | timedelta | float | None = None,
        ended_before: datetime | timedelta | float | None = None,
    ) -> TaskPage:
        """Return a page of tasks, in the order of their submission.

        A task keeps its position when it starts or ends. So if you read page after page, tasks
        that come or end meanwhile neither repeat others nor hide them. With a store that several
        processes share, the pages have the tasks of all processes, in the same order everywhere.

        Args:
            status: Only tasks with this status, or with one of these; None for all.
            name: Only tasks with this `Task.name`, such as ``"jobs.resize"``, or with the one that
                ends so after a dot, as of ``"resize"``; None for all.
            owner: Only tasks that belong to this owner, see `Task.owner`; None for all.
            label: Only tasks with exactly this label, see `Task.label`; None for all.
            meta: Only tasks that have all of this in their `Task.meta`; None for all. 7 and 7.0
                are different values, as they are in JSON.
            search: Only tasks whose id, name, description or label contains this text, in upper or
                lower case; at most 255 characters. None or "" for all.
            limit: How many tasks at most, 1 to 1,000.
            offset: How many of the first tasks to leave out, from 0. Unlike *after*, it counts
                anew for each page, so tasks that come meanwhile shift the others.
            after: The ``next`` of the page before, with the same filters and *oldest_first*;
                None for the first page.
            oldest_first: Whether the oldest submission comes first, and not the newest.
            ended_since: Only tasks that ended at or after this moment, a datetime with a time
                zone, or in the last so many seconds, a timedelta or a number from 0 on; None for
                all.
            ended_before: Only tasks that ended before this moment, said likewise; None for all.

        Returns:
            The tasks, in ``next`` what to pass as *after* for more, and in ``total`` how many
            match in all.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If *status* is not a status, *owner* cannot be one, several names end with
                *name*, *search* is too long, *meta* has what no task can have, *limit* or *offset*
                is out of range, *after* is not the ``next`` of a page in this order, or a moment
                has no time zone or is a negative number.
            StoreUnavailableError: If a store that several processes share cannot be read.
            FrameworkNotStartedError: If there is such a store, and the framework has stopped.
        """
        query = checked_query(
            status, name, owner, search, limit, offset, after, oldest_first, label, meta
        )
        query = ended_between(self._core, query, ended_since, ended_before)
        return await page_of(self._core, query)

    async def failed(
        self,
        since: datetime | timedelta | float | None = None,
        name: str | None = None,
        *,
        limit: int = 50,
        after: str | None = None,
    ) -> TaskPage:
        """Return a page of the tasks that failed, the newest submission first.

        These are the tasks that are FAILED, TIMEOUT or INTERRUPTED: they have no result although
        nobody cancelled them. `run_again` submits one of them again. Only the tasks of the page
        are read, however many a store has, and their errors do not count as read.

        Args:
            since: Only tasks that ended at or after this moment, a datetime with a time zone,
                or in the last so many seconds, a timedelta or a number from 0 on; None for all
                that are kept.
            name: Only tasks with this name, as in `list_tasks`; None for all.
            limit: How many tasks at most, 1 to 1,000.
            after: The ``next`` of the page before, with the same *name*; None for the first
                page.

        Returns:
            The tasks, and in ``next`` what to pass as *after* for more.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If *since* is a datetime without a time zone or a negative number,
                several names end with *name*, *limit* is out of range, or *after* is not the
                ``next`` of a page.
            StoreUnavailableError: If a store that several processes share cannot be read.
            FrameworkNotStartedError: If there is such a store, and the framework has stopped.
        """
        query = failures_query(self._core, since, name, limit, after)
        return await page_of(self._core, query)

    def get_all_tasks(
        self,
        *,
        status: TaskStatus | str | Collection[TaskStatus | str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        label: str | None = None,
        meta: Meta | None = None,
        search: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> dict[str, dict[str, Any]]:
        """Return a snapshot of all tasks, or of some, as ``{task_id: Task.to_dict()}``.

        With any argument, the newest submission comes first, and only these tasks are read. The
        arguments are those of `list_tasks`, but *limit* may be any number from 1, or None for all.

        Blocks until all are read. 10,000 tasks in memory take 0.1 s and 10 MB, 100,000 take 1 s
        and 110 MB, and a million 11 s and 1.1 GB. From a SQLite file it takes 0.2 s and 24 MB,
        2 s and 240 MB, or 19 s and 1.7 GB. To show some of many tasks, use `list_tasks`.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If one is out of range.
            StoreUnavailableError: If a store that several processes share cannot be read.
        """
        most = None if limit is None else checks.integer("limit", limit, at_least=1)
        query = checked_query(status, name, owner, search, offset=offset, label=label, meta=meta)
        if most is None and query == checked_query():
            return _as_dicts(self._core, self._core.overview.records().values())
        return dicts_of(self._core, query, most)

    def get_active_tasks(self) -> dict[str, dict[str, Any]]:
        """Return the tasks that are PENDING or RUNNING, in the form of `get_all_tasks`.

        It costs what they cost, however many others have ended. It never blocks, unless more than
        2,000 tasks wait in a store for any process: those are read from the database. To show some
        of many tasks, use `list_tasks`.

        Raises:
            StoreUnavailableError: If they cannot be read.
        """
        return _as_dicts(self._core, self._core.overview.active_records())

    def get_tasks_by_status(self, status: TaskStatus | str) -> dict[str, dict[str, Any]]:
        """Return the tasks with one status, like `get_all_tasks`.

        Raises:
            ValueError: If *status* is not a status.
            StoreUnavailableError: If a store that several processes share cannot be read.
        """
        records = self._core.overview.records(checked_status(status))
        return _as_dicts(self._core, records.values())

    def get_active_count(self) -> int:
        """Return how many tasks are PENDING or RUNNING."""
        figures = self._core.overview.figures()
        return figures[PENDING.value] + figures[RUNNING.value]

    def get_stats(self) -> dict[str, int]:
        """Return a consistent snapshot of the counters since the start.

        ``submitted`` is always the sum of ``pending``, ``running``, ``completed``, ``failed``,
        ``timeout``, ``cancelled`` and ``interrupted``. There are also ``delayed`` (delayed
        tasks), ``scheduled`` (schedules), ``kept`` (finished tasks in the store) and, if they
        are not 0, ``rejected``, ``retrying``, ``throttled``, ``late_results``, ``evicted``,
        ``scheduled_skipped``, ``loop_blocks`` (how often the event loop was found to be blocked)
        and ``lost_wakeups`` (waiters whose event loop was closed).

        With a store that several processes share, the counters include the tasks of all
        processes that it keeps. As it never blocks, it returns what this process knows: those of
        others are 0.2 s old at most. With PostgreSQL they are up to a second old the first time
        after a minute in which nobody has asked; `list_tasks` is never. ``store_errors`` and
        ``store_backlog`` count failed attempts to write, and records that wait to be written.
        """
        figures = self._core.overview.figures()
        figures |= {
            "delayed": len(self._core.places.delays),
            "scheduled": len(self._core.schedules),
        }
        if self._core.boxes.lost:
            figures["lost_wakeups"] = self._core.boxes.lost
        return figures

    def subscribe(
        self, sink: EventSink | Telemetry, *, kinds: Collection[str] | None = None
    ) -> Callable[[], None]:
        """Call ``sink(event)`` for events, on the thread or loop where they happen.

        The sink must be fast, because that thread or event loop waits for it. If it raises, the
        error is logged, and the other sinks are still called.

        Args:
            sink: The function. An object with a method ``attach(manager)``, such as a
                `PrometheusSink`, is attached instead, and chooses the events itself.
            kinds: The kinds of events to receive, see `TaskEvent`; None for all. Kinds without
                a sink cost nothing.

        Returns:
            A function that unsubscribes the sink. It may be called twice.

        Raises:
            TypeError: If *sink* is not callable, or *kinds* is not a collection of strings.
            ValueError: If a kind does not exist.
        """
        if not callable(sink):
            if kinds is None and hasattr(sink, "attach"):
                return sink.attach(self)
            raise TypeError(f"sink must be a function that takes an event, not {checks.show(sink)}")
        chosen = EVENT_KINDS if kinds is None else checks.choices("kinds", kinds, EVENT_KINDS)
        return self._core.ledger.subscribe(sink, chosen)

    # -- cancelling and forgetting

    async def cancel_task(self, task_id: str, *, at_once: bool = False) -> bool:
        """Cancel a task; return True if it was cancelled, False if not or not yet.

        - A PENDING task never starts: True. One that has begun, and that waits as a row to go on
          from its [steps](howto/steps.md), goes on for that: the cancellation is raised where its
          code waits, and the steps that it calls then run. It is awaited like a running one.
        - An ``async def`` task is cancelled and awaited for at most 1 s: True if it stops, False
          if it returns a result (it is COMPLETED) or does not stop.
        - A sync task that is running cannot be stopped from outside: False. It stops where it
          calls ``current_task().check_cancelled()``. If it waits for a retry or a throttle, it is
          woken and awaited in the same way as an ``async def`` task.
        - A task that has ended, or an unknown id: False.

        ``cancel_requested`` is true for every task that had not ended. So after False, a task
        that is still ``running``, or ``pending``, may become CANCELLED later. `request_cancel`
        tells these apart.

        Args:
            task_id: The task.
            at_once: Whether a task that waits to go on ends as it is. Its code does not run any
                more, so it makes up for nothing: for one whose function no process knows any more.

        Raises:
            TypeError: If *task_id* is not a string.
        """
        return await cancel(self._core, task_id, at_once=at_once)

    async def request_cancel(self, task_id: str, *, at_once: bool = False) -> CancelAnswer:
        """Cancel a task like `cancel_task`, and return the outcome with a reason.

        ``to_dict()["cancel"]`` of the task shows the same outcome, and later ones: a task that
        was ``asked`` may become ``cancelled``, or end otherwise, which is ``cannot``.

        Args:
            task_id: The task.
            at_once: See `cancel_task`.

        Returns:
            The outcome, and why in words. ``cancelled``: the task is CANCELLED, by this request
            or an earlier one. ``asked``: it has not ended. A function on a thread stops where it
            calls ``current_task().check_cancelled()``, an ``async def`` function may be cleaning
            up, one that waits may wait for a process that goes on with it, and another process may
            be slow. ``cannot``: the task has ended otherwise, or the
            id is unknown.

        Raises:
            TypeError: If *task_id* is not a string.
            StoreUnavailableError: If a store that several processes share cannot be used.
            BrokerUnavailableError: If the task is at a broker that does not answer.
        """
        return await request_cancel(self._core, task_id, at_once=at_once)

    @overload
    async def run_again(self, task_id: TaskId[T]) -> TaskId[T]: ...

    @overload
    async def run_again(self, task_id: str) -> TaskId[Any]: ...

    async def run_again(self, task_id: str) -> TaskId[Any]:
        """Submit the call of a task again that ended without a result, as a new task.

        The new task has the function, the arguments and the options of the old one, but its own
        id, and starts without a delay. `Task.run_again_of` says which task it repeats. The old
        task stays as it is, and can be run again once more.

        One with ``on_restart="resume"`` goes on from the steps of the old task, and receives what
        was sent to it: only what has not ended there runs, such as the step whose error ended it.
        There is one such task for each: if the task was run again before, this returns the id of
        that one, or of the one that goes on from it if that has failed too. On Celery it begins
        anew.

        In memory, the arguments are kept by reference, of the latest 1,000 tasks that did not
        complete (see `MemoryStore`); if the function has changed them, the new task gets what
        it has left. A store or engine that several processes share keeps the arguments as JSON,
        up to a size (see `SQLStore`). Then every process can run the task again that has
        imported its decorated function, but hooks that were given to `submit` or ``.options()``
        are not called again. The option ``keep_arguments=False`` keeps none.

        Args:
            task_id: A task that is FAILED, TIMEOUT, CANCELLED or INTERRUPTED.

        Returns:
            The id of the new task.

        Raises:
            TypeError: If *task_id* is not a string.
            TaskNotFoundError: If the id is unknown.
            RunAgainError: If the task has not ended or has completed, or has gone on as one that
                has; if its arguments were not kept, or this process does not know its function.
            QueueFullError: If the queue is full.
            StoreUnavailableError: If a store that several processes share cannot be used.
            FrameworkNotStartedError: If the framework is stopping or has stopped.
        """
        return TaskId((await run_again(self._core, task_id, sys._getframe(1))).task_id)

    def cleanup_completed_tasks(self, max_age: float | timedelta = 3600.0) -> int:
        """Forget tasks that ended *max_age* seconds ago or earlier.

        A failure that nobody has read, and that was not logged when the task ended, is logged
        when the task is forgotten. It never blocks: rows of a database are deleted afterwards, in
        short steps.

        Args:
            max_age: Seconds, 0 or more, or a timedelta; 0 forgets all finished tasks.

        Returns:
            How many tasks were forgotten.

        Raises:
            TypeError: If *max_age* is neither a number nor a timedelta.
            ValueError: If it is negative or NaN.
        """
        age = checks.seconds("max_age", max_age, at_least=0, finite=False)
        return self._core.endings.retention.evict(ended_before=self._core.clock.monotonic() - age)


def _as_dicts(core: Core, records: Iterable[TaskRecord]) -> dict[str, dict[str, Any]]:
    scene = ListScene(core.ledger, core.engine)
    return {str(record.task_id): Task(record, scene=scene).to_dict() for record in records}
