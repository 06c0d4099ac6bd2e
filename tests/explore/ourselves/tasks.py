"""Scenarios of the ledger: what happens to one task on several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from framework import TaskTimeoutError, retry_task, throttled_task
from framework._manager.hosting.host import RemoteHost
from framework._records.records import TaskRecord
from framework._records.statuses import FINAL
from framework._records.steps import MessageRecord
from framework._running.ledger import Calls
from framework._running.mail import Inbox, Mail
from framework._tasks.live import LiveTask
from framework.exceptions import QueueFullError, TaskCancelledError, TaskNotFoundError
from framework.telemetry.opentelemetry import OpenTelemetrySink
from tests.explore.ourselves.run import Gate, Late, Run, wind_down


def cancel(manager: Any, task_id: str) -> None:
    """Cancel a task from a thread, without waiting."""
    RemoteHost(manager._core).cancel(task_id)


def outcome(manager: Any, task_id: str, timeout: float | None = None) -> object:
    """Return what waiting for a task returns or raises."""
    try:
        return manager.wait_result(task_id, timeout)
    except Exception as error:
        return type(error)


def cancel_or_complete(run: Run) -> None:
    """A task is cancelled while it starts and completes."""
    manager, ran = run.manager(1), list[str]()
    task_id = Late()

    def submit() -> None:
        task_id.set(manager.submit_nowait(ran.append, args=("x",)))

    def stop() -> None:
        cancel(manager, task_id.get())

    run.together(submit, stop)
    told = outcome(manager, task_id.get())
    assert (told, ran) in ((None, ["x"]), (TaskCancelledError, [])), (told, ran)


def cancel_twice(run: Run) -> None:
    """Two threads cancel the same queued task."""
    manager, met = run.manager(1), Gate()
    manager.submit_nowait(met.wait)
    task_id = manager.submit_nowait(int)

    def stop() -> None:
        cancel(manager, task_id)

    run.together(stop, stop, met.open)
    outcome(manager, task_id)


def limit_or_complete(run: Run) -> None:
    """A task ends at the moment of its limit."""
    manager = run.manager(1)
    task_id = manager.submit_nowait(run.sleep, args=(1.0,), timeout=1.0)
    after = manager.submit_nowait(int)
    run.together(lambda: outcome(manager, task_id), lambda: outcome(manager, after))
    assert outcome(manager, task_id) in (None, TaskTimeoutError)
    assert outcome(manager, after) == 0


def limit_or_fail(run: Run) -> None:
    """A task fails and is cancelled at the moment of its limit."""
    manager = run.manager(2)

    def body() -> None:
        run.sleep(1.0)
        raise LookupError

    task_id = manager.submit_nowait(body, timeout=1.0)

    def stop() -> None:
        run.sleep(1.0)
        cancel(manager, task_id)

    def wait() -> None:
        assert outcome(manager, task_id) in (LookupError, TaskTimeoutError)

    run.together(stop, wait)


def retry_or_cancel(run: Run) -> None:
    """A task is cancelled while it waits for its next attempt, or as it begins that."""
    manager, attempts = run.manager(1), list[int]()

    @retry_task(max_retries=1, retry_delay=1.0, jitter=0)
    def body() -> None:
        attempts.append(1)
        raise LookupError

    task_id = manager.submit_nowait(body)

    def stop() -> None:
        run.sleep(1.0)
        cancel(manager, task_id)

    run.together(stop)
    assert outcome(manager, task_id) in (LookupError, TaskCancelledError)
    assert len(attempts) <= 2


def retry_or_limit(run: Run) -> None:
    """A task's limit passes as it begins its next attempt."""
    manager = run.manager(1)

    @retry_task(max_retries=2, retry_delay=1.0, backoff=1.0, jitter=0)
    def body() -> None:
        raise LookupError

    task_id = manager.submit_nowait(body, timeout=1.0)
    run.together(lambda: outcome(manager, task_id))
    assert outcome(manager, task_id) is TaskTimeoutError


def retry_or_shutdown(run: Run) -> None:
    """The framework stops while tasks begin to wait for their next attempt."""
    manager = run.manager(2)

    @retry_task(max_retries=3, retry_delay=50.0, jitter=0)
    def body() -> None:
        raise LookupError

    ids = [manager.submit_nowait(body) for _ in range(2)]
    run.together(lambda: wind_down(manager._core))
    for task_id in ids:
        assert outcome(manager, task_id) is LookupError
    assert run.clock.monotonic() < 50


def evict_or_wait(run: Run) -> None:
    """A task is waited for while it ends and is removed."""
    manager = run.manager(2, max_finished_tasks=0)

    def submit() -> None:
        task_id = manager.submit_nowait(int)
        assert outcome(manager, task_id) in (0, TaskNotFoundError)

    run.together(submit, submit)


def wait_or_end(run: Run) -> None:
    """A wait runs out at the moment at which the task ends."""
    manager = run.manager(1)
    task_id = manager.submit_nowait(run.sleep, args=(1.0,))
    told: list[object] = []

    def wait() -> None:
        told.append(outcome(manager, task_id, 1.0))

    run.together(wait, wait)
    assert set(told) <= {None, TimeoutError}
    assert outcome(manager, task_id) is None


def wait_for_each_other(run: Run) -> None:
    """A task waits for one that it submits, while another thread may take that."""
    manager = run.manager(2)

    def inner() -> int:
        return 1

    def outer(timeout: float | None) -> int:
        return int(manager.wait_result(manager.submit_nowait(inner), timeout))

    ids = [manager.submit_nowait(outer, args=(timeout,)) for timeout in (None, 5.0)]
    run.together(*(lambda task_id=task_id: outcome(manager, task_id) for task_id in ids))
    assert [outcome(manager, task_id) for task_id in ids] == [1, 1]
    assert run.clock.monotonic() < 5


def figures_or_change(run: Run) -> None:
    """Counters are read while tasks begin and end: they add up."""
    manager = run.manager(2)
    seen: list[dict[str, int]] = []

    def submit() -> None:
        task_id = manager.submit_nowait(int)
        cancel(manager, task_id)

    def read() -> None:
        seen.extend(manager._core.overview.figures() for _ in range(3))

    run.together(submit, submit, read)
    for figures in seen:
        now = sum(figures[status.value] for status in FINAL)
        assert figures["submitted"] == figures["pending"] + figures["running"] + now, figures


def subscribe_or_event(run: Run) -> None:
    """Sinks come and go while events happen: none of those that stay is lost."""
    manager, heard = run.manager(1), list[str]()

    def listen() -> None:
        manager.subscribe(lambda event: heard.append(event.kind), kinds={"evicted"})

    def listen_briefly() -> None:
        manager.subscribe(lambda _: None)()

    def submit() -> None:
        outcome(manager, manager.submit_nowait(int))

    run.together(listen, listen, listen_briefly, submit)
    # A waiter may be quicker than what follows the end of its task.
    manager._core.pool.shutdown()
    manager._core.endings.retention.evict(keep=0)
    assert heard == ["evicted", "evicted"]


def progress_or_end(run: Run) -> None:
    """Progress is reported while the task reaches its limit, by a thread of its own."""
    manager = run.manager(1)

    def body() -> None:
        run.sleep(1.0)
        (task,) = manager._core.ledger.unstored() or (None,)
        if task is not None:
            manager._core.ledger.progress(task, 0.5, "half")

    task_id = manager.submit_nowait(body, timeout=1.0)
    run.together(lambda: outcome(manager, task_id))


def one_id_twice(run: Run) -> None:
    """Two submissions choose the same id: one gets it."""
    manager, refused = run.manager(2), list[str]()

    def submit() -> None:
        try:
            manager.submit_nowait(int, task_id="mine")
        except ValueError:
            refused.append("mine")

    run.together(submit, submit, submit)
    assert refused == ["mine", "mine"]


def rare_fields(run: Run) -> None:
    """Two threads each set a rare field of a record for the first time."""
    record = TaskRecord()
    record.rest = None

    def say_why() -> None:
        record.reason = "waits"

    def note() -> None:
        record.progress = 0.5

    run.together(say_why, note)
    assert (record.reason, record.progress) == ("waits", 0.5)


def deliver_twice(run: Run) -> None:
    """A task is delivered twice at once: its function runs twice, and it ends once."""
    manager, runs = run.manager(2), list[int]()
    core = manager._core
    task_id = manager.submit_nowait(lambda: runs.append(1), delay=50.0)
    task = core.ledger.find_live(task_id)
    assert task is not None

    def deliver() -> None:
        core.runner.runs["thread"](task)

    run.together(deliver, deliver)
    assert outcome(manager, task_id) is None
    # A delivery that comes after the end does nothing.
    assert len(runs) in (1, 2)
    core.places.forget_delay(task)


def evict_or_end_late(run: Run) -> None:
    """A task that has passed its limit ends late while it is removed."""
    manager = run.manager(1)
    task_id = manager.submit_nowait(run.sleep, args=(2.0,), timeout=1.0)

    def evict() -> None:
        run.sleep(2.0)
        manager._core.endings.retention.evict(keep=0)

    run.together(evict)
    assert outcome(manager, task_id) is TaskNotFoundError


def keep_few(run: Run) -> None:
    """Tasks end on several threads while there may be one finished task: counts are right."""
    manager = run.manager(2, max_finished_tasks=1)

    def submit() -> None:
        for _ in range(2):
            with suppress(TaskNotFoundError):
                manager.wait_result(manager.submit_nowait(int))

    run.together(submit, submit)
    manager._core.pool.shutdown()
    figures = manager._core.overview.figures()
    assert figures["kept"] == len(list(manager._core.ledger.store.list()))
    assert figures["kept"] + figures.get("evicted", 0) == figures["submitted"]


def last_place(run: Run) -> None:
    """Tasks compete for the last place in the queue: one gets it, and none stays behind."""
    manager, met = run.manager(1, queue_size=1), Gate()
    started = Late()

    def hold() -> None:
        started.set(True)
        met.wait()

    manager.submit_nowait(hold)
    got: list[str] = []

    def submit() -> None:
        started.get()
        with suppress(QueueFullError):
            got.append(manager.submit_nowait(int))

    run.together(submit, submit, submit)
    assert len(got) == 1
    met.open()
    assert outcome(manager, got[0]) == 0


def hooks_and_limits(run: Run) -> None:
    """A task with hooks ends at its limit: one of them is called, and once."""
    manager, called = run.manager(1), list[str]()
    task_id = manager.submit_nowait(
        run.sleep,
        args=(1.0,),
        timeout=1.0,
        on_complete=lambda task: called.append(str(task.status)),
        on_error=lambda task: called.append(str(task.status)),
    )
    run.together(lambda: outcome(manager, task_id))
    run.sleep(0.1)
    record = manager._core.ledger.find(task_id)
    assert record is not None
    assert called == [str(record.status)]


def task_held_up(run: Run) -> None:
    """Time passes at any moment of tasks with a limit, from their submission to their end."""
    manager = run.manager(1)

    def submit() -> None:
        task_id = manager.submit_nowait(int, timeout=1.0)
        told = outcome(manager, task_id)
        assert told in (0, TaskTimeoutError), told

    run.together(submit, submit, run.hurry, run.hurry)


def throttle_held_up(run: Run) -> None:
    """Time passes at any moment of tasks that wait for a throttle, which stops their limits."""
    manager = run.manager(2)

    @throttled_task(rate_limit=1, time_window=1.0, when_limited="wait")
    def call() -> None:
        pass

    def submit() -> None:
        task_id = manager.submit_nowait(call, timeout=0.5)
        assert outcome(manager, task_id) in (None, TaskTimeoutError)

    run.together(submit, submit, run.hurry, run.hurry)
    assert run.clock.monotonic() < 5


def retry_held_up(run: Run) -> None:
    """Time passes at any moment of a task that is tried again, and has a limit."""
    manager = run.manager(1)

    @retry_task(max_retries=1, retry_delay=1.0, jitter=0)
    def body() -> None:
        raise LookupError

    def submit() -> None:
        task_id = manager.submit_nowait(body, timeout=1.5)
        assert outcome(manager, task_id) in (LookupError, TaskTimeoutError)

    run.together(submit, run.hurry, run.hurry)


def first_tasks(run: Run) -> None:
    """The first tasks of a framework without an app come at once: each is found by its id."""
    manager = run.manager(1)

    def submit() -> None:
        task_id = manager.submit_nowait(int)
        assert outcome(manager, task_id) == 0

    run.together(submit, submit)


def attach_tracer_twice(run: Run) -> None:
    """Two threads attach one sink to a manager, which then traces each task once."""
    manager, sink = run.manager(1), OpenTelemetrySink()

    def attach() -> None:
        sink.attach(manager)

    run.together(attach, attach)
    assert len(manager._core.ledger.tracers) == 1


def keep_calls(run: Run) -> None:
    """Tasks fail at once: the arguments of as many are kept as the store wants, and no others."""
    manager = run.manager(3)
    calls = manager._core.ledger.calls
    calls.most = 1

    def fail(_: object) -> None:
        raise LookupError

    def submit() -> None:
        assert outcome(manager, manager.submit_nowait(fail, ("x",))) is LookupError

    run.together(submit, submit, submit)
    run.sleep(0.1)
    records: Any = manager._core.ledger.store.list()
    assert [record.args for record in records if record.args is not None] == [("x",)]


def keep_the_latest(run: Run) -> None:
    """Three tasks end at once, and the arguments of one are kept."""
    calls = Calls(1)
    spec = SimpleNamespace(options={"keep_arguments": True})
    tasks: list[Any] = [
        SimpleNamespace(task_id=str(number), spec=spec, args=("x",), kwargs={})
        for number in range(3)
    ]

    run.together(*(partial(calls.keep, task) for task in tasks))
    assert [task.args for task in tasks].count(None) == 2, tasks


def receive_twice(run: Run) -> None:
    """Two threads have seen the same message, and one of them gets it."""
    inbox, found = Inbox(Mail(run.manager(1)._core.ledger), LiveTask()), list[object]()
    seen = [MessageRecord(1, "note", '"here"')]

    def receive() -> None:
        found.append(inbox.give("note", seen))

    run.together(receive, receive)
    assert sorted(found, key=bool) == [None, *seen], found


SCENARIOS: list[Callable[[Run], None]] = [
    keep_calls,
    keep_the_latest,
    receive_twice,
    cancel_or_complete,
    cancel_twice,
    limit_or_complete,
    limit_or_fail,
    retry_or_cancel,
    retry_or_limit,
    retry_or_shutdown,
    evict_or_wait,
    wait_or_end,
    wait_for_each_other,
    figures_or_change,
    subscribe_or_event,
    progress_or_end,
    one_id_twice,
    rare_fields,
    deliver_twice,
    evict_or_end_late,
    keep_few,
    last_place,
    hooks_and_limits,
    task_held_up,
    throttle_held_up,
    retry_held_up,
    first_tasks,
    attach_tracer_twice,
]
