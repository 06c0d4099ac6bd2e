"""Work that is not on virtual time, and how tests of it hold still."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe


def bank(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return a client of the bank, by way of *transport* if there is one."""
    return httpx.AsyncClient(base_url="https://bank.example", transport=transport, timeout=5)


async def test_a_fake_in_place_of_the_network(asyncframe: Probe) -> None:
    """What is answered in place takes no time, or as much virtual time as the fake sleeps."""

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(4)
        return httpx.Response(200, text="paid")

    async with bank(httpx.MockTransport(answer)) as client:
        response = await client.get("/payments/7")

    assert response.text == "paid"
    assert asyncframe.clock.monotonic() == 4


@background_task(timeout=5)
async def version() -> str:
    """Ask a program, in a thread: time stands still until it has answered."""
    command = [sys.executable, "--version"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    return str(done.stdout, "utf-8")


async def test_a_program_in_a_thread(asyncframe: Probe) -> None:
    """A limit does not fire over it, however long it takes."""
    task = await asyncframe.completed(version())

    assert task.result.startswith("Python 3")
    assert asyncframe.clock.monotonic() == 0


@background_task(timeout=5)
async def version_on_the_loop() -> str:
    """Ask a program on the loop: virtual time would move on to the limit meanwhile."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "--version", stdout=subprocess.PIPE
    )
    output, _ = await program.communicate()
    return str(output, "utf-8")


@pytest.mark.asyncframe(mode="threads")
async def test_a_program_in_real_time(asyncframe: Probe) -> None:
    """In the mode threads time is real, and everything takes as long as it takes."""
    task = await asyncframe.completed(version_on_the_loop())

    assert task.result.startswith("Python 3")
