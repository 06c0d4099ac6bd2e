"""Publishing to the broker: one thread behind a bounded queue, so that nobody waits for it.

Guarantees: every task that is taken in is published, or ends with an error or CANCELLED;
while the broker is away each waiting task says so.
Relies on: a broker connection of its own, whose calls block for a few seconds at most.
Lock order: `_condition` is innermost.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Final

from framework._tasks.jsonsafe import safe_str
from framework._tasks.records import TaskStatus
from framework._threads.clock import SystemClock
from framework.engines.celery._messages import Message
from framework.exceptions import BrokerUnavailableError, QueueFullError
from framework.protocols import EngineHost, EngineTask

_LOGGER = logging.getLogger("asyncframe")

_BATCH: Final = 100
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0

_ANSWER: Final = 5.0
"""Seconds for which a broker may keep an answer back."""

_GRACE: Final = 0.5
"""Seconds after a task's limit at which Celery kills: the child has told of it by then."""


class Sender:
    """Sends messages by a connection of its own; one thread at a time.

    Args:
        app: The Celery app.
        task: Its task that runs ours.
        queue: Where to send; None for where the app's routes lead.
        own: Where to send what no route leads anywhere; None for the app's default queue.
        note: Called with the name of each queue before the first message goes there.
    """

    def __init__(
        self,
        app: Any,  # Any: Celery has no types
        task: Any,
        queue: str | None,
        own: str | None,
        note: Callable[[str], None],
    ) -> None:
        self._app = app
        self._task = task
        self._queue = queue
        self._own = own
        self._note = note
        self._noted: set[str] = set()
        self._connection: Any = None
        self._producer: Any = None

    def send(self, message: Message, countdown: float = 0.0) -> None:
        """Put a message at the broker; blocks.

        Args:
            message: What to send.
            countdown: Seconds for which a worker keeps it back.

        Raises:
            Exception: What the transport raises; the next call begins anew.
        """
        limit, args = message.left, (message.as_json(),)
        try:
            self._task.apply_async(
                args=args,
                **self._destination(args),
                task_id=message.task_id,
                producer=self._open(),
                retry=False,
                countdown=countdown or None,
                confirm_timeout=_ANSWER,
                time_limit=None if limit is None else max(limit, 0.0) + _GRACE,
                ignore_result=True,
                argsrepr="",
                kwargsrepr="",
            )
        except BaseException:
            self.close()
            raise

    def _destination(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """Return where a message goes, as options of `apply_async`."""
        options: dict[str, Any] = route(self._app, self._task, self._queue, self._own, args)
        name = queue_of(options)
        if name not in self._noted:
            self._note(name)
            self._noted.add(name)
        return options

    def _open(self) -> Any:
        if self._producer is None:
            self._connection = self._app.connection_for_write(
                connect_timeout=2.0,
                # Nobody sends them here; a broker that has gone is found by the next message.
                heartbeat=0,
                # The first three are for Redis, the others for RabbitMQ.
                transport_options={
                    "socket_connect_timeout": 2.0,
                    "socket_timeout": _ANSWER,
                    "retry_on_timeout": False,
                    "read_timeout": _ANSWER,
                    "write_timeout": _ANSWER,
                },
            )
            self._producer = self._app.amqp.Producer(self._connection)
        return self._producer

    def close(self) -> None:
        """Let go of the connection; harmless to call twice."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            try:
                connection.release()
            except Exception:  # it is broken; there is nothing to hand back
                _LOGGER.debug("a broker connection did not close", exc_info=True)


def route(
    app: Any, task: Any, queue: str | None, own: str | None, args: tuple[Any, ...]
) -> dict[str, Any]:
    """Return where a message with these arguments goes; see `Sender`."""
    router, given = app.amqp.router, {} if queue is None else {"queue": queue}
    unsaid = queue is None and own is not None
    if unsaid and router.lookup_route(task.name, args, {}, {}, task) is None:
        given = {"queue": declared(app, own)}
    options: dict[str, Any] = router.route(given, task.name, args, {}, task)
    return options


def queue_of(options: dict[str, Any]) -> str:
    """Return the name of the queue that options lead to; "" if an exchange says it."""
    name: str = getattr(options.get("queue"), "name", "")
    return name


def declared(app: Any, name: str | None) -> Any:
    """Return a queue of the Celery app, which is made as its settings say if it is new."""
    queues = app.amqp.queues
    return queues[name] if name in queues else queues.add(queues.new_missing(name))


class Publisher:
    """Publishes what is queued.

    Args:
        sender: Sends one message.
        note: Notes messages in Redis before they are sent; blocks.
        published: Notes there that those of some ids have been sent; blocks.
        repeated: Notes that the message of an id may be sent twice; blocks.
        unnote: Notes that a task will not be sent after all; blocks.
        prepare: Makes the message of a task.
        host: Hears of what becomes of tasks.
        size: How many tasks may be queued.
        timeout: Seconds for which the broker may be away, per task.
    """

    def __init__(
        self,
        sender: Sender,
        note: Callable[[list[Message]], None],
        published: Callable[[list[str]], None],
        repeated: Callable[[str], None],
        unnote: Callable[[str], object],
        prepare: Callable[[EngineTask], Message],
        host: EngineHost,
        size: int,
        timeout: float,
    ) -> None:
        self._sender = sender
        self._note = note
        self._published = published
        self._repeated = repeated
        self._unnote = unnote
        self._prepare = prepare
        self._host = host
        self._size = size
        self._timeout = timeout
        self._clock = SystemClock()
        self._condition = threading.Condition(threading.Lock())
        self._queue: dict[str, EngineTask] = {}
        self._sending = ""
        self._doubtful: list[str] = []
        self._down = ""
        self._closed = False
        self._give_up = False
        self._retry = threading.Event()
        self._thread: threading.Thread | None = None

    # -- any thread

    def require_room(self) -> None:
        """See that one more may be queued.

        Raises:
            QueueFullError: If not.
        """
        if len(self._queue) >= self._size:
            raise QueueFullError(self._size)

    def put(self, task: EngineTask) -> None:
        """Queue a task; never blocks."""
        with self._condition:
            if self._closed:
                raise RuntimeError("the engine is closed and does not publish any more")
            self._queue[task.task_id] = task
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="asyncframe-publisher", daemon=True
                )
                self._thread.start()
            elif len(self._queue) == 1:
                self._condition.notify_all()
        if self._down:
            self._host.waiting(task.task_id, self._down)

    def discard(self, task_id: str) -> None:
        """Forget a task that is not wanted any more."""
        with self._condition:
            self._queue.pop(task_id, None)
            if not self._queue:
                self._condition.notify_all()

    def withdraw(self, task_id: str) -> bool:
        """Forget a task unless it is being sent right now; whether that was done."""
        with self._condition:
            if task_id == self._sending and not self._down:
                return False
            withdrawn = self._queue.pop(task_id, None) is not None
            if withdrawn and self._down:
                # A call that failed may have had its effect all the same.
                self._doubtful.append(task_id)
        return withdrawn

    def flush(self) -> None:
        """Block until everything is published, or the broker is found to be away."""
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
            self._retry.set()
            thread.join(patience)
            self._give_up = True
            self._retry.set()
            # One call may still be under way; the process does not wait for it for ever.
            thread.join(_LAST)
        with self._condition:
            left, self._queue = list(self._queue.values()), {}
        for task in left:
            self._host.ended(
                task.task_id, TaskStatus.CANCELLED, self._clock.time(),
                reason="the framework shut down before it was published",
            )  # fmt: skip
            if not self._down:
                with suppress(Exception):  # at worst it stays PENDING in Redis
                    self._unnote(task.task_id)

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

    def _publish(self, batch: list[EngineTask]) -> None:
        """Publish some; each is taken off the queue when that has been done."""
        wanted = [task for task in batch if not task.status.is_final]
        messages = [self._prepare(task) for task in wanted]
        noted = not messages or self._insist(lambda: self._note(messages))
        sent: list[str] = []
        for task, message in zip(wanted, messages, strict=True):
            if noted and self._begin(task):
                if not self._insist(partial(self._send, message, count()), task):
                    break
                sent.append(task.task_id)
                task.engine_note = None
                if task.reason:
                    self._host.waiting(task.task_id, "")
                self.discard(task.task_id)
        self._sending = ""
        if sent:
            with suppress(Exception):  # Redis is away; at worst they are sent once more
                self._published(sent)
        for task in batch:
            if task.status.is_final:
                self.discard(task.task_id)

    def _send(self, message: Message, tries: count[int]) -> None:
        if next(tries):
            # A try that failed may have had its effect all the same.
            self._repeated(message.task_id)
        self._sender.send(message)

    def _begin(self, task: EngineTask) -> bool:
        """Note that a task is being sent, unless it was withdrawn after it was noted."""
        with self._condition:
            if task.task_id in self._queue:
                self._sending = task.task_id
                return True
        self._insist(partial(self._unnote, task.task_id))
        return False

    def _insist(self, call: Callable[[], object], task: EngineTask | None = None) -> bool:
        """Make a call to the broker until it succeeds; False if it is given up.

        Args:
            call: May raise anything.
            task: Give up when this task is final; None for when nothing is queued.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                call()
            except Exception as error:  # whatever the transport raises, it is away
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
        """Tell of a broker that is away, and end what has waited for too long."""
        with self._condition:
            queued = list(self._queue.values())
        if not self._down:
            since = datetime.fromtimestamp(self._clock.time(), UTC).isoformat(timespec="seconds")
            self._down = f"broker unavailable since {since}: {safe_str(error, 200)}"
            for task in queued:
                self._host.waiting(task.task_id, self._down)
            with self._condition:
                self._condition.notify_all()
            _LOGGER.warning("%s; tasks that wait to be published: %d", self._down, len(queued))
        now = self._host.clock.monotonic()
        for task in queued:
            if now - task.queued < self._timeout:
                break
            self.discard(task.task_id)
            self._doubtful.append(task.task_id)
            told = BrokerUnavailableError(
                f"{self._down}; the task was given up after {self._timeout:g} s "
                "(publish_timeout): see that the broker runs, and submit it again"
            )
            self._host.ended(
                task.task_id, TaskStatus.FAILED, self._clock.time(), error=told,
                reason="it could not be published",
            )  # fmt: skip

    def _mended(self) -> None:
        if not self._down:
            return
        _LOGGER.info("the broker is back")
        self._down = ""
        with self._condition:
            queued = list(self._queue.values())
            doubtful, self._doubtful = self._doubtful, []
        for task in queued:
            self._host.waiting(task.task_id, "")
        for task_id in doubtful:
            self._insist(partial(self._unnote, task_id))


_LAST: Final = 0.5
