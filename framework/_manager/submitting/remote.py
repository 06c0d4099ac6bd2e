"""Remote tasks: those that an engine runs in other processes."""

from __future__ import annotations

from framework._manager.submitting.partner import Joined, Partner
from framework._records.statuses import FINAL
from framework._tasks.live import LiveTask
from framework.protocols import KeepingEngine, RemoteEngine


class Remote(Partner):
    """Asks a remote engine for each task.

    Args:
        joined: The partners of all submissions.
        engine: The engine.
        keeper: Notes tasks before they are started; None if the engine does not.

    Attributes:
        keeper: As above.
    """

    def __init__(self, joined: Joined, engine: RemoteEngine, keeper: KeepingEngine | None) -> None:
        self._engine = engine
        self.keeper = keeper
        joined.join(self)

    def make(self, task: LiveTask) -> None:
        """Note that no function of this process runs it."""
        task.remote = True

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Let the engine check a task, which may refuse it."""
        self._engine.admit(task)

    def settle(self, task: LiveTask, added: bool) -> None:
        """Let the engine answer for a task that may have to wait for its delay or a place."""
        places = task.places
        if added and (task.spec.delay or (places is not None and places.may_wait)):
            self.keep(task)

    def keep(self, task: LiveTask) -> None:
        """Hand a task that waits to an engine that can keep it, unless the engine has it."""
        after = task.after
        if self.keeper is None or task.kept or (after is not None and after.waits):
            # The engine does not know how the tasks end that it waits for.
            return
        requests = () if task.places is None else task.places.requests
        delay = task.spec.delay
        due = task.wall_second(task.queued) + delay if delay else None
        task.kept = self.keeper.keep(task, due, requests)
        # 1 another thread cancels it and withdraws it, 2 the engine is given it: for ever, if
        # nobody withdraws it once more.
        if task.kept and task.status in FINAL:
            self._engine.withdraw(task)
