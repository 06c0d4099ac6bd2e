"""Which tasks have no message at a RabbitMQ, as far as it can be known: it does not list messages.

A worker has a queue of its own, from which nothing comes: it tells others that RabbitMQ still has
its connection. When RabbitMQ gives up a connection, it returns the messages of it that were not
acknowledged, so what the worker ran may run elsewhere from then on.

Guarantees: a task whose process may be alive is never said to have none. Its lease has run out, and
either its process has ended, as seen on this machine, or RabbitMQ has given up its worker's
connection, and would deliver its message to another worker as well. So a worker that is held still
is not taken for dead before RabbitMQ does so. A task without a process is only said to have none
while all queues are empty. It may still be at a worker that has taken it and not started it: a copy
of its message finds the lease, or the end, as any second delivery does.
Relies on: one RabbitMQ, or one cluster, behind all URLs of the broker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from amqp.exceptions import NotFound

from framework._threads.watch.processes import is_dead
from framework.engines.celery._publishing.sender import connection_to
from framework.engines.celery._redis.state import State

_PREFIX: Final = "asyncframe.alive."

_ARGUMENTS: Final = {"x-expires": 60_000, "x-queue-type": "classic"}
"""A queue whose worker is gone is dropped after so many milliseconds if RabbitMQ was restarted
meanwhile, and else at once."""


def sign_of(worker: str) -> str:
    """Return the name of a worker's own queue.

    Args:
        worker: Its main process; see `processes.holder_here`.
    """
    return _PREFIX + worker


def show_sign(connection: Any, worker: str) -> None:  # Any: kombu has no types
    """Consume from a worker's own queue as long as the connection is there.

    Raises:
        Exception: What the transport raises; `AccessRefused` if the user may not have the queue.
    """
    name, channel = sign_of(worker), connection.channel()
    # Not exclusive: RabbitMQ may give up the former connection of a worker later.
    channel.queue_declare(name, durable=True, auto_delete=True, arguments=_ARGUMENTS)
    channel.basic_consume(name, no_ack=True, callback=_ignore)


def _ignore(_: object) -> None:
    """Drop a message that somebody has sent there."""


def unheld(app: Any, state: State, age: float) -> Iterator[tuple[str, str]]:
    """Yield live tasks that have not moved for *age* seconds and have no message, oldest first.

    Each comes with the holder of the lease that has run out; "" for none.

    Raises:
        Exception: What Redis or RabbitMQ raises while it is unavailable.
    """
    with connection_to(app) as connection:
        gone: dict[str, bool] = {}
        for task_id, holder, worker in state.unrun(age, waiting=_is_idle(connection, state)):
            if holder and not is_dead(holder):
                if worker not in gone:
                    gone[worker] = _is_gone(connection, state, worker)
                if not gone[worker]:
                    continue
            yield task_id, holder


def _is_gone(connection: Any, state: State, worker: str) -> bool:
    """Return whether RabbitMQ has given up the connection of a worker for sure."""
    # One that could not show the sign, or is of an earlier release, may be there without.
    return state.has_sign(worker) and not _declared(connection, sign_of(worker))[1]


def _is_idle(connection: Any, state: State) -> bool:
    """Return whether nothing waits in any queue that messages were sent to."""
    # The name "" stands for one that nobody knows, since a user's exchange decides.
    return all(name and not _declared(connection, name)[0] for name in state.queues())


def _declared(connection: Any, name: str) -> tuple[int, int]:
    """Return how many messages and consumers a queue has; none if it is not there."""
    with connection.channel() as channel:
        try:
            found = channel.queue_declare(name, passive=True)
        except NotFound:
            return 0, 0
        return found.message_count, found.consumer_count
