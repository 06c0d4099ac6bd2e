"""Databases for benchmarks, and the processor time of servers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import TypeAlias

import psutil

from tests.processes.servers import PostgresServer
from tests.programs import everywhere

Place: TypeAlias = tuple[str, Sequence[int]]
"""The URL of an empty database, and the processes of its server."""


class _SafePostgres(PostgresServer):
    """A PostgreSQL that waits for the disk, as others do."""

    def command(self) -> list[str]:
        """Return the program and its arguments; of one that is there twice the last counts."""
        return [*super().command(), "-c", "fsync=on", "-c", "full_page_writes=on"]


@contextmanager
def databases(kind: str) -> Iterator[Iterator[Place]]:
    """Yield empty databases, as many as are asked for.

    Args:
        kind: ``sqlite``, in files, or ``postgresql``, in a server of their own.
    """
    with ExitStack() as stack:
        if kind == "sqlite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield ((f"sqlite:///{folder / str(at)}.db", []) for at in count())
        else:
            server = stack.enter_context(closing(_SafePostgres()))
            server.start()
            yield (
                (server.url(stack.enter_context(server.database())), [server.pid]) for _ in count()
            )


def is_installed(kind: str) -> bool:
    """Whether a kind of database can be used here."""
    return kind == "sqlite" or shutil.which("postgres", path=everywhere("postgres")) is not None


def spent(processes: Iterable[int]) -> float:
    """Return the processor seconds of processes and their children, ended ones too."""
    total = 0.0
    for pid in processes:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                # It has ended since it was listed: its time is among the children's below.
                continue
            total += times.user + times.system
        times = parent.cpu_times()
        total += times.children_user + times.children_system
    return total
