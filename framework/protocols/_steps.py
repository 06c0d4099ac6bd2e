"""The seam of stores that keep the steps of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from framework._records.steps import StepRecord


class MessageCameError(Exception):
    """A message is there, although a step was to be stored only if it was not."""


@dataclass(frozen=True)
class StepChange:
    """What changes with steps that are stored.

    Attributes:
        instead_of: Numbers of records that are deleted.
        retires: Numbers of records whose state becomes ``ended``.
        takes: Numbers of messages to the task that one of the steps has received.
        unless: The name of messages of which none must be there that was not taken; "" for none.
    """

    instead_of: Sequence[int] = ()
    retires: Sequence[int] = ()
    takes: Sequence[int] = ()
    unless: str = ""


@runtime_checkable
class StepStore(Protocol):
    """Optional methods of a `RequeueStore` that keeps the steps of tasks that go on.

    A record that repeats another one, see `TaskRecord.run_again_of`, goes on from the steps of
    that. With its first commit the store copies those that are not ``ended``, and all messages to
    that task: the record is stored with all of them, or not at all.
    """

    def fetch_steps(self, task_id: str) -> Sequence[StepRecord]:
        """Return what is stored of a task's steps, in the order in which they ended; may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...

    def store_steps(
        self,
        task_id: str,
        records: Sequence[StepRecord],
        told: Callable[[BaseException | None], object],
        change: StepChange | None = None,
        fails: Callable[[Exception], object] | None = None,
    ) -> None:
        """Store steps together that have ended, in the order of the calls; never blocks.

        Args:
            task_id: A task that runs in this process.
            records: They, each with its number; none if only something else changes.
            told: Called once, on another thread: with None once all are on disk as far as the store
                promises that, and never if the process ends before. With a `StepTakenError` if the
                task belongs to another process by now, so that nothing was stored; with a
                `StoreUnavailableError` if the store was closed before they could be stored.
            change: What else changes in the same transaction; None for nothing. With a
                `MessageCameError` if that cannot be, so that nothing was stored.
            fails: Called each time that the store has failed and is to try again, on another
                thread, with why; so that the task can say what it waits for. None for nobody.
        """
        ...

    def cancel_at_once(self, task_id: str) -> bool:
        """Cancel a task; one that waits to go on ends as it is, and its code does not run; blocks.

        Otherwise like `SharedStore.request_cancel`, after which such a task goes on, so that its
        code is cancelled where it stood.
        """
        ...
