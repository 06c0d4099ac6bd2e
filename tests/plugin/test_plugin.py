"""The plugin from outside: what users write, under each runner, and the reports that they get."""

from __future__ import annotations

import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from pytest_asyncframe.clock import _stalls
from tests.children import python
from tests.patience import PATIENCE
from tests.plugin.endings import PLAIN, Ending

APP = """
    import time

    from fastapi import FastAPI

    from framework import background_task, setup_async_framework

    app = FastAPI(lifespan=setup_async_framework)


    @background_task
    def process(data_id: str) -> str:
        time.sleep(30)
        return f"done {data_id}"


    @background_task
    def fail() -> None:
        raise LookupError("on purpose")


    @app.post("/process", status_code=202)
    async def take(data_id: str) -> dict[str, str]:
        return {"task_id": process(data_id)}
"""

SYNC = """
    from app import app

    def test_sync(asyncframe):
        with asyncframe.client(app) as client:
            task = asyncframe.run_until_complete(client.post("/process", params={"data_id": "7"}))
        assert task.result == "done 7"
        assert asyncframe.clock.monotonic() == 30
"""

ASYNC = """
    from app import app

    async def test_async(asyncframe):
        async with asyncframe.client(app) as client:
            response = await client.post("/process", params={"data_id": "7"})
            task = await asyncframe.completed(response)
        assert task.result == "done 7"
        assert asyncframe.clock.monotonic() == 30
"""

INI = """
    [pytest]
    asyncio_default_fixture_loop_scope = function
    filterwarnings = error
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a folder with an app, as a user has it."""
    pytester.makepyfile(app=APP)
    pytester.syspathinsert()
    pytester.makeini(INI)
    return pytester


def run(user: pytest.Pytester, *options: str, apart: bool = False) -> pytest.RunResult:
    """Run pytest in this process, or, if *apart*, in an interpreter of its own."""
    if apart:
        return user.runpytest_subprocess(*options, timeout=PATIENCE)
    # Hypothesis would be imported again at the end of each run.
    return user.runpytest_inprocess(*PLAIN, *options)


# -- under each runner


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="strict", marks=pytest.mark.extended("processes")),
        pytest.param(("-o", "asyncio_mode=auto"), id="auto"),
        pytest.param(("-p", "no:anyio"), id="no anyio"),
        pytest.param(("--strict-markers", "--strict-config"), id="strict markers"),
    ],
)
def test_unmarked_tests_pass(user: pytest.Pytester, options: tuple[str, ...]) -> None:
    """A sync and an async test pass without a conftest or configuration."""
    user.makepyfile(test_sync=SYNC, test_async=ASYNC)

    run(user, *options, apart=not options).assert_outcomes(passed=2)


def test_without_pytest_asyncio(user: pytest.Pytester) -> None:
    """Without pytest-asyncio, an unmarked async test passes too."""
    user.makeini("[pytest]\nfilterwarnings = error")
    user.makepyfile(test_sync=SYNC, test_async=ASYNC)

    run(user, "-p", "no:asyncio").assert_outcomes(passed=2)


def test_marked_for_pytest_asyncio(user: pytest.Pytester) -> None:
    """A test marked for pytest-asyncio runs on the test's clock."""
    user.makepyfile(
        test_async=f"import pytest\npytestmark = pytest.mark.asyncio\n{textwrap.dedent(ASYNC)}"
    )

    run(user).assert_outcomes(passed=1)


def test_marked_for_a_plugin_that_is_off(user: pytest.Pytester) -> None:
    """An async test that pytest-asyncio would run is run without it, if it uses the plugin."""
    user.makeini("[pytest]\naddopts = --strict-markers\nfilterwarnings = error")
    plain = "\n\nasync def test_plain():\n    pass\n"
    marked = "import pytest\npytestmark = pytest.mark.asyncio\n"
    user.makepyfile(test_async=marked + textwrap.dedent(ASYNC) + plain)

    ended = run(user, "-p", "no:asyncio")
    ended.assert_outcomes(passed=1, failed=1)
    ended.stdout.fnmatch_lines("*async def functions are not natively supported.*")


def test_under_the_runner_of_anyio(user: pytest.Pytester) -> None:
    """A test marked for anyio runs on the test's clock, and on the loop of its fixtures."""
    user.makepyfile(
        test_anyio=f"""
        import asyncio
        import pytest
        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        async def loop():
            return asyncio.get_running_loop()

        async def test_of_one_loop(asyncframe, loop):
            assert asyncio.get_running_loop() is loop
        {textwrap.indent(textwrap.dedent(ASYNC), " " * 8)}
        """
    )

    run(user).assert_outcomes(passed=2)


@pytest.mark.extended("processes")
def test_in_parallel(user: pytest.Pytester) -> None:
    """Tests pass under xdist, and findings are reported with their text."""
    user.makepyfile(
        test_sync=SYNC,
        test_async=ASYNC,
        test_leak="""
        from app import process

        def test_leak(asyncframe):
            process("7")
        """,
    )
    result = run(user, "-n", "2")

    result.assert_outcomes(passed=3, errors=1)
    assert "leaked task: app.process (" in result.stdout.str()


def test_fixtures_of_those_names(user: pytest.Pytester) -> None:
    """A user's own fixture with the same name is left alone."""
    user.makepyfile(
        """
        import pytest

        @pytest.fixture
        def task_manager():
            return "mine"

        @pytest.fixture
        def clock():
            return "mine too"

        def test_own(task_manager, clock):
            assert (task_manager, clock) == ("mine", "mine too")
        """
    )

    run(user).assert_outcomes(passed=1)


@pytest.mark.extended("processes")
def test_nothing_is_imported_unless_used(pytester: pytest.Pytester) -> None:
    """Importing the plugin imports neither FastAPI nor the framework, and starts no thread."""
    code = (
        "import sys, threading, pytest_asyncframe.plugin\n"
        "assert not {'fastapi', 'framework', 'starlette', 'anyio'} & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )

    assert pytester.run(sys.executable, "-c", code).ret == 0


# -- isolation


def test_tests_are_isolated(user: pytest.Pytester) -> None:
    """The next test sees no throttle windows, ids or counters, even after a failure."""
    user.makepyfile(
        """
        import pytest
        from framework import RateLimitExceededError, get_task_manager, throttled_task

        @throttled_task(rate_limit=1, time_window=60)
        def once():
            return "ran"

        @pytest.mark.parametrize("number", range(3))
        def test_isolated(asyncframe, number):
            assert get_task_manager() is asyncframe.manager
            assert asyncframe.manager.get_stats()["submitted"] == 0
            assert asyncframe.clock.monotonic() == 0
            assert once() == "ran"
            with pytest.raises(RateLimitExceededError):
                once()
            asyncframe.run_until_complete(asyncframe.manager.submit_nowait(int))
            asyncframe.clock.advance(5)
            assert number != 1
        """
    )

    run(user).assert_outcomes(passed=2, failed=1)


@pytest.mark.extended("processes")
@pytest.mark.parametrize("first", ["plain", "virtual"])
def test_a_fixture_that_outlives_the_test(user: pytest.Pytester, first: str) -> None:
    """A fixture of a wider scope is set up and torn down in real time."""
    user.makepyfile(
        f"""
        import subprocess, sys, threading, time
        import pytest

        def waits():
            time.sleep(0.001)
            assert threading.Event().wait(0.001) is False
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
                child.stdin.close()
                child.wait(30)

        @pytest.fixture(scope="module", params=[1, 2])
        def server():
            waits()
            yield
            waits()

        if {first!r} == "plain":
            def test_plain(server):
                pass

        @pytest.mark.asyncframe(mode="manual")
        def test_virtual(server, asyncframe):
            assert asyncframe.clock.monotonic() == 0
        """
    )

    run(user).assert_outcomes(passed=4 if first == "plain" else 2)


# -- what is told


def output_of(user: pytest.Pytester, text: str, *options: str) -> str:
    """Run a test file and return the output of pytest."""
    user.makepyfile(test_it=text)
    return run(user, *options).stdout.str()


def test_a_leaked_task(user: pytest.Pytester) -> None:
    """A task that a test leaves behind fails it, with the line of its submission."""
    text = output_of(
        user,
        """
        from app import process

        def test_leak(asyncframe):
            process("7")
        """,
    )

    assert "leaked task: app.process (" in text
    assert f"is pending, submitted at {user.path / 'test_it.py'}:4 in test_leak" in text
    assert "1 passed, 1 error" in text


def test_a_lost_failure(user: pytest.Pytester) -> None:
    """A failure that nobody has read fails the test, with its own traceback."""
    text = output_of(
        user,
        """
        from app import fail

        def test_lost(asyncframe):
            fail()
            asyncframe.run_until_idle()
        """,
    )

    assert "lost failure: app.fail (" in text
    assert "    LookupError: on purpose" in text
    assert "1 passed, 1 error" in text


@pytest.mark.parametrize(
    "reads",
    [
        "asyncframe.expect_failure(fail, LookupError)",
        "assert asyncframe.submitted(fail)[0].error is not None",
    ],
)
def test_a_failure_that_is_known(user: pytest.Pytester, reads: str) -> None:
    """A failure that was read or expected is not a lost failure."""
    text = output_of(
        user,
        f"""
        from app import fail

        def test_known(asyncframe):
            fail()
            asyncframe.run_until_idle()
            {reads}
        """,
    )

    assert "1 passed in" in text


def test_an_expectation_that_is_not_met(user: pytest.Pytester) -> None:
    """An expected failure that does not happen fails the test."""
    text = output_of(
        user,
        """
        from app import fail

        def test_expected(asyncframe):
            asyncframe.expect_failure(fail, LookupError, times=2)
            fail()
            asyncframe.run_until_idle()
        """,
    )

    assert (
        "expectation not met: fail was expected to fail with LookupError twice, but did so once"
        in text
    )


def test_gates_can_be_turned_off(user: pytest.Pytester) -> None:
    """The marker turns the gates of a test off."""
    text = output_of(
        user,
        """
        import pytest
        from app import fail, process

        @pytest.mark.asyncframe(leaks="off", lost_failures="off")
        def test_free(asyncframe):
            fail()
            asyncframe.run_until_idle()
            process("7")
        """,
    )

    assert "1 passed in" in text


def test_nearest_submissions(user: pytest.Pytester) -> None:
    """A failing matcher lists the most similar submissions, argument by argument."""
    text = output_of(
        user,
        """
        from app import process

        def test_near(asyncframe):
            process("7")
            asyncframe.run_until_idle()
            asyncframe.assert_submitted(process, "8")
        """,
    )

    assert (
        "E       AssertionError: process('8') was never submitted, expected at least once" in text
    )
    assert "E       nearest submissions:" in text
    assert "E         app.process('7')" in text
    assert "E           data_id: '7', expected '8'" in text


def test_a_deadlock(user: pytest.Pytester) -> None:
    """A test that cannot continue fails at once, and shows who waits where."""
    text = output_of(
        user,
        """
        import asyncio

        async def test_dead(asyncframe):
            await asyncio.Event().wait()
        """,
    )

    assert "VirtualDeadlockError: nothing can continue at 0 s of virtual time:" in text
    assert "MainThread waits in its event loop:" in text
    assert "waits at test_it.py:4 in test_dead" in text


def test_what_waits_in_the_mode_manual(user: pytest.Pytester) -> None:
    """Waiting for a task that was not run fails at once, with what to call."""
    text = output_of(
        user,
        """
        import pytest
        from app import process

        @pytest.mark.asyncframe(mode="manual", leaks="off")
        async def test_manual(asyncframe):
            await asyncframe.completed(process("7"))
        """,
    )

    assert "1 queued and not started: app.process" in text
    assert "call run_next(), run(task_id) or drain()" in text


def test_a_stuck_worker(user: pytest.Pytester) -> None:
    """A task that blocks outside the clock is reported with its file and line."""
    text = output_of(
        user,
        """
        import threading
        from framework import background_task

        lock = threading.Lock()

        @background_task
        def stuck():
            with lock:
                pass

        def test_stuck(asyncframe):
            lock.acquire()
            try:
                asyncframe.run_until_complete(stuck())
            finally:
                lock.release()
        """,
        "-o",
        "asyncframe_stuck_timeout=0.05",
        "-o",
        "asyncframe_leaks=off",
    )

    assert "nothing has happened for 0.05 s of real time:" in text
    assert "blocks outside the virtual clock: test_it.py:8 in stuck" in text


def test_a_test_that_is_stuck_again(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    """What blocks a test also blocks its end, which tells so sooner and in few words."""
    monkeypatch.setattr(_stalls, "STUCK_AGAIN", 0.02)
    text = ending(
        """
        import asyncio, threading, time
        from framework import setup_async_framework

        lock = threading.Lock()

        def sleep():
            with lock:
                time.sleep(1)

        async def test_it(asyncframe):
            async with setup_async_framework(None):
                await asyncio.gather(asyncio.to_thread(sleep), asyncio.to_thread(sleep))
        """,
        *("-o", "asyncframe_stuck_timeout=0.05"),
        *("-p", "no:asyncio", "-p", "no:anyio"),
    )

    assert "call: " in text
    assert "nothing has happened for 0.05 s of real time:" in text
    assert "for 0.02 s" in text


# -- wrong use


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (
            "mode='fast'",
            (
                "@pytest.mark.asyncframe(mode='fast'): mode must be one of manual, auto, "
                "virtual, seeded, threads"
            ),
        ),
        (
            "speed=3",
            (
                "@pytest.mark.asyncframe has no keyword 'speed'; it takes mode, seed, start, "
                "leaks, lost_failures"
            ),
        ),
        ("seed='x'", "@pytest.mark.asyncframe(seed='x'): seed must be a whole number"),
        ("'auto'", "@pytest.mark.asyncframe takes keywords only, not ('auto',)"),
    ],
)
def test_wrong_markers(user: pytest.Pytester, marker: str, message: str) -> None:
    """A wrong value in the marker is an error of that test, and shows the allowed ones."""
    text = output_of(
        user,
        f"""
        import pytest

        @pytest.mark.asyncframe({marker})
        def test_wrong(asyncframe):
            pass

        def test_right(asyncframe):
            pass
        """,
    )

    assert message in text
    assert "1 passed, 1 error" in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("asyncframe_mode=fast", "asyncframe_mode = 'fast' in the ini file: it must be one of"),
        ("asyncframe_leaks=no", "asyncframe_leaks = 'no' in the ini file: it must be one of"),
        (
            "asyncframe_stuck_timeout=0",
            "asyncframe_stuck_timeout = '0' in the ini file: it must be a number of seconds",
        ),
    ],
)
def test_wrong_ini(user: pytest.Pytester, option: str, message: str) -> None:
    """A wrong value in the ini file stops the run with a usage error."""
    result = run(user, "-o", option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


def test_a_loop_that_tests_share(user: pytest.Pytester) -> None:
    """A virtual clock on a loop of the module is rejected, with how to fix it."""
    text = output_of(
        user,
        """
        import pytest

        @pytest.mark.asyncio(loop_scope="module")
        async def test_shared(asyncframe):
            pass
        """,
    )

    assert "test_shared has a virtual clock of its own, but shares its event loop with its" in text
    assert "give it a loop of its own with @pytest.mark.asyncio(loop_scope='function')" in text
    assert "1 error" in text


@pytest.mark.extended("processes")
def test_another_package_of_the_same_name(pytester: pytest.Pytester) -> None:
    """A user's folder that hides the framework is reported by each fixture, with how to fix it."""
    hiding = pytester.mkpydir("framework")
    fixtures = ("asyncframe", "task_manager", "task_clock")
    pytester.makepyfile("\n".join(f"def test_{name}({name}): pass" for name in fixtures))
    text = run(pytester, apart=True).stdout.str()

    message = (
        f"asyncframe's package 'framework' is hidden by another one, "
        f"'{hiding / '__init__.py'}': rename that, or remove its __init__.py if it is a folder "
        "of tests"
    )
    assert text.splitlines().count(message) == 3
    assert "3 errors" in text


def test_looptime_beside_it(user: pytest.Pytester) -> None:
    """Looptime is rejected, with the option that disables it."""
    user.makepyfile(looptime_plugin="")
    text = output_of(user, "def test_two(asyncframe):\n    pass", "-p", "looptime_plugin")

    assert (
        "test_two has a virtual clock, but looptime patches the time of event loops as well: "
        "run pytest with '-p no:looptime_plugin', or uninstall it"
    ) in text


def test_a_reference_without_an_id(user: pytest.Pytester) -> None:
    """A response without an id is shown, with the keys that were looked for."""
    text = output_of(
        user,
        """
        def test_ref(asyncframe):
            asyncframe.run_until_complete({"job": "7"})
        """,
    )

    assert "LookupError: no task id was found in {'job': '7'}: pass the id, a Task, or" in text


def test_the_extra_brings_no_runner() -> None:
    """The extra installs no plugin that would warn about missing options."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8"))
    extra = project["project"]["optional-dependencies"]["pytest"]

    assert not [one for one in extra if one.startswith("pytest-asyncio")]


def test_the_package_is_typed() -> None:
    """The plugin's package is marked as typed."""
    import pytest_asyncframe

    assert (Path(pytest_asyncframe.__file__).parent / "py.typed").exists()


@pytest.mark.extended("processes")
def test_what_every_run_of_pytest_pays_for() -> None:
    """Loading the plugin loads five modules beside it, and no other that pytest has not loaded."""
    code = (
        "import sys, pytest, _pytest.config; before = set(sys.modules); "
        "import pytest_asyncframe.plugin; print(*sorted(set(sys.modules) - before))"
    )
    loaded = python("-c", code).stdout.split()
    names = [f"_backends{part}" for part in ("", ".names")]
    toolkit = [f"_toolkit{part}" for part in ("", ".items", ".options")]
    assert loaded == [
        "pytest_asyncframe",
        *(f"pytest_asyncframe.{name}" for name in (*names, *toolkit, "plugin")),
    ]


@pytest.mark.extended("processes")
def test_an_error_while_a_test_is_prepared(pytester: pytest.Pytester) -> None:
    """Whatever fails before the fixtures is raised by them, once, and other tests go on."""
    pytester.makeconftest("""
        import pytest
        from pytest_asyncframe._toolkit.toolkit import Toolkit

        @pytest.fixture
        def other():
            yield 7

        def refuse(self):
            raise OSError("no threads are left")

        Toolkit.open = refuse
    """)
    pytester.makepyfile("""
        def test_refused(other, task_manager):
            raise NotImplementedError

        def test_other(other):
            assert other == 7
    """)
    result = pytester.runpytest_subprocess(*PLAIN, timeout=PATIENCE)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *OSError: no threads are left"])
    assert "KeyError" not in result.stdout.str()


def test_an_httpx_without_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of httpx that lacks what clients are made of is told where one is asked for."""
    from pytest_asyncframe._toolkit import pristine

    monkeypatch.setattr(pristine, "client_classes", pristine.client_classes.__wrapped__)
    monkeypatch.setattr(pristine, "httpx_name", lambda: "httpx")
    for name in [one for one in sys.modules if one.partition(".")[0] == "httpx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx", ModuleType("httpx"))
    pristine.note()
    told = (
        r"^asyncframe\.client\(\) needs httpx\.AsyncClient, which the installed httpx does not "
        r"have: install a version below 1$"
    )
    with pytest.raises(ImportError, match=told):
        pristine.client_classes()
