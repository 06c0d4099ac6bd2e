"""Connections to the worker processes of one server, each to a certain one."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.patience import PATIENCE
from tests.serving import Server

WORKERS = 4
PATIENT = ("--timeout-keep-alive", "600")
"""Has a server keep connections of which nobody makes use while the others are asked."""


class Worker:
    """A connection that stays open, so that one and the same worker answers on it."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE)
        self._connection.connect()
        self.pid: int = self.ask("GET", "/pid")[1]

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Return the answer's status and what is in it."""
        self._connection.request(method, path)
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if answer.status < 300 else None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def workers(server: Server) -> Iterator[list[Worker]]:
    """Connect to each worker of a server once."""
    address = urlsplit(server.url).netloc
    found: dict[int, Worker] = {}
    spare: list[Worker] = []
    try:
        # Whoever is quickest takes a connection; those of one worker are kept until the end,
        # so that it is not always the same one.
        for _ in range(500):
            if len(found) == WORKERS:
                break
            worker = Worker(address)
            spare.append(worker)
            found.setdefault(worker.pid, worker)
        assert len(found) == WORKERS
        yield list(found.values())
    finally:
        for worker in spare:
            worker.close()
