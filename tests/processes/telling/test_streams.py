"""Streams of a real server, and of tasks that other processes run."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

import pytest

from tests.patience import PATIENCE
from tests.serving import Server, serving

pytestmark = pytest.mark.extended("processes")

APP = "tests.processes.apps.streamed:app"


def post(server: Server, path: str) -> str:
    """Start a task, and return its id."""
    with urlopen(f"{server.url}{path}", data=b"", timeout=PATIENCE) as answer:
        found: str = json.load(answer)
    return found


@contextmanager
def stream(server: Server, task_id: str) -> Iterator[socket.socket]:
    """Open the stream of a task on a connection of its own, and read its first state."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(f"GET /tasks/{task_id}/events HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        data = b""
        while b"data: " not in data:
            data += connection.recv(65_536)
        assert data.startswith(b"HTTP/1.1 200 OK")
        yield connection


def rest_of(connection: socket.socket) -> bytes:
    """Read a connection until the server closes it."""
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_its_streams_when_it_leaves(number: signal.Signals) -> None:
    """A signal ends a server without a limit at once, although three streams are open."""
    with serving(APP) as server, ExitStack() as stack:
        task_id = post(server, "/rest")
        streams = [stack.enter_context(stream(server, task_id)) for _ in range(3)]
        server.send_signal(number)
        # In HTTP, the last chunk has no bytes: the responses are complete.
        assert [rest_of(one)[-5:] for one in streams] == [b"0\r\n\r\n"] * 3
        server.wait(PATIENCE)
    assert "ERROR" not in server.log


def test_a_server_answers_those_who_wait_when_it_leaves() -> None:
    """A signal ends a wait for a task at once, with the state as it is."""
    with serving(APP) as server, ExitStack() as stack:
        task_id = post(server, "/rest")
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        waits = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))
        waits.sendall(f"GET /tasks/{task_id}?wait=60 HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        # It comes later, so the request before has been read.
        stack.enter_context(stream(server, task_id))
        server.send_signal(signal.SIGTERM)
        answer = rest_of(waits)
        server.wait(PATIENCE)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"status":"running"' in answer


def test_a_server_ends_its_streams_after_its_last_request() -> None:
    """A server that leaves after a number of requests ends its streams as well."""
    with serving(APP, "--limit-max-requests", "2") as server, ExitStack() as stack:
        one = stack.enter_context(stream(server, post(server, "/rest")))
        post(server, "/rest")
        assert rest_of(one)[-5:] == b"0\r\n\r\n"
        server.wait(PATIENCE)
