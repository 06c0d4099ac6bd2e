"""The example app as it stands, with a store and an engine: the same answers, from workers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import framework
from tests.patience import PATIENCE
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import RedisServer
from tests.serving import Server, serving

pytestmark = pytest.mark.extended("servers")

PARTS = """
from celery import Celery
from framework.engines.celery import CeleryEngine
from framework.stores.sql._shared.site import Pace
from framework.stores.sql import SQLStore

celery_app = Celery("shop", broker={url!r})
store = SQLStore("sqlite:///{folder}/tasks.db", durable=True)
# Five times as quick as it is for users to find that a process has died.
store._pace = Pace(beat=0.2)
"""

ENGINE = """
engine = CeleryEngine(celery_app, default_limit=60, functions=[my_custom_function, hold])
"""

HOLD = '''
def hold(begun: str, gate: str) -> str:
    """Write a line to one named pipe, and block until one comes through the other."""
    with open(begun, "w") as pipe:
        pipe.write("begun\\n")
    with open(gate) as pipe:
        return pipe.readline()


@app.post("/hold", status_code=202)
async def start_hold(begun: str, gate: str) -> dict[str, str]:
    """Begin to block."""
    return {"task_id": await get_task_manager().submit(hold, (begun, gate))}


@app.get("/ended/{task_id}")
async def wait_for_end(task_id: str) -> dict[str, Any]:
    """Answer once a task has ended, with all that is known of it."""
    task = await get_task_manager().wait(task_id, timeout=60)
    return task.to_dict()


HEARD: dict[str, Any] = {}


@app.post("/heard/{task_id}")
async def listen_for_end(task_id: str) -> None:
    """Begin to listen for a task's end."""
    import asyncio

    loop, HEARD[task_id] = asyncio.get_running_loop(), asyncio.Event()

    def hear(event: Any) -> None:
        if event.task_id == task_id:
            loop.call_soon_threadsafe(HEARD[task_id].set)

    get_task_manager().subscribe(hear, kinds=["completed"])


@app.get("/heard/{task_id}")
async def hear_of_end(task_id: str) -> list[str]:
    """Answer once this process has told of a task's end, with what it lists then."""
    await HEARD[task_id].wait()
    return list(get_task_manager().get_tasks_by_status("completed"))


@app.get("/who")
def who() -> int:
    """Answer with the process that answers."""
    return os.getpid()
'''


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with the example as a module of its own, and a worker that runs its tasks."""
    folder = tmp_path_factory.mktemp("shop")
    # Not imported: its schedule would run in every framework of this process.
    text = (Path(framework.__file__).parent / "example.py").read_text("utf-8")
    plain, given = "store=open_store(), **settings)", "engine=engine, store=store, **settings)"
    assert text.count(plain) == 1
    with closing(RedisServer("--appendonly", "no")) as server:
        server.start()
        head, mark, rest = text.partition("\nfrom fastapi import")
        text = head + PARTS.format(url=server.url, folder=folder) + mark + rest
        text = text.replace(plain, given)
        text = text.replace(
            '\ndef main() -> None:\n    """Serve',
            f'{HOLD}{ENGINE}\ndef main() -> None:\n    """Serve',
        )
        (folder / "shop.py").write_text(text, encoding="utf-8")
        environment = {"PYTHONPATH": str(folder)}
        worker = CeleryWorker("shop:celery_app", server.url, environment=environment)
        with closing(worker):
            # It need not be ready: messages wait for it.
            worker.begin()
            yield folder, server.url


@pytest.fixture(scope="module")
def other(shop: tuple[Path, str]) -> Iterator[Server]:
    """A server of the app that no test ends."""
    with serving("shop:app", app_dir=shop[0]) as server:
        yield server


@pytest.fixture
async def clients(shop: tuple[Path, str], other: Server) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two servers of the app that share its database; the first is the test's own."""
    with serving("shop:app", app_dir=shop[0]) as own:
        made = [httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) for server in (own, other)]
        yield made
        for client in made:
            await client.aclose()


async def ended(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    """Return a task once it has ended."""
    answer = await client.get(f"/ended/{task_id}")
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def start(client: httpx.AsyncClient, path: str, **options: Any) -> str:
    """Start a task and return its id."""
    answer = await client.post(path, **options)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


async def test_every_route(clients: list[httpx.AsyncClient]) -> None:
    """Every kind of task of the example runs on a worker, and both servers know it."""
    here, there = clients
    task_id = await start(here, "/process", params={"data_id": "7"})
    task = await ended(there, task_id)
    assert task["result"] == {"status": "completed", "data_id": "7"}
    assert (task["progress"], task["progress_message"]) == (1.0, "part 4 of 4")
    assert task["description"] == "process some data"
    report = await here.post("/reports", params={"title": "sales"})
    assert (await ended(there, report.json()))["result"] == {"title": "sales", "report": "..."}
    assert (await here.get("/data/42")).json() == {"user_id": "42", "data": "..."}
    welcomed = await ended(there, await start(here, "/users/ann/welcome"))
    assert welcomed["result"] == "Welcome, ann!"
    retried = await ended(there, await start(here, "/unreliable"))
    assert (retried["status"], retried["attempts"]) == ("completed", 3)
    custom = {"arg1": 1, "arg2": 2, "option": "x"}
    summed = await ended(there, await start(here, "/custom-task", json=custom))
    assert summed["result"] == {"sum": 3, "option": "x"}
    delayed = await start(here, "/custom-task", json=custom | {"delay": 60})
    headers = {"X-Requested-With": "a test"}
    cancelled = (await here.delete(f"/tasks/{delayed}", headers=headers)).json()
    assert (cancelled["cancelled"], cancelled["status"]) == (True, "cancelled")
    limited = [(await here.get("/limited")).status_code for _ in range(6)]
    assert limited == [200] * 5 + [429]
    assert (await there.get("/tasks/unknown")).status_code == 404


async def test_death_of_the_server_that_submitted(
    clients: list[httpx.AsyncClient], tmp_path: Path
) -> None:
    """A task whose server is killed goes on, and the other server follows it to its end."""
    here, there = clients
    pipes = {name: str(tmp_path / name) for name in ("begun", "gate")}
    for pipe in pipes.values():
        os.mkfifo(pipe)
    begun, gate = (os.open(pipe, os.O_RDWR) for pipe in pipes.values())
    task_id = await start(here, "/hold", params=pipes)
    assert await asyncio.to_thread(os.read, begun, 6) == b"begun\n"
    assert (await there.post(f"/heard/{task_id}")).status_code == 200
    psutil.Process((await here.get("/who")).json()).send_signal(signal.SIGKILL)
    os.write(gate, b"done\n")
    assert (await ended(there, task_id))["result"] == "done\n"
    assert task_id in (await there.get(f"/heard/{task_id}")).json()
    for number in (begun, gate):
        os.close(number)
