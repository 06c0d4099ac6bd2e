"""A client is shared before it is connected: double-checked locking, level "line"."""

from __future__ import annotations

import threading

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


class Client:
    """A client of another service."""

    def __init__(self) -> None:
        self.connected = False

    def connect(self) -> None:
        """Connect."""
        self.connected = True

    def call(self) -> str:
        """Call the service."""
        if not self.connected:
            raise RuntimeError("not connected")
        return "answer"


class Shared:
    """One client for all tasks, made when it is first needed."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.lock = threading.Lock()

    def racy_client(self) -> Client:
        """Return the client; the second check is within the lock, the first is not."""
        if self.client is None:
            with self.lock:
                if self.client is None:
                    self.client = Client()
                    self.client.connect()
        return self.client

    def correct_client(self) -> Client:
        """Return the client, which is shared once it is connected."""
        if self.client is None:
            with self.lock:
                if self.client is None:
                    client = Client()
                    client.connect()
                    self.client = client
        return self.client


@background_task
def racy_call(shared: Shared) -> str:
    """Call the other service."""
    return shared.racy_client().call()


@background_task
def correct_call(shared: Shared) -> str:
    """Call the other service."""
    return shared.correct_client().call()


@pytest.mark.interleave(level="line")
def test_racy(asyncframe: Probe) -> None:
    """Both tasks get an answer."""
    shared = Shared()
    first, second = racy_call(shared), racy_call(shared)
    assert asyncframe.run_until_complete(first).result == "answer"
    assert asyncframe.run_until_complete(second).result == "answer"


@pytest.mark.interleave(level="line")
def test_correct(asyncframe: Probe) -> None:
    """Both tasks get an answer."""
    shared = Shared()
    first, second = correct_call(shared), correct_call(shared)
    assert asyncframe.run_until_complete(first).result == "answer"
    assert asyncframe.run_until_complete(second).result == "answer"
