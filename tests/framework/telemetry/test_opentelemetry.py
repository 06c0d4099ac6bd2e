"""The spans of tasks, as an exporter of OpenTelemetry gets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from framework import (
    TaskCancelledError,
    TaskManager,
    TaskTimeoutError,
    async_task,
    background_task,
    current_task,
    retry_task,
    throttled_task,
)
from framework.protocols import TaskEvent, TaskRecord
from framework.steps import step
from framework.telemetry.opentelemetry import OpenTelemetrySink, Tracing
from pytest_asyncframe.probe import Probe
from tests.children import python
from tests.framework.refusing import told_by
from tests.patience import PATIENCE


class Spans:
    """The spans of one test, by name."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("app")

    @property
    def names(self) -> list[str]:
        """The names of the spans that have ended, in this order."""
        return [span.name for span in self._exporter.get_finished_spans()]

    def all(self, name: str) -> list[ReadableSpan]:
        """Return the spans of a name, in the order in which they ended."""
        return [one for one in self._exporter.get_finished_spans() if one.name == name]

    def __getitem__(self, name: str) -> ReadableSpan:
        (found,) = self.all(name)
        return found


@pytest.fixture
def manager(asyncframe: Probe) -> TaskManager:
    """The test's manager, in virtual time."""
    return asyncframe.manager


@pytest.fixture
def spans(manager: TaskManager) -> Spans:
    """The spans of the test's tasks."""
    made = Spans()
    OpenTelemetrySink(made.provider).attach(manager)
    return made


def own_span(spans: Spans) -> Any:
    """Return a context in which a user's own span is the current one."""
    return spans.tracer.start_as_current_span("own")


def id_of(span: ReadableSpan) -> int:
    """Return the id of a span."""
    assert span.context is not None
    found: int = span.context.span_id
    return found


def trace_of(span: ReadableSpan) -> int:
    """Return the trace of a span."""
    assert span.context is not None
    found: int = span.context.trace_id
    return found


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of a span's parent."""
    return None if span.parent is None else span.parent.span_id


def linked(span: ReadableSpan) -> list[int]:
    """Return the ids of the spans that a span is linked to."""
    return [link.context.span_id for link in span.links]


def nothing() -> None:
    """Do nothing."""


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return what a span says, but for what differs from run to run."""
    told = dict(span.attributes or {})
    told.pop("asyncframe.task.queue_time", None)
    return told


KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])


@KINDS
async def test_a_run_is_linked_to_its_submission(
    manager: TaskManager, spans: Spans, is_async: bool
) -> None:
    """A submission is a child of the request, and the run a trace of its own with a link."""

    def work() -> None:
        with own_span(spans):
            pass

    async def async_work() -> None:
        work()

    fn = background_task(name="resize")(async_work if is_async else work)
    with spans.tracer.start_as_current_span("request"):
        task_id = fn()
    await manager.get_result(task_id)

    request, send, process = spans["request"], spans["send resize"], spans["process resize"]
    assert parent_of(send) == id_of(request)
    assert parent_of(process) is None
    assert trace_of(process) != trace_of(request)
    assert linked(process) == [id_of(send)]
    assert parent_of(spans["own"]) == id_of(process)
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)


async def test_attributes(manager: TaskManager, spans: Spans) -> None:
    """Spans have the attributes of messages, and a run has the task's end as well."""
    task_id = background_task(name="resize", label="image 7")(nothing)()
    await manager.get_result(task_id)

    message = {
        "asyncframe.task.label": "image 7",
        "messaging.system": "asyncframe",
        "messaging.destination.name": "resize",
        "messaging.message.id": task_id,
    }
    assert attributes(spans["send resize"]) == message | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    assert attributes(spans["process resize"]) == message | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "asyncframe.task.status": "completed",
        "asyncframe.task.attempts": 1,
    }
    assert spans["process resize"].status.status_code is StatusCode.UNSET


async def test_waits_are_in_seconds_of_the_framework(manager: TaskManager, spans: Spans) -> None:
    """The time in the queue is the framework's, a virtual one too; a span's time is real."""
    fn = background_task(name="late")(nothing)
    task_id = await manager.submit(fn.options(delay=3600.0))
    await manager.get_result(task_id)

    span = spans["process late"]
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 <= span.end_time - span.start_time < 3600 * 10**9
    assert dict(span.attributes or {})["asyncframe.task.queue_time"] == 0.0


async def test_in_place_is_a_child(manager: TaskManager, spans: Spans) -> None:
    """What runs where it is awaited is a child of the caller's span, and is not sent."""

    @async_task(name="resize")
    async def resize() -> None:
        with own_span(spans):
            pass

    with spans.tracer.start_as_current_span("request"):
        await resize()
        assert trace.get_current_span().get_span_context().span_id

    assert spans.names == ["own", "process resize", "request"]
    process = spans["process resize"]
    assert parent_of(process) == id_of(spans["request"])
    assert parent_of(spans["own"]) == id_of(process)
    assert process.kind is SpanKind.INTERNAL


async def test_a_nested_task_is_linked(manager: TaskManager, spans: Spans) -> None:
    """A task that a task submits is sent by the span of that task."""
    inner = background_task(name="inner")(nothing)

    @background_task(name="outer")
    async def outer() -> str:
        return inner()

    await manager.get_result(await manager.get_result(outer()))

    assert parent_of(spans["send inner"]) == id_of(spans["process outer"])
    assert linked(spans["process inner"]) == [id_of(spans["send inner"])]


async def test_retries_are_events(manager: TaskManager, spans: Spans) -> None:
    """A retry is an event of the one span, with the error and the delay."""
    errors: list[Exception] = [OSError("no route")]

    @background_task(name="send_mail")
    @retry_task(max_retries=1, retry_delay=30.0)
    async def send_mail() -> None:
        if errors:
            raise errors.pop()

    await manager.get_result(send_mail())

    process = spans["process send_mail"]
    (event,) = process.events
    assert event.name == "retrying"
    told = dict(event.attributes or {})
    assert str(told.pop("asyncframe.function")).endswith("send_mail")
    assert told == {
        "asyncframe.attempt": 1,
        "asyncframe.delay": 30.0,
        "error.type": "OSError",
        "exception.message": "no route",
    }
    assert attributes(process)["asyncframe.task.attempts"] == 2
    assert process.status.status_code is StatusCode.UNSET


async def test_throttled_waits_are_events(manager: TaskManager, spans: Spans) -> None:
    """A wait for a throttle is an event: of the task, or of the caller's span outside one."""

    @throttled_task(rate_limit=1, time_window=60.0, when_limited="wait")
    async def call() -> None:
        pass

    task = background_task(name="caller")(call)
    await call()
    await manager.get_result(task())
    with own_span(spans):
        await call()

    assert [event.name for event in spans["process caller"].events] == ["throttled"]
    assert [event.name for event in spans["own"].events] == ["throttled"]
    assert dict(spans["own"].events[0].attributes or {})["asyncframe.delay"] == 60.0


async def test_a_failure_is_recorded(manager: TaskManager, spans: Spans) -> None:
    """A failed task's span has the status, the type, the message and the traceback."""

    @background_task(name="fails")
    def fails() -> None:
        raise LookupError("no such user")

    with pytest.raises(LookupError, match=r"^no such user$"):
        await manager.get_result(fails())

    process = spans["process fails"]
    assert process.status.status_code is StatusCode.ERROR
    assert process.status.description == "LookupError: no such user"
    assert attributes(process)["error.type"] == "LookupError"
    (event,) = process.events
    told = dict(event.attributes or {})
    assert told["exception.message"] == "no such user"
    assert 'raise LookupError("no such user")' in str(told["exception.stacktrace"])


async def test_an_exception_without_text(manager: TaskManager, spans: Spans) -> None:
    """A span ends with its status, although the text of the exception cannot be had."""

    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    @background_task(name="fails")
    def fails() -> None:
        raise SilentError

    with pytest.raises(SilentError):  # steady: it has no text, which is the point
        await manager.get_result(fails())

    process = spans["process fails"]
    assert process.status.status_code is StatusCode.ERROR
    assert str(attributes(process)["error.type"]).endswith("SilentError")


async def test_no_text_of_exceptions(manager: TaskManager) -> None:
    """Without exceptions, spans have the type of an error and nothing of its text."""
    spans = Spans()
    OpenTelemetrySink(spans.provider, exceptions=False).attach(manager)

    @background_task(name="fails")
    @retry_task(max_retries=1, retry_delay=1.0)
    def fails() -> None:
        raise LookupError("secret")

    with pytest.raises(LookupError, match=r"^secret$"):
        await manager.get_result(fails())

    process = spans["process fails"]
    assert attributes(process)["error.type"] == "LookupError"
    assert process.status.description is None
    assert [event.name for event in process.events] == ["retrying"]
    assert "secret" not in process.to_json()


async def test_a_cancelled_task_is_no_error(manager: TaskManager, spans: Spans) -> None:
    """A task that somebody cancels ends its span without an error."""
    running = asyncio.Event()

    @background_task(name="waits")
    async def waits() -> None:
        running.set()
        await asyncio.Event().wait()

    task_id = waits()
    await running.wait()
    assert await manager.cancel_task(task_id)

    process = spans["process waits"]
    assert process.status.status_code is StatusCode.UNSET
    assert attributes(process)["asyncframe.task.status"] == "cancelled"


async def test_a_task_that_never_ran_has_no_run(manager: TaskManager, spans: Spans) -> None:
    """A task that is cancelled before it starts has the span of its submission alone."""
    task_id = await manager.submit(background_task(name="late")(nothing), delay=60.0)
    assert await manager.cancel_task(task_id)

    assert spans.names == ["send late"]


async def test_a_limit_ends_the_span(manager: TaskManager, spans: Spans) -> None:
    """The span of a task past its limit ends with the task, while its thread goes on."""
    go, gone = threading.Event(), threading.Event()

    @background_task(name="slow", timeout=5.0)
    def slow() -> None:
        go.wait(PATIENCE)
        with own_span(spans):
            pass
        gone.set()

    with pytest.raises(
        TaskTimeoutError, match=r"^task \'\w+\' \(slow\) ran past its time limit of 5 s$"
    ):
        await manager.get_result(slow())
    process = spans["process slow"]
    go.set()
    assert gone.wait(PATIENCE)

    assert process.status.status_code is StatusCode.ERROR
    assert attributes(process)["asyncframe.task.status"] == "timeout"
    assert parent_of(spans["own"]) == id_of(process)


async def test_baggage_comes_along(manager: TaskManager, spans: Spans) -> None:
    """The baggage of the caller is there in the task."""
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        task_id = background_task(lambda: baggage.get_baggage("tenant"))()
    finally:
        context.detach(token)

    assert await manager.get_result(task_id) == "acme"


async def test_sampling_is_off(manager: TaskManager) -> None:
    """What is not sampled runs as usual, and its own spans are not sampled either."""
    spans = Spans()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    OpenTelemetrySink(provider).attach(manager)

    def work() -> bool:
        current = trace.get_current_span()
        with own_span(spans):
            pass
        return current.get_span_context().is_valid and not current.is_recording()

    assert await manager.get_result(background_task(work)())
    assert spans.names == []


async def test_without_the_sdk(manager: TaskManager) -> None:
    """Without an SDK the sink does nothing, and tasks run as usual."""
    OpenTelemetrySink().attach(manager)

    task = background_task(lambda: trace.get_current_span().get_span_context().is_valid)

    assert await manager.get_result(task()) is False


@pytest.fixture
def no_propagation() -> Iterator[None]:
    """No propagator, as OTEL_PROPAGATORS=none has it."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([]))
    yield
    propagate.set_global_textmap(before)


async def test_without_a_propagator(
    manager: TaskManager, spans: Spans, no_propagation: None
) -> None:
    """Where nothing is propagated, a run in this process is linked to its caller's span."""
    with spans.tracer.start_as_current_span("request"):
        task_id = background_task(name="work")(nothing)()
    await manager.get_result(task_id)

    assert parent_of(spans["process work"]) is None
    assert linked(spans["process work"]) == [id_of(spans["request"])]


async def test_no_span_is_kept(manager: TaskManager) -> None:
    """Nothing is kept of tasks that have ended, however they ended."""
    tracing = Tracing(Spans().provider, True)
    manager.subscribe(tracing)

    @background_task
    async def stops_itself() -> None:
        task = current_task()
        assert task is not None
        await manager.cancel_task(task.task_id)
        task.check_cancelled()

    ids = [background_task(lambda: 1 / 0)(), background_task(lambda: 1)(), stops_itself()]
    with pytest.raises(ZeroDivisionError, match=r"^division by zero$"):
        await manager.get_result(ids[0])
    await manager.get_result(ids[1])
    with pytest.raises(TaskCancelledError, match=r"^task '\w+' \(.*\) was cancelled"):
        await manager.get_result(ids[2])

    assert tracing._spans == {}


async def test_a_task_that_has_ended_before_its_span(manager: TaskManager) -> None:
    """A span that is started when its task has ended already is ended at once."""
    spans = Spans()
    tracing = Tracing(spans.provider, True)
    task_id = background_task(name="work")(nothing)()
    await manager.get_result(task_id)
    record = manager._core.ledger.find(task_id)
    assert record is not None

    tracing.starting(record, {})

    assert attributes(spans["process work"])["asyncframe.task.status"] == "completed"
    assert tracing._spans == {}


async def test_attached_twice(manager: TaskManager) -> None:
    """A sink that is attached to a manager twice traces once, until both are undone."""
    spans = Spans()
    sink = OpenTelemetrySink(spans.provider)
    detach = [sink.attach(manager), sink.attach(manager)]
    work = background_task(name="work")(nothing)

    await manager.get_result(work())
    assert spans.names == ["send work", "process work"]

    detach[0]()
    detach[0]()
    await manager.get_result(work())
    assert len(spans.names) == 4

    detach[1]()
    await manager.get_result(work())
    assert len(spans.names) == 4


def test_refused() -> None:
    """What is no provider and no flag is refused, by name and value."""
    told = [
        told_by(OpenTelemetrySink, tracer_provider=3),
        told_by(OpenTelemetrySink, exceptions="no"),
    ]
    assert told == [
        (TypeError, "tracer_provider must be a TracerProvider of OpenTelemetry or None, not 3"),
        (TypeError, "exceptions must be True or False, not 'no'"),
    ]


def fresh(*lines: str) -> Sequence[str]:
    """Run *lines* in a new interpreter; return what it prints."""
    return python("-c", "\n".join(lines)).stdout.splitlines()


@pytest.mark.extended("processes")
def test_nothing_is_imported_without_it() -> None:
    """A framework that runs a task imports nothing of OpenTelemetry, and has no tracer."""
    assert fresh(
        "import asyncio, sys, framework as f",
        "async def main():",
        "    async with f.setup_async_framework(None):",
        "        manager = f.get_task_manager()",
        "        await manager.submit(lambda: 1, wait=True)",
        "        print(manager._core.ledger.tracers, manager._core.ledger.sinks)",
        "asyncio.run(main())",
        "print([name for name in sys.modules if 'opentelemetry' in name])",
    ) == ["() {}", "[]"]


@pytest.mark.extended("processes")
def test_a_provider_that_comes_later() -> None:
    """Without a provider of its own a sink uses the global one, from when it is set."""
    assert fresh(
        "import asyncio, framework as f",
        "from framework.telemetry.opentelemetry import OpenTelemetrySink",
        "from opentelemetry import trace",
        "from opentelemetry.sdk.trace import TracerProvider",
        "async def main():",
        "    async with f.setup_async_framework(None, telemetry=[OpenTelemetrySink()]):",
        "        submit = f.get_task_manager().submit",
        "        span = lambda: trace.get_current_span().is_recording()",
        "        print(await submit(span, wait=True))",
        "        trace.set_tracer_provider(TracerProvider())",
        "        print(await submit(span, wait=True))",
        "asyncio.run(main())",
    ) == ["False", "True"]


@pytest.mark.extended("processes")
def test_without_the_extra() -> None:
    """Without the API, the import says what to install."""
    assert fresh(
        "import sys",
        "sys.modules['opentelemetry'] = None",
        "try:",
        "    import framework.telemetry.opentelemetry",
        "except ImportError as error:",
        "    print(error)",
    ) == [MISSING]


MISSING = (
    "framework.telemetry.opentelemetry needs the API of OpenTelemetry: "
    "install the extra 'otel' of asyncframe"
)


@KINDS
async def test_spans_of_steps(manager: TaskManager, spans: Spans, is_async: bool) -> None:
    """The body of a step runs in a span of its own, which has its error; a recorded one in none."""
    fails = iter([True, False])

    def charge() -> None:
        with own_span(spans):
            pass

    def ship() -> None:
        if next(fails):
            raise LookupError("no carrier")

    async def async_charge() -> None:
        charge()

    async def async_ship() -> None:
        ship()

    first, second = step(charge), step(ship)
    async_first, async_second = step(async_charge), step(async_ship)

    def work() -> None:
        first()
        second()

    async def async_work() -> None:
        await async_first()
        await async_second()

    task = retry_task(max_retries=1, retry_delay=1)(async_work if is_async else work)
    kept = background_task(on_restart="resume", name=f"tests.steps_{is_async}")(task)
    await manager.get_result(await manager.submit(kept))

    prefix = f"step {__name__}.{test_spans_of_steps.__name__}.<locals>.{'async_' * is_async}"
    assert [name for name in spans.names if name.startswith("step ")] == [
        f"{prefix}charge",
        *[f"{prefix}ship"] * 2,
    ]
    run, charged, own = (
        spans[f"process tests.steps_{is_async}"],
        spans[f"{prefix}charge"],
        spans["own"],
    )
    assert (parent_of(own), parent_of(charged)) == (id_of(charged), id_of(run))
    failed, passed = spans.all(f"{prefix}ship")
    assert [parent_of(one) for one in (failed, passed)] == [id_of(run)] * 2
    assert (failed.status.status_code, attributes(failed)["error.type"]) == (
        StatusCode.ERROR,
        "LookupError",
    )
    assert passed.status.status_code is StatusCode.UNSET


class BadStepTracer:
    """Raises before and after each step."""

    def __init__(self) -> None:
        self.heard: list[BaseException | None] = []

    def __call__(self, event: TaskEvent) -> None:
        """Hear nothing."""

    def starting_step(self, record: TaskRecord, name: str) -> Callable[[Any], object]:
        """Tell how it ends, and fail."""

        def end(error: BaseException | None) -> None:
            self.heard.append(error)
            raise RuntimeError("after")

        if self.heard:
            raise RuntimeError("before")
        return end


async def test_a_tracer_of_steps_that_fails(
    manager: TaskManager, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a tracer is logged, and the steps run all the same."""
    tracer = BadStepTracer()
    manager.subscribe(tracer)
    ran: list[int] = []

    @step
    async def add(number: int) -> None:
        ran.append(number)

    @background_task(on_restart="resume", name="tests.badly_traced")
    async def work() -> None:
        await add(1)
        await add(2)

    await manager.get_result(await manager.submit(work))
    assert (ran, tracer.heard) == ([1, 2], [None])
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["after", "before"]
