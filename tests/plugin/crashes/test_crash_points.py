"""Tests of the marker crash_points: what it finds, what it proves, and what it lets die."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

BUGS = Path(__file__).with_name("bugs.py")
APPROVALS = Path(__file__).with_name("approvals.py")

FOUND = {
    "test_bug[charge between steps]": "before ship_once #1",
    "test_bug[key made anew]": "after charge, before its commit #1",
    "test_bug[step that is not idempotent]": "after ship, before its commit #1",
    "test_bug[random between steps]": "after charge, before its commit #1",
    "test_bug[now between steps]": "after charge, before its commit #1",
    "test_bug[effect after the last step]": "after mails_at_its_end, before its end is stored #1",
    "test_bug[effect before the commit]": "before right is stored #1",
    "test_bug[task that does not go on]": "after does_not_go_on is stored #1",
    "test_bug_of_a_client_that_does_not_repeat": "before right is stored #1",
    "test_bug_of_a_client_without_a_key": "after ships_blindly is stored #1",
}
"""The first crash that shows each bug of the gallery."""

FOUND_WAITING = {
    "test_bug_of_an_effect_after_a_message": "before refund #1",
    "test_bug_of_an_approval_that_is_not_repeated": "before message approval is stored #1",
    "test_bug_of_an_approval_without_a_key": "after message approval is stored #1",
}
"""The first crash that shows each bug of a task that waits for a person."""

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function"


@pytest.fixture
def gallery(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with the modules of bugs and cures."""
    pytester.makeini(INI)
    pytester.makepyfile(test_bugs=BUGS.read_text(), test_approvals=APPROVALS.read_text())
    return pytester


@pytest.mark.extended("time")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("module", "found"), [("bugs", FOUND), ("approvals", FOUND_WAITING)])
def test_each_bug_is_found(gallery: pytest.Pytester, module: str, found: dict[str, str]) -> None:
    """Each bug fails at the first crash that shows it, which the line for its replay names."""
    result = gallery.runpytest(
        f"test_{module}.py", "--tb=short", "-p", "no:randomly", "-k", "not cure"
    )
    result.assert_outcomes(failed=len(found))
    text = result.stdout.str()
    lines = [shlex.split(one) for one in re.findall("^Again: pytest (.*)$", text, re.MULTILINE)]
    assert {name.partition("::")[2]: crash for name, _, crash in lines} == found


@pytest.mark.extended("time")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "cure",
    [
        "bugs.py::test_cure[each effect in a step]",
        "bugs.py::test_cure[key of a step]",
        "bugs.py::test_cure[random of a step]",
        "bugs.py::test_cure[now of a step]",
        pytest.param("approvals.py::test_cure_that_waits", marks=pytest.mark.soak),
        pytest.param("approvals.py::test_cure_that_sleeps", marks=pytest.mark.soak),
        pytest.param("approvals.py::test_cure_that_is_cancelled", marks=pytest.mark.soak),
    ],
)
def test_a_cure_passes_at_all_pairs_of_crashes(gallery: pytest.Pytester, cure: str) -> None:
    """What is right fails at no crash, and at no second crash after it."""
    result = gallery.runpytest("-v", "--timeout=900", f"test_{cure}")
    result.assert_outcomes(passed=1)
    proof = r"PASSED \(all (\d+) crash points and (\d+) pairs of them, none fails\)"
    found = re.search(proof, result.stdout.str())
    assert found is not None
    many, pairs = map(int, found.groups())
    # The process meets most points once more, and those of its first life are over.
    assert many >= 14
    assert pairs >= many * (many - 1) // 2


@pytest.mark.extended("time")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("module", "many"), [("children", 11), ("going_on", 1)])
def test_a_module_holds(pytester: pytest.Pytester, module: str, many: int) -> None:
    """Its tests hold at whatever commit the process dies: of children, and of `run_again`."""
    pytester.makeini(INI)
    pytester.makepyfile(test_module=BUGS.with_name(f"{module}.py").read_text())
    result = pytester.runpytest("-v", "-p", "no:randomly")
    result.assert_outcomes(passed=many)
    result.stdout.fnmatch_lines(["*PASSED (all * crash points, none fails)*"] * many)


@pytest.mark.extended("time")
def test_a_failure_is_repeated_by_its_line(gallery: pytest.Pytester) -> None:
    """The line of a failure runs the test once, with that crash, and it fails in the same way."""
    name, crash = "test_bug[step that is not idempotent]", "after ship, before its commit #1"
    result = gallery.runpytest(f"test_bugs.py::{name}", "--asyncframe-crash", crash)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert [[]7, 7[]] in ([[][]], [[]7[]])*",
            f"The process dies {crash}.",
            f"  X {crash}",
            "*the process dies: after ship, before its commit #1",
            "* s  process *another process begins",
            "*requeued: its process ended*",
        ]
    )
    result.stdout.no_fnmatch_line("*Dummy*")
    result = gallery.runpytest(
        "test_bugs.py::test_cure[key of a step]", "--asyncframe-crash", "after nothing #1"
    )
    result.stdout.fnmatch_lines(["*has not met the point 'after nothing #1'*"])


def test_nothing_of_a_dead_process_goes_on(pytester: pytest.Pytester) -> None:
    """No ``finally``, thread, timer or middleware of it; the test and its waits live on."""
    pytester.makeini(INI)
    pytester.makepyfile(
        """
        import asyncio, inspect, time
        import httpx, pytest
        from fastapi import FastAPI, Depends
        from framework import background_task, get_task_manager, setup_async_framework

        seen = []

        def session():
            try:
                yield 7
            finally:
                seen.append("session left")

        @background_task(on_restart="requeue", idempotent=True)
        def blocks(order: int) -> int:
            seen.append("thread")
            try:
                time.sleep(60)
            finally:
                seen.append("thread left")
            return order

        @background_task(on_restart="requeue", idempotent=True)
        async def waits(order: int) -> int:
            seen.append("coroutine")
            try:
                await asyncio.sleep(60)
            finally:
                seen.append("coroutine left")
            return order

        app = FastAPI(lifespan=setup_async_framework)

        @app.post("/orders")
        async def place() -> list[str]:
            submit = get_task_manager().submit
            return [await submit(blocks, (1,)), await submit(waits, (2,))]

        @app.get("/slow")
        def slow(number: int = Depends(session)) -> int:
            time.sleep(60)
            return number

        @app.get("/depth")
        async def depth() -> int:
            return len(inspect.stack(0))

        @pytest.mark.crash_points(most=1)
        async def test_all(asyncframe):
            seen.clear()
            async with asyncframe.client(app) as client:
                before = (await client.get("/depth")).json()
                ids = (await client.post("/orders")).json()
                asked = asyncio.create_task(client.get("/slow"))
                await asyncframe.clock.run_for(30)
                assert sorted(seen) == ["coroutine", "thread"]
                asyncframe.crash()
                with pytest.raises(httpx.RemoteProtocolError, match="^Server disconnected"):
                    await asked
                assert [(await asyncframe.completed(one)).result for one in ids] == [1, 2]
                assert asyncframe.clock.monotonic() == 91
                assert (await client.get("/depth")).json() == before
            assert sorted(seen) == ["coroutine"] * 2 + ["coroutine left"] + ["thread"] * 2 + [
                "thread left"
            ]
            assert asyncframe.crashes == ("asyncframe.crash()",)
        """
    )
    pytester.runpytest("-p", "no:randomly").assert_outcomes(passed=1)


@pytest.mark.extended("time")
def test_an_app_ends_with_its_last_client_whatever_crashes(pytester: pytest.Pytester) -> None:
    """A crash while an app stops lets the next process stop it, which stores all that has ended."""
    pytester.makeini(INI)
    pytester.makepyfile(
        """
        import pytest
        from fastapi import FastAPI
        from framework import background_task, get_task_manager, setup_async_framework
        from framework.steps import step

        done = set()

        @step
        async def do(number: int) -> None:
            done.add(number)

        @background_task(on_restart="resume")
        async def work(number: int) -> None:
            await do(number)

        app = FastAPI(lifespan=setup_async_framework)

        @app.post("/jobs/{number}")
        async def begin(number: int) -> str:
            return await get_task_manager().submit(work, (number,))

        @pytest.mark.crash_points
        async def test_all(asyncframe):
            done.clear()
            async with asyncframe.client(app, on_crash="again") as first:
                async with asyncframe.client(app, on_crash="again") as second:
                    await second.post("/jobs/1")
                await first.post("/jobs/2")
            assert done == {1, 2}
        """
    )
    result = pytester.runpytest("-p", "no:randomly")
    result.assert_outcomes(passed=1)


@pytest.mark.extended("time")
def test_an_answer_that_comes_before_its_task_is_stored(pytester: pytest.Pytester) -> None:
    """A route that does not wait for the store is found, and its cure is told and passes."""
    pytester.makeini(INI)
    pytester.makepyfile(
        """
        import pytest
        from fastapi import FastAPI
        from framework import background_task, setup_async_framework
        from framework.http import Accepted, task_router

        @background_task(on_restart="resume")
        async def pack(number: int) -> None:
            pass

        app = FastAPI(lifespan=setup_async_framework)
        app.include_router(task_router())

        @app.post("/hasty/{number}")
        async def hasty(number: int) -> dict[str, str]:
            return {"task_id": pack(number)}

        @app.post("/cure/{number}")
        async def cure(number: int) -> Accepted[None]:
            return pack(number)

        @pytest.mark.crash_points
        @pytest.mark.parametrize("path", ["hasty", "cure"])
        async def test_it(asyncframe, path):
            async with asyncframe.client(app, on_crash="again") as client:
                answer = await client.post(f"/{path}/7", headers={"Idempotency-Key": "7"})
                await asyncframe.completed(answer)
        """
    )
    result = pytester.runpytest("-p", "no:randomly", "-W", "ignore")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*process has died (before pack is stored #1), perhaps after*"])


@pytest.mark.extended("time")
def test_a_failure_with_a_task_and_a_request_under_way(pytester: pytest.Pytester) -> None:
    """The timeline lists what the app waits for, and a request may end that nobody waits for."""
    pytester.makeini(INI)
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        from fastapi import FastAPI
        from framework import background_task, setup_async_framework

        @background_task
        async def nap():
            await asyncio.sleep(5)

        app = FastAPI(lifespan=setup_async_framework)

        @app.post("/naps/{seconds}")
        async def begin(seconds: int):
            nap()
            await asyncio.sleep(seconds)

        @pytest.mark.crash_points
        async def test_it(asyncframe):
            async with asyncframe.client(app) as client:
                posting = asyncio.create_task(client.post("/naps/9"))
                await asyncframe.clock.run_for(1)
                assert not posting
        """
    )
    result = pytester.runpytest("-p", "no:randomly", "-W", "ignore")
    result.stdout.fnmatch_lines(["pending timers when the test failed, at 1 s:", "  t+4 s *nap"])
    result.stdout.no_fnmatch_line("*InvalidStateError*")


@pytest.mark.parametrize(
    ("marks", "body", "message"),
    [
        ("crash_points(depth=3)", "", "depth must be a whole number from 1 to 2"),
        ("crash_points(points=1)", "", "has no keyword 'points'; it takes depth, most"),
        ("crash_points\n@pytest.mark.task_modes", "", "crash_points and task_modes side by side"),
        ("crash_points\n@pytest.mark.interleave(faults=True)", "", "leave out faults=True"),
        ("crash_points\n@pytest.mark.asyncframe(mode='manual')", "", "use the mode 'auto'"),
        ("asyncframe()", "asyncframe.crash()", "mark the test with @pytest.mark.crash_points"),
        ("crash_points", "asyncframe.manager.submit_nowait(print)", "let a route of the app"),
    ],
)
@pytest.mark.extended("time")
def test_what_cannot_be_is_refused(
    pytester: pytest.Pytester, marks: str, body: str, message: str
) -> None:
    """A wrong value, and what would be inside of the process, is an error that says the cure."""
    pytester.makeini(INI)
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.{marks}
        def test_it(asyncframe):
            {body or "pass"}
        """.replace("\n@pytest", "\n        @pytest")
    )
    result = pytester.runpytest()
    assert result.ret == 1
    assert message in " ".join(result.stdout.str().split())


LOST = """
import contextlib
import httpx, pytest
from fastapi import FastAPI
from framework import background_task, setup_async_framework

app = FastAPI(lifespan=setup_async_framework)

@background_task
def work():
    pass

@app.post("/")
async def order():
    return work()

@pytest.mark.crash_points
async def test_it(asyncframe):
    async with asyncframe.client(app) as client:
        for _ in range(2):
            with contextlib.suppress(httpx.RequestError):
                await client.post("/")
        await asyncframe.settled()
"""


def test_a_lost_task_is_not_waited_for(pytester: pytest.Pytester) -> None:
    """settled() goes on where a task dies with its process that was answered but not stored."""
    pytester.makeini(INI)
    pytester.makepyfile(LOST)
    result = pytester.runpytest("-v", "-p", "no:randomly", "-o", "asyncio_mode=auto")
    result.stdout.fnmatch_lines(["*PASSED (all * crash points, none fails)*"])
