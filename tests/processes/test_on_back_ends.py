"""Users' tests on real servers, which the plugin starts or a user names."""

from __future__ import annotations

from textwrap import dedent

import psycopg
import pytest

# Each run of pytest inside this one forgets what it has imported, and not all works once more.
import framework.stores.sql  # noqa: F401
from pytest_asyncframe._backends import programs
from tests.plugin.endings import LOOPS, PLAIN
from tests.plugin.sections import lines_of
from tests.processes.servers import Databases, PostgresServer

SHOP = """
    import pytest
    from fastapi import FastAPI
    from framework import background_task, get_task_manager, setup_async_framework
    from framework.http import task_router

    app = FastAPI(lifespan=setup_async_framework(max_workers=2))
    app.include_router(task_router())

    @background_task
    def count(number):
        return {str(number): "counted"}

    @app.post("/counts/{number}")
    async def start(number: int):
        return {"task_id": count(number)}
"""

TESTS = """
    urls = []

    @pytest.mark.task_modes("auto", on=("memory", "postgresql"))
    @pytest.mark.parametrize("number", [1, 2])
    async def test_it(asyncframe, number):
        async with asyncframe.client(app) as client:
            response = await client.post(f"/counts/{number}")
            task = await asyncframe.completed(response)
            listed = (await client.get("/tasks")).json()
        assert task.result == {str(number): "counted"}
        assert [one["task_id"] for one in listed["tasks"]] == [task.task_id], "of no other test"
        store = asyncframe.manager._core.ledger.store
        print("ran on", store if asyncframe.backend == "postgresql" else "memory")
"""


@pytest.fixture
def runs(pytester: pytest.Pytester):
    """Return a function that runs tests of the shop."""

    def run(*options: str, source: str = TESTS) -> pytest.RunResult:
        pytester.makepyfile(test_it=dedent(SHOP) + dedent(source))
        return pytester.runpytest(*PLAIN, *LOOPS, *options)

    return run


def test_a_server_of_the_user(
    runs, shared_postgres: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each test gets an empty database of the server that a user names; none of them is left."""
    url = shared_postgres._server
    monkeypatch.setenv("ASYNCFRAME_POSTGRESQL_URL", url.replace("postgresql+psycopg", "postgres"))
    result = runs("-s")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines("*ran on SQLStore('postgresql+psycopg://postgres@127.0.0.1:*")
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        names = connection.execute("SELECT datname FROM pg_database").fetchall()
    assert [name for (name,) in names if name.startswith("asyncframe_test")] == []


@pytest.mark.extended("servers")
def test_a_server_of_the_run(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the plugin starts one, which ends with the run."""
    monkeypatch.delenv("ASYNCFRAME_POSTGRESQL_URL", raising=False)
    ended: list[bool] = []
    real = PostgresServer.close

    def close(server: PostgresServer) -> None:
        real(server)
        ended.append(not server.is_running)

    monkeypatch.setattr(PostgresServer, "close", close)
    runs().assert_outcomes(passed=2)
    assert ended == [True]


def test_a_server_that_is_not_there(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is named must be there; none that is named and none to start is a skip."""
    monkeypatch.setenv("ASYNCFRAME_POSTGRESQL_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = runs()

    result.assert_outcomes(errors=2)
    assert lines_of(result, "task modes")[0] == "passes in auto on memory; fails on postgresql"
    result.stdout.fnmatch_lines("asyncframe_postgresql_url: no database can be made there: *")

    monkeypatch.delenv("ASYNCFRAME_POSTGRESQL_URL")
    monkeypatch.setattr(programs, "places", lambda _: "/nowhere")
    result = runs()

    result.assert_outcomes(passed=2)
    told = "2 tests not run on postgresql: postgres is not installed: apt-get install postgresql, *"
    result.stdout.fnmatch_lines(told)
