"""What thousands of open streams cost a server: ``python -m benchmarks.streams``.

A uvicorn has as many clients as are asked for, each on a connection of its own, that follow tasks:
one that does nothing, one that reports its progress ten times a second, or one each that report
once a second. Each line gives the memory of the server for each client, the processor time that it
takes, how late its event loop is, how many events a client gets in a second and how old they are
when they arrive. ``polling`` is a route that looks at its task every half second, as many apps
write it by hand.

Arguments: how many clients (5,000 if none is given), then names of ways and of kinds (all if none
are given). Each client takes a file descriptor here and one in the server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from time import perf_counter
from typing import Any, Final

import psutil
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from benchmarks._measure import percentile
from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.http import task_router

MODULE = "benchmarks.streams"
CLIENTS: Final = 5_000
WAYS: Final = ("streams", "polling")
KINDS: Final[Mapping[str, str]] = {
    "idle": "one task that does nothing",
    "one": "one task, 10 reports a second",
    "many": "a task each, 1 report a second",
}
_SECONDS: Final = 10.0
_TICK: Final = 0.01
_POLL: Final = 0.5
_AT_ONCE: Final = 200
"""Connections that are opened before their first bytes are awaited."""

_AGE: Final = re.compile(rb'"progress_message": ?"([\d.]+)"')

# -- the server


@background_task
async def follow(pause: float, wait: float) -> None:
    """Report the time every *pause* seconds, after *wait* seconds; never if *pause* is 0."""
    task = current_task()
    assert task is not None
    await asyncio.sleep(wait)  # noqa: TID251 - the server runs in real time
    while pause:
        task.report_progress(random.random(), f"{time.time():.4f}")  # noqa: TID251
        await asyncio.sleep(pause)  # noqa: TID251
    await asyncio.Event().wait()


class _Lag:
    """How late the event loop is."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._due = perf_counter()

    def begin(self) -> None:
        """Measure from now on."""
        self._due = perf_counter() + _TICK
        asyncio.get_running_loop().call_later(_TICK, self._beat)

    def _beat(self) -> None:
        self.samples.append(max(0.0, perf_counter() - self._due))
        self.begin()


async def _polled(task_id: str) -> AsyncIterator[str]:
    """Yield what has changed every half second, as apps do by hand."""
    latest = None
    while True:
        task = await get_task_manager().get_task(task_id)
        assert task is not None
        state = task.to_dict()
        if state != latest:
            yield f"event: progress\ndata: {json.dumps(state)}\n\n"
            latest = state
        if task.status.is_final:
            return
        await asyncio.sleep(_POLL)  # noqa: TID251


def made() -> FastAPI:
    """Return the app."""
    app, lag = FastAPI(lifespan=setup_async_framework(queue_size=100_000)), _Lag()
    app.include_router(task_router())

    @app.get("/polled/{task_id}/events")
    async def polled(task_id: str) -> StreamingResponse:
        return StreamingResponse(_polled(task_id), media_type="text/event-stream")

    @app.post("/begin")
    async def begin(pause: float, count: int) -> list[str]:
        return [str(follow(pause, pause * at / count)) for at in range(count)]

    @app.post("/lag")
    async def measure() -> list[float]:
        if not lag.samples:
            lag.begin()
        samples, lag.samples = lag.samples, []
        return samples

    return app


def serve() -> None:
    """Serve the app until a signal comes."""
    _raise_limit()
    uvicorn.run(made(), port=0, log_level="info", access_log=False, backlog=8_192)


def _raise_limit() -> None:
    import resource  # Windows has none

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# -- the clients


class Clients:
    """Connections that read streams.

    Attributes:
        events: How many events they have got.
        ages: How many seconds old some of them were.
    """

    def __init__(self, port: int) -> None:
        self.events = 0
        self.ages: list[float] = []
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []

    def open(self, paths: list[str]) -> None:
        """Open a connection for each path, and wait until each has its first event."""
        for begin in range(0, len(paths), _AT_ONCE):
            some = paths[begin : begin + _AT_ONCE]
            expected = self.events + len(some)
            for path in some:
                one = socket.create_connection(("127.0.0.1", self._port))
                one.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                one.setblocking(False)
                self._selector.register(one, selectors.EVENT_READ)
                self._sockets.append(one)
            while self.events < expected:
                self._read(1.0)

    def read(self, seconds: float) -> None:
        """Read what comes, for so long."""
        end = perf_counter() + seconds
        while (left := end - perf_counter()) > 0:
            self._read(left)

    def _read(self, most: float) -> None:
        for key, _ in self._selector.select(most):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = sock.recv(65_536)
            assert data, "the server has closed a stream"
            self.events += data.count(b"\ndata: ")
            if self.events % 20 == 0 and (found := _AGE.search(data)):
                self.ages.append(time.time() - float(found[1]))  # noqa: TID251

    def close(self) -> None:
        """Close all connections."""
        for one in self._sockets:
            one.close()
        self._selector.close()


def _ask(port: int, path: str) -> Any:  # whatever the route answers
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def measured(way: str, kind: str, count: int) -> dict[str, float]:
    """Serve *count* clients in another process, and return what that costs.

    Args:
        way: One of `WAYS`.
        kind: One of `KINDS`.
        count: How many clients.
    """
    _raise_limit()
    command = [sys.executable, "-m", MODULE, "--serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            return _with_server(process, way, kind, count)
        finally:
            process.kill()


def _with_server(
    process: subprocess.Popen[str], way: str, kind: str, count: int
) -> dict[str, float]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
            break
    else:
        raise RuntimeError("".join(lines[-20:]))
    port, seen = int(found[1]), psutil.Process(process.pid)
    pause = {"idle": 0.0, "one": 0.1, "many": 1.0}[kind]
    ids = _ask(port, f"/begin?pause={pause}&count={count if kind == 'many' else 1}")
    before = seen.memory_info().rss
    clients = Clients(port)
    route = "tasks" if way == "streams" else "polled"
    begin = perf_counter()
    clients.open([f"/{route}/{ids[at % len(ids)]}/events" for at in range(count)])
    opened = perf_counter() - begin
    memory = seen.memory_info().rss - before
    clients.read(1.0)
    _ask(port, "/lag")
    clients.read(1.0)
    _ask(port, "/lag")
    clients.events, clients.ages = 0, []
    spent, begin = sum(seen.cpu_times()[:2]), perf_counter()
    clients.read(_SECONDS)
    took = perf_counter() - begin
    spent = sum(seen.cpu_times()[:2]) - spent
    lag = _ask(port, "/lag")
    clients.close()
    return {
        "opened": opened,
        "memory": memory / count,
        "busy": spent / took,
        "p50": percentile(lag, 0.5),
        "p99": percentile(lag, 0.99),
        "events": clients.events / count / took,
        "age50": percentile(clients.ages, 0.5) if clients.ages else 0.0,
        "age99": percentile(clients.ages, 0.99) if clients.ages else 0.0,
    }


HEAD = (
    "| clients | way | they follow | memory each, kB | processor, % of a core | loop late, ms p50 "
    "| p99 | events each, 1/s | their age, ms p50 | p99 |"
)


def as_row(way: str, kind: str, count: int, found: Mapping[str, float]) -> str:
    """Return one line of the table."""
    cells = [
        f"{count:,}",
        way,
        KINDS[kind],
        f"{found['memory'] / 1e3:.1f}",
        f"{found['busy'] * 100:.0f}",
        f"{found['p50'] * 1e3:.1f}",
        f"{found['p99'] * 1e3:.1f}",
        f"{found['events']:.1f}",
        f"{found['age50'] * 1e3:.0f}" if found["age50"] else "",
        f"{found['age99'] * 1e3:.0f}" if found["age99"] else "",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    counts = [int(one) for one in arguments if one.isdecimal()] or [CLIENTS]
    ways = [one for one in arguments if one in WAYS] or WAYS
    kinds = [one for one in arguments if one in KINDS] or KINDS
    sys.stdout.write(f"{HEAD}\n|{' --- |' * (HEAD.count('|') - 1)}\n")
    for count in counts:
        for kind in kinds:
            for way in ways:
                found = measured(way, kind, count)
                sys.stdout.write(as_row(way, kind, count, found) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main(sys.argv[1:])
