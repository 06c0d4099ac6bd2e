"""Publishes what the broker has lost, and what apps have left when they died or stopped.

A worker takes a message off its queue, and records a moment later that it has it. If it dies in
between, the message is lost, and its task would wait forever. The same happens if a worker
cannot return a message because Redis is full. So every message is kept in Redis until its task
is final, and one worker at a time compares the tasks with the messages at the broker.

Redis has each task before its message is sent, and who its keeper is: the process that sends it
as long as it lives. If that has died or stopped, one of the workers does so; for a task that has to
wait before, once it is due and has its places.

Guarantees: a task is published once it may be, whoever dies: until its message was sent, it is
found again; a task whose message is lost runs again; a task whose message was only slow, or moved
during the search, runs once: its second delivery finds the lease, or the end, which Redis
remembers for longer than the task. If a keeper was only slow, and its task is published twice, the
same holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

from framework._records.jsonsafe import safe_str
from framework._threads.clock import SystemClock
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_here
from framework.engines.celery._messages import Message, MessageError
from framework.engines.celery._publishing.held import held
from framework.engines.celery._publishing.sender import Sender
from framework.engines.celery._publishing.unheld import unheld
from framework.engines.celery._redis.state import State
from framework.engines.celery._settings import is_rabbitmq, is_redis

_LOGGER = SafeLogger("asyncframe")

EVERY: Final = 10.0
"""Seconds between two searches, and the minimum age of the tasks to search for."""

_LOOK_EVERY: Final = 2.0
"""Seconds between two looks for tasks that apps have left."""

_MOST: Final = 200
_PAUSE: Final = 4.0
"""Seconds until a task that waits for a place is looked at again; others come first meanwhile."""

_SHARE: Final = 50
"""A search may take this fraction of the time: one part in so many."""

_LONGEST: Final = 20.0
"""Seconds after which another worker may start a search: the first may have died."""

_PAUSES: Final = (20.0, 3_600.0)
"""Seconds until a task is searched for again: after its first copy, and at most."""


class Recovery:
    """Searches for lost messages, and for tasks that apps have left, on a thread of its own.

    Args:
        app: The Celery app; only brokers that are a Redis or a RabbitMQ are searched.
        state: Redis.
        sender: Makes a sender with a connection of its own.
        sign: The worker that this is, if it shows a sign; see `unheld`.
    """

    def __init__(
        self, app: Any, state: State, sender: Callable[[], Sender], sign: str = ""
    ) -> None:
        self._app = app
        self._state = state
        self._make = sender
        self._sign = sign
        # Tasks that this release cannot read, and that were told of.
        self._unread: set[str] = set()
        self._clock = SystemClock()
        self._search_at = self._clock.monotonic()
        self._courier = Courier(
            "asyncframe-recovery", self._turn, pauses=(_LOOK_EVERY,), failed=_failed
        )

    def start(self) -> None:
        """Start searching."""
        self._courier.wake()

    def close(self) -> None:
        """Stop; a search in progress ends with its next step."""
        self._courier.stop()

    def _turn(self) -> float:
        now = self._clock.monotonic()
        if now >= self._search_at:
            # Before the search: if that fails, what apps have left has the next turn.
            self._search_at = now + EVERY
            if self._sign:
                self._state.show_sign(self._sign)
            self.look()
        self.inherit()
        return _LOOK_EVERY

    def look(self) -> None:
        """Publish lost messages, unless another process is searching; blocks.

        Raises:
            Exception: What Redis or the broker raises while it is unavailable.
        """
        if not self._state.lead(holder_here(), _LONGEST):
            return
        began = self._clock.monotonic()
        try:
            # It connects only when it sends something.
            with closing(self._make()) as sender:
                for task_id, holder in missing(self._app, self._state):
                    text = self._state.recover(task_id, EVERY / 2, _PAUSES, holder)
                    if self._courier.is_stopped:
                        return
                    if text:
                        sender.send(Message.from_json(json.loads(text)))
                        told = "task %s was published again: the broker had lost its message"
                        _LOGGER.warning(told, task_id)
        finally:
            # A little less than the time until this process's next search.
            took = self._clock.monotonic() - began
            self._state.rest(max(0.9 * EVERY, took * _SHARE))

    def inherit(self) -> None:
        """Publish the tasks of dead processes that may be published now; blocks.

        Raises:
            Exception: What Redis or the broker raises while it is unavailable.
        """
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


def _failed(error: Exception) -> None:
    _LOGGER.debug("could not look for tasks to publish: %s", safe_str(error))


def missing(app: Any, state: State) -> Iterator[tuple[str, str | None]]:
    """Yield live tasks without a message at the broker, oldest first.

    Each comes with the holder that is known to be dead, "" for none; or with None, if that does not
    matter. Tasks that were published or started a moment ago are left out.

    Raises:
        Exception: What Redis or the broker raises while it is unavailable.
    """
    if is_rabbitmq(app):
        yield from unheld(app, state, EVERY)
        return
    waiting = state.overdue(EVERY) if is_redis(app) else []
    if not waiting:
        return
    queues = state.queues()
    if "" in queues:  # a user's exchange decides, so nobody knows which
        return
    with held(app) as broker:
        there = broker.ids(queues)
    yield from ((task_id, None) for task_id in waiting if task_id not in there)


def stuck(app: Any, state: State) -> list[str]:
    """Return those of the `missing` tasks that no process runs, oldest first.

    Raises:
        Exception: What Redis or the broker raises while it is unavailable.
    """
    lost, now = [one for one, _ in missing(app, state)], state.now()
    found = state.fetch(lost)
    return [one for one in lost if one in found and float(found[one].get("until") or 0.0) < now]
