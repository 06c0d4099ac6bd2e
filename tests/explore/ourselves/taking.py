"""Scenarios of two processes that share a database, and start what waits in whichever has a thread.

Each process is a whole one: a framework with a pool, and its store with the store's own thread. The
database is a real file. Its transactions come one at a time, and the explorer chooses in which
order: so it searches the rule of sharing and of claims as it is written.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from framework import Task, background_task, current_task
from framework._manager.core import Parts
from framework._manager.frameworks import Framework
from framework._manager.hosting.host import RemoteHost
from framework._manager.settings import Settings
from framework._records.records import TaskRecord
from framework._tasks.live import current_home
from framework._threads.watch import processes
from framework.stores.sql import SQLStore
from framework.stores.sql._reading.arrivals import Arrivals, Claimed
from framework.stores.sql._shared.free import orphans
from framework.stores.sql._shared.site import Pace
from framework.stores.sql._tables.database import Database
from framework.stores.sql._tables.schema import PROCESSES
from tests.explore.ourselves.run import Gate, Run

PLACES = 1
"""How many threads each process has."""

LIMIT = 1
"""How many limited tasks run at a time."""

BODY, LONG = 0.3, 4.0
"""Virtual seconds that a task takes."""

SOON = 2.0
"""Virtual seconds within which a waiting task starts where a thread is free."""

SETTLED = 8.0
"""Virtual seconds within which all tasks have ended."""


_HELD = sa.text(
    "SELECT process, count(*) AS many FROM asyncframe_tasks WHERE ended_at IS NULL GROUP BY process"
)


class Work:
    """What the tasks of one run have done.

    Args:
        run: The run.

    Attributes:
        run: The run.
        gate: Lets the gated tasks end.
        begun: The number of each task that has begun, and when, in order.
        most: How many there were at a time at most of what was counted.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.gate = Gate()
        self.begun: list[tuple[int, float]] = []
        self._live = list[tuple[Task, object]]()
        self.most = Counter[object]()

    def do(self, wait: Callable[[], object], *counted: object) -> None:
        """Run the current task, whose id is its number, in the current process."""
        task, home = current_task(), current_home.get()
        assert task is not None
        assert home is not None
        counted = (home.core, *counted)
        self.begun.append((int(task.task_id, 16), self.run.clock.monotonic()))
        ours = [(task, one) for one in counted]
        self._live += ours
        # The function of a task that was interrupted runs on, beside its thread's successor.
        live = Counter(one for other, one in self._live if not other.status.is_final)
        self.most |= live
        wait()
        self._live = [one for one in self._live if one not in ours]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the tasks that have begun, in order."""
        return [number for number, _ in self.begun]


WORK: dict[str, Work] = {}
"""That of the run, by an empty name."""


@background_task(on_restart="requeue", name="explored.shared")
def shared(seconds: float = BODY) -> None:
    """Run in any process."""
    work = WORK[""]
    work.do(lambda: work.run.sleep(seconds))


@background_task(on_restart="requeue", name="explored.shared_limited", max_running=LIMIT)
def limited() -> None:
    """Run in any process, as one of few."""
    work = WORK[""]
    work.do(lambda: work.run.sleep(BODY), "limited")


@background_task(on_restart="requeue", name="explored.shared_gated")
def gated() -> None:
    """Run in any process, until the scenario lets it end."""
    work = WORK[""]
    work.do(work.gate.wait)


class Processes:
    """Two processes of one database.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._names, self._ids = count(1), count(1)
        # Each transaction holds it, since the file's own lock is none of the explorer's.
        self._turn = threading.Lock()
        folder = Path(mkdtemp(prefix="asyncframe-explored-"))
        run.stack.callback(rmtree, folder)
        self._url = f"sqlite:///{folder / 'tasks.db'}"
        self.work = WORK[""] = Work(run)
        self._held = Counter[str]()
        self._given_up = ""
        run.replace(Database, "_transaction", self._transaction)
        run.replace(processes, "process_id", lambda: f"{next(self._names):032x}")
        self.one, self.two = self._start(), self._start()

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        with self._turn, engine.connect() as connection:
            with connection.begin():
                yield connection
            self._look(connection)

    def _look(self, connection: Connection) -> None:
        """Note how many tasks each process has, after a commit."""
        # The first ones make the tables.
        with connection.begin():
            if sa.inspect(connection).has_table("asyncframe_tasks"):
                found = {row.process: row.many for row in connection.execute(_HELD)}
                self._held |= Counter(found)

    @property
    def held(self) -> int:
        """How many tasks of the database a process has had at most that was not given up."""
        return max(self._held[one] for one in self._held if one not in ("", self._given_up))

    def _start(self) -> Framework:
        store = SQLStore(self._url)
        store._pace = Pace(look=0.2, glance=0.1, pause_min=0.2)
        parts = Parts(
            clock=self._run.clock,
            pool=self._run.pool(PLACES),
            store=store,
            new_id=lambda: f"{next(self._ids):032x}",
            rng=self._run.random,
        )
        made = Framework(parts, Settings())
        made.connect()
        made.core.takes_over = True
        return made

    def store(self, framework: Framework) -> SQLStore:
        """Return the store of a process."""
        found = framework.core.ledger.shared
        assert isinstance(found, SQLStore)
        return found

    def give_up_second(self) -> None:
        """Do in one transaction what a third process does that takes the second one for dead."""
        site, given_up = self.store(self.one)._writer._site, self.store(self.two)._writer.membership
        self._given_up = given_up.process_id
        with site.turn() as (connection, version, _):
            own = PROCESSES.c.process_id == self._given_up
            connection.execute(sa.delete(PROCESSES).where(own))
            dialect, process = site.database.dialect, site.membership.process_id
            now = self._run.clock.time()
            orphans.settle(connection, dialect, process, version, now, chained=False)

    def end(self) -> dict[int, str]:
        """Wait until all tasks have ended and stop both; return their statuses, by their numbers.

        What holds in every scenario is checked: nothing begins twice or is forgotten, no process
        runs more than it has threads, and the counters of both agree.
        """
        self._run.sleep(SETTLED)
        with self.store(self.one)._database.reading() as connection:
            query = sa.text("SELECT task_id, status FROM asyncframe_tasks")
            found = {int(task_id, 16): str(status) for task_id, status in connection.execute(query)}
        for one in (self.one, self.two):
            one.close(5.0)
            one.pool.shutdown()
            left = (one.core.ledger.pending, one.core.ledger.running, len(self.store(one)._backlog))
            assert left == (0, 0, 0), left
        assert max(Counter(self.work.numbers).values()) == 1, self.work.begun
        assert set(found.values()) <= {"completed", "cancelled", "interrupted"}, found
        assert max(self.work.most.values()) == 1, self.work.most
        completed = {number for number, status in found.items() if status == "completed"}
        assert completed <= set(self.work.numbers), (found, self.work.begun)
        return found


def check_order(numbers: list[int]) -> None:
    """Check that of some tasks only one is late, which its process has kept for its own thread."""
    late = [number for at, number in enumerate(numbers) if number < max(numbers[: at + 1])]
    assert len(late) <= PLACES, numbers


def share_a_burst(run: Run) -> None:
    """What waits at a busy process starts soon in one that has a thread, in its order."""
    made = Processes(run)
    submit = made.one.manager.submit_nowait
    submit(shared, (LONG,))
    run.sleep(0.5)
    since = run.clock.monotonic()
    for _ in range(3):
        submit(shared)
        run.sleep(0.01)
    assert set(made.end().values()) == {"completed"}
    check_order(made.work.numbers)
    assert made.work.begun[-1][1] < since + SOON + 2 * BODY, made.work.begun


def share_both_ways(run: Run) -> None:
    """Both processes are given tasks at once: each starts once, and none waits beside a thread."""
    made = Processes(run)
    submit_one, submit_two = made.one.manager.submit_nowait, made.two.manager.submit_nowait
    run.together(
        lambda: [submit_one(shared) for _ in range(3)],
        lambda: submit_two(shared),
    )
    assert list(made.end().values()) == ["completed"] * 4
    assert made.work.begun[-1][1] < SOON + 2 * BODY, made.work.begun


def come_back(run: Run) -> None:
    """A process gives tasks away as the other one's thread is taken: their order stays."""
    made = Processes(run)
    submit_one, submit_two = made.one.manager.submit_nowait, made.two.manager.submit_nowait
    submit_one(shared, (1.0,))
    run.sleep(0.5)

    numbers = list[int]()

    def burst() -> None:
        for _ in range(3):
            numbers.append(int(submit_one(shared), 16))
            run.sleep(0.01)

    run.together(burst, lambda: submit_two(shared, (LONG,)))
    assert set(made.end().values()) == {"completed"}
    order = [number for number in made.work.numbers if number in numbers]
    check_order(order)


def limit_both(run: Run) -> None:
    """Limited tasks of both processes run one at a time, wherever they run."""
    made = Processes(run)
    submit_one, submit_two = made.one.manager.submit_nowait, made.two.manager.submit_nowait
    run.together(
        lambda: [submit_one(limited) for _ in range(3)],
        lambda: submit_two(limited),
    )
    assert list(made.end().values()) == ["completed"] * 4


def give_up(run: Run) -> None:
    """A process is given up while tasks come and go: each starts once at most, none is lost."""
    made = Processes(run)
    submit = made.one.manager.submit_nowait
    submit(shared)

    def others() -> None:
        run.sleep(0.1)
        made.give_up_second()

    def burst() -> None:
        for _ in range(4):
            submit(shared)
            run.sleep(0.05)

    run.together(burst, others)
    ended = Counter(made.end().values())
    assert ended["interrupted"] <= PLACES, ended
    assert ended["completed"] + ended["interrupted"] == 5, ended


def cancel_or_take(run: Run) -> None:
    """A task is cancelled by another process while it is given away: it ends so, or runs."""
    made = Processes(run)
    submit = made.one.manager.submit_nowait
    submit(shared, (1.0,))
    run.sleep(0.2)
    waits = submit(shared)
    run.together(lambda: made.store(made.two).request_cancel(waits), lambda: submit(shared))
    found = made.end()
    number = int(waits, 16)
    assert found[number] == "cancelled" or number in made.work.numbers, found
    assert {status for one, status in found.items() if one != number} == {"completed"}, found


def begin_or_be_given_up(run: Run) -> None:
    """A process is given up as its next task is about to start: others take what it has, in turn.

    They take no more of it at a time than they have threads.
    """
    made = Processes(run)
    made.one.manager.submit_nowait(shared, (1.5,))
    submit = made.two.manager.submit_nowait
    submit(shared, (1.0,))
    run.sleep(0.5)
    for _ in range(3):
        submit(shared)

    def others() -> None:
        run.sleep(0.4)
        made.give_up_second()

    run.together(others)
    ended = Counter(made.end().values())
    assert ended["interrupted"] <= PLACES, ended
    assert ended["completed"] + ended["interrupted"] == 5, ended
    assert made.held <= PLACES, made.held


def begin_or_go_back(run: Run) -> None:
    """A task is given back whose turn comes at that moment: it starts once, here or there.

    1 The second process claims it, 2 another one takes its thread there, 3 the first process has a
    thread again, 4 the other one ends as the second process gives the task back.
    """
    made = Processes(run)
    submit_one, submit_two = made.one.manager.submit_nowait, made.two.manager.submit_nowait
    take, give_away, gate = Arrivals.take, RemoteHost.give_away, made.work.gate
    between = [lambda: submit_two(gated)]

    def take_later(arrivals: Arrivals, claimed: Claimed) -> None:
        if claimed.records and between:
            between.pop()()
        take(arrivals, claimed)

    def give_away_later(host: RemoteHost, records: Sequence[TaskRecord]) -> None:
        if records and not between:
            gate.open()
        give_away(host, records)

    submit_one(shared, (2.5,))
    run.sleep(1.5)
    run.replace(Arrivals, "take", take_later)
    run.replace(RemoteHost, "give_away", give_away_later)
    submit_one(shared)
    run.sleep(4.0)
    gate.open()
    ended = made.end()
    assert list(ended.values()) == ["completed"] * 3, (ended, made.work.begun)


SCENARIOS: list[Callable[[Run], None]] = [
    share_a_burst,
    share_both_ways,
    come_back,
    limit_both,
    give_up,
    begin_or_be_given_up,
    begin_or_go_back,
    cancel_or_take,
]
