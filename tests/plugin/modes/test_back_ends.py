"""One test on several back ends: one result, which says where it fails and where it did not run."""

from __future__ import annotations

import pytest

# Each run of pytest inside this one forgets what it has imported, and a second import of SQLAlchemy
# does not work.
import framework.stores.sql  # noqa: F401
from tests.plugin.endings import Ending
from tests.plugin.modes.sections import Runs, lines_of

SHOP = """
    import pytest
    from fastapi import FastAPI
    from framework import background_task, setup_async_framework

    app = FastAPI(lifespan=setup_async_framework(max_workers=2))

    @background_task
    def count(number):
        return {number: "counted"}

    @app.post("/counts/{number}")
    def start(number: int):
        return {"task_id": count(number)}
"""


def test_one_result_for_all_back_ends(runs: Runs) -> None:
    """A test runs on memory in its modes and on SQLite once, over each transport."""
    result = runs(
        """
        ran = []

        @pytest.mark.task_modes("auto", "virtual", transports=("asgi", "live"),
                                on=("memory", "sqlite"))
        async def test_it(asyncframe):
            async with asyncframe.client(app) as client:
                response = await client.post("/counts/7")
                await asyncframe.settled()
                task = await asyncframe.completed(response)
            store = type(asyncframe.manager._core.ledger.store).__name__
            ran.append((asyncframe.backend, asyncframe.mode, store))
            assert list(task.result.values()) == ["counted"]
            asyncframe.assert_submitted(count, 7)

        def test_where():
            assert ran == 2 * [
                ("memory", "auto", "MemoryStore"), ("memory", "virtual", "MemoryStore"),
                ("sqlite", "threads", "SQLStore"),
            ]
        """,
        "-v",
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        "*PASSED (passes in auto and virtual on memory over asgi, on sqlite over asgi, in auto and "
        "virtual on memory over live and on sqlite over live)*"
    )


def test_back_ends_that_disagree(runs: Runs) -> None:
    """What a database changes is told: where the test passes and fails, and how to repeat it."""
    source = """
        @pytest.mark.task_modes("auto", on=("memory", "sqlite"))
        def test_it(asyncframe):
            assert asyncframe.run_until_complete(count(7)).result == {7: "counted"}
        """
    result = runs(source)

    result.assert_outcomes(failed=1)
    head, fails, again = lines_of(result, "task modes")
    assert head == "passes in auto on memory; fails on sqlite"
    assert fails.startswith("fails on sqlite: AssertionError: assert {'7': 'counted'} == ")
    assert again == "    pytest test_it.py::test_it --asyncframe-on=sqlite"

    alone = runs(source, *again.split()[2:])

    alone.assert_outcomes(failed=1)
    assert lines_of(alone, "task modes")[0] == "fails on sqlite"


def test_a_back_end_that_is_missing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine lacks something a test does not run, and the summary says why."""
    monkeypatch.setattr("pytest_asyncframe._backends.back_end.find_spec", lambda _: None)
    result = runs(
        """
        @pytest.mark.task_modes(on=("memory", "sqlite"))
        @pytest.mark.parametrize("number", [1, 2])
        def test_it(asyncframe, number):
            pass

        @pytest.mark.task_modes(on="sqlite")
        def test_alone(asyncframe):
            pass
        """,
        "-v",
    )

    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "*test_it?1? PASSED (passes on memory; is skipped on sqlite)*",
            "* back ends left out *",
            "3 tests not run on sqlite: sqlalchemy is not installed: install the extra 'sql'*",
        ]
    )


WRONG = {
    "on=7": ": on must be a tuple, not 7",
    "on='oracle'": ": there is no back end 'oracle'; there are memory, sqlite, postgresql, "
    "workers, celery",
    "on=('memory', 'memory')": " names the back end memory twice",
    "'auto', on='sqlite'": " names a mode, and in 'on' no memory, which alone has modes: add "
    "'memory' to 'on', or remove the mode",
}
"""Arguments of the marker, and what is wrong with them."""

OF_MEMORY = {
    "task_executor": "tasks start by themselves",
    "task_clock": "time is real",
    "task_faults": "nothing is injected",
}
"""Fixtures that work on memory alone, and why."""


def test_what_is_refused(ending: Ending) -> None:
    """A wrong value, and a fixture that works on memory alone, are errors at the set-up."""
    source = "\n    import pytest\n"
    for number, given in enumerate(WRONG):
        source += f"""
    @pytest.mark.task_modes({given})
    def test_{number}(asyncframe): raise AssertionError("it must not run")
    """
    for name in OF_MEMORY:
        source += f"""
    @pytest.mark.task_modes(on=("memory", "sqlite"))
    def test_{name}(asyncframe, {name}): raise AssertionError("it must not run")
    """
    assert ending(source).splitlines() == [
        *(f"setup: @pytest.mark.task_modes{message}" for message in WRONG.values()),
        *(
            f"setup: test_{name} requests {name}, but {why} on sqlite: remove {name}, or leave "
            "sqlite out of 'on'"
            for name, why in OF_MEMORY.items()
        ),
    ]


@pytest.mark.parametrize("name", ["executor", "clock", "faults"])
def test_what_is_refused_in_the_body(ending: Ending, name: str) -> None:
    """What works on memory alone says so where a test uses it elsewhere, with the cure."""
    told = ending(f"""
    import pytest

    @pytest.mark.task_modes(on=("memory", "sqlite"))
    def test_it(asyncframe):
        asyncframe.{name}
    """)

    assert (
        f"RuntimeError: asyncframe.{name}: {OF_MEMORY[f'task_{name}']} on sqlite; leave sqlite out "
        "of 'on', or use it only if asyncframe.backend == 'memory'"
    ) in told


def test_the_manager_alone(runs: Runs) -> None:
    """A test with task_manager and a client of its own runs on each back end, without modes."""
    result = runs(
        """
        from fastapi.testclient import TestClient

        pytestmark = pytest.mark.task_modes("virtual", on=("memory", "sqlite"))

        def test_it(task_manager):
            with TestClient(app) as client:
                task_id = client.post("/counts/7").json()["task_id"]
                assert list(task_manager.wait_result(task_id).values()) == ["counted"]

        def test_clock(task_manager, task_clock):
            raise AssertionError("it must not run")
        """,
        "-v",
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_it PASSED (passes on memory and on sqlite)*",
            "test_clock requests task_clock, but time is real on sqlite: *",
        ]
    )


def test_a_back_end_that_fails(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure while a back end is made is the only error of the test, whoever raises it."""
    monkeypatch.setattr("pytest_asyncframe._backends.back_end.find_spec", pytest.fail)
    result = runs("""
        @pytest.mark.task_modes(on=("memory", "sqlite"))
        def test_it(asyncframe, caplog):
            pass
        """)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("fails on sqlite: Failed: sqlalchemy, at *")
