"""CeleryEngine: publishes tasks to a broker, and learns from Redis what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import redis
from amqp.exceptions import AMQPError, MessageNacked
from kombu.exceptions import OperationalError

from framework._records import checks
from framework._records.records import TaskRecord
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework._tasks.wire import decode_call, settled
from framework.engines.celery import _settings, _worker_side
from framework.engines.celery._admission import Admission
from framework.engines.celery._messages import KEEP, Functions
from framework.engines.celery._publishing.publisher import Queued
from framework.engines.celery._publishing.sender import Sender, queue_of, route
from framework.engines.celery._redis.entries import Entry
from framework.engines.celery._redis.reports import record_of
from framework.engines.celery._redis.state import State, answering
from framework.engines.celery._session import CLOSED, Session, ask_to_cancel, is_kept
from framework.engines.celery._shared.schedules import RedisSchedules
from framework.engines.celery._tasks import CeleryTasks
from framework.exceptions import BrokerUnavailableError
from framework.protocols import EngineHost, EngineTask, Features, Kind, Run, Telemetry

_AWAY: Final = (OSError, redis.RedisError, OperationalError, AMQPError, MessageNacked)


class CeleryEngine:
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
        default_limit: The limit of tasks without their own, in seconds or as a timedelta, above
            0; None to refuse such tasks.
        max_limit: The longest limit that a task may have, in seconds or as a timedelta, above
            0; None for the longest of *default_limit* and the decorated functions. The
            broker's visibility timeout follows from it: with a longer one, the death of a
            whole worker is noticed later.
        result_ttl: Seconds, or a timedelta, for which Redis keeps a finished task, above 0.
        publish_timeout: Seconds, or a timedelta, for which a task waits for an unavailable
            broker, above 0.
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

    errors: tuple[type[Exception], ...] = _AWAY
    """What Redis and the broker raise while they are unavailable."""

    def __init__(
        self,
        celery_app: Any,  # Any: Celery has no types
        *,
        default_limit: float | timedelta | None = None,
        max_limit: float | timedelta | None = None,
        result_ttl: float | timedelta = 86_400.0,
        publish_timeout: float | timedelta = 300.0,
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
        self._result_ttl = checks.seconds("result_ttl", result_ttl, above=0)
        self._publish_timeout = checks.seconds("publish_timeout", publish_timeout, above=0)
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
        self.admission: Admission = Admission(
            celery_app,
            self.functions,
            self.namespace,
            self.default_limit,
            self._max_limit,
            self.keep_arguments,
        )
        self.session: Session | None = None
        self.features: Features = Features(
            calls=self,
            schedules=RedisSchedules(self),
            places=self,
            news=self,
            fallible=self,
            keeping=self,
            logging=self,
            rules=self,
        )
        self._state: State | None = None
        self._in_worker = False
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

    def require_good(self) -> None:
        """Complete the settings, and check them and the functions.

        Raises:
            ValueError: If tasks could be lost, run twice or run without a limit.
        """
        _settings.require_good(self.app, self.admission.longest())
        self.admission.require_good()

    def sender(self) -> Sender:
        """Return a sender with a connection of its own."""
        note = self.state.note_queue
        return Sender(self.app, self.task, self._queue, self.own_queue(), note)

    def enter_worker(self) -> None:
        """Read reports only once a task submits others; in a worker's child process."""
        self._in_worker = True
        self.session = None

    def flush(self) -> None:
        """Block until what was submitted here is published, unless the broker is unavailable.

        Tasks that wait for a place are not.
        """
        if self.session is not None:
            self.session.lines.flush()
            self.session.publisher.flush()

    # -- protocols.RemoteEngine

    def open(self, host: EngineHost) -> None:
        """Start publishing and reading reports; see `protocols.RemoteEngine`."""
        if self.session is not None:
            raise ValueError(
                "engine must not be used by another running framework: create a CeleryEngine "
                "for each app"
            )
        if not self._in_worker:
            self.require_good()
        session = Session(
            self.state,
            self.sender(),
            self.admission,
            host,
            self._queue_size,
            self._publish_timeout,
        )
        self.session = session
        if not self._in_worker:
            facts = {"shared": host.shared, **self.where()}
            session.list_as(Entry(self.state, "apps", self.functions.signatures, facts))

    def close(self, patience: float) -> None:
        """Publish waiting tasks for at most *patience* seconds, and close; blocks."""
        if self.session is not None:
            self.session.close(patience)
            self.session = None
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
        self.admission.admit(task)
        if self.session is not None:
            self.session.publisher.require_room()

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
        """Queue a task to be published; never blocks. Others publish it after `close`.

        Raises:
            RuntimeError: If this is closed, and Redis does not have the task.
        """
        session = self.session
        if (session is None or not session.publisher.put(Queued(task))) and not is_kept(task):
            raise RuntimeError(CLOSED)

    def keep(self, task: EngineTask, due: float | None, requests: Sequence[PlaceRequest]) -> bool:
        """Queue a task to be noted in Redis while it waits; see `protocols.KeepingEngine`."""
        return self.session is not None and self.session.keep(task, due, requests)

    def secure(self, task: EngineTask, told: Callable[[BaseException | None], None]) -> None:
        """Call *told* once Redis has a task; see `protocols.KeepingEngine`."""
        if self.session is None:
            told(BrokerUnavailableError("the engine is closed"))
        else:
            self.session.publisher.secure(task.task_id, told)

    def withdraw(self, task: EngineTask) -> None:
        """Remove a task that will not run any more from the queue, and from Redis."""
        if self.session is not None:
            self.session.publisher.retire(task, kept=is_kept(task))

    def abandon(self, task: EngineTask) -> None:
        """Do nothing: a worker ends a function past its limit by itself."""

    def run_inline(self, task: EngineTask) -> bool:
        """Return False: nothing runs in this process."""
        return False

    def fault(self) -> str:
        """Return why the broker or Redis is unavailable; "" while both work."""
        return "" if self.session is None else self.session.fault()

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of these ids from Redis; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer, or the engine is not open.
        """
        session = self.session
        if session is None:
            # Not an empty answer: a store would end the tasks that it asks for.
            raise BrokerUnavailableError("the engine is not open")
        with answering(BrokerUnavailableError):
            found = self.state.fetch(task_ids)
        return [record_of(task_id, facts, session.host.clock) for task_id, facts in found.items()]

    def fetch_call(self, task_id: str) -> str | None:
        """Return the kept arguments of a task as JSON; see `protocols.CallStore`.

        Raises:
            BrokerUnavailableError: If Redis does not answer.
        """
        with answering(BrokerUnavailableError):
            return self.state.kept_call(task_id)

    def forget(self, task_ids: Collection[str]) -> None:
        """Drop finished tasks from Redis; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer; it then drops them by age.
        """
        with answering(BrokerUnavailableError):
            self.state.forget(task_ids)

    def request_cancel(self, task_id: str) -> bool:
        """Cancel a task that no worker has, or ask its worker to; blocks.

        Raises:
            BrokerUnavailableError: If Redis does not answer, and the task is at the broker.
        """
        with answering(BrokerUnavailableError):
            if self.session is not None:
                return self.session.cancel(task_id)
            return bool(ask_to_cancel(self.state, task_id))

    def join(self, request: PlaceRequest, told: Callable[[PlaceAnswer], object]) -> None:
        """Ask for a place that all processes share; see `protocols.SharedPlaces`."""
        if self.session is None:
            raise RuntimeError("the engine is not open")
        self.session.lines.join(request, told)

    def leave(self, task_id: str) -> None:
        """Give back a task's places; see `protocols.SharedPlaces`."""
        if self.session is not None:
            self.session.lines.leave(task_id)

    def watch(self, told: Callable[[Collection[str] | None], object], /) -> Callable[[], object]:
        """Call *told* with the ids of all tasks that workers report on; blocks."""
        return bool if self.session is None else self.session.watch(told)


def _finite(name: str, value: object) -> float | None:
    return None if value is None else checks.seconds(name, value, above=0)
