"""Chosen ids: a submission may say which id its task gets, if no other task has that."""

from __future__ import annotations

from typing import ClassVar

from framework._manager.submitting.partner import Partner
from framework._records.ids import TaskId
from framework._running.ledger import Ledger, id_in_use
from framework._tasks.live import LiveTask


class ChosenIds(Partner):
    """Reserves chosen ids until their tasks are added.

    Args:
        ledger: Knows the ids that are in use.
    """

    options: ClassVar[tuple[str, ...]] = ("task_id",)
    in_place = True

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Changed with the ledger's lock held.
        self._reserved: set[str] = set()

    def make(self, task: LiveTask) -> None:
        """Give a task the id."""
        chosen = task.spec.task_id
        assert chosen is not None
        task.task_id = TaskId(chosen)

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Reserve the id.

        Raises:
            ValueError: If a live or a finished task has it, or another one reserves it.
        """
        ledger, task_id = self._ledger, task.task_id
        with ledger.lock:
            if task_id in self._reserved or ledger.find_live(task_id) is not None:
                raise id_in_use(task_id)
            self._reserved.add(task_id)
        # The store is read last: a live task with this id may have moved there meanwhile.
        if ledger.store.get(task_id) is not None:
            self.settle(task, False)
            raise id_in_use(task_id)

    def settle(self, task: LiveTask, added: bool) -> None:
        """End the reservation: the task has the id now, or was refused."""
        with self._ledger.lock:
            self._reserved.discard(task.task_id)
