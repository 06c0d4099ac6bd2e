"""What the test's own threads do, as seen from outside, and whether time waits for them."""

from __future__ import annotations

import threading
from itertools import combinations_with_replacement

import pytest

from pytest_asyncframe._turns import activity
from pytest_asyncframe._turns.activity import BEGINNING, GONE, Glance, glance
from pytest_asyncframe._turns.outside import FILE_SILENCE, THREAD_PAUSE, Outside, Verdict
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.probe import Probe

IDLE = Glance(ran=1_000_000, turns=10, at_work=False, on_disk=False, naps=False)


LOOKS = [
    (IDLE, IDLE, Verdict.QUIET),
    (IDLE, IDLE._replace(ran=1_090_000, turns=12), Verdict.RESTLESS),
    (IDLE, IDLE._replace(at_work=True), Verdict.RESTLESS),
    (IDLE, IDLE._replace(naps=True), Verdict.RESTLESS),
    (IDLE._replace(at_work=True), IDLE._replace(at_work=True), Verdict.STARVED),
    (IDLE, IDLE._replace(ran=6_000_000, turns=11), Verdict.BUSY),
    (IDLE, IDLE._replace(ran=6_000_000), Verdict.BUSY),
    (IDLE, IDLE._replace(on_disk=True), Verdict.BUSY),
    (BEGINNING, IDLE, Verdict.BUSY),
    (IDLE, BEGINNING, Verdict.BUSY),
    (BEGINNING, GONE, Verdict.QUIET),
    (IDLE, GONE, Verdict.QUIET),
]
"""Two looks at a thread, and what they show."""


def test_verdicts_about_a_thread() -> None:
    """Two looks at a thread show whether it computes, polls, is starved or is idle."""
    outside, me = Outside(), threading.current_thread()

    found = [(before, now, outside.judge({me: before}, {me: now})) for before, now, _ in LOOKS]
    assert found == LOOKS


def files(state: str, ran: int, call: str) -> dict[str, str]:
    """Return what the system's files say of a thread."""
    return {"stat": f"1 (a) {state} {'0 ' * 12}", "schedstat": f"{ran} 0 1", "syscall": call}


NAPS = files("S", 1_000, f"{activity._CALLS.get('clock_nanosleep')} 0x0 0x0 0x1 0x2")
RUNS = files("R", 1_000, "running")
WAITS = files("S", 1_001, f"{activity._CALLS.get('futex')} 0x1 0x0 0x0 0x0")


@pytest.mark.skipif(not activity._CALLS, reason="numbers of system calls of this machine")
def test_a_nap_that_ends_during_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose nap ends between two of the files that a look reads is not taken as idle."""
    before = Glance(ran=1_000, turns=1, at_work=False, on_disk=False, naps=True)
    outside, me = Outside(), threading.current_thread()
    for ends, blocks in combinations_with_replacement(range(4), 2):
        states = iter([NAPS] * ends + [RUNS] * (blocks - ends) + [WAITS] * (3 - blocks))
        monkeypatch.setattr(activity, "_read", lambda _, name, states=states: next(states)[name])
        seen = glance(1)
        assert not list(states), "each file is read once"
        assert outside.judge({me: before}, {me: seen}) is not Verdict.QUIET, (ends, blocks)


def test_a_thread_that_ends_during_a_look() -> None:
    """A short wait counts as short, even if the thread that made it short has ended."""
    sequencer = Sequencer(moves=True, starts=True, hold=True, one_at_a_time=True)
    with sequencer.working() as actor:
        fired: list[int] = []
        sequencer.call_at(60, lambda: fired.append(sequencer.now))
        # 1 the loop waits for a thread and a file, for the short time of the thread, 2 the
        # thread writes to the file and ends, 3 the loop checks for progress.
        sequencer.outside.count_files(1)
        assert sequencer.try_park(actor, None, None, "a file")
        sequencer.watchdog.check(actor, THREAD_PAUSE)
        sequencer.watchdog.check(actor, THREAD_PAUSE)
        assert fired == []
        sequencer.watchdog.check(actor, FILE_SILENCE)
        assert fired == [60]
        sequencer.wake(actor)


def test_the_busiest_thread_counts() -> None:
    """The busiest thread decides the verdict."""
    outside, one, other = Outside(), threading.Thread(), threading.Thread()
    before = {one: IDLE, other: IDLE}

    assert outside.judge(before, {one: IDLE, other: IDLE._replace(on_disk=True)}) is Verdict.BUSY
    assert outside.judge(before, before) is Verdict.QUIET


def test_a_thread_that_polls_is_given_up() -> None:
    """Time stops waiting for a thread that polls until it computes, but not for one asleep in C."""
    outside, me = Outside(), threading.current_thread()
    before, polls = {me: IDLE}, {me: IDLE._replace(ran=1_090_000, turns=12)}
    naps, busy = {me: IDLE._replace(naps=True)}, {me: IDLE._replace(ran=6_000_000)}
    assert outside.give_up(before, naps) == []
    assert outside.give_up(before, before) == []

    assert outside.give_up(before, polls) == [me]
    assert outside.judge(before, polls) is Verdict.QUIET
    assert outside.give_up(before, polls) == []
    assert outside.judge(before, busy) is Verdict.BUSY
    assert outside.judge(before, polls) is Verdict.RESTLESS


def test_a_polling_thread_that_wakes_somebody(asyncframe: Probe) -> None:
    """Time waits again for a polling thread once it has woken somebody."""
    sequencer = asyncframe.clock.sequencer
    condition, told = threading.Condition(), threading.Event()
    sequencer.outside.pollers.add(threading.get_ident())
    with condition:
        condition.notify()
    assert sequencer.outside.pollers
    asyncframe.manager.submit_nowait(told.wait)
    asyncframe.clock.sleep(1)
    told.set()
    asyncframe.run_until_idle()

    assert not sequencer.outside.pollers
