"""The engine of one process: threads of a pool, and the apps' event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from framework._records.statuses import PENDING
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.waiters import Mailboxes
from framework.protocols import EngineTask, Kind, Run

_FLUSH_AFTER = 0.1
"""Maximum seconds that a task is staged while its loop's thread submits more."""


class _Staging:
    """Tasks that were submitted on one loop's thread in its current iteration."""

    __slots__ = ("coroutines", "since", "threads")

    def __init__(self, since: float) -> None:
        self.since = since
        self.threads: list[EngineTask] = []
        self.coroutines: list[EngineTask] = []


@dataclass(slots=True)
class _Batch:
    """Coroutines that one asyncio task is about to start, in this order."""

    owner: asyncio.Task[None]
    tasks: list[EngineTask]


class LocalEngine:
    """Runs thread tasks in a pool and ``async def`` tasks on their loop.

    Tasks that are submitted on a loop's thread start in the loop's next iteration: never
    before the submission has returned, and with one wake-up of the pool for all of them. A
    handler that blocks delays its own tasks; if it submits one more than 100 ms after its
    first one, the earlier ones start immediately. Not sooner: the threads would take the
    interpreter from a handler that is submitting many tasks.

    Args:
        pool: The threads; shut down by its creator.
        boxes: The mailboxes of the loops; None to create them.
    """

    def __init__(self, pool: ThreadPoolExecutorEnhanced, boxes: Mailboxes | None = None) -> None:
        self.pool = pool
        self._boxes = Mailboxes() if boxes is None else boxes
        # Without a lock: each is used by its own loop's thread only.
        self._staged: dict[asyncio.AbstractEventLoop, _Staging] = {}
        self._batches: dict[asyncio.AbstractEventLoop, _Batch] = {}

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Run a task once its submission has returned; see `protocols.TaskEngine`."""
        task.handler = run
        here = asyncio._get_running_loop()
        if kind == "thread":
            if here is None:
                self._dispatch([task])
                return
            staging = self._staged.get(here)
            if staging is None or task.queued - staging.since > _FLUSH_AFTER:
                staging = self._stage(here, task.queued)
            staging.threads.append(task)
            return
        home = self.loop_of(task)
        if here is home:
            # It may be time to start the tasks for threads.
            if home in self._staged:
                self._stage(home, task.queued)
            if not self._join(home, task, run):
                self._stage(home, task.queued).coroutines.append(task)
        else:
            self._post(home, task, run)

    def _join(self, loop: asyncio.AbstractEventLoop, task: EngineTask, run: Run) -> bool:
        """Let an ``async def`` task start in the next iteration of the running *loop*, with others.

        All that come until then share one asyncio task, as far as they are not suspended: one for
        each would take a quarter longer. False if its run has to be called, or an app's own factory
        may count asyncio tasks, or start them at once; not that of steps.
        """
        factory = loop.get_task_factory()
        is_plain = factory is None or getattr(factory, "is_plain", False)
        together = getattr(run, "together", None) if is_plain else None
        if together is None:
            return False
        batch = self._batches.get(loop)
        if batch is not None and not batch.owner.done():
            batch.tasks.append(task)
            return True
        if batch is not None:
            # It was cancelled before its first step.
            self._stage(loop, task.queued).coroutines += batch.tasks
        self._batches[loop] = _Batch(together(task, self._batch_of(loop)), [task])
        return True

    def _batch_of(self, loop: asyncio.AbstractEventLoop) -> Iterator[EngineTask]:
        """Yield the tasks of *loop* that share an asyncio task, and let none be added."""
        yield from self._batches.pop(loop).tasks

    def _post(self, home: asyncio.AbstractEventLoop, task: EngineTask, run: Run) -> None:
        """Run an ``async def`` task on its loop; from any thread.

        Raises:
            RuntimeError: If the loop is closed.
        """
        task.handler = run
        if not self._boxes.of(home).post(partial(self._arrive, home, task, run)):
            raise RuntimeError(
                f"the event loop that {task.name} is to run on is closed; a TestClient closes its "
                "own after each request, unless it is used by 'with TestClient(app) as client:'"
            )

    def _arrive(self, loop: asyncio.AbstractEventLoop, task: EngineTask, run: Run) -> None:
        if not self._join(loop, task, run):
            run(task)

    def loop_of(self, task: EngineTask) -> asyncio.AbstractEventLoop:
        """Return the loop that an ``async def`` task runs on.

        Raises:
            RuntimeError: If there is none.
        """
        if task.loop is None:
            raise RuntimeError(
                f"{task.name} is an async function, which needs an event loop, but there is "
                "none here: submit it from a coroutine, or set up the framework on an event loop"
            )
        return task.loop

    def place_of(self, task: EngineTask) -> tuple[int, int] | None:
        """Return a task's position among those that wait for a thread, from 1, and how many wait.

        Any thread. None if it does not wait, or is being handed to the pool or to a thread at
        this moment.
        """
        return self.pool._crew.queue.place_of(task, self._about_to_be_queued())

    @property
    def queued(self) -> int:
        """How many tasks and calls wait for a thread."""
        return self.pool._crew.queued + len(self._about_to_be_queued())

    def _about_to_be_queued(self) -> list[EngineTask]:
        staged = [task for one in list(self._staged.values()) for task in one.threads]
        return [task for task in staged if task.status is PENDING]

    def withdraw(self, task: EngineTask) -> None:
        """Remove a task from the queue."""
        self.pool._crew.discard(task)

    def abandon(self, task: EngineTask) -> None:
        """Abandon the thread that runs *task*; the pool replaces it."""
        self.pool._crew.abandon(task)

    def run_inline(self, task: EngineTask) -> bool:
        """Run a queued task on the calling thread of the pool."""
        return self.pool._crew.run_inline(task)

    def _stage(self, loop: asyncio.AbstractEventLoop, now: float) -> _Staging:
        staging = self._staged.get(loop)
        if staging is None:
            staging = self._staged[loop] = _Staging(now)
            loop.call_soon(self._flush, loop)
        elif now - staging.since > _FLUSH_AFTER:
            early, staging.threads, staging.since = staging.threads, [], now
            self._dispatch(early)
        return staging

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        staging = self._staged.pop(loop)
        if staging.threads:
            self._dispatch(staging.threads)
        for task in staging.coroutines:
            task.handler(task)

    def _dispatch(self, tasks: list[EngineTask]) -> None:
        wanted = [task for task in tasks if task.status is PENDING]
        for task, error in self.pool._crew.put_all(wanted):
            task.handler.drop(task, error)
        for task in wanted:
            # 1 a pool thread starts waiting for the task, 2 looks for it in the queue,
            # 3 blocks. If it is queued after 2, the thread must be woken, or both wait forever.
            if task.waiters:
                for waiter in tuple(task.waiters or ()):
                    waiter.nudge()
