"""A worker's sign of life at RabbitMQ: a step of Celery's consumer, taken with each connection."""

from __future__ import annotations

from typing import Any, ClassVar

from amqp.exceptions import AccessRefused
from celery import bootsteps
from celery.worker.consumer.connection import Connection

from framework._threads.loggers import SafeLogger
from framework.engines.celery._publishing.unheld import show_sign, sign_of
from framework.worker._deliveries import PROCESS

_LOGGER = SafeLogger("asyncframe")


class Sign(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Shows the sign before the worker takes a message by the connection.

    Attributes:
        is_shown: Whether this process could show it.
    """

    requires = (Connection,)
    is_shown: ClassVar[bool] = False

    def start(self, consumer: Any) -> None:
        """Show it; without the permission for that, nobody expects it later.

        Raises:
            AccessRefused: If it was shown before: others would think that this worker has ended.
        """
        try:
            show_sign(consumer.connection, PROCESS.worker)
        except AccessRefused as error:
            if Sign.is_shown:
                raise
            told = "others cannot see whether this worker lives: allow the queue %s (%s)"
            _LOGGER.warning(told, sign_of(PROCESS.worker), error)
        else:
            Sign.is_shown = True

    def stop(self, consumer: Any) -> None:
        """Do nothing: it ends with the connection."""
