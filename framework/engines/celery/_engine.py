"""CeleryEngine: publishes tasks to a broker, and learns from Redis what becomes of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import redis
from amqp.exceptions import AMQPError, MessageNacked
from kombu.exceptions import OperationalError

from framework._records import checks
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.options import NORMAL
from framework._tasks.places import PlaceRequest
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import CallEncoder, call_encoder, decode_call, refusals, settled
from framework._threads.clock import SystemClock
from framework.engines.celery import _settings, _worker_side
from framework.engines.celery._messages import KEEP, Functions, Message, signature_hash
from framework.engines.celery._priorities import level_of, require_levels
from framework.engines.celery._publishing.notes import NOT_STARTED, Admitted, Notes
from framework.engines.celery._publishing.publisher import Publisher, Queued
from framework.engines.celery._publishing.sender import Sender, queue_of, route
from framework.engines.celery._redis.entries import Entry
from framework.engines.celery._redis.reports import Reports, record_of
from framework.engines.celery._redis.state import ASKED, State
from framework.engines.celery._shared.lines import RedisLines
from framework.engines.celery._shared.sharing import Sharing
from framework.engines.celery._tasks import CeleryTasks
from framework.exceptions import BrokerUnavailableError
from framework.protocols import (
    EngineHost,
    EngineTask,
    Kind,
    Run,
    TaskFunction,
    Telemetry,
)

_LOGGER = logging.getLogger("asyncframe")

_NO_LIMIT: Final = 300.0
"""The longest limit that is assumed while no function has one."""


class CeleryEngine(Sharing):
    """Runs tasks on Celery workers: ``celery -A module:celery_app worker``.

    Create it once, at module level of the module that workers import, after the Celery app.
    It registers the task ``asyncframe.run`` on the app, and gives the settings that the app
    does not set values with which no task is lost; see ``docs/howto/celery.md``. Workers also
    register a task for each function, by the function's name.

    One thread behind a queue publishes the tasks, so that no caller waits for the broker.
    While it is unavailable tasks stay PENDING with that as the reason; after
    *publish_timeout* seconds they end FAILED with `BrokerUnavailableError`.

    Args:
        celery_app: The Celery app.
        default_limit: The limit in seconds of tasks without their own, above 0; None to
            refuse such tasks.
        max_limit: The longest limit in seconds that a task may have, above 0; None for the
            longest of *default_limit* and the decorated functions. The broker's visibility
            timeout follows from it: with a longer one, the death of a whole worker is
            noticed later.
        result_ttl: Seconds for which Redis keeps a finished task, above 0.
        publish_timeout: Seconds for which a task waits for an unavailable broker, above 0.
        queue_size: How many tasks of this process may wait to be published, from 1 on.
        functions: Functions without a decorator that may be submitted as well.
        queue: The Celery queue to publish to; None to follow the app's routes and its
            ``task_default_queue``, and without these to use a queue named after *namespace*.
        state_url: URL of the Redis that keeps the task states; None for the app's result
            backend or broker, whichever is Redis.
        namespace: Separates the states and messages of apps that share a Redis; None for the
            Celery app's name.
        allow_soft_limits: Whether workers may use a pool other than prefork, in which a
            limit cannot end blocking code.
        durable: Whether ``await submit(...)``, a submission from a thread, and an answer 202 wait
            until Redis has the task, for at most 5 s. If not, a process that is killed loses what
            it accepted in the milliseconds before. A store that is durable implies it.
        keep_arguments: If a task ends without a result, Redis keeps its arguments for
            `TaskManager.run_again`, if they take at most this many bytes of JSON; 0 or False
            to keep none.
        worker_telemetry: What reports on the tasks that run on a worker, in each of its
            processes, such as ``[OpenTelemetrySink()]``. In the app, use
            ``setup_async_framework(telemetry=[...])``.

    Raises:
        TypeError: If a parameter is of the wrong type.
        ValueError: If a number is out of range, or the Celery app has an engine with
            another namespace already.
        ImportError: On import of the module, without the extra.
    """

    logs_failures: bool = True  # see `protocols.LoggingWorkers`

    def __init__(
        self,
        celery_app: Any,  # Any: Celery has no types
        *,
        default_limit: float | None = None,
        max_limit: float | None = None,
        result_ttl: float = 86_400.0,
        publish_timeout: float = 300.0,
        queue_size: int = 10_000,
        functions: Iterable[Callable[..., Any]] = (),
        queue: str | None = None,
        state_url: str | None = None,
        namespace: str | None = None,
        allow_soft_limits: bool = False,
        durable: bool = False,
        keep_arguments: int = KEEP,
        worker_telemetry: Sequence[Telemetry] = (),
    ) -> None:
        if not callable(getattr(celery_app, "connection_for_write", None)):
            raise TypeError(f"celery_app must be a Celery app, not {checks.show(celery_app)}")
        self.app: Any = celery_app  # Any: Celery has no types
        self.default_limit: float | None = _finite("default_limit", default_limit)
        self._max_limit = _finite("max_limit", max_limit)
        if self._max_limit is not None and (self.default_limit or 0.0) > self._max_limit:
            raise ValueError(
                f"default_limit must be at most max_limit={max_limit!r}, not {default_limit!r}"
            )
        self._result_ttl = checks.number("result_ttl", result_ttl, above=0)
        self._publish_timeout = checks.number("publish_timeout", publish_timeout, above=0)
        self._queue_size = checks.integer("queue_size", queue_size, at_least=1)
        self._queue = None if queue is None else checks.filled_text("queue", queue)
        self._state_url = None if state_url is None else checks.filled_text("state_url", state_url)
        self.namespace: str = (
            checks.filled_text("namespace", namespace)
            if namespace is not None
            else celery_app.main or "default"
        )
        self.allow_soft_limits: bool = checks.flag("allow_soft_limits", allow_soft_limits)
        self.durable: bool = checks.flag("durable", durable)
        self.keep_arguments: int = checks.amount("keep_arguments", keep_arguments)
        self.worker_telemetry: tuple[Telemetry, ...] = checks.telemetry(
            "worker_telemetry", worker_telemetry
        )
        self.functions: Functions = Functions(functions)
        self._state: State | None = None
        self._host: EngineHost | None = None
        self._publisher: Publisher | None = None
        self._reports: Reports | None = None
        self._lines: RedisLines | None = None
        self._entry: Entry | None = None
        self._in_worker = False
        self._longest = 0.0
        # Without any priority, messages go where those of earlier releases went.
        self._has_levels = False
        self._signatures: dict[str, str] = {}
        _settings.prepare(celery_app)
        self.tasks: CeleryTasks = CeleryTasks(self)
        self.task: Any = self.tasks.general
        _worker_side.connect_signals(self)

    # -- what it is made of

    @property
    def state(self) -> State:
        """The task states in Redis; created on first use."""
        if self._state is None:
            self._state = State(self._redis_url(), self.namespace, self._result_ttl)
        return self._state

    def _redis_url(self) -> str:
        conf = self.app.conf
        for url in (self._state_url, conf.result_backend, conf.broker_url):
            if isinstance(url, str) and url.startswith(
                ("redis://", "rediss://", "redis+socket", "unix://")
            ):
                return url.replace("redis+socket://", "unix://", 1)
        broker = checks.show(_settings.shown(conf.broker_url))
        raise ValueError(
            f"CeleryEngine needs a Redis for the task states: neither the broker ({broker}) "
            "nor the result backend of the Celery app is Redis; set state_url='redis://...'"
        )

    def own_queue(self) -> str | None:
        """Return the queue for messages that no route matches; None for the app's default."""
        if self._queue is not None or self.app.conf.value_set_for("task_default_queue"):
            return None
        return f"asyncframe.{self.namespace}"

    def where(self) -> dict[str, Any]:
        """Return the broker and the queues, as far as they are always the same, for `Entry`."""
        found = {self._queue_of(name) for name in ("", *self.functions.specs())}
        broker = _settings.shown(_settings.broker_url(self.app))
        return {"broker": broker, "queues": sorted(found - {""})}

    def _queue_of(self, function: str) -> str:
        """Return the queue of a function; "" if it depends on the arguments."""
        try:
            options = route(self.app, self.task, self._queue, self.own_queue(), function, ())
        except Exception:  # a user's route that looks at the arguments
            return ""
        return queue_of(options)

    def longest(self) -> float:
        """Return the longest limit in seconds that a task may have."""
        if self._max_limit is not None:
            return self._max_limit
        specs = (self.functions.spec(name) for name in registry.names())
        own = [spec.timeout for spec in specs if spec is not None and spec.timeout is not None]
        known = [one for one in (*own, self.default_limit) if one is not None and one < _FOREVER]
        return max(known, default=_NO_LIMIT)

    def limitless(self) -> list[str]:
        """Return the names of decorated functions whose tasks would have no limit."""
        if self.default_limit is not None:
            return []
        specs = {name: self.functions.spec(name) for name in registry.names()}
        return sorted(
            name
            for name, spec in specs.items()
            if spec is not None and (spec.timeout is None or spec.timeout == _FOREVER)
        )

    def require_good(self) -> None:
        """Complete the settings, and check them and the functions.

        Raises:
            ValueError: If tasks could be lost, run twice or run without a limit.
        """
        _settings.require_good(self.app, self.longest())
        names = self.limitless()
        if names:
            raise ValueError(
                "every function that workers run needs a timeout; it is missing for "
                f"{', '.join(names)}: set it in the decorator of each one, or for all of them, "
                "also those of libraries and other apps in this process, with "
                "CeleryEngine(default_limit=...)"
            )
        refused = self.refusals()
        if refused:
            raise ValueError(
                f"values of some annotations cannot be sent as JSON: {'; '.join(refused)}"
            )
        specs = self.functions.specs().values()
        require_levels(self.app, specs)
        self._has_levels |= any(level_of(spec) != NORMAL for spec in specs)

    def refusals(self) -> list[str]:
        """Return the annotations that JSON cannot represent, and what to do about each."""
        specs = self.functions.specs()
        return [one for _, spec in sorted(specs.items()) for one in refusals(spec.fn)]

    def visibility(self) -> float:
        """Return the broker's visibility timeout in seconds."""
        return _settings.visibility(self.app)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What Redis and the broker raise while they are unavailable."""
        return (OSError, redis.RedisError, OperationalError, AMQPError, MessageNacked)

    def sender(self) -> Sender:
        """Return a sender with a connection of its own."""
        note = self.state.note_queue
        return Sender(self.app, self.task, self._queue, self.own_queue(), note)

    def enter_worker(self) -> None:
        """Read reports only once a task submits others; in a worker's child process."""
        self._in_worker = True
        self._host = self._publisher = self._reports = self._lines = None

    def flush(self) -> None:
        """Block until what was submitted here is published, unless the broker is unavailable.

        Tasks that wait for a place are not.
        """
        if self._lines is not None:
            self._lines.flush()
        if self._publisher is not None:
            self._publisher.flush()

    # -- protocols.RemoteEngine

    def open(self, host: EngineHost) -> None:
        """Start publishing and reading reports; see `protocols.RemoteEngine`."""
        if self._host is not None:
            raise ValueError(
                "engine must not be used by another running framework: create a CeleryEngine "
                "for each app"
            )
        if not self._in_worker:
            self.require_good()
        state = self.state
        self._lines = RedisLines(state, self._listen)
        self._reports = Reports(state, host, self._lines.placed, self._lines.missed)
        self._publisher = Publisher(
            self.sender(),
            Notes(state, self._lines, host, self._listen, self._message).write,
            partial(state.published, self._lines.holder),
            state.repeated,
            host,
            self._queue_size,
            self._publish_timeout,
        )
        self._host = host
        if not self._in_worker:
            self._reports.start()
            facts = {"shared": host.shared, **self.where()}
            self._entry = Entry(state, "apps", self.functions.signatures, facts)
            self._entry.start()

    def close(self, patience: float) -> None:
        """Publish waiting tasks for at most *patience* seconds, and close; blocks."""
        publisher, reports, entry = self._publisher, self._reports, self._entry
        lines, clock = self._lines, SystemClock()
        end = clock.monotonic() + patience
        if publisher is not None:
            publisher.close(patience)
        if lines is not None:
            # After the tasks that were not published have left.
            lines.close(max(_LAST, end - clock.monotonic()))
        if reports is not None:
            reports.close()
        if entry is not None:
            entry.close()
        self._host = self._publisher = self._reports = self._entry = self._lines = None
        if self._state is not None:
            self._state.client.close()

    def admit(self, task: EngineTask) -> None:
        """Look at a task before it is accepted.

        Raises:
            TypeError: If its arguments do not fit its annotations, or JSON.
            ValueError: If its function is not registered, values of its annotations cannot
                travel, its limit is missing or too long, or the broker has no priorities.
            QueueFullError: If too many tasks wait to be published.
        """
        spec = task.spec
        known = spec.engine_note
        if known is None or known[0] is not self:
            require_levels(self.app, [spec])
            known = spec.engine_note = (self, self._name_of(spec), self._encoder(spec))
            self._has_levels |= level_of(spec) != NORMAL
        _, name, encode = known
        if task.limit is None:
            task.limit = self.default_limit
        if task.limit is None:
            raise ValueError(
                f"timeout is missing for {spec.name}: on a worker every task needs a time limit, "
                "from its decorator, submit(timeout=...) or CeleryEngine(default_limit=...)"
            )
        if task.limit > self._longest:
            self._longest = self.longest()
        if task.limit > self._longest:
            raise ValueError(
                f"timeout must be at most {self._longest:g} s, the longest that the workers allow, "
                f"not {task.limit:g} s for {spec.name}: see CeleryEngine(max_limit=...)"
            )
        if self._publisher is not None:
            self._publisher.require_room()
        task.engine_note = Admitted(name, encode(task.args or (), task.kwargs))

    def _encoder(self, spec: TaskFunction) -> CallEncoder:
        # For functions that the app knew when it started this was checked then.
        refused = refusals(spec.fn)
        if refused:
            raise ValueError(
                f"values of some annotations cannot be sent as JSON: {'; '.join(refused)}"
            )
        return call_encoder(spec.fn)

    def _name_of(self, spec: TaskFunction) -> str:
        name = self.functions.name_of(spec)
        if name is None:
            raise ValueError(
                f"func must be a function that workers know, not {spec.name}: decorate it in "
                "a module that the worker imports, or pass it in CeleryEngine(functions=[...])"
            )
        return name

    def received(self, task: EngineTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of an admitted task as a worker decodes them.

        Raises:
            TypeError: If they do not fit their annotations any more.
        """
        return decode_call(task.spec.fn, task.engine_note.call)

    def settle(self, task: EngineTask, result: Any) -> Any:
        """Return a result as it comes back from a worker.

        Raises:
            TypeError: If JSON cannot represent it, or it does not fit the annotation.
            ValueError: If it is longer than a mebibyte of JSON.
        """
        value, _ = settled(task.spec.fn, result)
        return value

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Queue a task to be published; never blocks."""
        publisher = self._publisher
        if publisher is None:
            raise RuntimeError("the engine is not open")
        publisher.put(Queued(task))

    def keep(self, task: EngineTask, due: float | None, requests: Sequence[PlaceRequest]) -> bool:
        """Queue a task to be noted in Redis while it waits; see `protocols.KeepingEngine`."""
        publisher, note = self._publisher, task.engine_note
        if publisher is None or note is None:
            return False
        if not note.kept:
            note.kept = True
            publisher.put(Queued(task, "keep", due, requests))
        return True

    def secure(self, task: EngineTask, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* once Redis has a task; see `protocols.KeepingEngine`."""
        if self._publisher is None:
            told(BrokerUnavailableError("the engine is closed"))
        else:
            self._publisher.secure(task.task_id, told)

    def withdraw(self, task: EngineTask) -> None:
        """Remove a task that will not run any more from the queue, and from Redis."""
        note: Admitted | None = task.engine_note
        if self._publisher is not None:
            self._publisher.retire(task, kept=note is not None and note.kept)

    def abandon(self, task: EngineTask) -> None:
        """Do nothing: a worker ends a function past its limit by itself."""

    def run_inline(self, task: EngineTask) -> bool:
        """Return False: nothing runs in this process."""
        return False

    def fault(self) -> str:
        """Return why the broker or Redis is unavailable; "" while both work."""
        publisher, reports = self._publisher, self._reports
        told = "" if publisher is None else publisher.fault
        return told or ("" if reports is None else reports.fault)

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of these ids from Redis; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer, or the engine is not open.
        """
        host = self._host
        if host is None:
            # Not an empty answer: a store would end the tasks that it asks for.
            raise BrokerUnavailableError("the engine is not open")
        try:
            found = self.state.fetch(task_ids)
        except redis.RedisError as error:
            raise BrokerUnavailableError(f"Redis does not answer: {error}") from error
        return [record_of(task_id, facts, host.clock) for task_id, facts in found.items()]

    def fetch_call(self, task_id: str) -> str | None:
        """Return the kept arguments of a task as JSON; see `protocols.CallStore`.

        Raises:
            BrokerUnavailableError: If Redis does not answer.
        """
        try:
            kept = self.state.kept_call(task_id)
        except redis.RedisError as error:
            raise BrokerUnavailableError(f"Redis does not answer: {error}") from error
        if kept is None:
            return None
        call, limit = kept
        options = {"timeout": float(limit)} if limit else {}
        return json.dumps([*json.loads(call), options])

    def forget(self, task_ids: Collection[str]) -> None:
        """Drop finished tasks from Redis; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer; it then drops them by age.
        """
        try:
            self.state.forget(task_ids)
        except redis.RedisError as error:
            raise BrokerUnavailableError(f"Redis does not answer: {error}") from error

    def request_cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer, and the task is at the broker.
        """
        try:
            found = self.state.cancel(task_id, NOT_STARTED)
            if found == ASKED:
                # After the answer the function can find out that it was cancelled.
                self.state.await_heard(task_id, _HEARS)
            elif found:
                self._tell_cancelled(task_id, found)
            if found:
                return True
        except redis.RedisError as error:
            if self._withdrawn(task_id):
                return True
            raise BrokerUnavailableError(f"Redis does not answer: {error}") from error
        if self._withdrawn(task_id):
            return True
        # It may have been published in between.
        with suppress(redis.RedisError):
            return bool(self.state.cancel(task_id, NOT_STARTED))
        return False

    def _withdrawn(self, task_id: str) -> bool:
        publisher = self._publisher
        if publisher is None or not publisher.withdraw(task_id):
            return False
        self._tell_cancelled(task_id, NOT_STARTED)
        return True

    def _tell_cancelled(self, task_id: str, reason: str) -> None:
        """Mark it CANCELLED here before answering, without waiting for the report."""
        host = self._host
        if host is None:
            return
        host.ended(task_id, TaskStatus.CANCELLED, host.clock.time(), reason=reason, attempts=0)

    # -- on the publisher's thread

    def _listen(self) -> None:
        """Read reports from now on."""
        reports = self._reports
        if reports is not None:
            # Before the first message is sent, so that no report about it is missed.
            reports.find_place()
            reports.start()

    def _message(self, task: EngineTask) -> Message:
        note: Admitted = task.engine_note
        name = note.name
        return Message(
            task_id=str(task.task_id),
            fn=name,
            name=task.name,
            about=task.description,
            call=note.call,
            created=task.created_at,
            limit=task.limit,
            left=task.limit,
            signature=self._signature(name, task.spec),
            namespace=self.namespace,
            carried=dict(task.carried),
            level=level_of(task.spec) if self._has_levels else None,
            keep=self.keep_arguments if _may_keep(task.spec) else 0,
            run_again_of=task.run_again_of if isinstance(task, TaskRecord) else "",
            owner=task.owner or "",
        )

    def _signature(self, name: str, spec: TaskFunction) -> str:
        found = self._signatures.get(name)
        if found is None:
            found = self._signatures[name] = signature_hash(spec.fn)
        return found


_HEARS: Final = 0.5
"""Seconds to wait until a worker has received a cancellation; a busy one may take longer."""

_FOREVER: Final = float("inf")
_LAST: Final = 0.5
"""Seconds for giving back places at the end, whatever it took to publish."""


def _may_keep(spec: TaskFunction) -> bool:
    return isinstance(spec, TaskSpec) and spec.options["keep_arguments"]


def _finite(name: str, value: object) -> float | None:
    return None if value is None else checks.number(name, value, above=0)
