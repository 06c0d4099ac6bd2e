"""Several real processes on one database: one truth for all, and none of it lost."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.framework.servers import READY, Server, serving
from tests.patience import PATIENCE

WORKERS = 4
APP = "tests.beyond.apps.shared:app"


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


def test_every_worker_answers_for_every_task(sql_url: str) -> None:
    """Of 500 tasks, submitted to four workers in turn, each worker knows each at once."""
    with (
        serving(
            APP, "--workers", str(WORKERS), env={"STORE_URL": sql_url}, processes=WORKERS
        ) as server,
        workers(server) as all_of_them,
    ):
        ids = []
        for number in range(500):
            status, task_id = all_of_them[number % WORKERS].ask("POST", f"/squares/{number}")
            assert status == 202
            ids.append(task_id)
            if number % 5 == 0:
                status, task = all_of_them[(number + 1) % WORKERS].ask("GET", f"/tasks/{task_id}")
                assert (status, task and task["task_id"]) == (200, task_id)
        for worker in all_of_them:
            for number, task_id in enumerate(ids):
                found = worker.ask("GET", f"/results/{task_id}")
                assert found == (200, {"square": number * number})
        figures = [worker.ask("GET", "/stats")[1] for worker in all_of_them]

    assert "given it up" not in server.log
    assert [one["store_errors"] for one in figures] == [0] * WORKERS


def test_cancelling_a_task_of_another_worker(sql_url: str) -> None:
    """A worker cancels a coroutine that runs in another one, and all of them say so."""
    with (
        serving(
            APP, "--workers", str(WORKERS), env={"STORE_URL": sql_url}, processes=WORKERS
        ) as server,
        workers(server) as (one, two, *others),
    ):
        _, task_id = one.ask("POST", "/sleepers")
        assert two.ask("DELETE", f"/tasks/{task_id}") == (200, True)
        for worker in (one, two, *others):
            assert worker.ask("GET", f"/tasks/{task_id}")[1]["status"] == "cancelled"


def test_history_outlives_a_restart(sql_url: str) -> None:
    """What ended before a restart is known after it, with its result."""
    with serving(APP, env={"STORE_URL": sql_url}) as server:
        with closing(Worker(urlsplit(server.url).netloc)) as worker:
            _, task_id = worker.ask("POST", "/squares/12")
            assert worker.ask("GET", f"/results/{task_id}") == (200, {"square": 144})
        server.process.terminate()
        server.wait(PATIENCE)
    with (
        serving(APP, env={"STORE_URL": sql_url}) as server,
        closing(Worker(urlsplit(server.url).netloc)) as worker,
    ):
        assert worker.ask("GET", f"/results/{task_id}") == (200, {"square": 144})
        assert worker.ask("GET", "/stats")[1]["completed"] == 1


WARNING = "4 worker processes serve this app and each keeps its tasks in its own memory"


@pytest.mark.parametrize(
    ("options", "env"),
    [(("--workers", "4"), {}), ((), {"WEB_CONCURRENCY": "4"})],
    ids=["option", "environment"],
)
def test_warning_of_workers_with_memory(options: tuple[str, ...], env: dict[str, str]) -> None:
    """Each of several workers that keep tasks in memory says at its start what to do."""
    with serving(APP, *options, env=env, until=READY, processes=4) as server:
        assert sum(WARNING in line for line in server.lines) == 4


@pytest.mark.parametrize("store", [True, False], ids=["shared", "alone"])
def test_no_warning_without_need(store: bool, sqlite_url: str) -> None:
    """Workers that share a store say nothing, nor does a single one."""
    options = ("--workers", "4") if store else ()
    env = {"STORE_URL": sqlite_url} if store else {}
    with serving(APP, *options, env=env, processes=4 if store else 1) as server:
        assert "worker processes" not in server.log


def test_no_warning_of_reload() -> None:
    """A server that reloads has one worker, and says nothing of several."""
    with serving(APP, "--reload", env={"WEB_CONCURRENCY": "4"}) as server:
        assert "worker processes" not in server.log
