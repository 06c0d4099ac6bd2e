"""Loads a server over keep-alive connections: wrk if it is there, else a client of our own."""

from __future__ import annotations

import json
import re
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._measure import child

_REQUEST = b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE = 30.0


def load(port: int, seconds: int, connections: int) -> tuple[int, float]:
    """Send POST requests for *seconds*, each connection one after the other.

    Args:
        port: Where the server listens, on loopback.
        seconds: How long, from 1 on.
        connections: How many, from 1 on; it is also how many requests are open at once.

    Returns:
        How many requests were answered, and the seconds that it took.

    Raises:
        RuntimeError: If an answer is none with status 200, or a connection fails.
    """
    if shutil.which("wrk") is not None:
        return _with_wrk(port, seconds, connections)
    found = child("benchmarks.served_load", str(port), str(seconds), str(connections))
    return found["answered"], found["seconds"]


def _with_wrk(port: int, seconds: int, connections: int) -> tuple[int, float]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text('wrk.method = "POST"\n', encoding="utf-8")
        shape = ["-t1", f"-c{connections}", f"-d{seconds}s"]
        done = subprocess.run(
            ["wrk", *shape, "-s", str(script), f"http://127.0.0.1:{port}/start"],
            capture_output=True,
            text=True,
            timeout=seconds + _PATIENCE,
            check=False,
        )
    found = re.search(r"(\d+) requests in ([\d.]+)s", done.stdout)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if found is None or rate is None or re.search("Non-2xx|Socket errors", done.stdout):
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    answered = int(found[1])
    # The rate is the more exact of the two: seconds are printed with two digits.
    return answered, answered / float(rate[1])


class Connection:
    """One connection with one request open; it waits for the whole answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""

    def ask(self) -> None:
        """Send a request."""
        self.socket.sendall(_REQUEST)

    def take(self) -> bool:
        """Read what is there; True if the answer is complete now."""
        more = self.socket.recv(65536)
        self._got += more
        if not more or not self._got.startswith(b"HTTP/1.1 200"[: len(self._got)]):
            raise RuntimeError(f"not an answer of status 200: {self._got!r}")
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end:
            return False
        if length is None or len(body) > int(length[1]):
            raise RuntimeError(f"not the answer to one request: {self._got!r}")
        if len(body) < int(length[1]):
            return False
        self._got = b""
        return True


def _with_sockets(port: int, seconds: int, connections: int) -> tuple[int, float]:
    """Do as `load` does, on this thread; requests open at the end are waited for."""
    answered = 0
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        for _ in range(connections):
            connection = Connection(port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.ask()
        while selector.get_map():
            ready = selector.select(_PATIENCE)
            if not ready:
                raise RuntimeError(f"no answer within {_PATIENCE:g} s")
            for key, _ in ready:
                connection = key.data
                if not connection.take():
                    continue
                answered += 1
                if time.perf_counter() - begin < seconds:
                    connection.ask()
                else:
                    selector.unregister(connection.socket)
                    connection.socket.close()
        return answered, time.perf_counter() - begin


if __name__ == "__main__":
    count, spent = _with_sockets(*map(int, sys.argv[1:]))
    sys.stdout.write(json.dumps({"answered": count, "seconds": spent}) + "\n")
