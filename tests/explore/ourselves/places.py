"""Scenarios of places: unique tasks, and those of which only some may run at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from framework._manager.submitting.held import Limited
from framework._tasks.live import current_record
from framework._tasks.places import GRANTED
from framework.exceptions import QueueFullError, TaskCancelledError
from tests.explore.ourselves.run import Gate, Run, wind_down
from tests.explore.ourselves.tasks import cancel, outcome


class _Counted:
    """A function that knows how many of its calls run, and how many there were."""

    def __init__(self) -> None:
        self.runs = self.running = self.most = 0

    def __call__(self) -> None:
        self.runs += 1
        self.running += 1
        self.most = max(self.most, self.running)
        # A line between the two, where another thread may have its turn.
        self.running -= 1


def _key() -> str:
    return "key"


def submit_unique_twice(run: Run) -> None:
    """Two threads submit the same unique task: both can wait for what they were given."""
    manager, body = run.manager(1), _Counted()
    met = Gate()
    manager.submit_nowait(met.wait)
    ids: list[str] = []

    def submit() -> None:
        task_id = manager.submit_nowait(body, unique=_key)
        ids.append(task_id)
        # None: it is there, whoever has submitted it, but has not started.
        assert outcome(manager, task_id, 0) is TimeoutError

    run.together(submit, submit)
    assert len(set(ids)) == 1, ids
    met.open()
    assert outcome(manager, ids[0]) is None
    assert body.runs == 1


def submit_unique_or_end(run: Run) -> None:
    """A unique task is submitted again as it ends, or is cancelled: none is lost or stuck."""
    manager, body = run.manager(2), _Counted()
    first = manager.submit_nowait(body, unique=_key)
    ids: list[str] = []

    def submit() -> None:
        ids.append(manager.submit_nowait(body, unique=_key))

    def again() -> None:
        outcome(manager, first)
        second = manager.submit_nowait(body, unique=_key)
        assert second != first
        ids.append(second)

    def stop() -> None:
        cancel(manager, first)

    run.together(submit, again, stop)
    for task_id in (first, *ids):
        assert outcome(manager, task_id) in (None, TaskCancelledError)
    assert body.most <= 1


def submit_unique_to_a_full_queue(run: Run) -> None:
    """A unique task is refused since the queue is full, and leaves its key to the next."""
    manager, body = run.manager(1, queue_size=1), _Counted()
    ids: list[str] = []

    def submit() -> None:
        with suppress(QueueFullError):
            ids.append(manager.submit_nowait(body, unique=_key))

    def fill() -> None:
        with suppress(QueueFullError):
            ids.append(manager.submit_nowait(body))

    run.together(submit, submit, fill)
    assert ids
    for task_id in ids:
        assert outcome(manager, task_id) is None
    assert outcome(manager, manager.submit_nowait(body, unique=_key)) is None


def replace_or_end(run: Run) -> None:
    """Tasks that replace each other: the last one runs, whenever those before it end."""
    manager, body = run.manager(2), _Counted()
    ids: list[str] = [manager.submit_nowait(body, unique=_key)]

    def replace() -> None:
        ids.append(manager.submit_nowait(body, unique=_key, on_duplicate="replace"))

    run.together(replace, replace)
    told = [outcome(manager, task_id) for task_id in ids]
    assert set(told) <= {None, TaskCancelledError}, told
    assert None in told[1:]
    assert body.most == 1


def replace_as_it_ends(run: Run) -> None:
    """A running task is replaced at the moment of its end: the new one runs."""
    manager, met = run.manager(2), Gate()
    manager.submit_nowait(met.wait, unique=_key)
    ids: list[str] = []

    def replace() -> None:
        ids.append(manager.submit_nowait(int, unique=_key, on_duplicate="replace"))

    run.together(replace, met.open)
    assert outcome(manager, ids[0], 1.0) == 0


def give_back_or_join(run: Run) -> None:
    """A place is given back as a new task asks for one, and as one that waits is cancelled."""
    manager, body = run.manager(2), _Counted()
    met = Gate()

    def held() -> None:
        met.wait()
        body()

    ids = [manager.submit_nowait(held, max_running=1, key=_key)]
    ids += [manager.submit_nowait(held, max_running=1, key=_key) for _ in range(2)]

    def submit() -> None:
        ids.append(manager.submit_nowait(held, max_running=1, key=_key))

    def stop() -> None:
        cancel(manager, ids[1])

    run.together(met.open, submit, stop)
    told = [outcome(manager, task_id) for task_id in ids]
    assert [told[0], *told[2:]] == [None] * 3, told
    assert told[1] in (None, TaskCancelledError)
    assert body.most == 1
    assert body.runs == told.count(None)


def give_back_or_wait(run: Run) -> None:
    """A place is given back as a task hears that it waits: a running task says nothing of it."""
    manager, met = run.manager(2), Gate()
    reasons: list[str] = []

    def tell(waits: bool) -> None:
        if waits:
            met.wait()
            return
        # The submission goes on, if it has not ended yet.
        run.sleep(1.0)
        record = current_record.get()
        assert record is not None
        reasons.append(record.reason)

    def submit() -> None:
        outcome(manager, manager.submit_nowait(tell, (False,), max_running=1))

    first = manager.submit_nowait(tell, (True,), max_running=1)
    run.together(submit, submit, submit, met.open)
    outcome(manager, first)
    assert reasons == ["", "", ""]


class _SlowAnswer:
    """An answer to a task that waits, while whose text is put together another thread comes."""

    granted = False

    def __init__(self, others: tuple[str, ...], come: Callable[[], None]) -> None:
        self._others = others
        self._come = come

    @property
    def others(self) -> tuple[str, ...]:
        """Those that have a place."""
        self._come()
        return self._others


def launch_or_wait(run: Run) -> None:
    """A task gets its place as it hears that it waits: once it runs, it says nothing of that."""
    manager, met, checked = run.manager(2), Gate(), Gate()
    reasons: list[str] = []

    def tell(waits: bool) -> None:
        if waits:
            met.wait()
            return
        # Whoever still tells it something goes on first.
        run.sleep(5.0)
        record = current_record.get()
        assert record is not None
        reasons.append(record.reason)

    first, second = (manager.submit_nowait(tell, (one,), max_running=1) for one in (True, False))
    intake = manager._core.intake
    limited = next(one for one in intake._partners if isinstance(one, Limited))
    task = manager._core.places.find(second)
    assert task is not None
    places = task.places
    assert places is not None
    request = places.running
    assert request is not None
    go_on = intake._launch

    # 1 it hears that it waits, and 2 before that is noted it gets its place, and starts.
    def come() -> None:
        checked.open()
        run.sleep(1.0)

    def wait() -> None:
        answer: Any = _SlowAnswer((first,), come)
        limited.told(task, places, request, go_on, answer)

    def grant() -> None:
        checked.wait()
        limited.told(task, places, request, go_on, GRANTED)

    run.together(wait, grant)
    met.open()
    outcome(manager, first)
    outcome(manager, second)
    assert reasons == [""]


def wait_or_cancel(run: Run) -> None:
    """A task is cancelled as it enters a line: it does not stay there."""
    manager, met = run.manager(2), Gate()

    def held() -> None:
        met.wait()

    first = manager.submit_nowait(held, max_running=1)

    def submit() -> None:
        manager.submit_nowait(held, max_running=1, task_id="waiting")

    def stop() -> None:
        cancel(manager, "waiting")

    run.together(submit, stop, met.open)
    outcome(manager, first)
    outcome(manager, "waiting")
    assert outcome(manager, manager.submit_nowait(held, max_running=1)) is None


def wait_or_shutdown(run: Run) -> None:
    """The manager is wound down while tasks wait for a place: each of them ends."""
    manager, met = run.manager(1), Gate()
    ids = [manager.submit_nowait(met.wait, max_running=1) for _ in range(3)]
    core = manager._core

    def stop() -> None:
        wind_down(core)
        for task_id in ids[1:]:
            cancel(manager, task_id)

    run.together(stop, met.open)
    for task_id in ids:
        assert outcome(manager, task_id) in (None, TaskCancelledError)


SCENARIOS: list[Callable[[Run], None]] = [
    submit_unique_twice,
    submit_unique_or_end,
    submit_unique_to_a_full_queue,
    replace_or_end,
    replace_as_it_ends,
    give_back_or_join,
    give_back_or_wait,
    launch_or_wait,
    wait_or_cancel,
    wait_or_shutdown,
]
