"""One test in several modes and over several transports: one result, which says where it fails."""

from __future__ import annotations

import re

import pytest

from tests.plugin.endings import PASSED, Ending
from tests.plugin.modes.sections import Runs, lines_of

SHOP = """
    import asyncio, threading
    import pytest
    from fastapi import FastAPI
    from framework import background_task, setup_async_framework

    app = FastAPI(lifespan=setup_async_framework)
    began = []

    @pytest.fixture(autouse=True)
    def new():
        began.clear()

    @background_task
    def note(number):
        began.append(number)
        return number

    @app.post("/notes/{number}")
    def start(number: int):
        return {"task_id": note(number)}

    @app.get("/broken")
    def broken():
        raise LookupError("on purpose")
"""


# -- results


def test_one_result_for_all_modes(runs: Runs) -> None:
    """A test that passes everywhere is one test, and -v says where it passes."""
    result = runs(
        """
        @pytest.mark.task_modes("manual", "auto", "virtual", "threads", "seeded:20")
        async def test_it(asyncframe):
            async with asyncframe.client(app) as client:
                response = await client.post("/notes/7")
                assert (await asyncframe.completed(response)).result == 7
        """,
        "-v",
    )

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*::test_it PASSED (passes in manual, auto, virtual, threads and 20 of 20 seeds)*"]
    )


def test_modes_that_disagree(runs: Runs) -> None:
    """The report says where a test passes and fails, why, and how to run one mode again."""
    result = runs("""
        @pytest.mark.task_modes("manual", "auto", "seeded:20")
        def test_it(asyncframe):
            for number in range(3):
                note(number)
            asyncframe.run_until_idle()
            assert began == [0, 1, 2]
        """)

    result.assert_outcomes(failed=1)
    first, fails, again, *_ = lines_of(result, "task modes")
    some = r"(\d+) of 20 seeds \((\d+)(?:, \d+)*(?:, \.\.\.)?\)"
    found = re.fullmatch(rf"passes in manual, auto and {some}; fails in {some}", first)
    assert found is not None
    passed, _, failed, seed = found.groups()
    assert int(passed) + int(failed) == 20
    assert re.match(rf"fails in {some}: (Assertion|assert )", fails)
    assert fails.endswith(", at test_it.py:31")
    assert again == f"    pytest test_it.py::test_it --asyncframe-modes=seeded={seed}"
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_it - fails in * of 20 seeds (*"])

    alone = runs_again(runs, again)

    alone.assert_outcomes(failed=1)
    assert lines_of(alone, "task modes")[0] == f"fails in seeded={seed}"


def runs_again(runs: Runs, command: str) -> pytest.RunResult:
    """Run the file that is there already with the options of a command."""
    return runs(
        """
        @pytest.mark.task_modes("manual", "auto", "seeded:20")
        def test_it(asyncframe):
            for number in range(3):
                note(number)
            asyncframe.run_until_idle()
            assert began == [0, 1, 2]
        """,
        *command.split()[2:],
    )


def test_different_failures_are_all_shown(runs: Runs) -> None:
    """Each failure has its line, and those that are not the test's have a section."""
    result = runs("""
        @pytest.mark.task_modes("manual", "auto", "virtual", "threads")
        def test_it(asyncframe):
            if asyncframe.mode == "virtual":
                raise KeyError("first")
            assert asyncframe.mode != "threads"
        """)

    head, *failures = lines_of(result, "task modes")
    assert head == "passes in manual and auto; fails in virtual and threads"
    assert failures == [
        "fails in virtual: KeyError: 'first', at test_it.py:29",
        "    pytest test_it.py::test_it --asyncframe-modes=virtual",
        "fails in threads: AssertionError: assert 'threads' != 'threads', at test_it.py:30",
        "    pytest test_it.py::test_it --asyncframe-modes=threads",
    ]
    assert "E       AssertionError: assert 'threads' != 'threads'" in "\n".join(
        lines_of(result, "failure in threads")
    )


def test_fixtures_are_made_anew_for_each_run(runs: Runs) -> None:
    """Fixtures of function scope, instances and output belong to one run, wider ones to all."""
    result = runs("""
        made = []

        @pytest.fixture(scope="module")
        def wide():
            made.append("wide")
            yield
            made.append("ended")

        @pytest.fixture
        def narrow(wide, record_property):
            record_property("narrow", len(made))
            made.append("narrow")

        class TestIt:
            @pytest.mark.task_modes("auto", "manual", "virtual")
            def test_it(self, asyncframe, narrow, tmp_path):
                print("output of", asyncframe.mode)
                assert not hasattr(self, "used")
                self.used = True
                assert not list(tmp_path.iterdir())
                (tmp_path / "file").touch()
                assert asyncframe.mode != "virtual"

        def test_after(wide):
            assert made == ["wide", "narrow", "narrow", "narrow"]
        """)

    result.assert_outcomes(failed=1, passed=1)
    assert lines_of(result, "Captured stdout call") == ["output of virtual"]


def test_a_wider_fixture_that_fails_to_end(runs: Runs) -> None:
    """An error at the end of a wider fixture is one error, held against no mode."""
    result = runs(
        """
        @pytest.fixture(scope="module")
        def wide():
            yield
            raise OSError("cannot end")

        @pytest.mark.task_modes("auto", "manual")
        def test_it(asyncframe, wide):
            pass
        """,
        "-v",
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*PASSED (passes in auto and manual)*", "*OSError: cannot end", "ERROR*OSError*"]
    )


@pytest.mark.parametrize(
    ("body", "counts", "told"),
    [
        ("pytest.skip('slow') if asyncframe.mode == 'auto' else 1", {"passed": 1},
         "PASSED (passes in manual; is skipped in auto)"),
        ("pytest.skip('slow')", {"skipped": 1}, "SKIPPED (slow)"),
        ("pytest.xfail('known') if asyncframe.mode == 'auto' else 1", {"xfailed": 1}, "XFAIL"),
    ],
)  # fmt: skip
def test_other_outcomes(runs: Runs, body: str, counts: dict[str, int], told: str) -> None:
    """Skipped modes do not count unless all are; an expected failure is one."""
    result = runs(
        f"""
        @pytest.mark.task_modes("manual", "auto")
        def test_it(asyncframe):
            {body}
        """,
        "-v",
    )

    result.assert_outcomes(**counts)
    assert f"::test_it {told}" in result.stdout.str()


@pytest.mark.parametrize(("fails", "counts"), [(True, {"xfailed": 1}), (False, {"failed": 1})])
def test_a_strict_mark_of_failure(runs: Runs, fails: bool, counts: dict[str, int]) -> None:
    """A test that must fail may fail in one mode; it is wrong only if it passes in all."""
    result = runs(f"""
        @pytest.mark.xfail(strict=True)
        @pytest.mark.task_modes("manual", "auto")
        def test_it(asyncframe):
            assert not ({fails} and asyncframe.mode == "auto")
        """)

    result.assert_outcomes(**counts)


# -- the mode manual


def test_waits_run_tasks_in_manual(ending: Ending) -> None:
    """In manual, tasks start at the waits of the probe, when a client is left, and nowhere else."""
    told = ending(f"""{SHOP}
    @pytest.mark.task_modes("manual")
    async def test_it(asyncframe):
        async with asyncframe.client(app) as client:
            first = await client.post("/notes/1")
            await client.post("/notes/2")
            assert began == []
            await asyncframe.completed(first)
            await asyncframe.settled()
            assert began == [1, 2]
            last = await client.post("/notes/3")
        assert (await asyncframe.completed(last)).result == 3

    @pytest.mark.task_modes("manual")
    def test_sync(asyncframe):
        ids = [note(1), note(2)]
        assert asyncframe.executor.run_next() == ids[0]
        assert began == [1]
        asyncframe.run_until_idle()
        assert began == [1, 2]
    """)

    assert told == PASSED


def test_time_moves_in_the_waits_of_manual(ending: Ending) -> None:
    """A wait in manual moves time as far as it needs to."""
    told = ending("""
    import time, pytest
    from framework import background_task

    @background_task
    def sleeps():
        time.sleep(30)

    @pytest.mark.task_modes("manual")
    async def test_it(asyncframe):
        began = asyncframe.clock.monotonic()
        await asyncframe.completed(sleeps())
        assert asyncframe.clock.monotonic() - began == 30
    """)

    assert told == PASSED


def test_waits_that_overlap(ending: Ending) -> None:
    """The first of several waits to end does not keep the others from going on."""
    told = ending(f"""{SHOP}
    import time

    @background_task
    def sleeps(seconds):
        time.sleep(seconds)

    @pytest.mark.task_modes("manual", "auto", "virtual", transports=("asgi", "live"))
    async def test_it(asyncframe):
        async with asyncframe.client(app):
            waits = [asyncframe.completed(sleeps(seconds)) for seconds in (1, 3, 2)]
            await asyncio.gather(*waits)
    """)

    assert told == PASSED


def test_manual_is_as_ever_without_the_marker(ending: Ending) -> None:
    """Only a test with the marker has waits that run tasks in manual."""
    told = ending("""
    import pytest
    from framework import background_task

    @background_task
    def work(): pass

    @pytest.mark.asyncframe(mode="manual", leaks="off")
    def test_it(asyncframe):
        asyncframe.run_until_complete(work())
    """)

    assert "tasks do not start by themselves here: call run_next(), run(task_id) or drain()" in told


# -- transports


def test_transports_of_a_coroutine(runs: Runs) -> None:
    """One body runs over ASGI and over a live server, and sees the same URLs and errors."""
    result = runs(
        """
        @pytest.mark.task_modes("manual", "virtual", "seeded:5", transports=("asgi", "live"))
        async def test_it(asyncframe):
            async with asyncframe.client(app, headers={"x-one": "1"}) as client:
                response = await client.post("/notes/7")
                assert str(response.url) == "http://testserver/notes/7"
                assert response.request.headers["host"] == "testserver"
                assert (await asyncframe.completed(response)).result == 7
                with pytest.raises(LookupError, match="on purpose"):
                    await client.get("/broken")
        """,
        "-v",
    )

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        "*PASSED (passes in manual, virtual and 5 of 5 seeds over asgi and in manual, virtual "
        "and seeded=0 over live)*"
    )


def test_transports_of_a_plain_function(runs: Runs) -> None:
    """One body runs over Starlette's client and a live server, with errors as it asks for them."""
    result = runs(
        """
        @pytest.mark.task_modes(transports=("testclient", "live"))
        def test_it(asyncframe):
            with asyncframe.client(app, raise_app_exceptions=False) as client:
                response = client.post("/notes/7")
                assert asyncframe.run_until_complete(response).result == 7
                assert client.get("/broken").status_code == 500
            with asyncframe.client(app, headers={"x-one": "1"}) as client:
                with pytest.raises(LookupError, match="on purpose"):
                    client.get("/broken")
                assert client.post("/notes/7").request.headers["x-one"] == "1"
        """,
        "-v",
    )

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*PASSED (passes over testclient and over live)*"])


def test_a_response_that_breaks_off(ending: Ending) -> None:
    """Over a live server, an exception after a response has begun breaks the connection."""
    told = ending("""
    import pytest
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    def parts():
        yield b"one"
        raise LookupError("on purpose")

    @app.get("/")
    async def stream():
        return StreamingResponse(parts())

    @pytest.mark.task_modes(transports=("asgi", "live"))
    async def test_it(asyncframe):
        async with asyncframe.client(app) as client:
            with pytest.raises(Exception) as caught:
                await client.get("/")
        kinds = {"asgi": "LookupError", "live": "RemoteProtocolError"}
        assert caught.typename == kinds[asyncframe._toolkit.settings.transport]
    """)

    assert told == PASSED


def test_a_transport_that_disagrees(runs: Runs) -> None:
    """A failure over one transport says which, and how to run it again."""
    result = runs("""
        from fastapi import Request

        @app.get("/port")
        def port(request: Request):
            return request.client.port

        @pytest.mark.task_modes("auto", transports=("testclient", "live"))
        def test_it(asyncframe):
            with asyncframe.client(app) as client:
                assert client.get("/port").json() == 50000
        """)

    head, fails, again = lines_of(result, "task modes")
    assert head == "passes in auto over testclient; fails in auto over live"
    assert fails.startswith("fails in auto over live: ")
    assert again == (
        "    pytest test_it.py::test_it --asyncframe-modes=auto --asyncframe-transports=live"
    )


def test_the_lifespan_over_a_live_server(ending: Ending) -> None:
    """What a lifespan raises reaches the test over a live server too; its state reaches routes."""
    told = ending("""
    from contextlib import asynccontextmanager
    import pytest
    from fastapi import FastAPI, Request

    def app_that(start=None, stop=None):
        @asynccontextmanager
        async def lifespan(app):
            if start: raise start
            yield {"word": "from the state"}
            if stop: raise stop
        app = FastAPI(lifespan=lifespan)

        @app.get("/")
        async def word(request: Request):
            return request.state.word

        return app

    @pytest.mark.task_modes(transports=("asgi", "live"))
    async def test_it(asyncframe):
        with pytest.raises(KeyError, match="start"):
            async with asyncframe.client(app_that(start=KeyError("start"))):
                pass
        with pytest.raises(KeyError, match="stop"):
            async with asyncframe.client(app_that(stop=KeyError("stop"))) as client:
                assert (await client.get("/")).json() == "from the state"
    """)

    assert told == PASSED


def test_a_client_that_is_left_open(ending: Ending) -> None:
    """A live server behind a client that was not left is a leak, and ends with the test."""
    told = ending(f"""{SHOP}
    @pytest.mark.task_modes(transports=("live",))
    async def test_it(asyncframe):
        await asyncframe.client(app).__aenter__()

    def test_end():
        assert not [it for it in threading.enumerate() if it.name == "live server"]
    """)

    assert told == (
        "teardown: leaked client: FastAPI, made at test_it.py:28 in test_it, is still open"
    )


# -- what is not allowed


SEEDS_ALLOWED = "must have from 1 to 10000 seeds, as in 'seeded:20'; 'seeded=7' is seed 7"
MODES_ALLOWED = (
    "manual, auto, virtual, seeded, threads, 'seeded:20' for 20 seeds, or 'seeded=7' for seed 7"
)


WRONG = {
    "": f" names no mode, no transport and no back end: it takes {MODES_ALLOWED}",
    "'bogus'": f": there is no mode 'bogus'; it takes {MODES_ALLOWED}",
    "'seeded:x'": f": there is no mode 'seeded:x'; it takes {MODES_ALLOWED}",
    "'threads:3'": f": there is no mode 'threads:3'; it takes {MODES_ALLOWED}",
    "['auto']": f": a mode must be a text, not ['auto']; it takes {MODES_ALLOWED}",
    "'seeded:0'": f": 'seeded:0' {SEEDS_ALLOWED}",
    "'auto', 'auto'": " names auto twice",
    "'seeded=1', 'seeded:3'": " names seeded=1 twice",
    "'auto', mode=1": " has no keyword 'mode'; it takes modes, transports and on",
    "transports=7": ": transports must be a tuple, not 7",
    "transports='wire'": ": there is no transport 'wire'; there are asgi, testclient, live",
    "transports=('live', 'live')": " names the transport live twice",
}
"""Arguments of the marker, and what is wrong with them."""


def test_a_wrong_value(ending: Ending) -> None:
    """A wrong value is an error of that one test at its set-up."""
    tests = [
        f"""
    @pytest.mark.task_modes({given})
    def test_{number}(asyncframe):
        raise AssertionError("it must not run")
    """
        for number, given in enumerate(WRONG)
    ]
    passes = """
    def test_other(asyncframe):
        pass
    """
    told = ending("\n    import pytest\n" + "".join([*tests, passes]))

    assert told.splitlines() == [
        f"setup: @pytest.mark.task_modes{message}" for message in WRONG.values()
    ]


MISFITS = {
    """
    @pytest.mark.task_modes("auto")
    def test_it(): pass
    """: (
        "test_it has the marker task_modes, which needs the fixture asyncframe: request it, or "
        "remove the marker"
    ),
    """
    @pytest.mark.task_modes("auto")
    @pytest.mark.asyncframe(mode="auto")
    def test_it(asyncframe): pass
    """: (
        "test_it has the markers task_modes and asyncframe(mode=...) side by side: remove one of "
        "them"
    ),
    """
    @pytest.mark.task_modes("auto")
    @pytest.mark.interleave
    def test_it(asyncframe): pass
    """: "test_it has the markers task_modes and interleave side by side: remove one of them",
    """
    @pytest.mark.task_modes("auto", "threads")
    def test_it(asyncframe, task_clock): pass
    """: (
        "test_it requests task_clock, but time is real in its mode 'threads': use one of the "
        "modes manual, auto, virtual, seeded, or remove task_clock"
    ),
    """
    @pytest.mark.task_modes(transports=("testclient",))
    async def test_it(asyncframe): pass
    """: (
        "test_it is a coroutine, and the transport 'testclient' would block its event loop: use "
        "'asgi' and 'live', or make the test a plain function"
    ),
    """
    @pytest.mark.task_modes(transports=("asgi",))
    def test_it(asyncframe): pass
    """: (
        "test_it is no coroutine, and the transport 'asgi' needs its event loop: use "
        "'testclient' and 'live', or make the test a coroutine"
    ),
}


def test_what_does_not_fit(ending: Ending) -> None:
    """A combination that cannot be is an error of that one test at its set-up."""
    tests = [test.replace("test_it", f"test_it_{number}") for number, test in enumerate(MISFITS)]
    told = ending("\n    import pytest\n" + "".join(tests))

    assert told.splitlines() == [
        f"setup: {message}".replace("test_it", f"test_it_{number}")
        for number, message in enumerate(MISFITS.values())
    ]


def test_a_loop_inside_a_plain_function(ending: Ending) -> None:
    """A block of the wrong kind for the transport is an error where it begins."""
    told = ending(f"""{SHOP}
    @pytest.mark.task_modes(transports=("testclient",))
    def test_it(asyncframe):
        async def main():
            async with asyncframe.client(app):
                pass
        asyncio.run(main())
    """)

    assert told.endswith(
        "RuntimeError: 'async with asyncframe.client(app)' is the transport 'asgi', but this run "
        "of the test is for 'testclient': leave that out of its marker's transports\n\n"
        + told.rpartition("\n\n")[2]
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--asyncframe-modes=auto,bogus", ": there is no mode 'bogus'; it takes "),
        ("--asyncframe-transports=wire", ": there is no transport 'wire'; there are asgi, "),
        ("--asyncframe-modes=", ": there is no mode ''; it takes "),
    ],
)
def test_a_wrong_option(runs: Runs, option: str, message: str) -> None:
    """A wrong value on the command line is a usage error."""
    # Otherwise pytest would leave the file of its log open.
    result = runs("", option, "-p", "no:logging")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {option}{message}" in result.stderr.str()


# -- markers of classes and modules


def test_a_marker_for_all_tests_of_a_file(runs: Runs) -> None:
    """It leaves out tests without the fixture and with a mode; the closest marker wins."""
    result = runs(
        """
        pytestmark = pytest.mark.task_modes("auto", "virtual")

        def test_none():
            pass

        def test_all(asyncframe):
            pass

        @pytest.mark.asyncframe(mode="manual")
        def test_mode(asyncframe):
            assert asyncframe.mode == "manual"

        @pytest.mark.task_modes("threads")
        def test_own(asyncframe):
            pass

        @pytest.mark.interleave
        def test_explored(asyncframe):
            pass
        """,
        "-v",
    )

    result.assert_outcomes(passed=5)
    result.stdout.re_match_lines_random(
        [
            r".*::test_none PASSED  .*",
            r".*::test_all PASSED \(passes in auto and virtual\) .*",
            r".*::test_mode PASSED  .*",
            r".*::test_own PASSED \(passes in threads\) .*",
            r".*::test_explored PASSED \((?!passes in).*",
        ]
    )


@pytest.mark.extended("processes")
def test_seeds_and_other_parameters(runs: Runs) -> None:
    """Seeds count from that of the command line; parametrize makes tests as ever; xdist runs."""
    result = runs(
        """
        @pytest.mark.parametrize("number", [1, 2])
        @pytest.mark.task_modes("seeded:3", "seeded=-1")
        def test_it(asyncframe, number):
            print(asyncframe._toolkit.settings.seed)
            assert asyncframe._toolkit.settings.seed != 42
        """,
        *("--asyncframe-seed=40", "-n1", "-p", "xdist"),
    )

    result.assert_outcomes(failed=2)
    assert lines_of(result, "task modes")[0] == (
        "passes in 3 of 4 seeds (40, 41, -1); fails in 1 of 4 seeds (42)"
    )
