"""Publishes tasks of a process that died after writing them to Redis.

Tasks are written to Redis first and then published, in batches. If the process dies in between,
nobody publishes them. Until its message is sent, a task's hash says so. Any process that looks
at the task some seconds later, for itself or for a client, publishes the message from Redis.

Guarantees: if the first process was only slow, and the message is published twice, the task runs
once: the second delivery finds the lease, or the end.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from framework.engines.celery._messages import Message
from framework.engines.celery._sender import Sender
from framework.engines.celery._state import State

_LOGGER = logging.getLogger("asyncframe")

AFTER: Final = 5.0
"""Seconds within which a task in Redis should be published."""


class Rescue:
    """Publishes what dead processes have left.

    Args:
        state: Redis.
        sender: Makes a sender with a connection of its own; called when first needed.
    """

    def __init__(self, state: State, sender: Callable[[], Sender]) -> None:
        self._state = state
        self._make = sender
        self._sender: Sender | None = None
        self._lock = threading.Lock()

    def look(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """Publish tasks that should have been published by now; blocks if there are any.

        Args:
            found: The hashes of some tasks, by id.
        """
        left = [
            (task_id, float(facts["noted"]))
            for task_id, facts in found.items()
            if facts.get("unsent") and facts.get("status") == "pending"
        ]
        if not left:
            return
        now = self._state.now()
        for task_id, noted in left:
            text = self._state.message(task_id) if now - noted > AFTER else None
            if text is not None:
                self._publish(Message.from_json(json.loads(text)))

    def _publish(self, message: Message) -> None:
        with self._lock:
            try:
                if self._sender is None:
                    self._sender = self._make()
                self._state.repeated(message.task_id)
                self._sender.send(message)
                self._state.published([message.task_id])
            except Exception as error:  # the broker is unavailable; the next look tries again
                _LOGGER.debug("task %s is not published yet: %r", message.task_id, error)
            else:
                _LOGGER.warning(
                    "task %s was published for a process that died or is slow", message.task_id
                )

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()
