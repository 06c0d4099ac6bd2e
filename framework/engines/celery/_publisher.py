"""Publishing to the broker: one thread behind a bounded queue, so that nobody waits for it.

A task that waits for its time or a place before it is published passes here twice: first to be
noted in Redis, and then to be sent.

Guarantees: every task that was queued is published, or ends with an error or CANCELLED; while
the broker is unavailable each task that is to be published gives that as its reason; a message is
sent only after Redis has its task.
Relies on: a broker connection of its own, whose calls block for a few seconds at most; the
lease and the end in Redis, which make a second copy of a message do nothing. A call that
failed may have had its effect, so messages may be sent twice, but never go missing.
Lock order: `_condition` is innermost: neither host, Redis nor broker is called under it.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Final, Literal

from framework._tasks.jsonsafe import safe_str
from framework._tasks.places import PlaceRequest
from framework._tasks.records import TaskStatus
from framework._threads.clock import SystemClock
from framework._threads.outflow import Outflow
from framework.engines.celery._messages import Message
from framework.engines.celery._sender import Sender
from framework.exceptions import BrokerUnavailableError, QueueFullError
from framework.protocols import EngineHost, EngineTask

_LOGGER = logging.getLogger("asyncframe")

_BATCH: Final = 100
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Queued:
    """What is to be done with a task.

    Attributes:
        task: The task.
        move: ``publish``, ``keep`` it in Redis until it is published, or ``retire`` it from there
            since it has ended here.
        due: Wall second before which a kept one is not to be published; None for no delay.
        requests: The places that a kept one needs.
    """

    __slots__ = ("due", "move", "requests", "task", "task_id")

    def __init__(
        self,
        task: EngineTask,
        move: Literal["publish", "keep", "retire"] = "publish",
        due: float | None = None,
        requests: Sequence[PlaceRequest] = (),
    ) -> None:
        self.task = task
        self.task_id: str = task.task_id
        self.move = move
        self.due = due
        self.requests = requests


class Publisher:
    """Publishes queued tasks.

    Args:
        sender: Sends one message.
        note: Writes tasks to Redis before they are sent, and returns the messages that are to be
            sent by id; blocks.
        published: Marks the messages of some ids as sent there; blocks.
        repeated: Marks the message of an id as possibly sent twice; blocks.
        unnote: Undoes *note* for a task that is not sent after all; blocks.
        host: Receives the reports about tasks.
        size: How many tasks may be queued.
        timeout: Seconds for which a task waits for an unavailable broker.
    """

    def __init__(
        self,
        sender: Sender,
        note: Callable[[list[Queued]], Mapping[str, Message]],
        published: Callable[[list[str]], None],
        repeated: Callable[[str], None],
        unnote: Callable[[str], object],
        host: EngineHost,
        size: int,
        timeout: float,
    ) -> None:
        self._sender = sender
        self._note = note
        self._published = published
        self._repeated = repeated
        self._unnote = unnote
        self._host = host
        self._size = size
        self._timeout = timeout
        self._clock = SystemClock()
        self._condition = threading.Condition(threading.Lock())
        # A task stays in it until it is sent, so that it can be withdrawn until then.
        self._queue: dict[str, Queued] = {}
        # How many tasks have left it, for the next one that finds it full.
        self._gone = 0
        self._outflow = Outflow(self._clock.monotonic)
        self._sending = ""
        # Tasks that were withdrawn although a failed call may have sent them.
        self._doubtful: list[str] = []
        # Why the broker is unavailable; "" while it works.
        self._down = ""
        self._closed = False
        self._give_up = False
        self._retry = threading.Event()
        self._thread: threading.Thread | None = None

    # -- any thread

    def require_room(self) -> None:
        """Check that one more task may be queued.

        Raises:
            QueueFullError: If not.
        """
        # Without the lock: every submission asks, and threads that ask at the same moment may
        # exceed the bound by one each.
        if len(self._queue) >= self._size:
            with self._condition:
                raise QueueFullError(self._size, self._outflow.next_place(self._gone))

    def put(self, queued: Queued) -> None:
        """Queue what is to be done with a task, in place of what was; never blocks.

        Raises:
            RuntimeError: If the publisher is closed, and the task has not ended.
        """
        task_id = queued.task_id
        with self._condition:
            if self._closed and queued.move != "retire":
                raise RuntimeError("the engine is closed and does not publish any more")
            # Out first: what is queued later stands further behind.
            self._queue.pop(task_id, None)
            self._queue[task_id] = queued
            # Only now: a process that submits nothing, such as most children of workers, has
            # no such thread.
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncframe-publisher", daemon=True
                )
                self._thread.start()
            elif len(self._queue) == 1:  # the thread sleeps only while the queue is empty
                self._condition.notify_all()
        # After the lock: `_broken` reports to all that are queued when it sets this, and
        # whoever comes later sees it here.
        if self._down and queued.move == "publish":
            self._host.waiting(task_id, self._down)

    def discard(self, task_id: str) -> None:
        """Remove a task from the queue, if it is in it."""
        with self._condition:
            self._gone += self._queue.pop(task_id, None) is not None
            if not self._queue:
                self._condition.notify_all()

    def withdraw(self, task_id: str) -> bool:
        """Remove a task from the queue; False if it is being sent now."""
        with self._condition:
            # While the broker is unavailable, "being sent" may last for minutes.
            if task_id == self._sending and not self._down:
                return False
            withdrawn = self._queue.pop(task_id, None) is not None
            self._gone += withdrawn
            if withdrawn and self._down:
                # A failed call may have sent it; undone in Redis once that answers.
                self._doubtful.append(task_id)
        return withdrawn

    @property
    def fault(self) -> str:
        """Why the broker is unavailable; "" while it works, as far as the last message tells."""
        return self._down

    def flush(self) -> None:
        """Block until everything is published, or the broker turns out to be unavailable."""
        with self._condition:
            while self._queue and not self._down and not self._closed:
                self._condition.wait()

    def close(self, patience: float) -> None:
        """Publish what is queued for at most *patience* seconds; the rest ends CANCELLED."""
        with self._condition:
            self._closed = True
            thread = self._thread
            self._condition.notify_all()
        if thread is not None:
            # First ends a pause between two tries, so that the thread uses its last seconds.
            self._retry.set()
            thread.join(patience)
            # In this order: the thread looks at `_give_up` after each try, before it pauses.
            self._give_up = True
            self._retry.set()
            # A call may still be in progress, and the process cannot wait for it forever.
            thread.join(_LAST)
        with self._condition:
            left, self._queue = list(self._queue.values()), {}
        for one in left:
            if one.move != "retire":
                self._host.ended(
                    one.task_id,
                    TaskStatus.CANCELLED,
                    self._clock.time(),
                    reason="the framework shut down before it was published",
                )
            if not self._down:
                with suppress(Exception):  # at worst the task stays PENDING in Redis
                    self._unnote(one.task_id)

    # -- the thread

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._queue and not self._closed:
                        self._condition.wait()
                    if not self._queue or self._give_up:
                        return
                    batch = list(itertools.islice(self._queue.values(), _BATCH))
                self._publish(batch)
        finally:
            self._sender.close()

    def _publish(self, batch: list[Queued]) -> None:
        """Publish, keep or retire some tasks; each is removed from the queue once that is done."""
        wanted = [one for one in batch if one.move == "retire" or not one.task.status.is_final]
        messages: dict[str, Message] = {}
        # All in one round trip, and before any is sent: a worker must find its task in Redis.
        noted = not wanted or self._insist(lambda: messages.update(self._note(wanted)))
        sent: list[str] = []
        for one in wanted if noted else ():
            message = messages.get(one.task_id)
            if message is None:
                self._settle(one)
            elif self._begin(one):
                if not self._insist(partial(self._send, message, count()), one.task):
                    break
                sent.append(one.task_id)
                one.task.engine_note = None
                if one.task.reason:
                    self._host.waiting(one.task_id, "")
                self._drop(one)
        self._sending = ""
        if sent:
            with suppress(Exception):  # Redis is unavailable; at worst they are sent once more
                self._published(sent)
        for one in batch:
            if one.move != "retire" and one.task.status.is_final:
                self._drop(one)

    def _drop(self, one: Queued) -> bool:
        """Remove an entry from the queue; False if another one has taken its place, or none."""
        with self._condition:
            found = self._queue.get(one.task_id) is one
            if found:
                del self._queue[one.task_id]
                self._gone += 1
            if not self._queue:
                self._condition.notify_all()
        return found

    def _settle(self, one: Queued) -> None:
        """Remove an entry that needs no message; undo it if the task was withdrawn meanwhile."""
        if not self._drop(one) and one.move == "keep" and one.task_id not in self._queue:
            self._insist(partial(self._unnote, one.task_id))

    def _send(self, message: Message, tries: count[int]) -> None:
        if next(tries):
            # The failed try may have sent it; Redis must then remember the end for longer.
            self._repeated(message.task_id)
        self._sender.send(message)

    def _begin(self, one: Queued) -> bool:
        """Mark a task as being sent; False if it was withdrawn after Redis had it."""
        # In one step with the look, so that `withdraw` comes either before or too late.
        with self._condition:
            if self._queue.get(one.task_id) is one:
                self._sending = one.task_id
                return True
            if one.task_id in self._queue:  # it has ended here, which Redis is told next
                return False
        self._insist(partial(self._unnote, one.task_id))
        return False

    def _insist(self, call: Callable[[], object], task: EngineTask | None = None) -> bool:
        """Repeat a call to the broker until it succeeds; False if the publisher gives up.

        Args:
            call: May raise anything.
            task: Stop, with True, when this task is final; None to give up when nothing is
                queued.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                call()
            except Exception as error:  # whatever the transport raises, it is unavailable
                self._broken(error)
            else:
                self._mended()
                return True
            if self._give_up or (task is None and not self._queue):
                return False
            if task is not None and task.status.is_final:
                return True
            self._retry.wait(pause)
            self._retry.clear()
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _broken(self, error: Exception) -> None:
        """Report that the broker is unavailable, and end tasks that have waited too long."""
        began, down = not self._down, self._down or self._unavailable(error)
        # In one step: a task that is queued later sees the reason by itself; see `put`.
        with self._condition:
            self._down = down
            # Those that wait for something else have the time to wait for it in this queue.
            queued = [one.task for one in self._queue.values() if one.move == "publish"]
            if began:
                self._condition.notify_all()
        if began:
            for task in queued:
                self._host.waiting(task.task_id, down)
            _LOGGER.warning("%s; tasks that wait to be published: %d", down, len(queued))
        now = self._host.clock.monotonic()
        for task in queued:
            # They are in the order of their submission, so the others came later.
            if now - task.queued < self._timeout:
                break
            self.discard(task.task_id)
            self._doubtful.append(task.task_id)
            told = BrokerUnavailableError(
                f"{self._down}; the task was given up after {self._timeout:g} s "
                "(publish_timeout): see that the broker runs, and submit it again"
            )
            self._host.ended(
                task.task_id,
                TaskStatus.FAILED,
                self._clock.time(),
                error=told,
                reason="it could not be published",
            )

    def _unavailable(self, error: Exception) -> str:
        since = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="seconds")
        return f"broker unavailable since {since}: {safe_str(error, 200)}"

    def _mended(self) -> None:
        if not self._down:
            return
        _LOGGER.info("the broker is back")
        # First: a task that is queued meanwhile reports nothing, or is among those below.
        self._down = ""
        with self._condition:
            queued = [one.task for one in self._queue.values() if one.move == "publish"]
            doubtful, self._doubtful = self._doubtful, []
        for task in queued:
            self._host.waiting(task.task_id, "")
        for task_id in doubtful:
            self._insist(partial(self._unnote, task_id))


_LAST: Final = 0.5
