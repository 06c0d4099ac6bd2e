"""OpenTelemetry: a span for each submission, each run and each step of a task.

The spans follow the semantic conventions for messaging: a task is the message, and its function
the destination. They have the real time of OpenTelemetry's SDK, also if the framework's clock
is virtual, so that they fit the spans that a task makes itself.

Guarantees: a span that was started here is ended once, whichever thread ends its task.
Relies on: the final event of a task, which comes once for each task that has started.
Lock order: `_lock` guards the attached managers, and is taken before the locks of a manager.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from framework._records import checks, exports
from framework._records.jsonsafe import safe_str
from framework._records.statuses import WITHOUT_RESULT
from framework._threads.loggers import SafeLogger
from framework.protocols import TaskEvent, TaskRecord, TaskStatus

try:
    from opentelemetry import context as otel_context
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as _error:
    raise ImportError(
        "framework.telemetry.opentelemetry needs the API of OpenTelemetry: "
        "install the extra 'otel' of asyncframe"
    ) from _error

if TYPE_CHECKING:
    from framework._manager.face.manager import TaskManager

__all__ = ["OpenTelemetrySink"]

_Attached: TypeAlias = tuple[set[object], Callable[[], None]]

_LOGGER = SafeLogger("asyncframe")


class OpenTelemetrySink:
    """Traces the tasks of an app with OpenTelemetry.

    Pass it to ``setup_async_framework(app, telemetry=[OpenTelemetrySink()])``.

    A submission gets a span ``send <name>``, a child of the caller's span. Each run gets a span
    ``process <name>``, in a trace of its own, with a link to the submission: the trace of a
    request ends with its response, and a task may run long after it. While the function runs
    this span is the current one, so the spans that it makes are its children. An ``async def``
    function that runs where it is awaited gets one span, a child of the caller's.

    Each step of a task that goes on after a restart gets a span ``step <name>``, which is the
    current one while its body runs. A step that is recorded has none in the run that goes on.

    Retries and waits for a throttle are events of the span. On Celery, each delivery to a
    worker is a run with its own span.

    Args:
        tracer_provider: Makes the tracer; None for the global provider, which may be set later.
        exceptions: Whether spans have the messages and tracebacks of exceptions, which may
            have personal data in them. If not, they have only the type.

    Raises:
        TypeError: If a parameter has the wrong type.
        ImportError: On import of the module, without the extra.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, *, exceptions: bool = True
    ) -> None:
        if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
            raise TypeError(
                "tracer_provider must be a TracerProvider of OpenTelemetry or None, not "
                f"{checks.show(tracer_provider)}"
            )
        self._provider = tracer_provider
        self._exceptions = checks.flag("exceptions", exceptions)
        self._lock = threading.Lock()
        # For each manager what `attach` was called for and not undone, and what ends it.
        self._attached: WeakKeyDictionary[TaskManager, _Attached] = WeakKeyDictionary()

    def attach(self, manager: TaskManager) -> Callable[[], None]:
        """Trace the tasks that are submitted to *manager* from now on; on any thread.

        Attaching it to a manager again changes nothing.

        Returns:
            A function that ends it; may be called twice.
        """
        token = object()
        with self._lock:
            attached = self._attached.get(manager)
            if attached is None:
                end = manager.subscribe(Tracing(self._provider, self._exceptions))
                attached = self._attached[manager] = set(), end
            tokens, end = attached
            tokens.add(token)

        def detach() -> None:
            with self._lock:
                tokens.discard(token)
                if not tokens and self._attached.get(manager) is attached:
                    del self._attached[manager]
                    end()

        return detach


class Tracing:
    """The spans of one manager, in which no two live tasks have the same id.

    Args:
        provider: Makes the tracer; None for the global provider.
        exceptions: Whether spans have the messages and tracebacks of exceptions.
    """

    def __init__(self, provider: TracerProvider | None, exceptions: bool) -> None:
        self._is_global = provider is None
        self._exceptions = exceptions
        self._tracer = trace.get_tracer("asyncframe", tracer_provider=provider)
        self._spans: dict[str, Span] = {}

    # -- protocols.TaskTracer

    def submitted(self, record: TaskRecord) -> Mapping[str, str]:
        """Make the span of a submission; return its trace context in the form of W3C."""
        if self._is_off():
            return {}
        span = self._tracer.start_span(
            f"send {record.name}", kind=SpanKind.PRODUCER, attributes=_attributes(record, "send")
        )
        span.end()
        carried: dict[str, str] = {}
        propagate.inject(carried, trace.set_span_in_context(span))
        return carried

    def starting(self, record: TaskRecord, carried: Mapping[str, str] | None) -> None:
        """Start the span of a run, and make it the current one."""
        if self._is_off():
            return
        context = otel_context.get_current()
        if carried is None:
            kind, parent, links = SpanKind.INTERNAL, context, []
        else:
            context = propagate.extract(carried, context)
            sender = trace.get_current_span(context).get_span_context()
            kind, parent = SpanKind.CONSUMER, Context()
            links = [Link(sender)] if sender.is_valid else []
        attributes = _attributes(record, "process")
        if record.started is not None:
            attributes["asyncframe.task.queue_time"] = record.started - record.queued
        span = self._tracer.start_span(
            f"process {record.name}", parent, kind, attributes=attributes, links=links
        )
        otel_context.attach(trace.set_span_in_context(span, context))
        self._spans[record.task_id] = span
        # For this order: 1 another thread ends the task and finds no span, 2 it is kept here.
        if record.status.is_final:
            self._end(record.task_id, record.status, record.error, record.attempts)

    def leaving(
        self, record: TaskRecord, kind: str, delay: float, error: BaseException | None
    ) -> None:
        """End the span of a run after which another run of the task follows."""
        span = self._spans.pop(record.task_id, None)
        if span is None:
            return
        if kind != "interrupted":
            self._add_wait(span, kind, record.name, record.attempts, delay, error)
        if error is not None:
            self._fail(span, error)
        span.set_attribute(_ATTEMPTS, record.attempts)
        span.end()

    # -- protocols.StepTracer

    def starting_step(
        self, record: TaskRecord, name: str
    ) -> Callable[[BaseException | None], object]:
        """Start the span of a step, and make it the current one."""
        if record.task_id not in self._spans:
            return lambda _: None
        span = self._tracer.start_span(f"step {name}", attributes={"asyncframe.step": name})
        token = otel_context.attach(trace.set_span_in_context(span))

        def end(error: BaseException | None) -> None:
            otel_context.detach(token)
            # One that is cancelled has not failed.
            if isinstance(error, Exception) and span.is_recording():
                self._fail(span, error)
            span.end()

        return end

    # -- protocols.EventSink

    def __call__(self, event: TaskEvent) -> None:
        """End the span of a task that has ended, and note its retries and waits."""
        if event.kind in _WAITS:
            # A throttled call outside a task belongs to the span of its caller.
            span = (
                trace.get_current_span()
                if event.task_id is None
                else self._spans.get(event.task_id)
            )
            if span is not None and event.delay is not None:
                self._add_wait(
                    span, event.kind, event.name, event.attempt, event.delay, event.error
                )
        elif event.task_id is not None and event.status is not None and event.status.is_final:
            self._end(event.task_id, event.status, event.error, event.attempt)

    # -- spans

    def _is_off(self) -> bool:
        """Return whether there is no SDK, or none yet, which would make spans of nothing."""
        return self._is_global and isinstance(
            trace.get_tracer_provider(), trace.ProxyTracerProvider
        )

    def _end(
        self, task_id: str, status: TaskStatus, error: BaseException | None, attempts: int
    ) -> None:
        span = self._spans.pop(task_id, None)
        if span is None:
            return
        if span.is_recording():
            span.set_attributes({_STATUS: status.value, _ATTEMPTS: attempts})
            # Somebody wanted a cancelled task to end, so that is no error.
            if error is not None and status in WITHOUT_RESULT:
                self._fail(span, error)
        span.end()

    def _fail(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", _type_of(error))
        if not self._exceptions:
            span.set_status(Status(StatusCode.ERROR))
            return
        try:
            span.record_exception(error)
        except Exception:  # the text of a user's exception is the user's code
            _LOGGER.debug("an exception cannot be recorded in a span", exc_info=True)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {safe_str(error)}"))

    def _add_wait(
        self,
        span: Span,
        kind: str,
        name: str,
        attempt: int,
        delay: float,
        error: BaseException | None,
    ) -> None:
        if not span.is_recording():
            return
        told: dict[str, Any] = {  # what attributes of spans may be
            "asyncframe.function": name,
            "asyncframe.attempt": attempt,
            "asyncframe.delay": delay,
        }
        if error is not None:
            told["error.type"] = _type_of(error)
            if self._exceptions:
                told["exception.message"] = safe_str(error)
        span.add_event(kind, told)


_WAITS: Final = ("retrying", "throttled", "sleeping")
_STATUS: Final = "asyncframe.task.status"
_ATTEMPTS: Final = "asyncframe.task.attempts"


def _attributes(record: TaskRecord, operation: str) -> dict[str, Any]:
    # Any: what attributes of spans may be
    label = {} if record.label is None else {"asyncframe.task.label": record.label}
    return label | {
        "messaging.system": "asyncframe",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": record.name,
        "messaging.message.id": str(record.task_id),
    }


def _type_of(error: BaseException) -> str:
    """Return the name of an exception's type, as the attribute ``error.type`` has it."""
    of = type(error)
    return of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"


exports.pin(globals())
