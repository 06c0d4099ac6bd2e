"""Publishes the tasks that apps have left unpublished when they died or stopped.

Redis has each task before its message is sent, and who its keeper is: the process that sends it
as long as it lives. If that has died or stopped, one of the workers does so; for a task that has to
wait before, once it is due and has its places.

Guarantees: a task is published once it may be, whoever dies: until its message was sent, it is
found again. If its keeper was only slow, and it is published twice, it runs once: the second
delivery finds the lease, or the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Final

from framework.engines.celery._messages import Message, MessageError
from framework.engines.celery._publishing.sender import Sender
from framework.engines.celery._redis.state import State

_LOGGER = logging.getLogger("asyncframe")

EVERY: Final = 2.0
"""Seconds between two looks of a worker."""

_MOST: Final = 200
_PAUSE: Final = 4.0
"""Seconds until a task that waits for a place is looked at again; others come first meanwhile."""


class Heir:
    """Publishes tasks that wait and whose process is dead.

    Args:
        state: Redis.
        sender: Makes a sender with a connection of its own.
    """

    def __init__(self, state: State, sender: Callable[[], Sender]) -> None:
        self._state = state
        self._make = sender
        # Tasks that this release cannot read, and that were told of.
        self._unread: set[str] = set()

    def look(self) -> None:
        """Publish the tasks that may be published now; blocks.

        Raises:
            Exception: What Redis or the broker raises while it is unavailable.
        """
        # It connects only when it sends something.
        with closing(self._make()) as sender:
            for task_id, keeper, text in self._state.left(_MOST, _PAUSE):
                message = self._read(task_id, text)
                if message is not None:
                    sender.send(message)
                    self._state.published(keeper, [task_id])
                    _LOGGER.info("task %s was published for a process that has ended", task_id)

    def _read(self, task_id: str, text: str) -> Message | None:
        """Return a message; None if a newer release has written it, whose workers can read it."""
        try:
            return Message.from_json(json.loads(text))
        except MessageError as error:
            if task_id not in self._unread:
                self._unread.add(task_id)
                _LOGGER.warning("task %s waits for a worker that can read it: %s", task_id, error)
            return None
