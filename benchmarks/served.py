"""What a request costs whose endpoint starts a job, beside the same app without one."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from types import TracebackType

from benchmarks._measure import OURS, ROOT, interleave
from benchmarks._rows import Goal, Row
from benchmarks.peers import (
    AIOJOBS,
    CREATE_TASK,
    HUEY,
    RUN_IN_EXECUTOR,
    TASKIQ_ASYNC,
    TASKIQ_SYNC,
)
from benchmarks.request import samples as request_samples
from benchmarks.request_app import BACKGROUND_AGAIN, BACKGROUND_WAITS, LOOP, LOOP_WAITS
from benchmarks.served_app import BACKGROUND_ASYNC, BACKGROUND_SYNC, FLOOR, OURS_ASYNC
from benchmarks.served_load import load

_CONNECTIONS = 16
_SECONDS = 1
_PATIENCE = 30.0

_STANDARD = [FLOOR, OURS, OURS_ASYNC, RUN_IN_EXECUTOR, CREATE_TASK]
_PEERS = [BACKGROUND_SYNC, BACKGROUND_ASYNC, AIOJOBS, TASKIQ_SYNC, TASKIQ_ASYNC, HUEY]


@dataclass(frozen=True)
class _Stack:
    """A loop and a parser of uvicorn's.

    Attributes:
        key: Of the row.
        loop: Of ``--loop``.
        http: Of ``--http``.
        at_least: Smallest allowed ratio of requests per second, ours / the name's.
    """

    key: str
    loop: str
    http: str
    at_least: dict[str, float]


_STACKS = (
    _Stack(
        "http_asyncio",
        "asyncio",
        "h11",
        {FLOOR: 1 / 1.17, BACKGROUND_SYNC: 1.75, TASKIQ_ASYNC: 1.25, RUN_IN_EXECUTOR: 1.5},
    ),
    _Stack(
        "http_uvloop",
        "uvloop",
        "httptools",
        {FLOOR: 1 / 1.18, BACKGROUND_SYNC: 2.7, TASKIQ_ASYNC: 1.4, RUN_IN_EXECUTOR: 1.15},
    ),
)


class _Server:
    """A process that serves the app in one way; it is stopped at the end of the ``with``."""

    def __init__(self, way: str, stack: _Stack) -> None:
        self._way = way
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed below
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "benchmarks.served_app"),
                *(way, stack.loop, stack.http),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> _Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.__exit__(kind, error, traceback)
        self._errors.close()

    @cached_property
    def port(self) -> int:
        """Where it listens; connections wait until it has started."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"the server of {self._way!r} failed: {self._errors.read()}")
        port: int = json.loads(line)["port"]
        return port

    def cost(self) -> float:
        """Load it once and return the microseconds that a request takes; all jobs must have run.

        Raises:
            RuntimeError: If not every request had its job, or some had more than one.
        """
        before = self._ran(at_least=0)
        answered, seconds = load(self.port, _SECONDS, _CONNECTIONS)
        # A request that was open when the load ended has a job and no answer.
        expected = range(1) if self._way == FLOOR else range(answered, answered + _CONNECTIONS + 1)
        ran = self._ran(at_least=before + expected[0]) - before
        if ran not in expected:
            raise RuntimeError(f"{self._way!r} ran {ran} jobs for {answered} requests")
        return seconds / answered * 1e6

    def _ran(self, at_least: int) -> int:
        """Return how many jobs have run, once they are *at_least* so many or time is up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        end = time.perf_counter() + _PATIENCE
        try:
            while True:
                connection.request("GET", "/ran")
                answer = connection.getresponse()
                ran: int = json.loads(answer.read())["ran"]
                if ran >= at_least or time.perf_counter() > end:
                    return ran
        finally:
            connection.close()


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure requests on each loop and parser, then async functions beside BackgroundTasks.

    Args:
        rounds: How many rounds of one second count, from 1 on.
        peers: Whether to measure peers. Without them, a stack that is not installed is
            left out.
    """
    stacks = [one for one in _STACKS if peers or (find_spec(one.loop) and find_spec(one.http))]
    for stack in stacks:
        yield _every_way(stack, rounds, peers=peers)
    for stack in stacks:
        yield _beside_background(stack, rounds)


def _every_way(stack: _Stack, rounds: int, *, peers: bool) -> Row:
    """Return the row of all ways to start a job, whose servers are kept up at once."""
    with ExitStack() as stop:
        servers = {
            way: stop.enter_context(_Server(way, stack))
            for way in (_STANDARD + _PEERS if peers else _STANDARD)
        }
        cases = {way: server.cost for way, server in servers.items()}
        samples = interleave(cases, FLOOR, rounds)
    return Row(
        key=stack.key,
        title=f"Request that starts a job, {stack.loop} and {stack.http}",
        unit="\N{MICRO SIGN}s",
        floor=FLOOR,
        samples=samples,
        goals=[Goal(name, 1 / share) for name, share in stack.at_least.items()],
        unranked=[OURS_ASYNC],
        note=(
            f"One process, {_CONNECTIONS} connections. create_task, aiojobs and the async "
            "functions run the job on the event loop. Only asyncframe, taskiq and huey give "
            "an id."
        ),
    )


_OURS_WAITS = "asyncframe, suspended once"


def _beside_background(stack: _Stack, rounds: int) -> Row:
    """Return the row of an async function, which BackgroundTasks runs too."""
    names = {way: way for way in (FLOOR, BACKGROUND_ASYNC, BACKGROUND_AGAIN, BACKGROUND_WAITS)} | {
        LOOP: OURS,
        LOOP_WAITS: _OURS_WAITS,
    }
    return Row(
        key=f"background_{stack.loop}",
        title=f"Request that starts an async function, {stack.loop} and {stack.http}: CPU time",
        unit="\N{MICRO SIGN}s",
        floor=BACKGROUND_ASYNC,
        samples=request_samples(stack.loop, rounds, names, BACKGROUND_ASYNC),
        goals=[Goal(BACKGROUND_ASYNC, 1.03)],
        unranked=[FLOOR, BACKGROUND_AGAIN, BACKGROUND_WAITS, _OURS_WAITS],
        note=(
            f"One process serves all ways in turn, {_CONNECTIONS} connections. What is measured "
            "once more differs by chance alone. Compare functions that are suspended once with "
            "each other."
        ),
    )
