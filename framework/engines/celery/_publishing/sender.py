"""Sending messages to the broker, to the queue that a route says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kombu.exceptions import BatchPublishError

from framework._threads.loggers import SafeLogger
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.confirms import Confirms
from framework.engines.celery._settings import is_rabbitmq, levels

_LOGGER = SafeLogger("asyncframe")

_ANSWER: Final = 5.0
"""Seconds to wait for an answer of the broker."""

_BATCH: Final = 50
"""How many messages to send in one round trip, if the transport can."""

_GRACE: Final = 0.5
"""Seconds from a task's limit until Celery kills it; its process has reported it by then."""


@dataclass(slots=True, eq=False)
class Sender:
    """Sends messages by a connection of its own; one thread at a time.

    Attributes:
        app: The Celery app.
        task: The Celery task that runs ours.
        queue: The queue to send to; None to follow the app's routes.
        own: The queue for messages that no route matches; None for the app's default.
        note: Called with the name of each queue before the first message is sent to it.
    """

    app: Any  # Any: Celery has no types
    task: Any
    queue: str | None
    own: str | None
    note: Callable[[str], None]
    _noted: set[str] = field(default_factory=set, init=False)
    _connection: Any = field(default=None, init=False)
    _producer: Any = field(default=None, init=False)
    _confirms: Confirms | None = field(default=None, init=False)

    def at_once(self) -> int:
        """Return how many messages `send_all` sends in one round trip, from 1 on."""
        together = is_rabbitmq(self.app) or self._open().supports_batch_publish
        return _BATCH if together else 1

    def send_all(self, messages: Sequence[Message]) -> None:
        """Send messages; blocks. With an error, each of them may have been sent or not.

        Raises:
            Exception: Any error of the transport; the next call connects again.
        """
        try:
            with self._open().batch():
                for one in messages:
                    self._put(one, 0.0)
            if self._confirms is not None:
                self._confirms.wait()
        except BaseException as error:
            self.close()
            # It only says that a batch has failed.
            if isinstance(error, BatchPublishError) and error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    def send(self, message: Message, countdown: float = 0.0) -> None:
        """Send a message to the broker; blocks.

        Args:
            message: The message.
            countdown: Seconds for which a worker holds it back.

        Raises:
            Exception: Any error of the transport; the next call connects again.
        """
        try:
            self._put(message, countdown)
            if self._confirms is not None:
                self._confirms.wait()
        except BaseException:
            self.close()
            raise

    def _put(self, message: Message, countdown: float) -> None:
        limit, args = message.left, (message.as_json(),)
        options = route(self.app, self.task, self.queue, self.own, message.fn, args)
        name = queue_of(options)
        if name not in self._noted:
            self.note(name)
            self._noted.add(name)
        producer = self._open()
        if self._confirms is not None:
            self._confirms.expect()
        self.task.apply_async(
            args=args,
            **options,
            task_id=message.task_id,
            # The name in logs and monitors.
            shadow=message.fn,
            producer=producer,
            retry=False,
            countdown=countdown or None,
            **self._priority(message.level),
            time_limit=None if limit is None else max(limit, 0.0) + _GRACE,
            ignore_result=True,
            argsrepr="",
            kwargsrepr="",
        )

    def _priority(self, level: int | None) -> dict[str, int]:
        if level is None or not (steps := levels(self.app)):
            return {}
        return {"priority": steps[level]}

    def _open(self) -> Any:
        if self._producer is None:
            self._connection = connection_to(self.app)
            if is_rabbitmq(self.app):
                channel = self._connection.default_channel
                self._confirms = Confirms(self._connection, channel, _ANSWER)
            self._producer = self.app.amqp.Producer(self._connection)
        return self._producer

    def close(self) -> None:
        """Release the connection; harmless to call twice."""
        connection = self._connection
        self._connection = self._producer = self._confirms = None
        if connection is not None:
            try:
                connection.release()
            except Exception:  # it is broken, so there is nothing to release
                _LOGGER.debug("a broker connection did not close", exc_info=True)


def connection_to(app: Any) -> Any:
    """Return a connection to the broker of a Celery app, whose calls block for a few seconds."""
    return app.connection_for_write(
        connect_timeout=2.0,
        # No thread here would answer heartbeats; the next message finds a broken one.
        heartbeat=0,
        # The first three are for Redis, the others for RabbitMQ.
        transport_options={
            "socket_connect_timeout": 2.0,
            "socket_timeout": _ANSWER,
            "retry_on_timeout": False,
            "read_timeout": _ANSWER,
            "write_timeout": _ANSWER,
            # Whoever publishes waits for many confirmations at once; see `Confirms`.
            "confirm_publish": False,
        },
    )


def route(
    app: Any, task: Any, queue: str | None, own: str | None, function: str, args: tuple[Any, ...]
) -> dict[str, Any]:
    """Return the destination of a message, as options of `apply_async`; see `Sender`.

    A route for the function's name goes before one for the Celery task.

    Args:
        app: The Celery app.
        task: The Celery task.
        queue: As for `Sender`.
        own: As for `Sender`.
        function: Name of the function.
        args: The arguments of the Celery task.
    """
    router, given = app.amqp.router, {} if queue is None else {"queue": queue}
    names = [name for name in (function, task.name) if name]
    routed = [n for n in names if router.lookup_route(n, args, {}, {}, task) is not None]
    if not routed and queue is None and own is not None:
        given = {"queue": declared(app, own)}
    name = (*routed, task.name)[0]
    options: dict[str, Any] = router.route(given, name, args, {}, task)
    return {**options, "route_name": name}


def queue_of(options: dict[str, Any]) -> str:
    """Return the queue's name in routing options; "" if an exchange decides."""
    name: str = getattr(options.get("queue"), "name", "")
    return name


def declared(app: Any, name: str | None) -> Any:
    """Return a queue of the Celery app, created by its settings if it is new."""
    queues = app.amqp.queues
    return queues[name] if name in queues else queues.add(queues.new_missing(name))
