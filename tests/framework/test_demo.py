"""The tasks that the buttons of the example's page start: on memory, and where users deploy them.

`pytest tests/framework/test_demo.py --asyncframe-on=sqlite` runs them there, in real time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import httpx
import psutil
import pytest

from framework import Task
from pytest_asyncframe.probe import Probe
from tests.patience import PATIENCE
from tests.serving import READY, Server

MARK = {"X-Requested-With": "tests"}

deployed = pytest.mark.task_modes("auto")
"""Lets --asyncframe-on choose where a test runs."""


def lasting(asyncframe: Probe, seconds: float) -> object:
    """Return what equals so many seconds: exactly on virtual time, at most a late end elsewhere."""
    if asyncframe.backend == "memory":
        return pytest.approx(seconds)
    return pytest.approx(seconds + PATIENCE / 2, abs=PATIENCE / 2 + 0.05)


async def ends_of(asyncframe: Probe, example: ModuleType, button: str) -> list[Task]:
    """Press a button, and return the tasks that it started once they have ended."""
    async with asyncframe.client(example.app) as client:
        answer = await client.post(f"/demo/{button}")
        assert answer.status_code == 202
        started = answer.json()
        started = started if isinstance(started, list) else [started["task_id"]]
        return [await asyncframe.completed(task_id, check=False) for task_id in started]


@deployed
async def test_slow(asyncframe: Probe, example: ModuleType) -> None:
    """The slow task takes ten seconds and reports each of its steps."""
    (task,) = await ends_of(asyncframe, example, "slow")
    assert task.status == "completed"
    assert task.duration == lasting(asyncframe, 10)
    shown = task.to_dict()
    assert (shown["progress"], shown["progress_message"]) == (1.0, "part 50 of 50")


@deployed
async def test_failing(asyncframe: Probe, example: ModuleType) -> None:
    """The failing task gives up seven seconds after its first attempt."""
    asyncframe.expect_failure(example.ask_broken_service, ConnectionError)
    (task,) = await ends_of(asyncframe, example, "failing")
    assert (task.status, task.attempts) == ("failed", 4)
    assert task.duration == lasting(asyncframe, 7)


@deployed
async def test_throttled(asyncframe: Probe, example: ModuleType) -> None:
    """Of the six messages two go out at once, two after five seconds, and two after ten."""
    tasks = await ends_of(asyncframe, example, "throttled")
    begun = min(task.started_at for task in tasks if task.started_at)
    out = sorted((task.ended_at - begun).total_seconds() for task in tasks if task.ended_at)
    assert out == [lasting(asyncframe, seconds) for seconds in (0, 0, 5, 5, 10, 10)]
    assert {task.status for task in tasks} == {"completed"}


@deployed
async def test_hundred(asyncframe: Probe, example: ModuleType) -> None:
    """A hundred tasks run ten at a time, so the last one has waited a few seconds."""
    tasks = await ends_of(asyncframe, example, "hundred")
    assert [task.status for task in tasks] == ["completed"] * 100
    waited = [task.queue_time for task in tasks if task.queue_time is not None]
    assert len(waited) == 100
    assert min(waited) == lasting(asyncframe, 0)
    # From the first submission: on a busy machine those that come last wait less.
    last = max(task.started_at for task in tasks if task.started_at is not None)
    since_first = last - min(task.created_at for task in tasks)
    assert since_first.total_seconds() == lasting(asyncframe, 3.95)


@pytest.mark.asyncframe(mode="virtual")
async def test_overrun(asyncframe: Probe, example: ModuleType) -> None:
    """At its limit of two seconds the task ends, and its thread three seconds later."""
    asyncframe.expect_failure(example.overrun, TimeoutError)
    async with asyncframe.client(example.app) as client:
        task_id = (await client.post("/demo/overrun")).json()["task_id"]
        task = await asyncframe.completed(task_id, check=False)
        assert (task.status, task.duration, task.still_running) == ("timeout", 2, True)
        await asyncframe.clock.run_for(3)
        shown = await asyncframe.manager.get_task(task_id)
    assert shown is not None
    assert (shown.status, shown.still_running) == ("timeout", False)


@deployed
async def test_delayed(asyncframe: Probe, example: ModuleType) -> None:
    """The delayed task begins after half a minute."""
    (task,) = await ends_of(asyncframe, example, "delayed")
    assert task.status == "completed"
    assert task.queue_time == lasting(asyncframe, 30)


async def test_order(asyncframe: Probe, example: ModuleType) -> None:
    """The order is charged, waits for a person, and is shipped."""
    async with asyncframe.client(example.app, headers=MARK) as client:
        task_id = (await client.post("/demo/order")).json()["task_id"]
        sent = await client.post(f"/tasks/{task_id}/messages/approval", json=True)
        assert sent.status_code == 202
        task = await asyncframe.completed(task_id)
    assert task.result == ["payment of a chair", "parcel of a chair"]


@pytest.mark.extended("processes")
def test_a_killed_demo(tmp_path: Path) -> None:
    """The demo ends as by kill -9 and is started again; its order goes on, and Ctrl+C ends it."""
    environment = {**os.environ, "PORT": "0", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "framework.example"]
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with closing(Server(child)) as server, httpx.Client(timeout=PATIENCE, headers=MARK) as client:
        task_id = client.post(f"{server.url}/demo/order").json()["task_id"]
        assert client.post(f"{server.url}/demo/kill").status_code == 202
        server.wait_for(READY, 2)
        url = server.wait_for("Uvicorn running on", 2).split("http://")[1].split()[0]
        sent = client.post(f"http://{url}/tasks/{task_id}/messages/approval", json=False)
        assert sent.status_code == 202
        shown = client.get(f"http://{url}/tasks/{task_id}?wait=30").json()
        assert shown["result"] == ["payment of a chair", "refused"]
        psutil.Process(child.pid).children()[0].send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == []
