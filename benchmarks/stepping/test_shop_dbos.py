"""The crash test of the shop with DBOS: at one point, with real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.stepping import _world

PATIENCE = 60.0


@contextmanager
def served() -> Iterator[str]:
    """Serve the shop until it is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.stepping.shop_dbos:app"]
    process = subprocess.Popen([*command, "--port", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(url))
        yield url
    finally:
        process.kill()
        process.wait()


def until(condition) -> None:
    """Wait until a condition holds."""
    end = time.perf_counter() + PATIENCE
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.01)  # noqa: TID251 - nothing tells of it


def answers(url: str) -> bool:
    """Return whether a server answers."""
    try:
        return httpx.get(f"{url}/openapi.json").is_success
    except httpx.TransportError:
        return False


def test_an_order_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process dies while it ships, the customer has the parcel and was charged once."""
    monkeypatch.setenv(_world.FILE, str(tmp_path / "world"))
    monkeypatch.setenv(_world.HOLDS, "1")
    monkeypatch.setenv("SHOP_STORE", f"sqlite:///{tmp_path}/shop.db")
    with served() as url:
        task_id = httpx.post(f"{url}/orders/7").json()
        until(lambda: _world.noted("ship", 7))
    with served() as url:
        parcel = httpx.get(f"{url}/tasks/{task_id}/result", timeout=PATIENCE).json()
    assert parcel == "parcel 7, payment-7"
    assert len(_world.noted("charge", 7)) == 1
