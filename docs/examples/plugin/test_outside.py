"""Work that takes real time, and how to test it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


def bank(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return a client for the bank, with *transport* if there is one."""
    return httpx.AsyncClient(base_url="https://bank.example", transport=transport, timeout=5)


async def test_a_fake_in_place_of_the_network(asyncframe: Probe) -> None:
    """A fake takes no real time, however long it sleeps."""

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(4)
        return httpx.Response(200, text="paid")

    async with bank(httpx.MockTransport(answer)) as client:
        response = await client.get("/payments/7")

    assert response.text == "paid"
    assert asyncframe.clock.monotonic() == 4


@background_task(timeout=5)
async def version() -> str:
    """Run a program in a thread: virtual time stands still until it ends."""
    command = [sys.executable, "--version"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    return str(done.stdout, "utf-8")


async def test_a_program_in_a_thread(asyncframe: Probe) -> None:
    """The time limit does not pass, however long the program takes."""
    task = await asyncframe.completed(version())

    assert task.result.startswith("Python 3")
    assert asyncframe.clock.monotonic() == 0


@background_task(timeout=5)
async def version_on_the_loop() -> str:
    """Run a program on the event loop: virtual time would move on to the limit."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "--version", stdout=subprocess.PIPE
    )
    output, _ = await program.communicate()
    return str(output, "utf-8")


@pytest.mark.asyncframe(mode="threads")
async def test_a_program_in_real_time(asyncframe: Probe) -> None:
    """In the mode threads all time is real."""
    task = await asyncframe.completed(version_on_the_loop())

    assert task.result.startswith("Python 3")
