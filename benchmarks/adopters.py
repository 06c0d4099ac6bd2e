"""What a task costs in an app, beside what others offer: every process is a real one.

For each way to run tasks there are an app under uvicorn, a worker process if the way has workers,
and a Redis or PostgreSQL if it needs one, all of them started anew in each round. Each way runs
the same task, which does nothing, at most `AT_ONCE` of them at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from benchmarks._measure import APART, OURS, ROOT, Samples, rotated
from benchmarks._rows import Row
from benchmarks._servers import databases
from benchmarks.adopters_load import CONNECTIONS, Running, Sizes, figures
from benchmarks.ways import _task
from tests.processes.servers import RedisServer
from tests.programs import everywhere

NO_TASK = "no task"
CREATE_TASK = "asyncio.create_task"
CELERY = "Celery"

APP = "In the app's process"
DATABASE = "In the app's process, kept in a database"
WORKERS = "In worker processes, through Redis"

_WAYS = "benchmarks.ways"
_NO_RESULTS = Sizes(results=0)
_THROUGH_REDIS = Sizes(one_by_one=300, at_once=1_000, results=100, burst=1_000)
_POLLED = Sizes(one_by_one=300, at_once=400, results=6, burst=400)
_SELDOM = Sizes(one_by_one=100, at_once=100, results=20, burst=100)
_CELERY = ("-W", "ignore", "-m", "celery", "-q")
_CELERY_OPTIONS = (
    *("worker", "--pool", "prefork", "--concurrency", str(_task.AT_ONCE)),
    *("--without-gossip", "--without-mingle", "--loglevel", "WARNING"),
)
_DOCKET_WORKER = (
    *("-m", "docket", "worker", "--docket", "adopters", "--tasks", f"{_WAYS}.with_docket:tasks"),
    *("--concurrency", str(_task.AT_ONCE), "--logging-level", "ERROR"),
)
_TASKIQ_WORKER = (
    *("-m", "taskiq", "worker", f"{_WAYS}.with_taskiq:broker", "--workers", "1"),
    *("--max-async-tasks", str(_task.AT_ONCE), "--log-level", "ERROR"),
)


@dataclass(frozen=True)
class Case:
    """A way to run tasks, and what it takes to measure it.

    Attributes:
        way: As `benchmarks.adopters_app.make_app` takes it.
        where: Where tasks run and are kept: `APP`, `DATABASE` or `WORKERS`.
        label: What it is called among those of the same place; "" for its name.
        sizes: How much of everything.
        worker: Arguments of the interpreter that start a worker; empty for none.
        server: What keeps its tasks: ``redis``, ``postgresql``, ``sqlite``, or "" for none.
        needs: Modules that must be installed.
        peer: Whether it takes something that is installed only to compare with it.
        apart: Whether it runs in the environment `APART`.
    """

    way: str
    where: str = APP
    label: str = ""
    sizes: Sizes = field(default_factory=Sizes)
    worker: Sequence[str] = ()
    server: str = ""
    needs: Sequence[str] = ()
    peer: bool = True
    apart: bool = False

    @property
    def python(self) -> str:
        """The interpreter of its processes."""
        return str(APART / "bin" / "python") if self.apart else sys.executable

    @property
    def obstacle(self) -> str:
        """Why it cannot be measured here; "" if it can."""
        if self.apart and not Path(self.python).exists():
            return "its environment is not there; `make bench` makes it"
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)} is not installed"
        program = {"redis": "redis-server", "postgresql": "postgres"}.get(self.server, "setpriv")
        if shutil.which(program, path=everywhere(program)) is None:
            return f"{program} is not installed"
        return ""


def _on_celery(way: str, *, peer: bool = True) -> Case:
    worker = (*_CELERY, "-A", f"{_WAYS}.{way}:celery_app", *_CELERY_OPTIONS)
    needs = ["celery", "redis"]
    return Case(f"{way}:way", WORKERS, "", _THROUGH_REDIS, worker, "redis", needs=needs, peer=peer)


def _taskiq(name: str, label: str, sizes: Sizes) -> Case:
    needs = ["taskiq_redis"]
    return Case(f"with_taskiq:{name}", WORKERS, label, sizes, _TASKIQ_WORKER, "redis", needs)


def _arq(name: str, label: str, sizes: Sizes) -> Case:
    worker = ("-m", "arq", f"{_WAYS}.with_arq.{name.title()}")
    return Case(f"with_arq:{name}", WORKERS, label, sizes, worker, "redis", apart=True)


CASES: dict[str, Case] = {
    NO_TASK: Case("nothing", sizes=_NO_RESULTS, peer=False),
    CREATE_TASK: Case("in_process:create_task", peer=False),
    "BackgroundTasks, async": Case("background:async", sizes=_NO_RESULTS, peer=False),
    "BackgroundTasks, sync": Case("background:sync", sizes=_NO_RESULTS, peer=False),
    OURS: Case("ours:memory", label="asyncframe, async", peer=False),
    "asyncframe, sync": Case("ours:memory_sync", peer=False),
    "taskiq in memory, async": Case(
        "in_process:taskiq", label="taskiq, async", needs=["taskiq"]
    ),
    "taskiq in memory, sync": Case(
        "in_process:taskiq_sync", label="taskiq, sync", needs=["taskiq"]
    ),
    "docket in memory": Case(
        "in_process:docket", label="docket", sizes=_THROUGH_REDIS, needs=["docket"]
    ),
    "asyncframe with SQLite": Case(
        "ours:stored", DATABASE, "asyncframe, SQLite", server="sqlite",
        needs=["sqlalchemy"], peer=False,
    ),
    "asyncframe with PostgreSQL": Case(
        "ours:stored", DATABASE, "asyncframe, PostgreSQL", server="postgresql",
        needs=["sqlalchemy", "psycopg"], peer=False,
    ),
    "asyncframe on Celery": _on_celery("ours_on_celery", peer=False),
    CELERY: _on_celery("celery_alone"),
    "taskiq with Redis": _taskiq("fast", "taskiq", _THROUGH_REDIS),
    "taskiq with Redis, default polling": _taskiq("default", "taskiq, by default", _POLLED),
    "ARQ": _arq("fast", "", _THROUGH_REDIS),
    "ARQ, default polling": _arq("default", "ARQ, by default", _POLLED),
    "docket with Redis": Case(
        "with_docket:way", WORKERS, "docket", _THROUGH_REDIS, ("-m", f"{_WAYS}.with_docket"),
        "redis", ["docket"],
    ),
    "docket with Redis, default polling": Case(
        "with_docket:way", WORKERS, "docket, by default", _SELDOM, _DOCKET_WORKER,
        "redis", ["docket"],
    ),
}  # fmt: skip
"""By name, in the order of the page."""

VARIANTS = [name for name in CASES if name.startswith("asyncframe") and name != OURS]


# -- processes


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], *, is_read: bool
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a process with all that it starts, and kill them at the end.

    Args:
        command: The program and its arguments.
        environment: Further variables.
        is_read: Whether somebody reads its stdout.

    Yields:
        It, and the file with what it writes besides.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_read else errors,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            yield process, errors
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def _server(kind: str) -> Iterator[tuple[str, Sequence[int]]]:
    """Start what keeps tasks; yield its address and its processes."""
    with ExitStack() as stack:
        if kind == "redis":
            server = stack.enter_context(closing(RedisServer("--appendonly", "no")))
            server.start()
            yield server.url, [server.pid]
        elif kind:
            yield next(stack.enter_context(databases(kind)))
        else:
            yield "", []


def measured(case: Case) -> dict[str, float]:
    """Start all that a case needs, measure it once, and end it.

    Raises:
        RuntimeError: If a process fails, or a task is lost or runs twice.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "marks"
        path.write_bytes(bytes(_task.TASKS))
        url, servers = stack.enter_context(_server(case.server))
        environment = {_task.MARKS: str(path), _task.URL: url, "DOCKET_URL": url}
        logs, workers = [], []
        if case.worker:
            command = [case.python, *case.worker]
            process = _process(command, environment, is_read=False)
            worker, errors = stack.enter_context(process)
            workers, logs = [worker.pid], [errors]
        command = [case.python, "-m", "benchmarks.adopters_app", case.way]
        app, errors = stack.enter_context(_process(command, environment, is_read=True))
        logs.append(errors)
        assert app.stdout is not None
        line = app.stdout.readline()
        marks = stack.enter_context(_task.marks(str(path)))
        try:
            port = json.loads(line)["port"]
            running = Running(port, marks, app.pid, workers, servers, case.way != "nothing")
            return figures(running, case.sizes)
        except Exception as error:
            raise RuntimeError(f"{error}\n{_told(logs)}") from error


def _told(logs: Sequence[IO[str]]) -> str:
    found = []
    for log in logs:
        log.seek(0)
        found.append(log.read()[-2_000:])
    return "\n".join(found)


# -- rows


@dataclass(frozen=True)
class _Figure:
    """One row: what of a measurement is in it.

    Attributes:
        title: For readers.
        unit: Such as ``µs``.
        floor: What it is compared with.
        note: For readers.
    """

    title: str
    unit: str
    floor: str
    note: str = ""


FIGURES = {
    "request_cpu": _Figure(
        "CPU time of the app for a request that starts a task", "µs", NO_TASK,
        f"{CONNECTIONS} connections. Tasks that the app runs itself are included.",
    ),
    "request": _Figure("Requests that start a task, under full load: each", "µs", NO_TASK),
    "request_p50": _Figure(
        "Request that starts a task, one after the other: median", "µs", NO_TASK
    ),
    "request_p99": _Figure("The same: 99th percentile", "µs", NO_TASK),
    "result": _Figure("From a call until its result is there: median", "µs", CREATE_TASK),
    "task": _Figure("Many tasks, until all are done: each", "µs", CREATE_TASK),
    "task_cpu": _Figure("CPU time of app and workers for a task", "µs", CREATE_TASK),
    "broker_cpu": _Figure("CPU time of Redis or PostgreSQL for a task", "µs", CELERY),
    "memory": _Figure("Memory of the idle app", "MiB", NO_TASK),
    "worker_memory": _Figure("Memory of idle workers", "MiB", CELERY),
}  # fmt: skip
"""By name, as `benchmarks.adopters_load.figures` returns them."""

PREFIX = "adopters_"
"""Of the keys of these rows, before the figure's name."""


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure every way in turn, and give a row for each figure.

    Args:
        rounds: How many rounds count, from 1 on; at most `ROUNDS` are measured.
        peers: Whether to measure what has to be installed for it.
    """
    missing: dict[str, str] = {}
    found: dict[str, list[dict[str, float]]] = {}
    for name, case in CASES.items():
        if case.peer and not peers:
            continue
        if case.obstacle:
            missing[name] = case.obstacle
        else:
            found[name] = []
    for number in range(min(rounds, ROUNDS)):
        for name in rotated(list(found), number):
            try:
                found[name].append(measured(CASES[name]))
            except RuntimeError as error:
                if not CASES[name].peer:
                    raise
                traceback.print_exc()
                missing[name] = str(error).splitlines()[0]
                del found[name]
    yield from rows_of(found, missing)


ROUNDS = 3
"""Each round starts every process anew, which takes more time than it measures."""


def rows_of(
    found: Mapping[str, Sequence[Mapping[str, float]]], missing: Mapping[str, str]
) -> Iterator[Row]:
    """Give a row for each figure.

    Args:
        found: By case, the figures of each round.
        missing: Why cases were not measured, by name.
    """
    for key, figure in FIGURES.items():
        values = {
            name: [one.get(key, 0.0) for one in rounds]
            for name, rounds in found.items()
            if key in rounds[0]
        }
        if figure.floor not in values:
            continue
        samples = {name: Samples(of_case, values[figure.floor]) for name, of_case in values.items()}
        yield Row(
            key=PREFIX + key,
            title=figure.title,
            unit=figure.unit,
            floor=figure.floor,
            samples=samples,
            goals=[],
            unranked=[*VARIANTS, NO_TASK],
            note=figure.note,
            missing=missing,
        )
