"""What a task costs that waits in a queue for a worker: ``python -m benchmarks.queues``.

asyncframe beside other queues, one after the other, round by round: pgqueuer, procrastinate and
DBOS on the same PostgreSQL, which waits for the disk; Celery, taskiq, docket and ARQ on a Redis
that does the same. So each submission is on disk when it returns. Workers have 20 places, and tasks
note that they run and do nothing else.

``backlog``: the workers stand still while all tasks are submitted, 100 at a time, and go on then.
``one by one``: a process submits half as many, one after the other, while the workers run them.
``start``: a process submits some with pauses, in which the worker has nothing to do.
``stream``: it submits some 50 a second.

The tables are for ``docs/scaling.md``. CPU times are of a task, in the workers together and in the
server; those of processes that start do not count. Tasks a second are from the moment at which the
workers go on to the start of the last task, and the start of a task is timed from the call that
submits it: both by the clock, so nothing else may run. Each figure is the middle of the rounds,
whose figures are printed as they come. A task that runs twice or never is an error. A queue that
fails is named with its error, and the others go on.

Install the others into an environment of their own, and ARQ into one more, since it needs an older
client of Redis::

    python -m venv queues
    queues/bin/pip install -r benchmarks/requirements-queues.txt -e .
    python -m venv queues/arq
    queues/arq/bin/pip install -r benchmarks/requirements-arq.txt
    queues/bin/python -m benchmarks.queues

``--help`` names the arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks._measure import APART, ROOT, percentile, rotated
from benchmarks._report import Table
from benchmarks._servers import Place, databases, spent
from benchmarks.queueing import _marks
from tests.processes.servers import RedisServer

WARM: Final = 20
STARTS: Final = {"start": 40, "stream": 100}
"""How many tasks are timed."""
_ORDERS: Final = {"start": "spaced", "stream": "stream"}
_PATIENCE: Final = 90.0
"""Seconds after which a measurement is given up."""


class Queue(NamedTuple):
    """A queue that is measured.

    Attributes:
        title: For readers; has the place of its version.
        package: Its distribution.
        server: What it keeps its tasks in.
        apart: Whether it has the environment `APART`.
    """

    title: str
    package: str
    server: str = "postgresql"
    apart: bool = False

    @property
    def python(self) -> str:
        """The interpreter that has it."""
        return str(APART / "bin" / "python") if self.apart else sys.executable


QUEUES: Final = {
    "ours": Queue("asyncframe on PostgreSQL", "asyncframe"),
    "pgqueuer": Queue("pgqueuer {}", "pgqueuer"),
    "procrastinate": Queue("procrastinate {}", "procrastinate"),
    "dbos": Queue("DBOS {}", "dbos"),
    "celery": Queue("Celery {} on Redis", "celery", "redis"),
    "taskiq": Queue("taskiq {} on Redis", "taskiq", "redis"),
    "docket": Queue("docket {} on Redis", "pydocket", "redis"),
    "arq": Queue("ARQ {} on Redis", "arq", "redis", apart=True),
}

CASES: Final[Mapping[int, Sequence[str]]] = {
    1: ("backlog", "one by one", "start", "stream"),
    2: ("backlog",),
    4: ("backlog", "one by one"),
}
"""What is measured with so many workers."""


class Costs(NamedTuple):
    """CPU time of a task, in microseconds, and how many are run in a second."""

    workers: float
    server: float
    submits: float
    rate: float


@dataclass
class Found:
    """What measurements of a queue gave.

    Attributes:
        costs: Of each round, by the case and the number of workers.
        starts: From the call that submits to the task's start, in seconds, by the case.
        errors: Why a number of workers was not measured again.
    """

    costs: dict[tuple[str, int], list[Costs]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: dict[int, str] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> None:
    """Measure all queues, round by round, and print the tables."""
    options = parsed(arguments)
    tasks, minutes, names = options.tasks, options.minutes, options.queue
    found = {name: Found() for name in names}
    began, took, rounds = time.perf_counter(), 0.0, 0
    with databases("postgresql") as places:
        while rounds == 0 or time.perf_counter() - began + took < 60 * minutes:
            since = time.perf_counter()
            for count, cases in CASES.items():
                for name in rotated(names, rounds):
                    _measure(name, places, count, cases, tasks, found[name])
            took, rounds = time.perf_counter() - since, rounds + 1
    _say(f"\n{_rounds(rounds)}, {tasks:,} tasks in a backlog, Python {sys.version.split()[0]}\n")
    for table in (_costs(found), _speeds(found)):
        _say(f"{table.as_markdown()}\n")
    for name, one in found.items():
        for count, error in one.errors.items():
            _say(f"{_title(name)}, {_workers(count)}: {error}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; leave with a message if there is one that is not known."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.queues",
        description="Measure what a task costs that waits in a queue for a worker.",
    )
    known = ", ".join(QUEUES)
    parser.add_argument("queue", nargs="*", help=f"what to measure: {known}; all if none is named")
    parser.add_argument("--tasks", type=int, default=2_000, help="in a backlog (%(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=14.0,
        help="no round begins that would end later, except for the first (%(default)s)",
    )
    options = parser.parse_args(arguments)
    options.queue = options.queue or list(QUEUES)
    if unknown := [one for one in options.queue if one not in QUEUES]:
        parser.error(f"no queue is called {unknown[0]!r}; there are {known}")
    return options


def _measure(
    name: str, places: Iterator[Place], count: int, cases: Sequence[str], tasks: int, found: Found
) -> None:
    """Measure a queue once, unless it has failed before, and say what was found."""
    if count in found.errors:
        return
    try:
        if QUEUES[name].server == "redis":
            with _redis() as place:
                measured(name, place, count, cases, tasks, found)
        else:
            measured(name, next(places), count, cases, tasks, found)
    except Exception as error:  # of a package that may not work here
        found.errors[count] = str(error) or repr(error)
        _say(f"{name}, {_workers(count)}: {found.errors[count]}")
        return
    for case in cases:
        if case in STARTS:
            latest = found.starts[case][-STARTS[case] :]
            _say(f"{case}, {_workers(count)}, {name}: {_milliseconds(latest)} ms")
        else:
            costs = found.costs[case, count][-1]
            _say(
                f"{case}, {_workers(count)}, {name}: {costs.workers:.0f} µs in workers, "
                f"{costs.server:.0f} in the server, {costs.submits:.0f} to submit, "
                f"{costs.rate:,.0f} tasks/s"
            )


@contextmanager
def _redis() -> Iterator[Place]:
    """Run a Redis that has each command on disk before it answers.

    By default it would write once a second, and a machine that stops would lose what was accepted
    in it: then its submissions could not stand beside those of a PostgreSQL, which waits.
    """
    with closing(RedisServer("--appendonly", "yes", "--appendfsync", "always")) as server:
        server.start()
        yield server.url, [server.pid]


# -- one measurement


def measured(
    name: str,
    place: Place,
    count: int,
    cases: Sequence[str],
    tasks: int,
    found: Found,
    starts: int | None = None,
) -> None:
    """Measure a queue in an empty database, with so many workers.

    Raises:
        RuntimeError: If a process of it fails, or a task has run twice, or never.
    """
    sizes = {"backlog": tasks, "one by one": tasks // 2}
    sizes |= STARTS if starts is None else dict.fromkeys(STARTS, starts)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "marks")
        marks = _marks.make_marks(path, WARM + sum(sizes[case] for case in cases))
        with _Processes(
            name, Path(folder) / "log", {_marks.URL: place[0], _marks.MARKS: path}
        ) as at:
            session = _Session(at, count, marks, place[1])
            for case in cases:
                session.measure(case, sizes[case], found)
            session.ended()
    runs = {marks[number][0] for number in range(session.submitted)}
    if runs != {1}:
        raise RuntimeError(f"tasks have run so often: {sorted(runs)}")


class _Processes:
    """Starts the processes of a queue, and ends them, at the latest when patience does.

    Args:
        name: The queue.
        log: The file that they write their errors to.
        environment: Variables for them.
    """

    def __init__(self, name: str, log: Path, environment: Mapping[str, str]) -> None:
        self._name, self._log, self._environment = name, log, environment
        self._stack = ExitStack()
        self._all: list[subprocess.Popen[str]] = []
        self._patience = threading.Timer(_PATIENCE, self.send, [signal.SIGKILL])

    def __enter__(self) -> _Processes:
        self._patience.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        for one in self._all:
            one.terminate()
        for one in self._all:
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(one.pid, signal.SIGKILL)
        self._stack.close()

    def started(self, what: str) -> subprocess.Popen[str]:
        """Return a process that has been started; it may not be ready yet."""
        python = QUEUES[self._name].python
        made = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.queueing", self._name, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stack.enter_context(self._log.open("a")),
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self._environment},
            # Some start others, which stand still and go on with them.
            start_new_session=True,
        )
        self._all.append(self._stack.enter_context(made))
        return made

    def said(self, process: subprocess.Popen[str], part: str) -> str:
        """Return the next line of a process that has this part.

        Raises:
            RuntimeError: If it ends before.
        """
        assert process.stdout is not None
        for line in process.stdout:
            if part in line:
                return line
        late = "" if self._patience.is_alive() else f"gave up after {_PATIENCE:.0f} s; "
        lines = [line for line in self._log.read_text().splitlines() if line.strip()]
        raise RuntimeError(f"{late}its last line: {lines[-1] if lines else 'none'}")

    def send(self, number: signal.Signals, some: Iterable[subprocess.Popen[str]] = ()) -> None:
        """Send a signal to some processes and their children; to all if none is given."""
        for one in some or self._all:
            os.killpg(one.pid, number)


class _Session:
    """The workers of a queue, and the process that submits, while they are measured.

    Attributes:
        submitted: How many tasks there have been.
    """

    def __init__(
        self, processes: _Processes, count: int, marks: _marks.Marks, servers: Sequence[int]
    ) -> None:
        self._processes, self._marks, self._servers = processes, marks, servers
        self.submitted = 0
        self._submits = processes.started("submit")
        # What a queue needs is there before its workers ask for it.
        processes.said(self._submits, _marks.READY)
        self._workers = [processes.started("work") for _ in range(count)]
        for one in self._workers:
            processes.said(one, _marks.READY)
        self._submit("one", WARM)
        self.ended()

    def measure(self, case: str, tasks: int, found: Found) -> None:
        """Submit tasks, wait for their end, and add what they cost to *found*."""
        if case in STARTS:
            first = self.submitted
            moments = self._submit(_ORDERS[case], tasks)
            self.ended()
            found.starts[case] += [
                self._marks[first + at][1] - one for at, one in enumerate(moments)
            ]
            return
        first, before = self.submitted, self._spent()
        if case == "backlog":
            self._processes.send(signal.SIGSTOP, self._workers)
            submits = self._submit("many", tasks)
            before, since = self._spent(), time.perf_counter()
            self._processes.send(signal.SIGCONT, self._workers)
        else:
            since, submits = time.perf_counter(), self._submit("one", tasks)
        self.ended()
        worked, served = (now - then for now, then in zip(self._spent(), before, strict=True))
        last = max(self._marks[number][1] for number in range(first, self.submitted))
        each = 1e6 / tasks
        costs = Costs(worked * each, served * each, submits * each, tasks / (last - since))
        found.costs[case, len(self._workers)].append(costs)

    def ended(self) -> None:
        """Wait until all tasks have run, and none is left that is not acknowledged.

        Raises:
            RuntimeError: If patience ends before.
        """
        while not all(self._marks[at][0] for at in range(self.submitted)) or self._asked("left"):
            # Nothing tells of the end in all queues.
            time.sleep(0.1)  # noqa: TID251 - as above

    def _submit(self, order: str, tasks: int) -> Any:  # Any: as the order says
        first, self.submitted = self.submitted, self.submitted + tasks
        return self._asked(f"{order} {first} {self.submitted}")

    def _asked(self, order: str) -> Any:  # Any: as above
        assert self._submits.stdin is not None
        self._submits.stdin.write(f"{order}\n")
        self._submits.stdin.flush()
        return json.loads(self._processes.said(self._submits, _marks.ANSWER))["answer"]

    def _spent(self) -> tuple[float, float]:
        return spent(one.pid for one in self._workers), spent(self._servers)


# -- the tables


def _costs(found: Mapping[str, Found]) -> Table:
    """Return the table of CPU times: in the workers, and in the server."""
    keys = [(case, count) for case in ("backlog", "one by one") for count in (1, 4)]
    lines = [
        [_title(name), *(_middle(one.costs.get(key), "workers", "server") for key in keys)]
        for name, one in found.items()
    ]
    return Table(["", *(f"{case}, {_workers(count)}" for case, count in keys)], lines)


def _speeds(found: Mapping[str, Found]) -> Table:
    """Return the table of tasks a second, of starts, and of what it costs to submit."""
    lines = [
        [
            _title(name),
            *(_middle(one.costs.get(("backlog", count)), "rate") for count in CASES),
            *(_milliseconds(one.starts[case]) if one.starts[case] else "-" for case in STARTS),
            _middle(one.costs.get(("one by one", 1)), "submits"),
            _middle(one.costs.get(("backlog", 1)), "submits"),
        ]
        for name, one in found.items()
    ]
    rates = (f"tasks a second, {_workers(count)}" for count in CASES)
    times = ("start in ms, p50 / p95", "at 50 a second")
    return Table(["", *rates, *times, "submit one", "100 together"], lines)


def _middle(costs: Sequence[Costs] | None, *names: str) -> str:
    """Return the middle of what some rounds gave; a dash for none."""
    if not costs:
        return "-"
    middles = [statistics.median(getattr(one, name) for one in costs) for name in names]
    return " + ".join(f"{one:,.0f}" for one in middles)


def _milliseconds(starts: Sequence[float]) -> str:
    """Return the middle of some times, and what all but five of a hundred stay below."""
    return " / ".join(f"{1e3 * percentile(starts, share):.1f}" for share in (0.5, 0.95))


def _title(name: str) -> str:
    queue = QUEUES[name]
    if "{}" not in queue.title:
        return queue.title
    told = "import importlib.metadata as found, sys; print(found.version(sys.argv[1]))"
    try:
        asked = subprocess.run(
            [queue.python, "-c", told, queue.package], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return queue.title.format("not installed")
    return queue.title.format(asked.stdout.strip())


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
