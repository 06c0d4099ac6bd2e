"""Scenarios of tasks that another process may run: each starts in one of them at most."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from framework import background_task, retry_task, throttled_task
from framework._manager.core import Parts
from framework._manager.frameworks import Framework
from framework._manager.hosting.host import RemoteHost
from framework._manager.settings import Settings
from framework._manager.submitting.requeued import _Wait
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._threads.waiters import ThreadWaiter
from framework.protocols import StoreHost, WindowAnswer, WindowRequest
from framework.stores.memory import MemoryStore
from framework.stores.sql._backlog import Backlog
from tests.explore.ourselves.run import Gate, Run

RAN: list[int] = []
"""The numbers of the tasks that have started, here or in the other process."""


@background_task(on_restart="requeue", name="explored.requeued")
def requeued(number: int) -> None:
    """Note that it has started."""
    RAN.append(number)


BUSY: list[int] = []
"""The number of the task whose attempt is being made."""

FAILING: list[Gate] = []
"""One gate, which is open once a task is about to fail."""


@background_task(on_restart="requeue", name="explored.retried")
@retry_task(max_retries=1, retry_delay=1.0, exceptions=ConnectionError)
def retried(number: int) -> None:
    """Note that it has started, and fail the first time."""
    RAN.append(number)
    BUSY.append(number)
    if len(RAN) == 1:
        FAILING[0].open()
        BUSY.clear()
        raise ConnectionError
    BUSY.clear()


@background_task(on_restart="requeue", name="explored.throttled")
@throttled_task(rate_limit=1, time_window=1.0, when_limited="wait")
def throttled(number: int) -> None:
    """Note that its turn has come."""
    RAN.append(number)


class Row(NamedTuple):
    """What is written of a task.

    Attributes:
        task_id: The id.
        status: The status.
        state: The state of its `Restart`.
        starts: Whether its start is asked for.
    """

    task_id: str
    status: str
    state: str
    starts: bool


class Database(MemoryStore):
    """A store with the real backlog, and rows that this process shares with another one.

    A transaction is a method without a call into the framework, so nothing comes in between.

    Attributes:
        rows: Status and owner of each task, by id.
        alive: Whether the other process takes this one for alive.
        turns: When it is the turn of each call that stands in the line of a window.
    """

    durable = False

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.backlog = Backlog(run.clock)
        self.note = self.backlog.note
        self.secure = self.backlog.secure
        self.start = self.backlog.start
        self.rows: dict[str, tuple[str, str]] = {}
        self.alive = True
        self.own = "first"
        self.turns: dict[str, float] = {}
        self.host: StoreHost
        self._clock = run.clock

    def release(self, record: TaskRecord) -> None:
        """Queue the copy of a task that is free, and that nobody runs therefore."""
        assert BUSY == []
        self.backlog.release(record)

    def open(self, host: StoreHost) -> None:
        """Begin."""
        self.host = host

    def close(self, patience: float) -> None:
        """Refuse all starts."""
        self.backlog.close()

    def put(self, record: TaskRecord) -> None:
        """Queue a final record."""
        super().put(record)
        self.backlog.put(record)

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return the result as it is."""
        return result

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Find nothing."""
        return []

    def request_cancel(self, task_id: str) -> bool:
        """Find nothing."""
        return False

    def figures(self) -> dict[str, int]:
        """Count nothing."""
        return {}

    def reserve(self, request: WindowRequest, told: Callable[[WindowAnswer], object]) -> None:
        """Count a call one second after it has asked first."""
        now = self._clock.monotonic()
        wait = max(0.0, self.turns.setdefault(request.place, now + 1.0) - now)
        told(WindowAnswer(wait < request.within, wait, number=1))
        FAILING[0].open()

    def give_back(self, key: str, entry: str) -> None:
        """Keep all turns."""

    def write(self) -> None:
        """Write what waits, or find out that this process was given up, as the writer does."""
        records = self.backlog.take(10)
        rows = [self._row_of(one) for one in records]
        if not self._commit(rows):
            self.backlog.refuse_starts()
            self.host.interrupt("given up")
            self.own, self.alive = "second", True
            return
        for row in rows:
            if row.starts:
                written = self.rows.get(row.task_id)
                self.backlog.permit(row.task_id, written == ("running", self.own))
        self.backlog.written(records)

    def _row_of(self, record: TaskRecord) -> Row:
        restart = record.restart
        starts = self.backlog.starts(record.task_id)
        waits = record.status is TaskStatus.PENDING
        if restart is not None and waits and starts:
            restart.begin(0.0)
        has_begun = restart is not None and restart.started is not None
        return Row(
            str(record.task_id),
            "running" if has_begun and waits else record.status.value,
            "own" if restart is None else restart.state,
            starts,
        )

    def _commit(self, rows: list[Row]) -> bool:
        """Write in one transaction; False if this process was given up."""
        if not self.alive:
            return False
        for task_id, status, state, _ in rows:
            before, owner = self.rows.get(task_id, ("pending", self.own))
            if owner == self.own and state != "left" and before in ("pending", "running"):
                if state == "free":
                    self.rows[task_id] = ("pending", "")
                else:
                    self.rows[task_id] = (status, self.own)
        return True

    def take_over(self) -> None:
        """Be the other process, which takes this one for dead: end or run its tasks."""
        self.alive = False
        self.run_free(self.own)

    def run_free(self, owner: str = "") -> None:
        """Be the other process, and run what belongs to nobody, or to *owner*."""
        for task_id, (status, its) in self.rows.items():
            if its == owner and status == "pending":
                RAN.append(int(task_id, 16))
                self.rows[task_id] = ("completed", "other")
            elif its == owner and status == "running":
                self.rows[task_id] = ("interrupted", "other")


def with_database(run: Run, workers: int = 1) -> tuple[Framework, Database]:
    """Return a framework, and its store; the ids of its tasks are their numbers from 1."""
    RAN.clear()
    BUSY.clear()
    store, ids = Database(run), itertools.count(1)
    parts = Parts(
        clock=run.clock,
        pool=run.pool(workers),
        store=store,
        new_id=lambda: f"{next(ids):032x}",
        rng=run.random,
    )
    framework = Framework(parts, Settings())
    store.open(RemoteHost(framework.core))
    return framework, store


def check(framework: Framework, store: Database, count: int, *, lost: bool = False) -> None:
    """See that each task started once, and what the counters say.

    Args:
        framework: Is stopped.
        store: Its store.
        count: How many tasks there were.
        lost: Whether one whose start was written may never have started.
    """
    while store.backlog.waits:
        store.write()
    store.run_free()
    framework.core.stop()
    framework.pool.shutdown()
    ledger, often = framework.core.ledger, Counter(RAN)
    assert (ledger.pending, ledger.running) == (0, 0)
    assert ledger.submitted == sum(ledger.ended.values())
    for number in range(1, count + 1):
        status = store.rows[f"{number:032x}"][0]
        assert often[number] <= 1, (RAN, store.rows)
        assert often[number] == 1 or (lost and status == "interrupted"), (RAN, store.rows)


def requeue_beside_a_late_heartbeat(run: Run) -> None:
    """A process is given up while its tasks start: each starts here or there, and only once."""
    framework, store = with_database(run)
    manager = framework.manager
    for number in (1, 2):
        manager.submit_nowait(requeued, (number,))
    over: list[bool] = []

    def writer() -> None:
        while not over or store.backlog.waits:
            store.write()
            store.backlog.sleep(0.1)

    def other() -> None:
        store.take_over()
        run.sleep(1.0)
        store.run_free()
        over.append(True)

    run.together(writer, other)
    check(framework, store, 2, lost=True)


def let_go_or_start(run: Run) -> None:
    """Tasks are given away while they start: each starts here, or belongs to nobody."""
    framework, store = with_database(run)
    core = framework.core
    for number in (1, 2):
        framework.manager.submit_nowait(requeued, (number,))
    over: list[bool] = []

    def writer() -> None:
        while not over or store.backlog.waits:
            store.write()
            store.backlog.sleep(0.1)

    def let_go() -> None:
        for task in core.ledger.unfinished():
            core.requeued.let_go(task, "")
        run.sleep(1.0)
        over.append(True)

    run.together(writer, let_go)
    check(framework, store, 2)


def let_go_or_cancel(run: Run) -> None:
    """A task is given away while it is cancelled: it ends here once, or belongs to nobody."""
    framework, store = with_database(run)
    core, task_id = framework.core, framework.manager.submit_nowait(requeued, (1,), delay=50.0)
    (task,) = core.ledger.unfinished()
    run.together(
        lambda: core.requeued.let_go(task, ""),
        lambda: RemoteHost(core).cancel(task_id),
        store.write,
    )
    while store.backlog.waits:
        store.write()
    assert store.rows[task_id] in (("pending", ""), ("cancelled", "first"))
    assert (store.rows[task_id][0] == "cancelled") == bool(store.get(task_id))
    store.rows.clear()
    check(framework, store, 0)


def rest_or_let_go(run: Run) -> None:
    """A task fails, and rests until its next attempt, while it is given away: no third attempt."""
    framework, store, _ = _rest(run, retried, _let_all_go)
    _check_attempts(framework, store, {"completed"})


def rest_or_cancel(run: Run) -> None:
    """A task fails, and rests until its next attempt, while it is cancelled: it makes none."""
    framework, store, _ = _rest(run, retried, _cancel_all)
    _check_attempts(framework, store, {"cancelled"})
    assert RAN == [1]


def turn_or_let_go(run: Run) -> None:
    """A task rests until the turn of its throttle, while it is given away: it begins once."""
    framework, store, first = _rest(run, throttled, _let_all_go)
    _check_attempts(framework, store, {"completed"})
    assert RAN == [1]
    assert list(store.turns) == [first]


def turn_or_cancel(run: Run) -> None:
    """A task rests until the turn of its throttle, while it is cancelled: it does not begin."""
    framework, store, _ = _rest(run, throttled, _cancel_all)
    _check_attempts(framework, store, {"cancelled"})
    assert RAN == []


def _rest(
    run: Run, fn: Callable[[int], object], meanwhile: Callable[[Framework], None]
) -> tuple[Framework, Database, str]:
    """Submit a task, do something once it is about to rest, and let it go on."""
    framework, store = with_database(run)
    FAILING[:] = [Gate()]
    task_id = framework.manager.submit_nowait(fn, (1,))
    over: list[bool] = []

    def writer() -> None:
        while not over or store.backlog.waits:
            store.write()
            store.backlog.sleep(0.1)

    def do() -> None:
        FAILING[0].wait()
        meanwhile(framework)
        run.sleep(3.0)
        over.append(True)

    run.together(writer, do)
    return framework, store, task_id


def _let_all_go(framework: Framework) -> None:
    for task in framework.core.ledger.unfinished():
        framework.core.requeued.let_go(task, "")


def _cancel_all(framework: Framework) -> None:
    for task in framework.core.ledger.unfinished():
        RemoteHost(framework.core).cancel(task.task_id)


def _check_attempts(framework: Framework, store: Database, ends: Collection[str]) -> None:
    """See that a task that fails once has ended, after two attempts at the most."""
    while store.backlog.waits:
        store.write()
    store.run_free()
    framework.core.stop()
    framework.pool.shutdown()
    ledger = framework.core.ledger
    assert (ledger.pending, ledger.running) == (0, 0)
    ((status, _),) = store.rows.values()
    assert status in ends, (RAN, store.rows)
    assert len(RAN) <= 2, (RAN, store.rows)


def permit_or_leave(run: Run) -> None:
    """A permit comes when its thread stops waiting: it is used here, or passed on, and not both."""
    late: list[bool] = []
    used: list[bool | None] = []
    wait = _Wait(ThreadWaiter(run.clock), late.append)
    run.together(lambda: wait.told(True), lambda: used.append(wait.outcome(run.clock.monotonic())))
    assert used.count(True) + len(late) == 1


SCENARIOS: list[Callable[[Run], None]] = [
    permit_or_leave,
    requeue_beside_a_late_heartbeat,
    let_go_or_start,
    let_go_or_cancel,
    rest_or_let_go,
    rest_or_cancel,
    turn_or_let_go,
    turn_or_cancel,
]
