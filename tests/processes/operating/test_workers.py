"""Several real processes on one database: one truth for all, and none of it lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.patience import PATIENCE
from tests.processes.operating.connections import PATIENT, WORKERS, Worker, workers
from tests.processes.servers import Databases
from tests.serving import READY, Server, serving

pytestmark = pytest.mark.extended("processes")

APP = "tests.processes.apps.shared:app"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Server]:
    """An app in four workers that share one database of each kind, for all tests here."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'tasks.db'}"
        else:
            postgres: Databases = request.getfixturevalue("shared_postgres")
            url = postgres.url(stack.enter_context(postgres.database()))
        options = ("--workers", str(WORKERS), *PATIENT)
        yield stack.enter_context(serving(APP, *options, env={"STORE_URL": url}, processes=WORKERS))


@pytest.fixture
def all_workers(server: Server) -> Iterator[list[Worker]]:
    """A connection to each of the four."""
    with workers(server) as found:
        yield found


def test_every_worker_answers_for_every_task(server: Server, all_workers: list[Worker]) -> None:
    """Each of four workers knows each of 200 tasks at once, whichever one submitted it."""
    ids = []
    for number in range(200):
        status, task_id = all_workers[number % WORKERS].ask("POST", f"/squares/{number}")
        assert status == 202
        ids.append(task_id)
        if number % 5 == 0:
            status, task = all_workers[(number + 1) % WORKERS].ask("GET", f"/tasks/{task_id}")
            assert (status, task and task["task_id"]) == (200, task_id)
    for worker in all_workers:
        for number, task_id in enumerate(ids):
            found = worker.ask("GET", f"/results/{task_id}")
            assert found == (200, {"square": number * number})
    figures = [worker.ask("GET", "/stats")[1] for worker in all_workers]

    assert "consider it dead" not in server.log
    assert [one["store_errors"] for one in figures] == [0] * WORKERS


def test_cancelling_a_task_of_another_worker(all_workers: list[Worker]) -> None:
    """A worker cancels a coroutine that runs in another one, and all of them say so."""
    one, two, *_ = all_workers
    _, task_id = one.ask("POST", "/sleepers")
    assert two.ask("DELETE", f"/tasks/{task_id}") == (200, True)
    for worker in all_workers:
        assert worker.ask("GET", f"/tasks/{task_id}")[1]["status"] == "cancelled"


def test_unknown_to_all_workers(all_workers: list[Worker]) -> None:
    """An id that nobody has is unknown to each worker, which says so after it has made sure."""
    with ThreadPoolExecutor(WORKERS) as pool:
        path = f"/tasks/{'0' * 32}"
        answers = list(pool.map(lambda worker: worker.ask("GET", path), all_workers))

    assert answers == [(404, None)] * WORKERS


def test_no_warning_of_workers_with_a_store(server: Server) -> None:
    """Workers that share a store say nothing of what each of them keeps."""
    assert "worker processes" not in server.log


def test_history_outlives_a_restart(sqlite_url: str) -> None:
    """Tasks that ended before a restart are known after it, with their results."""
    with serving(APP, env={"STORE_URL": sqlite_url}) as server:
        with closing(Worker(urlsplit(server.url).netloc)) as worker:
            _, task_id = worker.ask("POST", "/squares/12")
            assert worker.ask("GET", f"/results/{task_id}") == (200, {"square": 144})
        server.process.terminate()
        server.wait(PATIENCE)
    with (
        serving(APP, env={"STORE_URL": sqlite_url}) as server,
        closing(Worker(urlsplit(server.url).netloc)) as worker,
    ):
        assert worker.ask("GET", f"/results/{task_id}") == (200, {"square": 144})
        assert worker.ask("GET", "/stats")[1]["completed"] == 1


WARNING = "2 worker processes serve this app, and each keeps its tasks in its own memory"


@pytest.mark.parametrize(
    ("options", "env"),
    [(("--workers", "2"), {}), ((), {"WEB_CONCURRENCY": "2"})],
    ids=["option", "environment"],
)
def test_warning_of_workers_with_memory(options: tuple[str, ...], env: dict[str, str]) -> None:
    """Each of several workers that keep tasks in memory says at its start what to do."""
    with serving(APP, *options, env=env, until=READY, processes=2) as server:
        assert sum(WARNING in line for line in server.lines) == 2


def test_no_warning_of_one_process() -> None:
    """A server of one process says nothing of several."""
    with serving(APP) as server:
        assert "worker processes" not in server.log


def test_no_warning_of_reload() -> None:
    """A server that reloads has one worker, and says nothing of several."""
    with serving(APP, "--reload", env={"WEB_CONCURRENCY": "4"}) as server:
        assert "worker processes" not in server.log
