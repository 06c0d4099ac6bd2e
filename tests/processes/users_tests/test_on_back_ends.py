"""Users' tests on real servers, which the plugin starts or a user names."""

from __future__ import annotations

import os
from textwrap import dedent

import psutil
import psycopg
import pytest
import redis

from pytest_asyncframe._backends import programs
from tests.plugin.endings import LOOPS, PLAIN
from tests.plugin.modes.sections import lines_of
from tests.processes.servers import Databases

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

WORK = """
    import os
    from fastapi import FastAPI
    from framework import async_task, background_task, current_task, setup_async_framework

    app = FastAPI(lifespan=setup_async_framework(max_workers=2))

    @background_task(on_restart="requeue")
    def where(number: int) -> int:
        current_task().report_progress(0.5)
        return os.getpid()

    @background_task(on_restart="requeue")
    async def fail(word: str) -> None:
        raise LookupError(word)

    @background_task(on_restart="requeue")
    def die() -> None:
        os._exit(3)

    @background_task
    def stay() -> None:
        pass

    @async_task
    async def here() -> int:
        return os.getpid()

    @app.post("/{number}")
    async def start(number: int):
        return {"task_id": where(number), "here": await here()}
"""

ON_WORKERS = """
    import os, subprocess, sys
    import pytest
    from framework import background_task, get_task_manager, setup_async_framework
    from fastapi import FastAPI
    from work import app, die, fail, stay, where

    pytestmark = pytest.mark.task_modes("auto", on=("memory", "sqlite", "workers"))

    async def test_where(asyncframe):
        async with asyncframe.client(app) as client:
            response = await client.post("/7")
            await asyncframe.settled()
            task = await asyncframe.completed(response)
        is_here = asyncframe.backend != "workers"
        assert (task.result == os.getpid()) is is_here
        assert response.json()["here"] == os.getpid(), "awaited in place"
        asyncframe.assert_submitted(where, 7, times=1)
        asyncframe.assert_transitions(response, "pending>running>completed")
        asyncframe.assert_idle()

    class TestFailures:
        @pytest.mark.parametrize("word", ["one"])
        def test_read(self, asyncframe, word):
            with asyncframe.client(app):
                with pytest.raises(LookupError, match=word):
                    asyncframe.run_until_complete(fail(word))

        def test_expected(self, asyncframe):
            asyncframe.expect_failure(fail, LookupError, times=2)
            with asyncframe.client(app):
                fail("one"), fail("two")
                asyncframe.run_until_idle()

        def test_lost(self, asyncframe):
            with asyncframe.client(app):
                fail("one")
                asyncframe.run_until_idle()

    def test_stay(asyncframe):
        with asyncframe.client(app):
            asyncframe.run_until_complete(stay())

    @background_task(on_restart="requeue")
    def unknown(): pass

    def test_unknown(asyncframe):
        with asyncframe.client(app):
            asyncframe.run_until_complete(unknown())

    def test_local(asyncframe):
        with asyncframe.client(app):
            @background_task(on_restart="requeue", name="local")
            def local(): pass

            asyncframe.run_until_complete(local())

    def test_no_app(asyncframe):
        asyncframe.run_until_complete(where(7))

    @pytest.fixture
    def made():
        return FastAPI(lifespan=setup_async_framework)

    def test_an_app_of_a_fixture(asyncframe, made):
        with asyncframe.client(made):
            asyncframe.run_until_complete(where(7))
"""

DYING = """
    import pytest
    from work import app, die

    @pytest.mark.task_modes(on="workers")
    def test_complete(asyncframe):
        with asyncframe.client(app):
            asyncframe.run_until_complete(die())

    @pytest.mark.task_modes(on="workers")
    async def test_idle(asyncframe):
        async with asyncframe.client(app):
            die()
            await asyncframe.settled()
"""

NEEDED = (
    "make it a variable of a module, or name the app in the ini file: asyncframe_app = "
    "shop.main:app"
)

TOLD = {
    "test_lost": "on sqlite: Failed: lost failure: work.fail (*",
    "test_stay": "on workers: framework.exceptions.NoWorkersError: work.stay cannot run in *",
    "test_unknown": (
        "on workers: RuntimeError: test_it.unknown cannot run on workers: 'asyncframe worker "
        "work:app' does not import test_it, so it would never run; import it in the app's module, *"
    ),
    "test_local": (
        "on workers: RuntimeError: local cannot run on workers: it "
        "is defined inside test_local(), and another process could not import it; *"
    ),
    "test_no_app": (
        "on workers: RuntimeError: this test has set up no app, so that no other process could "
        f"import it: {NEEDED}, *"
    ),
    "test_an_app_of_a_fixture": (
        "on workers: RuntimeError: no module has the test's app, so that no other process could "
        f"import it: {NEEDED}, *"
    ),
}
"""What is said of the tests that fail on workers."""

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
        shop = "" if "from work import app" in source else SHOP
        pytester.makepyfile(test_it=dedent(shop) + dedent(source))
        # In a process of its own: not all that a run has imported can be imported once more.
        return pytester.runpytest_subprocess(*PLAIN, *LOOPS, *options)

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
    runs().assert_outcomes(passed=2)


@pytest.mark.extended("processes")
def test_a_server_that_is_not_there(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is named must be there: otherwise the test fails, and is not skipped."""
    monkeypatch.setenv("ASYNCFRAME_POSTGRESQL_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = runs()

    result.assert_outcomes(errors=2)
    assert lines_of(result, "task modes")[0] == "passes in auto on memory; fails on postgresql"
    result.stdout.fnmatch_lines("asyncframe_postgresql_url: no database can be made there: *")


@pytest.mark.skipif(os.name == "nt", reason="no server is started on Windows")
def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program to start the test is skipped, and the reason says how to get one."""
    monkeypatch.setattr(programs, "places", lambda _: "/nowhere")
    told = r"^postgres is not installed: apt-get install postgresql, or pip install pixeltable-"
    with pytest.raises(pytest.skip.Exception, match=told):
        programs.program("postgres")


@pytest.mark.extended("processes")
def test_on_workers(runs, pytester: pytest.Pytester) -> None:
    """Tasks run in a worker process, which tells of them; what could not run there is refused."""
    pytester.makepyfile(work=dedent(WORK))
    result = runs("-v", source=ON_WORKERS)

    passed = ("test_where", "TestFailures::test_read?one?", "TestFailures::test_expected")
    result.assert_outcomes(passed=4, failed=5, errors=1)  # the lost one passes, and then fails
    for name in passed:
        everywhere = "(passes in auto on memory, on sqlite and on workers)"
        result.stdout.fnmatch_lines(f"*::{name} PASSED {everywhere}*")
    for name, message in TOLD.items():
        result.stdout.fnmatch_lines_random(f"fails {message}")
        assert f"::{name} --asyncframe-on=" in result.stdout.str() or name == "test_lost"
    children = psutil.Process().children(recursive=True)
    assert [
        one for one in children if "pytest_asyncframe._backends.processes.working" in one.cmdline()
    ] == []


@pytest.mark.extended("processes")
def test_a_worker_that_ends(runs, pytester: pytest.Pytester) -> None:
    """Whoever waits for tasks of a worker that has ended is told, with what it has written."""
    pytester.makepyfile(work=dedent(WORK))
    result = runs(source=DYING)

    result.assert_outcomes(failed=2)
    told = "E*RuntimeError: tasks of this test will not end: asyncframe worker work:app has ended *"
    result.stdout.fnmatch_lines([told, "E*asyncframe worker: work:app is ready: *", told])


@pytest.mark.extended("processes")
def test_an_app_in_the_test_itself(runs, pytester: pytest.Pytester) -> None:
    """An app of the test's own module runs on workers, however pytest has imported the module."""
    source = """
    from work import where

    @pytest.mark.task_modes(on=("workers",))
    def test_it(asyncframe):
        with asyncframe.client(app):
            assert asyncframe.run_until_complete(where(7)).result != 0
    """
    pytester.makepyfile(work=dedent(WORK))
    pytester.syspathinsert()
    for mode in ("prepend", "importlib"):
        runs(f"--import-mode={mode}", source=source).assert_outcomes(passed=1)
    named = source.replace("client(app)", "client(FastAPI(lifespan=setup_async_framework))")
    runs("-o", "asyncframe_app=work:app", source=named).assert_outcomes(passed=1)


ON_CELERY = """
    import os
    import pytest
    from work import app, die, fail, stay, where

    pytestmark = pytest.mark.task_modes("auto", on=("memory", "celery"))
    workers = set()

    @pytest.mark.parametrize("number", [1, 2])
    async def test_where(asyncframe, number):
        async with asyncframe.client(app) as client:
            response = await client.post("/7")
            await asyncframe.settled()
            task = await asyncframe.completed(response)
        assert (task.result == os.getpid()) is (asyncframe.backend == "memory")
        asyncframe.assert_submitted(where, 7, times=1)
        asyncframe.assert_transitions(response, "pending>running>completed")

    def test_failures(asyncframe):
        asyncframe.expect_failure(fail, LookupError, times=2)
        with asyncframe.client(app):
            with pytest.raises(LookupError, match="one"):
                asyncframe.run_until_complete(fail("one"))
            fail("two")
            asyncframe.run_until_idle()

    def test_stay(asyncframe):
        with asyncframe.client(app):
            asyncframe.run_until_complete(stay())

    @pytest.mark.task_modes(on="celery")
    def test_die(asyncframe):
        with asyncframe.client(app):
            task = asyncframe.run_until_complete(die(), check=False)
        assert task.status == "interrupted"

    @pytest.mark.task_modes(on="celery")
    def test_rate(asyncframe):
        asyncframe.rate(where)
"""


@pytest.mark.parametrize("given", [True, False])
def test_on_celery(runs, pytester, monkeypatch, redis_url: str, given: bool) -> None:
    """Tasks run on a Celery worker, over a Redis that a user names or one that the run starts."""
    monkeypatch.delenv("ASYNCFRAME_REDIS_URL", raising=False)
    if given:
        monkeypatch.setenv("ASYNCFRAME_REDIS_URL", redis_url)
    pytester.makepyfile(work=dedent(WORK))
    result = runs(source=ON_CELERY)

    result.assert_outcomes(passed=5, failed=1)
    told = (
        "E*RuntimeError: asyncframe.rate(): what happens inside of tasks is not seen on celery, *"
    )
    result.stdout.fnmatch_lines(told)
    with redis.Redis.from_url(redis_url) as client:
        assert any(b"asyncframe_test_" in key for key in client.scan_iter()) is given
    children = psutil.Process().children(recursive=True)
    assert [one for one in children if "celery_side" in " ".join(one.cmdline())] == []
