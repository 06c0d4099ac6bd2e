"""The contract of windows, on every back end: `SharedWindows`, a gate, and that of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from framework.protocols import WindowRequest
from tests.processes.contracts.drawn import Machine, drive, how_many, numbers
from tests.processes.contracts.implementations import BackEnd, Process
from tests.processes.sql.siblings import START

LENGTH: Final = 10.0
MICRO: Final = 1e-6


@dataclass
class Call:
    """A call of a throttled function.

    Attributes:
        process: Which process makes it.
        request: What it asks for.
        again: When to ask again, while it waits; None for after each change.
        begins: When it may begin; None while it waits, or if it was refused.
    """

    process: Process
    request: WindowRequest
    again: float | None = None
    begins: float | None = None

    def ask(self) -> None:
        """Ask whether it may begin."""
        self.begins, self.again = self.process.call(self.request)


@dataclass
class Calls:
    """The calls of a test, which ask again when they were told to.

    Attributes:
        back_end: Counts them.
        waiting: Those that wait, in the order in which they came.
    """

    back_end: BackEnd
    waiting: list[Call] = field(default_factory=list)

    def make(self, process: Process, request: WindowRequest) -> Call:
        """Make a call."""
        call = Call(process, request)
        call.ask()
        if call.begins is None and request.waits:
            self.waiting.append(call)
        return call

    def give_up(self, call: Call) -> None:
        """Take a call back that waits."""
        call.process.give_up(call.request)
        if call in self.waiting:
            self.waiting.remove(call)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, during which calls begin that wait."""
        until = self.back_end.now + seconds
        while self.waiting:
            # Whoever waits for a change may begin because of one, or be told a moment by it.
            while self._ask_again():
                pass
            moments = [call.again for call in self.waiting if call.again is not None]
            moment = max(min(moments, default=math.inf), self.back_end.now)
            if moment > until:
                break
            self.back_end.pass_time(moment - self.back_end.now)
        self.back_end.pass_time(until - self.back_end.now)

    def _ask_again(self) -> bool:
        """Let those ask that are to; return whether one of them begins, or is told a moment."""
        due = [one for one in self.waiting if one.again is None or one.again <= self.back_end.now]
        before = [one.again for one in due]
        for call in due:
            call.ask()
            if call.begins is not None:
                self.waiting.remove(call)
        return before != [one.again for one in due] or any(one.begins is not None for one in due)


def call(entry: str, rate: int = 2, *, key: str = "key", waits: bool = False) -> WindowRequest:
    """Return what a call asks for."""
    return WindowRequest(key, entry, rate, LENGTH, waits=waits)


def test_processes_share_a_window(back_end: BackEnd) -> None:
    """Calls of two processes use the same slots, which are free exactly one window later."""
    calls, one, two = Calls(back_end), back_end.start(), back_end.start()
    assert calls.make(one, call("a")).begins == START
    calls.pass_time(4)
    assert calls.make(two, call("b")).begins == START + 4
    refused = calls.make(one, call("c"))
    assert (refused.begins, refused.again) == (None, START + LENGTH)
    calls.pass_time(LENGTH - 4 - MICRO)
    assert calls.make(two, call("d")).begins is None
    calls.pass_time(MICRO)
    assert calls.make(two, call("e")).begins == START + LENGTH
    assert calls.make(one, call("f")).again == START + 4 + LENGTH
    assert calls.make(one, call("g", key="another")).begins == START + LENGTH


def test_calls_that_wait_come_in_order(back_end: BackEnd) -> None:
    """Calls over the rate begin in the order in which they came, and no other one before them."""
    calls, both = Calls(back_end), [back_end.start(), back_end.start()]
    made = [
        calls.make(process, call(entry, waits=True))
        for process, entry in zip(both * 3, "abcdef", strict=True)
    ]
    calls.pass_time(LENGTH)
    assert calls.make(both[0], call("late")).begins is None
    calls.pass_time(LENGTH)
    assert [one.begins for one in made] == [
        START + LENGTH * number for number in (0, 0, 1, 1, 2, 2)
    ]


def test_who_gives_up_holds_up_nobody(back_end: BackEnd) -> None:
    """The next call begins as if the one that was given up had never come."""
    calls, one, two = Calls(back_end), back_end.start(), back_end.start()
    calls.make(one, call("a", 1, waits=True))
    calls.give_up(calls.make(two, call("b", 1, waits=True)))
    last = calls.make(one, call("c", 1, waits=True))
    calls.pass_time(LENGTH)
    assert last.begins == START + LENGTH


# -- in any order


class Window:
    """A window, over plain data.

    Attributes:
        rate: How many calls it allows.
        times: When each call begins, or is to begin.
        given_up: Whether a call that waited was given up.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.times: dict[str, float] = {}
        self.given_up = False

    def earliest(self, now: float) -> float:
        """Return the first moment, after all other calls, that has less than the rate before."""
        soonest = max([now, *self.times.values()])
        moments = [soonest, *(one + LENGTH for one in self.times.values())]
        return min(one for one in moments if one >= soonest and self._allows(one))

    def _allows(self, moment: float) -> bool:
        return sum(one > moment - LENGTH for one in self.times.values()) < self.rate


RATES: Final = {"one": 1, "two": 2, "five": 5}
pauses = st.sampled_from([0.5, 3.0, 9.5, 10.0, 25.0])


class Windows(Machine):
    """Processes that call, wait, give up and let time pass, in any order."""

    def __init__(self, back_end: BackEnd) -> None:
        super().__init__(back_end)
        self.calls = Calls(back_end)
        self.windows = {self.prefix + key: Window(rate) for key, rate in RATES.items()}
        self.made: list[Call] = []
        self.numbers = count()

    @rule(number=numbers, key=st.sampled_from(sorted(RATES)), waits=st.booleans())
    def call(self, number: int, key: str, waits: bool) -> None:
        """Make a call, which begins at the earliest time that its window allows."""
        window = self.windows[self.prefix + key]
        now, entry = self.back_end.now, f"{self.prefix}{next(self.numbers)}"
        others_wait = any(one.request.key == self.prefix + key for one in self.calls.waiting)
        request = call(entry, RATES[key], key=self.prefix + key, waits=waits)
        made = self.calls.make(self.process(number), request)
        moment = made.again if made.begins is None else made.begins
        assert moment is not None
        assert moment >= now
        expected = window.earliest(now)
        if self.back_end.reserves:
            assert moment <= expected
        if not window.given_up:
            assert waits or (made.begins == now) is (expected == now)
            # One that does not wait need not be told how long those ahead of it take.
            if waits or self.back_end.reserves or not others_wait:
                assert moment == expected
        if waits or made.begins is not None:
            window.times[entry] = moment
            self.made.append(made)

    def future(self) -> list[Call]:
        """Return the calls that have not begun."""
        now = self.back_end.now
        return [one for one in self.made if one.begins is None or one.begins > now]

    @precondition(lambda self: self.future())
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Give up a call that has not begun."""
        found = self.future()
        gone = found[data.draw(st.integers(0, len(found) - 1))]
        self.made.remove(gone)
        self.calls.give_up(gone)
        window = self.windows[gone.request.key]
        window.given_up = True
        del window.times[gone.request.entry]

    @rule(seconds=pauses)
    def pass_time(self, seconds: float) -> None:
        """Let time pass; what waits begins when it was promised to, if nobody gave up."""
        self.calls.pass_time(seconds)
        for one in self.made:
            window = self.windows[one.request.key]
            if one.begins is not None:
                assert window.given_up or one.begins == window.times[one.request.entry]
                window.times[one.request.entry] = one.begins

    @invariant()
    def rate(self) -> None:
        """No half-open interval of the length has more calls than the rate."""
        for key, window in self.windows.items():
            begun = sorted(
                one.begins for one in self.made if one.begins is not None and one.request.key == key
            )
            gaps = zip(begun, begun[window.rate :], strict=False)
            assert all(later - first >= LENGTH for first, later in gaps), (key, begun)

    def teardown(self) -> None:
        """Let all that waits begin."""
        self.calls.pass_time(LENGTH * (1 + len(self.made)))
        assert self.calls.waiting == []


@how_many
def test_any_order(back_end: BackEnd, examples: int) -> None:
    """Whatever the processes do in whichever order, the rate is kept, and nobody waits longer."""
    drive(partial(Windows, back_end), examples)
