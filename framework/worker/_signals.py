"""Celery's signals in a worker: check its settings, list it in Redis, watch its processes."""

from __future__ import annotations

from typing import Any, Final

from celery import concurrency, current_app

from framework._records.statuses import CANCELLED
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_here
from framework.engines.celery import CeleryEngine, _settings
from framework.engines.celery._messages import Message
from framework.engines.celery._publishing.recovery import Recovery
from framework.engines.celery._publishing.sender import declared
from framework.engines.celery._redis.entries import Entry
from framework.worker._deliveries import PROCESS
from framework.worker._sign import Sign

_LOGGER = SafeLogger("asyncframe")


def worker_init(engine: CeleryEngine, worker: Any) -> None:  # Any: Celery has no types
    """Refuse to start with settings that would lose tasks, or without limits.

    Raises:
        SystemExit: To refuse; Celery would only log any other exception.
    """
    import pydantic  # noqa: F401  # before a limit counts, and once for all processes

    if worker.app is not engine.app:
        return
    try:
        # The engine's own queue as well, unless ``-Q`` names the queues. A Celery without this
        # attribute of its own counts as one that was given no queues.
        queues, own = engine.app.amqp.queues, engine.own_queue()
        if own is not None and getattr(queues, "_consume_from", None) is None:
            queues.select_add(declared(engine.app, own))
        engine.require_good()
        pool = _pool_name(concurrency.get_implementation(worker.pool_cls))
        if not engine.allow_soft_limits and pool != "prefork":
            raise ValueError(
                f"the pool must be prefork, not {pool}: other "
                "pools cannot stop blocking code at its time limit; start the worker with -P "
                "prefork, or create the engine with allow_soft_limits=True"
            )
        engine.tasks.register_all()
        if _settings.is_rabbitmq(engine.app):
            PROCESS.worker = holder_here()
            engine.app.steps["consumer"].add(Sign)
        # A wrong URL is reported here; Redis itself may start later.
        _ = engine.state
    except ValueError as error:
        raise SystemExit(f"asyncframe: the worker does not start: {error}") from error


def worker_process_init(engine: CeleryEngine, _: object) -> None:
    """Prepare what a task needs, so that it does not count against its limit."""
    if current_app._get_current_object() is not engine.app:
        return
    PROCESS.enter(engine)


def worker_ready(engine: CeleryEngine, consumer: Any) -> None:  # Any: Celery has no types
    """List this worker in Redis, search for lost messages and watch its processes.

    Celery sends this again after each reconnection.
    """
    if consumer.app is not engine.app:
        return
    _watch_pool(consumer)
    if id(engine) in _OPEN:
        return
    facts = {
        **engine.where(),
        "hostname": consumer.hostname,
        "visibility": _settings.visibility(engine.app),
        "pool": _pool_name(consumer.pool),
        "taken": sorted(engine.app.amqp.queues.consume_from),
    }
    entry = Entry(engine.state, "workers", engine.functions.signatures, facts)
    sign = PROCESS.worker if Sign.is_shown else ""
    recovery = Recovery(engine.app, engine.state, engine.sender, sign)
    _OPEN[id(engine)] = recovery, entry
    # At least once before anybody can know that it is ready.
    entry.tell()
    entry.start()
    recovery.start()


def _watch_pool(consumer: Any) -> None:
    """Make the pool check often whether a process has died.

    The pool notices the end of a pipe, a moment before the process can be reaped. If it checks
    at that moment, its next check comes only after 5 s.
    """
    hub, maintain = consumer.hub, getattr(consumer.pool, "_pool", None)
    look = getattr(maintain, "maintain_pool", None)
    if hub is None or look is None:
        return
    former = _TIMERS.pop(id(consumer.pool), None)
    if former is not None:
        former.cancel()
    _TIMERS[id(consumer.pool)] = hub.call_repeatedly(_LOOK_EVERY, look)


_LOOK_EVERY: Final = 0.2
_TIMERS: Final[dict[int, Any]] = {}


def task_revoked(engine: CeleryEngine, request: Any) -> None:  # Any: Celery has no types
    """End a task CANCELLED that was revoked by Celery's own command, or has expired there."""
    if not engine.tasks.is_ours(request.task):
        return
    try:
        message = Message.from_json(request.args[0])
        if message.namespace in ("", engine.namespace):
            engine.state.end(
                message.task_id, CANCELLED, seq=message.seq, reason="Celery has revoked it"
            )
    except Exception:  # the worker goes on; the task is found as a lost one
        _LOGGER.exception("could not report that Celery has revoked a task")


def worker_shutdown(engine: CeleryEngine, _: object) -> None:
    """Remove this worker from the list."""
    for one in _OPEN.pop(id(engine), ()):
        one.close()


_OPEN: Final[dict[int, tuple[Recovery, Entry]]] = {}
"""What each engine has open in this worker, in the order in which it is closed."""


def _pool_name(pool: object) -> str:
    """Return the name of a pool, or of its class, as on the command line."""
    cls = pool if isinstance(pool, type) else type(pool)
    return cls.__module__.rpartition(".")[2]
