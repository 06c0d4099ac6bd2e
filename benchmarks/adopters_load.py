"""One measurement of `adopters`: loads an app that runs, and looks at what its tasks cost."""

from __future__ import annotations

import http.client
import json
import mmap
import selectors
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from benchmarks._measure import percentile
from benchmarks.served_load import Connection
from benchmarks.ways._task import TASKS

CONNECTIONS = 16
"""Requests that are open at once under full load."""

PATIENCE = 60.0
"""Seconds that anything may take, before it counts as stuck."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything one measurement consists of.

    Attributes:
        one_by_one: Requests that follow each other on one connection.
        at_once: Requests on `CONNECTIONS` connections.
        results: Tasks that are waited for one after the other; 0 if the way gives no results.
        burst: Tasks that one request starts.
    """

    one_by_one: int = 500
    at_once: int = 2_000
    results: int = 200
    burst: int = 5_000


@dataclass
class Running:
    """An app that runs, and all that works for it.

    Attributes:
        port: Where it listens, on loopback.
        marks: One byte for each task: how often it has run.
        app: Its process.
        workers: Processes whose children run tasks too; empty if the app runs them itself.
        servers: Redis or PostgreSQL.
        starts_tasks: False for an app whose requests start none.
        used: How many tasks were started so far.
    """

    port: int
    marks: mmap.mmap
    app: int
    workers: Sequence[int] = ()
    servers: Sequence[int] = ()
    starts_tasks: bool = True
    used: int = field(default=0)

    def call(self, path: str) -> Any:
        """Send one POST request and return its answer.

        Raises:
            RuntimeError: If it is not of status 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {body[:200]!r}")
        return json.loads(body)

    def expect(self, tasks: int) -> None:
        """Wait until the next *tasks* tasks have run.

        Raises:
            RuntimeError: If they have not, for a long time, or one has run twice.
        """
        if not self.starts_tasks:
            return
        first, self.used = self.used, self.used + tasks
        assert self.used <= TASKS, f"there is room for {TASKS} tasks"
        end = time.perf_counter() + PATIENCE
        while (ran := self.marks[first : self.used]).count(0):
            if time.perf_counter() > end:
                raise RuntimeError(f"{ran.count(0)} of {tasks} tasks have not run")
            time.sleep(0.0005)  # noqa: TID251 - other processes do not tell when they are done
        self.check()

    def check(self) -> None:
        """See that each task ran once, and no other one.

        Raises:
            RuntimeError: If it is not so.
        """
        ran = self.marks[: self.used]
        if ran.count(1) != self.used:
            twice = self.used - ran.count(0) - ran.count(1)
            raise RuntimeError(f"{twice} tasks ran more than once, {ran.count(0)} never")
        if any(self.marks[self.used :]):
            raise RuntimeError("more tasks ran than were started")

    def spent(self) -> tuple[float, float]:
        """Return the CPU seconds of app and workers, and those of the servers."""
        return cpu_of([self.app, *self.workers]), cpu_of(self.servers)


def family(pids: Sequence[int]) -> list[psutil.Process]:
    """Return processes and all that they have started and that still run."""
    found = [psutil.Process(pid) for pid in pids]
    return [*found, *(child for one in found for child in one.children(recursive=True))]


def cpu_of(pids: Sequence[int]) -> float:
    """Return the CPU seconds of processes and their children so far, to the nanosecond.

    What ``/proc`` tells comes in steps of 10 ms, which is a thousand tasks.
    """
    total = 0.0
    for process in family(pids):
        with suppress(OSError):  # it has just ended
            # How Linux numbers the CPU clock of another process: see clock_getcpuclockid(3).
            total += time.clock_gettime((~process.pid << 3) | 2)
    return total


def memory_of(pids: Sequence[int]) -> float:
    """Return the MiB that processes and their children occupy.

    Of children only what they do not share with their parent counts, so that it counts once.
    """
    total = 0
    for process in family(pids):
        child = process.pid not in pids
        total += process.memory_full_info().uss if child else process.memory_info().rss
    return total / 2**20


def load(port: int, count: int, connections: int) -> tuple[list[float], float]:
    """Send POST requests to ``/start``, each connection one after the other.

    Args:
        port: Where the app listens, on loopback.
        count: How many requests in all, *connections* at least.
        connections: How many are open at once, from 1 on.

    Returns:
        The seconds that each took, and those until the last one was answered.

    Raises:
        RuntimeError: If an answer is none with status 200, or none comes.
    """
    taken: list[float] = []
    left = count - connections
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        for _ in range(connections):
            connection = _Timed(port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.ask()
        while selector.get_map():
            ready = selector.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"no answer within {PATIENCE:g} s")
            for key, _ in ready:
                connection = key.data
                if not connection.take():
                    continue
                taken.append(time.perf_counter() - connection.asked)
                if left:
                    left -= 1
                    connection.ask()
                else:
                    selector.unregister(connection.socket)
                    connection.socket.close()
        return taken, time.perf_counter() - begin


class _Timed(Connection):
    """A connection that knows when its request was sent."""

    asked = 0.0

    def ask(self) -> None:
        self.asked = time.perf_counter()
        super().ask()


def figures(running: Running, sizes: Sizes) -> dict[str, float]:
    """Measure an app that has just started; return each figure by the name of its row."""
    warm(running, sizes)
    found = {
        "memory": memory_of([running.app]),
        "worker_memory": memory_of(running.workers),
    }
    if sizes.results:
        spent: list[float] = running.call(f"/results?count={sizes.results}")
        running.expect(sizes.results)
        found["result"] = statistics.median(spent) * 1e6
    found |= requests(running, sizes)
    if running.starts_tasks:
        found |= burst(running, sizes.burst)
    running.check()
    return found


def warm(running: Running, sizes: Sizes) -> None:
    """Use everything a little, so that all is imported and connected."""
    if sizes.results:
        running.call("/results?count=2")
        running.expect(2)
    load(running.port, 2 * CONNECTIONS, CONNECTIONS)
    running.expect(2 * CONNECTIONS)


def requests(running: Running, sizes: Sizes) -> dict[str, float]:
    """Return what a request costs, in µs."""
    taken, _ = load(running.port, sizes.one_by_one, 1)
    running.expect(sizes.one_by_one)
    running.call("/settle")
    before = cpu_of([running.app])
    _, seconds = load(running.port, sizes.at_once, CONNECTIONS)
    running.expect(sizes.at_once)
    running.call("/settle")
    return {
        "request_p50": statistics.median(taken) * 1e6,
        "request_p99": percentile(taken, 0.99) * 1e6,
        "request": seconds / sizes.at_once * 1e6,
        "request_cpu": (cpu_of([running.app]) - before) / sizes.at_once * 1e6,
    }


def burst(running: Running, tasks: int) -> dict[str, float]:
    """Return what each of many tasks costs that one request starts, in µs."""
    before, begin = running.spent(), time.perf_counter()
    running.call(f"/burst?count={tasks}")
    running.expect(tasks)
    seconds = time.perf_counter() - begin
    ours, servers = (now - then for now, then in zip(running.spent(), before, strict=True))
    return {
        "task": seconds / tasks * 1e6,
        "task_cpu": ours / tasks * 1e6,
        "broker_cpu": servers / tasks * 1e6,
    }
