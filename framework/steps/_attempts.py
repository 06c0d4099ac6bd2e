"""Attempts: what one that has ended without a result leaves to the next.

A task that is cancelled while it is a row goes on for that. Its code is answered from its records,
and nothing that is not recorded begins: once all of it stands, it is cancelled there, as if it had
stood there all the time. Then its steps run. If its process dies meanwhile, the next one does so
again. So it is with a task that is cancelled while its code is on its way to where it stood.

Relies on: one event loop, or one thread, on which all is called.
Lock order: the ledger's lock is taken for a moment, and nothing else with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from framework._records.steps import StepRecord, said
from framework._running.ledger import Ledger, raise_cancel
from framework._tasks.live import LiveTask
from framework._threads.loggers import SafeLogger
from framework.exceptions import StepInterruptedError, TaskCancelledError
from framework.protocols import StepChange
from framework.steps._branches import Branch
from framework.steps._matching import PATIENCE, Matching

_LOGGER = SafeLogger("asyncframe")

_LEFT_OUT: Final = (
    "task %s (%s) went on from its steps, and did not call again what is recorded: %s; what these "
    "did stays done"
)


def dropped(
    error: BaseException,
    raised: Collection[tuple[BaseException, StepRecord]],
) -> StepChange | None:
    """Note in the records of steps that their errors have ended an attempt.

    Args:
        error: What has ended it.
        raised: The errors of steps that the program got, with their records.

    Returns:
        What changes in the store; None for nothing.
    """
    causes = {id(one) for one in causes_of(error) if not isinstance(one, StepInterruptedError)}
    ended = [record for one, record in raised if id(one) in causes]
    for record in ended:
        record.state = "ended"
    return StepChange(retires=[one.number for one in ended]) if ended else None


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that have led to it."""
    seen, todo = set[int](), [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions


def tell_left_out(task: LiveTask, left: Sequence[StepRecord]) -> None:
    """Log what is recorded, and was not called again by a task that has come to its end."""
    if left:
        names = ", ".join(dict.fromkeys(said(one.function) for one in left))
        _LOGGER.warning(_LEFT_OUT, task.task_id, task.name, names)


def come_further(ledger: Ledger, task: LiveTask, record: StepRecord | None = None) -> None:
    """Note that the code of a task came further than in any process before.

    That ends the count of processes that ended with it: see `taking_over.MOST_STARTS`.

    Args:
        ledger: Of the task.
        task: The task.
        record: The step that is stored now; None for a wait that goes on.
    """
    restart = task.restart
    # The lock is only taken for one that has started before: each step comes here.
    if restart is None or restart.starts <= 1 or (record and record.state == "started"):
        return
    with ledger.lock:
        is_news = restart.come_further()
    if is_news:
        ledger.share(task)


class Standing:
    """Where the code of a task stands that is to be cancelled there.

    Args:
        task: The task.
        ledger: Its ledger.
    """

    def __init__(self, task: LiveTask, ledger: Ledger) -> None:
        self._task = task
        self._ledger = ledger
        self._calls: list[asyncio.Future[None]] = []
        self._until = 0.0

    def __bool__(self) -> bool:
        """Return whether it is to be cancelled, or calls are held for that."""
        return self._task.cancel_waits or bool(self._calls)

    def begin(self, watch: Callable[[], object], *, replays: bool) -> None:
        """Begin an attempt.

        Args:
            watch: Called on a loop when to look whether its code stands.
            replays: Whether it is answered from records.
        """
        task = self._task
        self._calls = []
        with self._ledger.lock:
            task.replays = replays or task.cancel_waits
        if task.spec.kind == "thread":
            self.come(is_there=not replays)
            return
        self._watch = watch
        self._until = asyncio.get_running_loop().time() + PATIENCE
        if task.cancel_waits:
            watch()

    def come(self, *, is_there: bool) -> None:
        """Note whether the code of a sync task has come to where it stood."""
        # From then on it may ask by itself whether it is cancelled.
        if is_there and self._task.replays and self._arrives():
            raise_cancel(self._ledger, self._task)

    def _arrives(self) -> bool:
        """Note that the code stands where it stood; return whether it is cancelled there."""
        with self._ledger.lock:
            self._task.replays = False
            return self._task.cancel_waits

    def raise_here(self) -> None:
        """Cancel a sync task where it calls a step.

        Raises:
            TaskCancelledError: Always.
        """
        task = self._task
        self._arrives()
        raise_cancel(self._ledger, task)
        raise TaskCancelledError(task.task_id, task.name)

    @contextmanager
    def held(self, cut_off: Callable[[], object]) -> Iterator[asyncio.Future[None]]:
        """Hold a call inside the block; yield what is done once it may go on all the same.

        Args:
            cut_off: Notes that it is cancelled there.
        """
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.append(given)
        try:
            yield given
        except asyncio.CancelledError:
            cut_off()
            raise
        finally:
            self._calls.remove(given)

    def look(self, branches: Sequence[Branch], matching: Matching) -> bool:
        """Cancel the task if all of its code stands; called while nothing goes on, on the loop.

        Returns:
            Whether something comes of that.
        """
        task = self._task
        if not task.cancel_waits and not self._arrives():
            # Branches that nobody waits for are not cancelled with the others.
            for one in self._calls:
                if not one.done():
                    one.set_result(None)
            return bool(self._calls)
        stands = all(one.state in {"ended", "joins", "held", "inside"} for one in branches)
        late = self._until - asyncio.get_running_loop().time()
        if late > 0 and not (stands or matching.is_over):
            asyncio.get_running_loop().call_later(late, self._watch)
            return False
        self._arrives()
        raise_cancel(self._ledger, task)
        if task.driver is not None:
            task.driver.request_cancel()
        return True
