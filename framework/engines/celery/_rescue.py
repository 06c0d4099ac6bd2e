"""Publishing what a process had noted in Redis and died before it could publish.

A task is noted first and then published, in batches, so a process that dies in between
leaves tasks that wait for nobody. Until its message is out, a task's hash says so: whoever
looks at the task some seconds later, another process that follows it or
a client that asks for it, finds its message in Redis and publishes it.

Guarantees: a message that is published twice, since the first process was only slow, runs
once: the second delivery meets the lease, or the end.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from framework.engines.celery._messages import Message
from framework.engines.celery._publisher import Sender
from framework.engines.celery._state import State

_LOGGER = logging.getLogger("asyncframe")

AFTER: Final = 5.0
"""Seconds after which a noted task should be out; a dead process is noticed in seven."""


class Rescue:
    """Publishes what others have left.

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
        """Publish what should be out by now; blocks if there is any.

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
            except Exception as error:  # the broker is away; the next look tries again
                _LOGGER.debug("task %s is not published yet: %r", message.task_id, error)
            else:
                _LOGGER.warning(
                    "task %s was published for a process that died or is slow", message.task_id
                )

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()
