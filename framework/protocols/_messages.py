"""The seam of stores that keep messages to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from framework._records.steps import MessageRecord, Sent


@runtime_checkable
class MessageStore(Protocol):
    """Optional methods of a `StepStore` that keeps messages to tasks until they are received.

    A task that is free, and whose reason says that it waits for messages, may start once one of
    these names has come: `message_names` says it. The store sees to that, whether the message
    or the task that waits is stored first.

    So may one whose reason says that it waits for the results of other tasks, `awaited_tasks`, once
    one of these has ended, or is gone. If nobody wakes it, it looks by itself after an hour.
    """

    def send_message(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        """Store a message to a task that has not ended; may block.

        Args:
            task_id: The task, of whichever process.
            name: Of the message.
            value: It, as JSON.
            key: A second message with the same name and key is not stored; None for no key.

        Returns:
            What became of it, once that is on disk as far as the store promises it.

        Raises:
            StoreUnavailableError: If the store cannot be used.
        """
        ...

    def fetch_messages(self, task_id: str) -> Sequence[MessageRecord]:
        """Return the messages of a task that no step has taken, the oldest first; may block.

        Raises:
            StoreUnavailableError: If the store cannot be read.
        """
        ...
