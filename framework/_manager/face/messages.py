"""Sending messages to tasks; see `framework.steps.Message.send`."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from framework._manager.core import Core
from framework._records import checks
from framework._records.steps import Sent
from framework._tasks.live import LiveTask
from framework.exceptions import MessageRefusedError, TaskNotFoundError

_LONGEST: Final = 255


class Kind(Protocol):
    """A kind of message: a `framework.steps.Message`."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def encode(self, value: object) -> str:
        """Return a value as JSON."""
        ...


async def send_message(
    core: Core, task_id: str, kind: Kind, value: object, key: str | None
) -> None:
    """Send a message to a task.

    Args:
        core: The core.
        task_id: The task, which another process may have just accepted.
        kind: Of the message.
        value: The message.
        key: See `framework.steps.Message.send`.
    """
    checks.task_id("task_id", task_id)
    if key is not None and len(checks.filled_text("key", key)) > _LONGEST:
        raise ValueError(f"key must be at most {_LONGEST} characters, not {len(key)}")
    text, mail = kind.encode(value), core.resuming.mail
    task = core.ledger.find(task_id)
    if isinstance(task, LiveTask) and (task.remote or not task.spec.resumes):
        why = "on Celery" if task.remote else 'without on_restart="resume"'
        raise MessageRefusedError(task_id, kind.name, f"a task {why} receives no messages")

    async def send() -> Sent:
        if not mail.is_shared:
            return mail.send(task_id, kind.name, text, key)
        return await asyncio.to_thread(mail.send, task_id, kind.name, text, key)

    sent = await send()
    if sent == "unknown" and await core.others.find(task_id) is not None:
        sent = await send()
    if sent == "unknown":
        raise TaskNotFoundError(task_id)
    if sent == "ended":
        raise MessageRefusedError(task_id, kind.name, "the task has ended")
    if sent == "other":
        raise MessageRefusedError(
            task_id, kind.name, f"key {checks.show(key)} was used for another value"
        )
