"""The task timeline of a failed test, word for word."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest

from pytest_asyncframe._report import timeline
from tests.plugin.endings import PLAIN


@pytest.fixture
def timeline_of(pytester):
    """Return a function that runs tests and returns the lines of their timelines."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def told(source: str, *args: str, name: str = "task timeline") -> list[str]:
        pytester.makepyfile(test_it=source)
        # Hypothesis would be imported again at the end of each run.
        result = pytester.runpytest_inprocess(*PLAIN, *args)
        found: list[str] = []
        inside = False
        for line in result.outlines:
            if re.fullmatch(r"(-+|=+|_+) .* (-+|=+|_+)", line):
                inside = re.fullmatch(rf"-+ {name} -+", line) is not None
            elif inside and not line.startswith("      "):
                found.append(line)
        return found

    return told


def lines(text: str) -> list[str]:
    """Return the lines of an indented text."""
    return dedent(text).strip("\n").splitlines()


def rows(found: list[str]) -> list[str]:
    """Return what happened, without times, lanes and tasks."""
    return [re.split("  +", line)[-1] for line in found if re.match(r" *\d", line)]


RETRIES = """
    import time
    from framework import retry_task
    @retry_task(max_retries=2, retry_delay=5)
    def charge(amount):
        raise ValueError("no")
    def render(page, *, size):
        time.sleep(30)
    def test_charge(asyncframe):
        submit = asyncframe.manager.submit_nowait
        submit(charge, (7,), task_id="11111111222")
        submit(render, ("a",), {"size": 2}, task_id="22222222333")
        asyncframe.clock.advance(12)
        assert asyncframe.submitted(charge)[0].result == 7
"""


@pytest.mark.parametrize(
    "options", [(), pytest.param(("-n1",), marks=pytest.mark.extended("processes"))]
)
def test_every_event_is_a_line(timeline_of, options):
    """Events and findings are shown at the failure and at the teardown, under xdist too."""
    assert timeline_of(RETRIES, *options, name="task timeline.*") == lines("""
        seconds of virtual time since the test began, mode 'auto'
           0.000 s  test           charge#11111111  submitted by test_it.py:10 in test_charge: charge(7)
           0.000 s  test           render#22222222  submitted by test_it.py:11 in test_charge: render('a', size=2)
           0.000 s  asyncframe-_0  charge#11111111  started
           0.000 s  asyncframe-_0  charge#11111111  retrying in 5 s after ValueError: no at test_it.py:5 in charge
           0.000 s  asyncframe-_1  render#22222222  started
           0.000 s  asyncframe-_1  render#22222222  sleeps 30 s, at test_it.py:7 in render
           5.000 s  asyncframe-_0  charge#11111111  attempt 2 started
           5.000 s  asyncframe-_0  charge#11111111  retrying in 5 s after ValueError: no at test_it.py:5 in charge
          10.000 s  asyncframe-_0  charge#11111111  attempt 3 started
          10.000 s  asyncframe-_0  charge#11111111  failed with ValueError: no at test_it.py:5 in charge
        unfinished at 12 s:
          render#22222222: on asyncframe-_1, at test_it.py:7 in render
        pending timers at 12 s:
          t+18 s asyncframe-_1: render#22222222 at test_it.py:7 in render
        findings:
          lost failure: test_it.charge (11111111222) is failed, submitted at test_it.py:10 in test_charge, and nobody has read its error:
        findings:
          leaked task: test_it.render (22222222333) is running, submitted at test_it.py:11 in test_charge
    """)  # noqa: E501  # as it is printed


FAULTS = """
    import time
    from framework import retry_task
    @retry_task(retry_delay=5)
    def charge(amount):
        time.sleep(1)
    def test_charge(asyncframe):
        asyncframe.faults.fail(charge, on=[1, 3], exc=TimeoutError("no bank"))
        asyncframe.faults.queue_full(next=1)
        submit = asyncframe.manager.submit_nowait
        try:
            submit(charge, (7,), task_id="11111111111")
        except Exception:
            submit(charge, (7,), task_id="22222222222")
        asyncframe.run_until_idle()
        assert False
"""


def test_faults_are_shown(timeline_of):
    """A fault is a line, with the line that planned it; at the end stands all that was planned."""
    assert timeline_of(FAULTS) == lines("""
        seconds of virtual time since the test began, mode 'auto'
           0.000 s  test           charge           fault: submission of charge meets a full queue (planned at test_it.py:8 in test_charge)
           0.000 s  test           charge#22222222  submitted by test_it.py:13 in test_charge: charge(7)
           0.000 s  asyncframe-_0  charge#22222222  started
           0.000 s  asyncframe-_0  charge#22222222  fault: attempt 1 of charge fails with TimeoutError (planned at test_it.py:7 in test_charge)
           0.000 s  asyncframe-_0  charge#22222222  retrying in 5 s after TimeoutError: no bank
           5.000 s  asyncframe-_0  charge#22222222  attempt 2 started
           5.000 s  asyncframe-_0  charge#22222222  sleeps 1 s, at test_it.py:5 in charge
           6.000 s  asyncframe-_0  charge#22222222  completed
        planned faults:
          fail(charge, on=[1, 3], exc=TimeoutError('no bank')) at test_it.py:7 in test_charge: fired once
          queue_full(next=1) at test_it.py:8 in test_charge: fired once
    """)  # noqa: E501  # as it is printed


def test_unfinished_tasks_are_shown_as_of_the_failure(timeline_of):
    """Unfinished tasks are shown as they were at the failure, before the app stopped."""
    found = timeline_of("""
    import asyncio
    import time
    from fastapi import FastAPI
    from framework import get_task_manager, setup_async_framework
    app = FastAPI(lifespan=setup_async_framework)
    async def pack(order):
        await asyncio.sleep(100)
    def stamp(order):
        time.sleep(300)
    @app.post("/orders")
    async def take(order: int):
        submit = get_task_manager().submit_nowait
        submit(pack, (order,), task_id="pack-1")
        submit(stamp, (order,), task_id="stamp-1")
    async def test_shop(asyncframe):
        async with asyncframe.client(app) as client:
            await client.post("/orders", params={"order": 3})
            await asyncio.sleep(2)
            raise LookupError("nothing packed")
    """)
    assert found == lines("""
        seconds of virtual time since the test began, mode 'auto'
           0.000 s  loop           pack#pack-1    submitted by test_it.py:13 in take: pack(3)
           0.000 s  loop           stamp#stamp-1  submitted by test_it.py:14 in take: stamp(3)
           0.000 s  loop                          sleeps 2 s, at test_it.py:18 in test_shop
           0.000 s  loop           pack#pack-1    started
           0.000 s  loop           pack#pack-1    sleeps 100 s, at test_it.py:7 in pack
           0.000 s  asyncframe-_0  stamp#stamp-1  started
           0.000 s  asyncframe-_0  stamp#stamp-1  sleeps 300 s, at test_it.py:9 in stamp
           2.000 s  loop                          the test fails with LookupError: nothing packed
          32.000 s  loop           pack#pack-1    cancelled: the framework shut down
          32.000 s  loop           stamp#stamp-1  interrupted: the framework shut down, at test_it.py:9 in stamp
        unfinished when the test failed, at 2 s:
          pack#pack-1: on loop, at test_it.py:7 in pack
          stamp#stamp-1: on asyncframe-_0, at test_it.py:9 in stamp
        pending timers when the test failed, at 2 s:
          t+98 s asyncframe test_it.pack: pack#pack-1 at test_it.py:7 in pack
          t+298 s asyncframe-_0: stamp#stamp-1 at test_it.py:9 in stamp
    """)  # noqa: E501  # as it is printed


def test_an_expected_error_is_not_the_failure(timeline_of):
    """An expected error that leaves a client's block is shown as such."""
    found = timeline_of("""
    import pytest
    from fastapi import FastAPI
    def test_it(asyncframe):
        with pytest.raises(LookupError), asyncframe.client(FastAPI()):
            raise LookupError("wanted")
        assert False
    """)
    assert rows(found) == ["its client exits with LookupError: wanted"]


@pytest.mark.parametrize("runner", ["", "@pytest.mark.asyncio", "@pytest.mark.anyio"])
def test_an_unfinished_coroutine_under_each_runner(timeline_of, runner):
    """An unfinished coroutine is shown with the innermost line of the user's code."""
    found = timeline_of(f"""
    import asyncio
    import pytest
    async def inner():
        await asyncio.sleep(100)
    async def outer():
        await inner()
    {runner}
    async def test_it(asyncframe):
        await asyncframe.manager.submit(outer, task_id="outer-1")
        await asyncio.sleep(3)
        assert False, "by now"
    """)
    at = next(at for at, line in enumerate(found) if line.startswith("unfinished"))
    assert found[at + 1] == "  outer#outer-1: on loop, at test_it.py:4 in inner"


def test_limits_and_progress(timeline_of):
    """A task over its time limit is shown with its line; the clock has a lane of its own."""
    found = timeline_of("""
    import time
    from framework import background_task, current_task
    @background_task(timeout=2)
    def slow(seconds):
        current_task().report_progress(0.4, "halfway")
        time.sleep(seconds)
    def test_it(asyncframe):
        asyncframe.manager.submit_nowait(slow, (9,), task_id="slow-1")
        asyncframe.manager.submit_nowait(slow, (90,), task_id="slow-2")
        asyncframe.clock.advance(12)
        assert False
    """)
    assert found == lines("""
        seconds of virtual time since the test began, mode 'auto'
           0.000 s  test           slow#slow-1  submitted by test_it.py:8 in test_it: slow(9)
           0.000 s  test           slow#slow-2  submitted by test_it.py:9 in test_it: slow(90)
           0.000 s  asyncframe-_0  slow#slow-1  started
           0.000 s  asyncframe-_0  slow#slow-1  progress 40 % halfway
           0.000 s  asyncframe-_0  slow#slow-1  sleeps 9 s, at test_it.py:6 in slow
           0.000 s  asyncframe-_1  slow#slow-2  started
           0.000 s  asyncframe-_1  slow#slow-2  progress 40 % halfway
           0.000 s  asyncframe-_1  slow#slow-2  sleeps 90 s, at test_it.py:6 in slow
           2.000 s  clock          slow#slow-1  timed out: it ran past its time limit, at test_it.py:6 in slow
           2.000 s  clock          slow#slow-2  timed out: it ran past its time limit, at test_it.py:6 in slow
           9.000 s  asyncframe-_0  slow#slow-1  ended too late, so its outcome is dropped
        unfinished at 12 s:
          slow#slow-2: timeout, but still running, on asyncframe-_1, at test_it.py:6 in slow
        pending timers at 12 s:
          t+78 s asyncframe-_1: slow#slow-2 at test_it.py:6 in slow
        findings:
          lost failure: test_it.slow (slow-1) is timeout, submitted at test_it.py:8 in test_it, and nobody has read its error:
          lost failure: test_it.slow (slow-2) is timeout, submitted at test_it.py:9 in test_it, and nobody has read its error:
    """)  # noqa: E501  # as it is printed


def test_a_throttled_task(timeline_of):
    """A throttled task is shown waiting for its turn, with the time if that is known."""
    found = timeline_of("""
    from framework import throttled_task
    @throttled_task(rate_limit=1, time_window=60, when_limited="wait")
    def sms(number):
        return number
    def test_it(asyncframe):
        for number in (1, 2, 3):
            asyncframe.manager.submit_nowait(sms, (number,), task_id=f"sms-{number}")
        asyncframe.clock.advance(100)
        assert False
    """)
    assert rows([line for line in found if "sms#sms-2  " in line]) == [
        "submitted by test_it.py:7 in test_it: sms(2)",
        "started",
        "throttled, waits 60 s",
        "completed with 2",
    ]
    standing = next(line for line in found if line.startswith("  sms#sms-3"))
    assert re.fullmatch("  sms#sms-3: on asyncframe-_., waits for its turn", standing)


def test_an_error_in_a_package(timeline_of):
    """An error in a package is shown with the package's outermost line and full path."""
    found = timeline_of("""
    import iniconfig
    from framework import retry_task
    @retry_task(max_retries=1, retry_delay=5)
    def ping():
        raise OSError("down")
    def test_it(asyncframe):
        asyncframe.manager.submit_nowait(iniconfig.IniConfig, ("missing",), task_id="ini-1")
        asyncframe.run_until_idle()
        ping()
    """)
    assert re.fullmatch(
        r"failed with FileNotFoundError: .* at .*/iniconfig/__init__\.py:\d+ in IniConfig\..*",
        rows(found)[2],
    )
    assert found[4].startswith("   0.000 s  test           ping    ")
    assert rows(found)[3] == "retrying in 5 s after OSError: down at test_it.py:5 in ping"


def test_tasks_on_the_same_thread(timeline_of):
    """A task that waits for one on the same thread is shown where it waits."""
    found = timeline_of("""
    import time
    from framework import get_task_manager
    def inner():
        time.sleep(9)
    def outer():
        manager = get_task_manager()
        manager.wait_result(manager.submit_nowait(inner, task_id="inner-1"))
    def test_it(asyncframe):
        asyncframe.manager.submit_nowait(outer, task_id="outer-1")
        asyncframe.clock.advance(1)
        assert False
    """)
    at = found.index("unfinished at 1 s:")
    assert found[at + 1 : at + 3] == [
        "  outer#outer-1: on asyncframe-_0, at test_it.py:7 in outer",
        "  inner#inner-1: on asyncframe-_0, at test_it.py:4 in inner",
    ]


@pytest.mark.parametrize("end", ["assert False", "pass"])
def test_a_task_that_was_not_started(timeline_of, end):
    """A task that was not started is shown, also if only the teardown fails."""
    source = f"""
    def test_it(asyncframe):
        asyncframe.manager.submit_nowait(len, ("abc",), task_id="len-1")
        {end}
    """
    assert timeline_of(source, "-o", "asyncframe_mode=manual") == lines("""
        seconds of virtual time since the test began, mode 'manual'
           0.000 s  test  len#len-1  submitted by test_it.py:2 in test_it: len('abc')
        unfinished at 0 s:
          len#len-1: not started
    """)


def test_a_long_timeline_is_cut_in_the_middle(timeline_of):
    """The first 40 and last 80 lines are shown, and the number of lines left out."""
    found = timeline_of("""
    def test_it(asyncframe):
        for number in range(100):
            asyncframe.manager.submit_nowait(abs, (number,), task_id=f"{number:03}")
        asyncframe.run_until_idle()
        assert False
    """)
    assert found[41] == "     ...    180 lines left out"
    assert rows(found)[39] == "submitted by test_it.py:3 in test_it: abs(39)"
    assert rows(found)[-1] == "completed with 99"
    assert len(rows(found)) == 120


def test_repeated_sleeps_are_one_line(timeline_of):
    """A loop of sleeps is shown as one line."""
    found = timeline_of("""
    import asyncio
    async def test_it(asyncframe):
        for _ in range(500):
            await asyncio.sleep(0.5)
        assert False
    """)
    assert found == lines("""
        seconds of virtual time since the test began, mode 'auto'
           0.000 s  loop    sleeps 0.5 s, at test_it.py:4 in test_it, 500 times until 249.500 s
         250.000 s  loop    the test fails with AssertionError: assert False
    """)


@pytest.mark.extended("processes")
def test_values_with_a_broken_repr(timeline_of):
    """Whatever repr() or str() raises or returns, the timeline has short lines."""
    source = r"""
    class Hostile:
        def __init__(self, answer):
            self.answer = answer
        def __repr__(self):
            if isinstance(self.answer, str):
                return self.answer
            raise self.answer
    class Liar(str):
        def __getitem__(self, key):
            raise ValueError("no part of me")
    class Mute(Exception):
        def __str__(self):
            raise KeyError("no word")
    def take(value):
        return value
    def fail():
        raise Mute
    def test_it(asyncframe):
        submit = asyncframe.manager.submit_nowait
        for answer in (SystemExit(), Liar(), "x" * 10**6, "two\nlines \ud800 \x1b[1m"):
            submit(take, (Hostile(answer),))
        submit(take, (b"x" * 10**6,))
        submit(fail)
        asyncframe.run_until_idle()
        assert False
    """
    found = timeline_of(source, "-n1")
    by = "submitted by test_it.py:21 in test_it: take"
    assert rows(found)[:4] == [
        f"{by}(<Hostile, whose repr() raised SystemExit>)",
        f"{by}(<Hostile, whose repr() raised ValueError>)",
        f"{by}({'x' * 72}...",
        f"{by}(two lines \\ud800 \\x1b[1m)",
    ]
    assert [row for row in rows(found) if row.startswith(("completed", "failed"))] == [
        "completed with <Hostile, whose repr() raised SystemExit>",
        "completed with <Hostile, whose repr() raised ValueError>",
        f"completed with {'x' * 77}...",
        "completed with two lines \\ud800 \\x1b[1m",
        f"completed with b'{'x' * 75}...",
        "failed with Mute: <Mute, whose str() raised KeyError> at test_it.py:17 in fail",
    ]


def test_a_timeline_that_fails_says_so(timeline_of, monkeypatch):
    """An error in the timeline is shown in its place, and the rest of the report is unchanged."""
    monkeypatch.setattr(timeline, "_labels", {})
    assert timeline_of(RETRIES) == [
        "no timeline could be made: TypeError: 'dict' object is not callable"
    ]


def test_labels_are_unique(timeline_of):
    """Eight characters of an id are shown, or all of them or a number if needed."""
    found = timeline_of("""
    def test_it(asyncframe):
        for task_id in ("invoice-1", "invoice-2", "other", "other", None):
            asyncframe.manager.submit_nowait(abs, (1,), task_id=task_id)
            asyncframe.run_until_idle()
            if task_id == "other":
                asyncframe.manager.cleanup_completed_tasks(0)
        assert False
    """)
    started = [re.split("  +", line)[-2] for line in found if line.endswith("  started")]
    assert started[:-1] == ["abs#invoice-1", "abs#invoice-2", "abs#other (1)", "abs#other (2)"]
    assert re.fullmatch("abs#[0-9a-f]{8}", started[-1])


def test_a_failing_fixture_has_a_timeline(timeline_of):
    """A failed setup has a timeline too."""
    found = timeline_of("""
    import pytest
    @pytest.fixture
    def ready(asyncframe):
        asyncframe.manager.submit_nowait(abs, (1,))
        asyncframe.run_until_idle()
        raise LookupError("not ready")
    def test_it(ready, asyncframe):
        pass
    """)
    assert rows(found)[0] == "submitted by test_it.py:4 in ready: abs(1)"
    assert len(found) == 4


def test_real_time_since_the_start_of_the_test(timeline_of):
    """In the mode threads, times are real seconds since the start of the test."""
    source = """
    def test_it(asyncframe):
        asyncframe.manager.wait_result(asyncframe.manager.submit_nowait(abs, (1,)))
        assert False
    """
    found = timeline_of(source, "-o", "asyncframe_mode=threads")
    assert found[0] == "seconds of real time since the test began, mode 'threads'"
    assert all(re.match(r"   [0-9]\.\d{3} s  ", line) for line in found[1:])
    assert rows(found)[1:] == ["started", "completed with 1"]


def test_tests_without_a_timeline(timeline_of):
    """A test that passes, is expected to fail or had no tasks has no timeline."""
    source = """
    import pytest
    def test_good(asyncframe):
        asyncframe.manager.submit_nowait(abs, (1,))
        asyncframe.run_until_idle()
    @pytest.mark.xfail
    def test_bad(asyncframe):
        asyncframe.manager.submit_nowait(abs, (1,))
        asyncframe.run_until_idle()
        assert False
    def test_idle(asyncframe):
        assert False
    """
    assert timeline_of(source, "-rA", name="task timeline.*") == []


def test_a_rejected_task(timeline_of):
    """A rejected task is not waited for, not unfinished and not a leak."""
    found = timeline_of("""
    import pytest
    from framework import QueueFullError, setup_async_framework
    async def test_it(asyncframe):
        async with setup_async_framework(None, queue_size=1):
            asyncframe.manager.submit_nowait(abs, (1,))
            with pytest.raises(QueueFullError):
                asyncframe.manager.submit_nowait(abs, (2,))
            await asyncframe.settled()
        assert False
    """)
    assert rows(found)[0] == "submitted by test_it.py:5 in test_it: abs(1)"
    assert rows(found)[-1] == "the test fails with AssertionError: assert False"
    assert len(found) == 5


def test_long_lists_are_cut() -> None:
    """Of what is unfinished twenty are told, and how many there are more."""
    names = [f"task {number}" for number in range(23)]
    assert timeline._listed("unfinished:", names[:20])[-1] == "  task 19"
    assert timeline._listed("unfinished:", names)[-2:] == ["  task 19", "  ... 3 more"]
