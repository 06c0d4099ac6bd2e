"""The tiers of the suite: what a test may need, how that is said, and what is refused."""

from __future__ import annotations

import pytest

from tests import rooms, tiers

PLAIN = ("-p", "tests.tiers", "-p", "no:asyncio", "-p", "no:benchmark", "-p", "no:randomly")
STARTS = """
    import subprocess, sys, threading

    def start():
        subprocess.run([sys.executable, "-c", ""], check=True)
"""


@pytest.mark.skipif(not tiers.WATCHES, reason="starts are heard from Python 3.12 on")
@pytest.mark.extended("processes")  # or it would be refused twice
def test_a_process_is_refused(pytester: pytest.Pytester) -> None:
    """A test that starts a process fails and says how to mark it, on a thread of its own too."""
    pytester.makepyfile(
        STARTS
        + """
    def test_here():
        start()

    def test_on_a_thread():
        thread = threading.Thread(target=lambda: hidden())
        thread.start()
        thread.join()

    def hidden():
        try:
            start()
        except BaseException:
            pass
    """
    )

    result = pytester.runpytest_inprocess(*PLAIN)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*if it must, mark it with @pytest.mark.extended('processes')*"])


def test_what_is_left(pytester: pytest.Pytester) -> None:
    """The summary counts what was left out by need; long tests of another tier are not among it."""
    pytester.makeini("[pytest]\nmarkers =\n    extended: .\n    soak: .\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def redis_server():
            return None

        def test_small():
            pass

        def test_by_its_fixture(redis_server):
            pass

        @pytest.mark.extended("processes")
        @pytest.mark.parametrize("number", range(1_200))
        def test_by_its_marker(number):
            pass

        @pytest.mark.soak
        @pytest.mark.extended("processes")
        def test_long():
            pass
        """
    )

    result = pytester.runpytest_inprocess(*PLAIN, "-m", "not soak and not extended")

    result.assert_outcomes(passed=1, deselected=1_202)
    result.stdout.fnmatch_lines(["1,201 left to make test-all: servers 1, processes 1,200"])


@pytest.mark.parametrize("arguments", ["", "'patience'", "'servers', 'tools'"])
def test_a_need_that_is_not_known(pytester: pytest.Pytester, arguments: str) -> None:
    """A marker without one of the needs ends the run before any test."""
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.extended({arguments})
        def test_one():
            pass
        """
    )

    result = pytester.runpytest_inprocess(*PLAIN)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_one: extended(*): name what it needs, one of (*"])


def test_rooms() -> None:
    """Every room of the code has tests that are there, and a room's run includes those above."""
    listed = {room for layer in rooms.layers() for room in layer}

    missing = [
        name for names in rooms.TESTS.values() for name in names if not (rooms.ROOT / name).exists()
    ]

    assert listed == set(rooms.TESTS)
    assert missing == []
    assert set(rooms.TESTS["http"]) < set(rooms.tests_of("_threads"))
    assert not set(rooms.TESTS["_threads"]) & set(rooms.tests_of("http"))


def test_a_room_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name ends with 2 and the names of the rooms, and no name runs everything."""
    assert rooms.main(["kitchen"]) == 2
    assert capsys.readouterr().err.startswith("ROOM=kitchen: the rooms are explore, plugin, ")
    assert (rooms.main([]), capsys.readouterr().out) == (0, "")
