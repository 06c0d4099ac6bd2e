"""The date at which a test starts, and its seed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pytest_asyncframe.probe import Probe
from tests.plugin.endings import PLAIN

FUTURE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Return a function that runs tests and returns their outcomes and output."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def ran(source: str, *options: str) -> tuple[dict[str, int], str]:
        pytester.makepyfile(test_it=source)
        result = pytester.runpytest_inprocess(*PLAIN, *options)
        usage_error = result.ret == pytest.ExitCode.USAGE_ERROR
        return (
            {} if usage_error else result.parseoutcomes(),
            result.stdout.str() + result.stderr.str(),
        )

    return ran


# -- the date


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(start, marks=pytest.mark.asyncframe(start=start), id=str(start))
        for start in (
            "2030-01-01T00:00:00+00:00",
            "2030-01-01T02:00:00+02:00",
            "2030-01-01T00:00:00Z",
            FUTURE,
            FUTURE.astimezone(timezone(timedelta(hours=9))),
        )
    ],
)
def test_a_test_begins_at_its_start(asyncframe: Probe, start: object) -> None:
    """The clock, task timestamps and datetime.now() start at the date of the marker."""
    assert asyncframe.clock.now() == FUTURE
    assert datetime.now(UTC) == FUTURE
    task = asyncframe.run_until_complete(
        asyncframe.manager.submit_nowait(asyncframe.clock.sleep, (86_400,))
    )

    assert task.created_at == FUTURE
    assert task.ended_at == datetime.now(UTC) == FUTURE + timedelta(days=1)
    assert time.time() == (FUTURE + timedelta(days=1)).timestamp()  # noqa: TID251  # what is tested


def test_the_ini_file_has_a_start(run) -> None:
    """The start in the ini file applies to tests with a virtual clock; a marker overrides it."""
    source = """
    import pytest

    def test_ini(task_clock):
        assert task_clock.now().year == 2030

    @pytest.mark.asyncframe(start="1999-12-31T23:59:59+00:00")
    def test_marker(asyncframe):
        assert asyncframe.clock.now().year == 1999

    def test_real(task_manager):
        assert task_manager.clock.time() < 1_893_456_000
    """
    outcome, _ = run(source, "-o", "asyncframe_start=2030-06-01T00:00:00+00:00")

    assert outcome == {"passed": 3}


INVALID = ("2030-01-01", "2030-01-01T00:00:00", "soon", "7")

ALLOWED = (
    "it must be a date and time in ISO 8601 with its offset from UTC, such as "
    "'2030-01-01T00:00:00+00:00'"
)


def test_an_invalid_start(run) -> None:
    """A start without a time zone, or that is no date, is rejected with an example."""
    tests = (
        f"""
    @pytest.mark.asyncframe(start={value!r})
    def test_{number}(asyncframe):
        pass
    """
        for number, value in enumerate(INVALID)
    )
    outcome, text = run("\n    import pytest\n" + "".join(tests))
    assert outcome == {"errors": len(INVALID)}
    told = [f"@pytest.mark.asyncframe(start={value!r}): {ALLOWED}" for value in INVALID]
    assert [line for line in told if line not in text] == []


def test_an_invalid_start_in_the_ini_file(run) -> None:
    """The same in the ini file ends the run."""
    _, text = run("def test_it(): pass", "-o", "asyncframe_start=soon")
    assert f"asyncframe_start = 'soon' in the ini file: {ALLOWED}" in text


@pytest.mark.parametrize("fixture", ["task_manager", "asyncframe"])
def test_a_start_in_real_time(run, fixture: str) -> None:
    """A start in the marker of a test in real time is rejected."""
    mode = ", mode='threads'" if fixture == "asyncframe" else ""
    outcome, text = run(f"""
    import pytest

    @pytest.mark.asyncframe(start="2030-01-01T00:00:00Z"{mode})
    def test_it({fixture}):
        pass
    """)

    assert outcome == {"errors": 1}
    assert "test_it has a start, which needs virtual time, but its time is real" in text


# -- others that move the date


@pytest.mark.parametrize(
    "body",
    [
        "with time_machine.travel('2030-01-01'): pass",
        "time_machine.travel(0, tick=False).start()",
        "request.getfixturevalue('time_machine').move_to(0)",
        "with freezegun.freeze_time(): pass",
    ],
)
def test_another_clock_inside_a_test(run, pytester: pytest.Pytester, body: str) -> None:
    """time-machine and freezegun are rejected in a test, with how to set the date instead."""
    pytester.mkpydir("freezegun").joinpath("api.py").write_text("""
freeze_factories = []

class _freeze_time:
    def start(self):
        raise AssertionError("it was started")

    def __enter__(self):
        self.start()

    __exit__ = None
""")
    pytester.path.joinpath("freezegun/__init__.py").write_text(
        "from freezegun.api import _freeze_time as freeze_time"
    )
    outcome, text = run(f"""
    import freezegun, time_machine

    def test_it(asyncframe, request):
        {body}
    """)

    assert outcome == {"failed": 1}
    assert "was started in a test with a virtual clock, which sets datetime.now(): set" in text


def test_another_clock_after_a_test(run) -> None:
    """time-machine works as usual in and around tests without a virtual clock."""
    source = """
    import datetime, pytest, time_machine

    def year():
        return datetime.datetime.now(datetime.timezone.utc).year

    @pytest.fixture(scope="module", autouse=True)
    def around():
        with time_machine.travel("2031-06-01"):
            yield

    def test_real(task_manager):
        with time_machine.travel("2030-06-01"):
            assert year() == 2030
        assert year() == 2031

    def test_virtual(task_clock):
        assert task_clock.now().year == year() == 2031
    """
    assert run(source)[0] == {"passed": 2}


def test_another_clock_of_a_wider_fixture(run) -> None:
    """time-machine is also rejected if a fixture of a wider scope starts it in such a test."""
    outcome, text = run("""
    import pytest, time_machine

    @pytest.fixture(scope="module", autouse=True)
    def around():
        with time_machine.travel("2031-06-01"):
            yield

    def test_virtual(task_clock):
        pass
    """)

    assert outcome == {"errors": 1}
    assert "time_machine was started in a test with a virtual clock" in text


# -- the seed


SEEDED = """
    import pytest

    def order(asyncframe):
        done = []
        for number in range(12):
            asyncframe.manager.submit_nowait(done.append, (number,))
        asyncframe.run_until_idle()
        return done

    @pytest.mark.asyncframe(mode="seeded")
    def test_session(asyncframe):
        assert not order(asyncframe)

    @pytest.mark.asyncframe(mode="seeded", seed=3)
    def test_own(asyncframe):
        assert not order(asyncframe)
"""


def test_the_seed_of_the_command_line(run) -> None:
    """The option changes the order of tests without a seed of their own, and is shown."""

    def orders(*options: str) -> list[str]:
        lines = run(SEEDED, *options)[1].splitlines()
        found = [line for line in lines if line.startswith("E       assert not [")]
        return found + [line for line in lines if line.startswith("seconds of virtual time")]

    first, own, shown, _ = orders()
    assert shown.endswith("mode 'seeded', seed 0")
    assert orders("--asyncframe-seed=0")[:2] == [first, own]
    other, same, shown, shown_own = orders("--asyncframe-seed=7")
    assert other != first
    assert same == own
    assert shown.endswith("mode 'seeded', seed 7 (again with --asyncframe-seed=7)")
    assert shown_own.endswith("mode 'seeded', seed 3")


JITTER = """
    import pytest
    from framework import background_task, retry_task

    @background_task
    @retry_task(max_retries=2, retry_delay=10, jitter=0.5)
    def fails():
        raise LookupError

    @pytest.mark.parametrize("mode", [
        pytest.param(mode, marks=pytest.mark.asyncframe(mode=mode)) for mode in ("auto", "virtual")
    ])
    def test_it(asyncframe, mode):
        asyncframe.run_until_complete(fails(), check=False)
        assert not asyncframe.delays(fails)
"""


def test_the_seed_of_jitter(run) -> None:
    """The option changes jitter, too, in every mode of virtual time, and is shown there."""

    def delays(*options: str) -> list[str]:
        lines = run(JITTER, *options)[1].splitlines()
        assert len([line for line in lines if line.endswith("mode 'auto'")]) == (not options)
        shown = "mode 'auto', seed 7 (again with --asyncframe-seed=7)"
        assert len([line for line in lines if line.endswith(shown)]) == bool(options)
        return [line for line in lines if line.startswith("E       assert not [")]

    auto, virtual = delays()
    other, again = delays("--asyncframe-seed=7")
    assert auto == virtual
    assert other == again
    assert other != auto


def test_an_invalid_seed(run) -> None:
    """A seed that is not a whole number is a usage error of pytest."""
    assert (
        "argument --asyncframe-seed: invalid int value: 'x'"
        in run(SEEDED, "--asyncframe-seed=x")[1]
    )
