"""Durable tasks: a submission returns only when its task outlives this process.

See `protocols.SharedStore.durable` and `protocols.KeepingEngine.durable`.
"""

from __future__ import annotations

from framework._manager.others.other_processes import OtherProcesses
from framework._manager.submitting.partner import Joined, Partner
from framework._manager.submitting.remote import Remote
from framework._manager.submitting.requeued import Requeued
from framework._records.ids import ChildId, PledgedId
from framework._records.statuses import CANCELLED, FAILED
from framework._running.runner import NOT_STARTED, Runner
from framework._tasks.live import LiveTask, current_record
from framework._tasks.places import Existing
from framework._threads.waiters import Reply, Steps
from framework.exceptions import StoreUnavailableError, TaskCancelledError
from framework.protocols import KeepingEngine, SharedStore


class Durable(Partner):
    """Waits until a shared store has written records, and an engine has noted the tasks.

    Args:
        joined: The partners of all submissions.
        runner: Ends a task whose record cannot be written; has the ledger with the store.
        requeued: The same, for a task that was given away.
        remote: Lets the engine note tasks before they are started; None without one.
        others: Finds tasks of other processes.

    Attributes:
        is_needed: Whether submissions have to wait for that.
    """

    def __init__(
        self,
        joined: Joined,
        runner: Runner,
        requeued: Requeued,
        remote: Remote | None,
        others: OtherProcesses,
    ) -> None:
        self._runner = runner
        self._requeued = requeued
        self._others = others
        self._remote = remote
        self._parts: list[SharedStore | KeepingEngine] = []
        shared, keeper = runner.ledger.shared, None if remote is None else remote.keeper
        if shared is not None and shared.durable:
            self._parts.append(shared)
        if keeper is not None and (self._parts or keeper.durable):
            self._parts.append(keeper)
        self.is_needed = bool(self._parts)
        if self.is_needed:
            joined.join(self)

    def secure(self, task: LiveTask | Existing, own: bool) -> Steps[None]:
        """Wait until the record of a task is stored safely.

        Args:
            task: The task. One of another process may still be written there.
            own: Whether it is being submitted here.

        Raises:
            StoreUnavailableError: If that takes too long; the task is FAILED then. Whoever submits
                it is told as well, and in another process whoever got its id for it.
        """
        if not isinstance(task, LiveTask):
            if not isinstance(task.task_id, PledgedId):
                yield from self._require_stored(task.task_id)
            return
        reply = Reply[BaseException | None](self._runner.ledger.clock, self._runner.boxes)
        self._ask(task, reply)
        try:
            yield reply.wait
        except GeneratorExit:
            # The caller was cancelled, so nobody will ever know the id.
            if own and not _is_awaited_elsewhere(task):
                self._cancel(task)
            raise
        error = reply.answer
        if error is not None:
            if own:
                # The caller gets it, right here.
                task.read = True
                self._refuse(task, error)
            raise error
        if own:
            task.secured = True

    def _cancel(self, task: LiveTask) -> None:
        if task.was_given_away:
            error = TaskCancelledError(task.task_id, task.name)
            self._requeued.take_back(task, CANCELLED, error)
        else:
            self._runner.cancel_pending(task, "its submission was cancelled")

    def _refuse(self, task: LiveTask, error: BaseException) -> None:
        if task.was_given_away:
            self._requeued.take_back(task, FAILED, error)
        else:
            self._runner.refuse(task, error)

    def _require_stored(self, task_id: str) -> Steps[None]:
        """Wait until everybody can find the task of another process that is used instead.

        Raises:
            StoreUnavailableError: If nobody can, or its own submission was refused.
        """
        found = yield from self._others.look_up(task_id)
        if found is None or (found.status is FAILED and found.reason == NOT_STARTED):
            why = "was not stored" if found is None else f"was refused: {found.error}"
            raise StoreUnavailableError(
                f"task {task_id} of another process, which is used instead, {why}; submit it again"
            )

    def _ask(self, task: LiveTask, reply: Reply[BaseException | None]) -> None:
        """Give the first error to *reply*, or None when all parts have the task."""
        after = task.after
        waits = after is not None and after.waits
        # What waits for others is not handed to the engine before they have ended.
        parts = [one for one in self._parts if one is self._runner.ledger.shared or not waits]
        left = list(parts)
        if self._remote is not None:
            # One that was started may have left the engine's hands already.
            self._remote.keep(task)

        def secured(why: BaseException | None) -> None:
            # One error is enough.
            left.pop()
            if why is not None or not left:
                reply.give(why)

        for one in parts:
            one.secure(task, secured)


def _is_awaited_elsewhere(task: LiveTask) -> bool:
    """Return whether a task is the child of one that leaves, and finds it where it goes on."""
    parent = current_record.get()
    is_child = isinstance(task.spec.task_id, ChildId)
    return is_child and isinstance(parent, LiveTask) and parent.was_given_away
