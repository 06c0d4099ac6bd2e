"""RabbitMQ's confirmations of what was published, awaited for many messages at once.

With ``confirm_publish`` each message waits for its own, which costs RabbitMQ a write to its disk
for each, and this process a round trip.

Guarantees: after `wait` RabbitMQ has every message that was announced before.
Relies on: a channel by which nobody else publishes, so that the numbers are those of RabbitMQ: it
counts the messages of a channel from 1 on.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import MessageNacked


class Confirms:
    """The confirmations of one channel; one thread at a time.

    Args:
        connection: The connection of kombu.
        channel: Its channel, by which nothing was published yet.
        patience: Seconds to wait for an answer.
    """

    def __init__(self, connection: Any, channel: Any, patience: float) -> None:  # Any: no types
        self._connection = connection
        self._patience = patience
        self._number = 0
        self._open: set[int] = set()
        self._refused = False
        channel.events["basic_ack"].add(self._acked)
        channel.events["basic_nack"].add(self._nacked)
        channel.confirm_select()

    def expect(self) -> None:
        """Announce one message; called right before it is published."""
        self._number += 1
        self._open.add(self._number)

    def wait(self) -> None:
        """Block until all announced messages are confirmed.

        Raises:
            MessageNacked: If RabbitMQ has refused one.
            OSError: If RabbitMQ does not answer.
        """
        while self._open:
            self._connection.drain_events(timeout=self._patience)
        if self._refused:
            raise MessageNacked

    def _acked(self, number: int, multiple: bool) -> None:
        if multiple:
            self._open = {one for one in self._open if one > number}
        else:
            self._open.discard(number)

    def _nacked(self, number: int, multiple: bool, *_: object) -> None:
        self._refused = True
        self._acked(number, multiple)
