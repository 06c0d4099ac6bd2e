"""The event loops of a test: its own, those of other runners, and those that it creates."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fastapi import FastAPI

from framework import TaskId, async_task
from pytest_asyncframe._toolkit.clients import Client
from pytest_asyncframe.probe import Probe
from tests.plugin.endings import PLAIN

TASKS = """
    import asyncio
    import time

    import pytest
    from fastapi import FastAPI
    from framework import background_task, get_task_manager, setup_async_framework

    app = FastAPI(lifespan=setup_async_framework)

    @background_task
    def nap(number):
        time.sleep(3600)
        return number

    @background_task
    async def add(a, b):
        await asyncio.sleep(60)
        return a + b

    @app.post("/nap")
    async def take():
        return {"task_id": nap(7)}
"""


@pytest.fixture
def outcome(pytester: pytest.Pytester):
    """Return a function that runs tests which may use the tasks above."""
    pytester.makepyfile(tasks=TASKS)
    pytester.syspathinsert()
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def ran(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=f"from tasks import *\n{source}")
        return pytester.runpytest_inprocess(*PLAIN, *options)

    return ran


# -- loops that a test makes itself


@pytest.mark.parametrize("mode", ["auto", "virtual", "seeded"])
@pytest.mark.parametrize(
    "run",
    ["asyncio.run(main)", "asyncio.new_event_loop().run_until_complete(main)"],
    ids=["run", "new_event_loop"],
)
def test_a_loop_of_a_sync_test(outcome, run: str, mode: str) -> None:
    """A loop that a sync test runs itself is on the test's clock."""
    source = f"""
def test_own_loop(asyncframe):
    async def whole():
        async with asyncframe.client(app) as client:
            task = await asyncframe.completed(await client.post("/nap"))
        assert task.result == 7
        assert await get_task_manager().get_result(nap(8)) == 8
        add(1, 2)
        await asyncframe.settled()
        await asyncframe.clock.run_for(40)
    main = whole()
    {run}
    assert asyncframe.clock.monotonic() == 7300
"""
    outcome(
        source, "-o", f"asyncframe_mode={mode}", "-W", "ignore::ResourceWarning"
    ).assert_outcomes(passed=1)


def test_an_isolated_test_case(outcome) -> None:
    """The loop of an IsolatedAsyncioTestCase is on the clock if asyncframe is autouse."""
    source = """
import unittest

class Isolated(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def probe(self, asyncframe):
        self.asyncframe = asyncframe

    async def asyncSetUp(self):
        await asyncio.sleep(10)

    async def test_it(self):
        assert (await self.asyncframe.completed(nap(3))).result == 3
        assert self.asyncframe.clock.monotonic() == 3610
"""
    outcome(source).assert_outcomes(passed=1)


@async_task
def pooled() -> int:
    """Run on the pool."""
    return 1


async def entered(client: Client) -> None:
    """Open a client."""
    async with client:
        pass


WAITS: dict[str, Callable[[Probe, TaskId[int]], Coroutine[Any, Any, object]]] = {
    "run_for()": lambda probe, _: probe.clock.run_for(1),
    "completed()": lambda probe, task_id: probe.completed(task_id),
    "settled()": lambda probe, _: probe.settled(),
    "waiting for a task": lambda probe, task_id: probe.manager.get_result(task_id),
    "waiting for": lambda *_: pooled(),
    "asyncframe.client(app)": lambda probe, _: entered(probe.client(FastAPI())),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_on_a_loop_of_another_kind(asyncframe: Probe, what: str) -> None:
    """Waiting on a loop that does not use the clock is rejected at once."""
    task_id = asyncframe.manager.submit_nowait(int)
    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
        pytest.raises(RuntimeError, match=rf"^{re.escape(what)} .*on <.*SelectorEventLoop"),
    ):
        runner.run(WAITS[what](asyncframe, task_id))
    asyncframe.run_until_idle()


# -- anyio's runner


ANYIO = """
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")
async def resource():
    begun = time.monotonic()
    await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    assert type(loop).__name__ != "VirtualLoop"
    yield loop
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0.001)

@pytest.fixture
async def own(asyncframe):
    await asyncio.sleep(5)
    yield asyncio.get_running_loop()
    await asyncio.sleep(5)

async def passes(asyncframe, own):
    assert asyncio.get_running_loop() is own
    assert (await asyncframe.completed(add(1, 1))).result == 2
    assert asyncframe.clock.monotonic() == 65
"""


@pytest.mark.parametrize("first", ["plain", "virtual"])
def test_a_wider_fixture_of_anyio(outcome, first: str) -> None:
    """An async fixture of a wider scope keeps anyio's loop; each test with a clock has its own."""
    plain = """
@pytest.mark.anyio
async def test_plain_{}(resource):
    assert asyncio.get_running_loop() is resource
"""
    virtual = """
@pytest.mark.anyio
@pytest.mark.parametrize("number", range(2))
async def test_virtual(asyncframe, own, resource, number):
    await passes(asyncframe, own)

@pytest.mark.anyio
async def test_without_it(asyncframe, own):
    await passes(asyncframe, own)
"""
    before = plain.format(1) if first == "plain" else ""
    result = outcome(ANYIO + before + virtual + plain.format(2))

    result.assert_outcomes(passed=5 if first == "plain" else 4)


def test_uvloop_of_anyio(outcome) -> None:
    """Tests with a virtual clock do not use uvloop even if anyio is configured to."""
    pytest.importorskip("uvloop")
    source = """
import uvloop

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}

@pytest.mark.anyio
async def test_real():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)

@pytest.mark.anyio
async def test_virtual(asyncframe):
    assert (await asyncframe.completed(add(1, 1))).result == 2
"""
    outcome(source).assert_outcomes(passed=2)


def test_trio_is_refused_in_each_test(outcome) -> None:
    """A virtual clock under trio is an error of each test, which shows the backend's name."""
    source = """
@pytest.fixture(scope="module")
def anyio_backend():
    return "trio"

@pytest.mark.anyio
@pytest.mark.parametrize("number", range(2))
async def test_trio(asyncframe, number):
    pass
"""
    result = outcome(source)

    result.assert_outcomes(failed=2)
    message = "the virtual clock needs an asyncio event loop, but anyio_backend is 'trio': make it"
    assert result.stdout.str().count(f"\n{message}") == 2


# -- pytest-asyncio's


def test_a_users_loops_in_real_time(outcome, pytester: pytest.Pytester) -> None:
    """A user's loop factory is kept for tests in real time, but not for those in virtual time."""
    pytester.makeconftest("""
    import asyncio

    class Mine(asyncio.SelectorEventLoop):
        pass

    def pytest_asyncio_loop_factories():
        return {"mine": Mine}
    """)
    source = """
async def test_plain():
    assert type(asyncio.get_running_loop()).__name__ == "Mine"

async def test_real(task_manager):
    assert type(asyncio.get_running_loop()).__name__ == "Mine"

@pytest.mark.asyncframe(mode="threads")
async def test_threads(asyncframe):
    assert type(asyncio.get_running_loop()).__name__ == "Mine"

async def test_virtual(task_clock):
    assert type(asyncio.get_running_loop()).__name__ == "VirtualLoop"
"""
    outcome(source, "-o", "asyncio_mode=auto").assert_outcomes(passed=4)


@pytest.mark.parametrize("answer", ["None", "{}"])
def test_an_error_of_pytest_asyncio(outcome, pytester: pytest.Pytester, answer: str) -> None:
    """What pytest-asyncio rejects, it also rejects with the plugin installed."""
    pytester.makeconftest(f"def pytest_asyncio_loop_factories():\n    return {answer}")
    source = """
@pytest.mark.asyncio
async def test_it():
    pass
"""
    assert "must return a non-empty mapping" in outcome(source).stdout.str()


def test_a_loop_factory_that_is_missing(outcome) -> None:
    """A missing loop factory is pytest-asyncio's error, not a skipped test."""
    source = """
@pytest.mark.asyncio(loop_factories=["missing"])
async def test_it():
    pass
"""
    result = outcome(source)

    result.assert_outcomes(errors=1)
    assert "requires at least one pytest_asyncio_loop_factories hook" in result.stdout.str()


def test_a_wider_fixture_of_pytest_asyncio(outcome) -> None:
    """An async session fixture is created once, on a loop of its own in real time."""
    source = """
import pytest_asyncio
made = []

@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def resource():
    await asyncio.sleep(0.001)
    made.append(asyncio.get_running_loop())
    yield made
    assert asyncio.get_running_loop() is made[0]

@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(2))
async def test_virtual(asyncframe, resource, number):
    assert len(resource) == 1
    assert (await asyncframe.completed(add(1, 1))).result == 2

@pytest.mark.asyncio(loop_scope="session")
async def test_plain(resource):
    assert asyncio.get_running_loop() is resource[0]
"""
    outcome(source).assert_outcomes(passed=3)


LASTING = """
from fastapi.testclient import TestClient

@background_task
async def quick():
    return 1

@app.post("/quick")
async def begin():
    return {"task_id": quick()}

@pytest.fixture(scope="module")
def client():
    with TestClient(app) as client:
        yield client

@pytest.fixture
def user(client):
    return client

def ask(client):
    task_id = client.post("/quick").json()["task_id"]
    assert app.state.task_manager.wait_result(task_id, timeout=60) == 1

def test_refused(user, asyncframe):
    raise NotImplementedError

def test_own(client):
    ask(client)

def test_other(asyncframe):
    with asyncframe.client(app) as client:
        asyncframe.run_until_complete(client.post("/quick"))

def test_refused_again(client, task_manager):
    raise NotImplementedError

def test_own_again(client):
    ask(client)
"""


def test_an_app_of_a_wider_scope(outcome: Callable[..., pytest.RunResult]) -> None:
    """An app that a fixture runs for several tests goes on, and is refused on virtual time."""
    result = outcome(LASTING, "-p", "no:randomly")
    result.assert_outcomes(passed=3, errors=2)
    assert result.stdout.str().count("During handling") == 0
    told = (
        "the fixture client (test_it.py:*, scope module) runs an app in real time, for other "
        "tests too, so this test cannot follow its tasks: give it function scope, and open the "
        "app in it with asyncframe.client(app)"
    )
    result.stdout.fnmatch_lines([told, "*", told])
