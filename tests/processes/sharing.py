"""Servers that all processes of one run share: each is started once, for whoever asks first.

A process of xdist's may end before the others, so none of them has the server as its child. A
process of the server's own starts it, and ends it when the main process of the run has ended,
however that ends. If that process is killed itself, the kernel ends the server; see `servers`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.children import python
from tests.processes.servers import PostgresServer, RedisServer, Server
from tests.programs import program

DATABASES = 256
"""How many databases the shared Redis has; a process uses two of them."""

CONNECTIONS = 400
"""How many connections the shared PostgreSQL takes, from all processes."""

SERVERS: dict[str, Callable[[], Server]] = {
    "postgres": lambda: PostgresServer(connections=CONNECTIONS),
    "redis-server": lambda: RedisServer("--appendonly", "no", "--databases", str(DATABASES)),
}
"""Makes each server that can be shared, by the name of its program."""


@dataclass(frozen=True)
class RedisDatabase:
    """A database of a Redis, which is one process's own.

    Attributes:
        url: Where it is.
    """

    url: str


def port_of(name: str, folder: Path, main: int) -> int:
    """Return the port of a run's server; whoever asks first starts it.

    Args:
        name: A key of `SERVERS`.
        folder: A folder that all processes of the run have, and no other run.
        main: The process with whose end the run ends.
    """
    # In this process, whose test is skipped where they are not installed.
    fcntl = pytest.importorskip("fcntl", reason="the tests start no servers on Windows")
    for needed in (name, "setpriv"):
        program(needed)
    kept = folder / f"{name}.port"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            done = python("-m", "tests.processes.sharing", name, str(main))
            kept.write_text(done.stdout, encoding="utf-8")
        return int(kept.read_text(encoding="utf-8"))


def begin(name: str, main: int) -> int:
    """Start a process that keeps a server, and print the server's port; return the status."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        keep(name, main, writing)
        return 0
    os.close(writing)
    with os.fdopen(reading) as told:
        port = told.read()
    print(port, end="")  # noqa: T201 -- for `port_of`
    return 0 if port else 1


def keep(name: str, main: int, writing: int) -> None:
    """Keep a server until the process *main* has ended; tell its port through a pipe."""
    # Ctrl+C is for those who run tests.
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    over = os.pidfd_open(main)
    with closing(SERVERS[name]()) as server:
        server.start()
        # Whoever asked waits until nobody holds its pipes.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        os.write(writing, str(server.port).encode())
        os.close(writing)
        select.select([over], [], [])


if __name__ == "__main__":
    sys.exit(begin(sys.argv[1], int(sys.argv[2])))
