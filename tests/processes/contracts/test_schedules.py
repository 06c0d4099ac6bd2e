"""The contract of `ScheduleBook`, on every back end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from framework._records.records import TaskRecord
from framework._records.schedules import CLOCK_ERROR, RunClaim, ScheduleState
from tests.processes.contracts.drawn import PROCESSES, Machine, drive, how_many, mortal, numbers
from tests.processes.contracts.implementations import BackEnd, Process
from tests.processes.sql.siblings import START

NAME = "reports.nightly"
EVERY = 60.0
DUE = START + EVERY


@pytest.fixture
def both(back_end: BackEnd) -> tuple[Process, Process]:
    """Two processes that have entered a schedule."""
    one, other = back_end.start(), back_end.start()
    one.enter(NAME, "every 60 s", START)
    return one, other


def state_of(process: Process) -> ScheduleState:
    """Return the only state."""
    (state,) = process.schedules()
    return state


def test_a_known_schedule_is_kept(both: tuple[Process, Process]) -> None:
    """A new schedule has missed nothing, and nor has one that is due at other times from now on."""
    one, other = both
    assert one.schedules() == [ScheduleState(NAME, "every 60 s", START)]
    record = one.offer()
    one.claim(NAME, DUE, record)
    known = ScheduleState(NAME, "every 60 s", DUE, ran_at=record.created_at, task_id=record.task_id)
    assert other.enter(NAME, "every 60 s", START + 900) == known
    changed = replace(known, timing="every 30 s", last_due=START + 900)
    assert other.enter(NAME, "every 30 s", START + 900) == changed
    assert one.enter(NAME, "every 90 s", START) == replace(changed, timing="every 90 s")
    assert one.schedules() == [replace(changed, timing="every 90 s")]


def test_a_due_time_is_claimed_once(both: tuple[Process, Process]) -> None:
    """The first gets a due time and has its task; the others are refused it and earlier ones."""
    one, other = both
    record, refused = one.offer(), other.offer()
    assert one.claim(NAME, DUE, record) == "claimed"
    assert other.claim(NAME, DUE, refused) == "taken"
    assert other.claim(NAME, DUE - EVERY, refused) == "taken"
    assert (other.knows(record), other.knows(refused)) == (True, False)


def test_a_name_that_nobody_entered(both: tuple[Process, Process]) -> None:
    """A claim enters a name, and a pause does not; all are shown by their names."""
    one, other = both
    assert not one.pause("a", True, START)
    assert one.claim("z", DUE, one.offer()) == "claimed"
    assert other.claim("z", DUE, other.offer()) == "taken"
    assert other.claim("a", None, other.offer()) == "claimed"
    assert [state.name for state in one.schedules()] == ["a", NAME, "z"]


def test_a_claim_is_repeated(both: tuple[Process, Process]) -> None:
    """A claim whose answer was lost is claimed again, also for a later due time, which it takes."""
    one, other = both
    record, late = one.offer(), DUE + EVERY
    assert one.claim(NAME, DUE, record) == "claimed"
    assert one.claim(NAME, DUE, record) == "claimed"
    assert one.claim(NAME, late, record) == "claimed"
    state = ScheduleState(
        NAME, "every 60 s", late, ran_at=record.created_at, task_id=record.task_id
    )
    assert state_of(other) == state
    one.end(record)
    assert other.claim(NAME, late, other.offer()) == "taken"


def test_a_run_is_live(both: tuple[Process, Process]) -> None:
    """While a run is live, a due time is skipped and counted once for all, if it is skipped."""
    one, other = both
    record = one.offer()
    one.claim(NAME, DUE, record)
    before = state_of(one)
    assert other.claim(NAME, DUE + EVERY, other.offer(), skip=False) == "busy"
    assert state_of(one) == before
    assert other.claim(NAME, DUE + EVERY, other.offer()) == "busy"
    assert one.claim(NAME, DUE + EVERY, one.offer()) == "taken"
    assert state_of(one) == replace(before, last_due=DUE + EVERY, skipped=1)
    one.end(record)
    assert other.claim(NAME, DUE + 2 * EVERY, other.offer()) == "claimed"


def test_a_body_goes_on(back_end: BackEnd, both: tuple[Process, Process]) -> None:
    """A run that has ended is live while its body goes on, and not once it was removed."""
    one, other = both
    record = one.offer()
    one.claim(NAME, DUE, record)
    if back_end.has_bodies:
        one.end(record, runs_on=True)
        assert other.claim(NAME, DUE + EVERY, other.offer(), skip=False) == "busy"
    one.end(record)
    one.forget(record)
    assert other.claim(NAME, DUE + EVERY, other.offer()) == "claimed"


def test_a_pause_is_for_all(both: tuple[Process, Process]) -> None:
    """A paused schedule runs nowhere, and what was due until it resumes was not missed."""
    one, other = both
    # To resume what is not paused moves nothing, and to pause it twice is as once.
    assert other.pause(NAME, False, START + 900)
    assert [one.pause(NAME, True, START), other.pause(NAME, True, START)] == [True, True]
    assert other.claim(NAME, DUE, other.offer()) == "paused"
    assert state_of(one) == ScheduleState(NAME, "every 60 s", START, paused=True)
    assert other.pause(NAME, False, DUE + 900)
    assert one.claim(NAME, DUE + 900, one.offer()) == "taken"
    assert one.claim(NAME, DUE + 960, one.offer()) == "claimed"


def test_a_run_by_hand(both: tuple[Process, Process]) -> None:
    """A run by hand is claimed though the schedule is paused, and takes no due time."""
    one, other = both
    one.pause(NAME, True, START)
    record = other.offer()
    assert other.claim(NAME, None, record) == "claimed"
    assert one.claim(NAME, None, one.offer()) == "busy"
    assert state_of(one) == ScheduleState(
        NAME, "every 60 s", START, ran_at=record.created_at, task_id=record.task_id, paused=True
    )


def test_a_clock_that_was_wrong(both: tuple[Process, Process]) -> None:
    """A last due time counts up to three hours ahead: further on, a wrong clock has set it."""
    one, other = both
    record = one.offer()
    one.claim(NAME, DUE + CLOCK_ERROR, record)
    one.end(record)
    assert other.claim(NAME, DUE, other.offer()) == "taken"
    assert other.claim(NAME, DUE - 1, other.offer()) == "claimed"
    assert state_of(one).last_due == DUE - 1


@mortal
def test_a_process_dies(back_end: BackEnd, both: tuple[Process, Process]) -> None:
    """A run whose process died is not live, and nor is its body, unless it goes on elsewhere."""
    one, other = both
    record, late = one.offer(), one.offer()
    one.claim(NAME, DUE, record)
    one.claim("late", DUE, late)
    if back_end.has_bodies:
        one.end(late, runs_on=True)
    back_end.kill(one)
    if back_end.has_bodies:
        assert other.claim("late", DUE + EVERY, other.offer()) == "claimed"
    assert other.claim(NAME, DUE, other.offer()) == "taken"
    if back_end.runs_survive:
        assert other.claim(NAME, DUE + EVERY, other.offer(), skip=False) == "busy"
        other.end(record)
    assert other.claim(NAME, DUE + EVERY, other.offer()) == "claimed"


# -- in any order


class Book:
    """What `ScheduleBook` promises, over plain data.

    Attributes:
        states: What is known, by name.
        live: The tasks that are live, or whose body goes on.
    """

    def __init__(self) -> None:
        self.states: dict[str, ScheduleState] = {}
        self.live: set[str] = set()

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule."""
        known = self.states.get(name, ScheduleState(name, timing, now))
        is_other = known.timing not in ("", timing)
        last = now if is_other and now > known.last_due else known.last_due
        self.states[name] = replace(known, timing=timing, last_due=last)
        return self.states[name]

    def claim(self, name: str, due: float | None, record: TaskRecord, skip: bool) -> RunClaim:
        """Claim a run: the four steps of the protocol, after that of a repeated claim."""
        state = self.states.get(name)
        if state is None:
            first = record.created_at if due is None else due
            self.states[name] = ScheduleState(name, "", first)
            return self._run(name, due, record)
        if record.task_id == state.task_id:
            last = state.last_due if due is None else max(due, state.last_due)
            self.states[name] = replace(state, last_due=last)
            return "claimed"
        if due is not None and 0 <= state.last_due - due <= CLOCK_ERROR:
            return "taken"
        if due is not None and state.paused:
            return "paused"
        if state.task_id in self.live:
            if due is not None and skip:
                self.states[name] = replace(state, last_due=due, skipped=state.skipped + 1)
            return "busy"
        return self._run(name, due, record)

    def _run(self, name: str, due: float | None, record: TaskRecord) -> RunClaim:
        state = self.states[name]
        last = state.last_due if due is None else due
        task_id, ran_at = record.task_id, record.created_at
        self.states[name] = replace(state, last_due=last, task_id=task_id, ran_at=ran_at)
        self.live.add(task_id)
        return "claimed"

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume."""
        state = self.states.get(name)
        if state is None:
            return False
        resumes = state.paused and not paused
        last = max(now, state.last_due) if resumes else state.last_due
        self.states[name] = replace(state, paused=paused, last_due=last)
        return True


names = st.sampled_from(["a", "b"])
moments = st.one_of(
    st.integers(0, 8).map(lambda number: START + number * EVERY),
    # By a clock that is four hours ahead.
    st.integers(0, 8).map(lambda number: START + 14_400 + number * EVERY),
)


class Schedules(Machine):
    """Processes that claim runs, lose answers, pause, end runs and die, in any order."""

    def __init__(self, back_end: BackEnd) -> None:
        super().__init__(back_end)
        self.book = Book()
        # What was offered without an answer, by process and name, as the framework has it.
        self.offered: dict[tuple[Process, str], TaskRecord] = {}
        self.runs: list[tuple[Process, TaskRecord]] = []
        self.bodies: list[tuple[Process, TaskRecord]] = []
        self.looks = 0

    @rule(number=numbers, name=names, every=st.integers(1, 3), now=moments)
    def enter(self, number: int, name: str, every: int, now: float) -> None:
        """Enter a schedule, new or known."""
        name, timing = self.prefix + name, f"every {every} s"
        assert self.process(number).enter(name, timing, now) == self.book.enter(name, timing, now)

    @rule(
        number=numbers,
        name=names,
        due=st.one_of(moments, moments, st.none()),
        skip=st.booleans(),
        heard=st.booleans(),
    )
    def claim(self, number: int, name: str, due: float | None, skip: bool, heard: bool) -> None:
        """Claim a run for a new task, or for the one whose answer was not heard."""
        process, name = self.process(number), self.prefix + name
        record = self.offered.pop((process, name), None) or process.offer()
        expected = self.book.claim(name, due, record, skip)
        assert process.claim(name, due, record, skip=skip) == expected
        if not heard:
            self.offered[process, name] = record
        elif expected == "claimed":
            self.runs.append((process, record))

    @rule(number=numbers, name=names, paused=st.booleans(), now=moments)
    def pause(self, number: int, name: str, paused: bool, now: float) -> None:
        """Pause or resume a schedule."""
        name = self.prefix + name
        assert self.process(number).pause(name, paused, now) == self.book.pause(name, paused, now)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), runs_on=st.booleans())
    def end(self, data: st.DataObject, runs_on: bool) -> None:
        """Let a run end, and perhaps its body go on."""
        run = data.draw(st.sampled_from(self.runs))
        self.runs.remove(run)
        process, record = run
        runs_on = runs_on and self.back_end.has_bodies
        process.end(record, runs_on=runs_on)
        if runs_on:
            self.bodies.append(run)
        else:
            self.book.live.discard(record.task_id)

    @precondition(lambda self: self.bodies)
    @rule()
    def let_go(self) -> None:
        """Let the body of a run that has ended return."""
        process, record = self.bodies.pop(0)
        process.end(record)
        self.book.live.discard(record.task_id)

    @rule(seconds=st.sampled_from([1.0, 90.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass, so that runs are claimed at different times."""
        self.back_end.pass_time(seconds)

    @precondition(lambda self: self.back_end.loses_processes and self.book.live)
    @rule(number=numbers)
    def kill(self, number: int) -> None:
        """Let a process die: its runs are over, unless they go on elsewhere."""
        gone = self.process(number)
        self.back_end.kill(gone)
        other = self.back_end.start()
        lost = {record.task_id for process, record in self.runs + self.bodies if process is gone}
        lost |= {one.task_id for (process, _), one in self.offered.items() if process is gone}
        self.bodies = [run for run in self.bodies if run[0] is not gone]
        if self.back_end.runs_survive:
            self.runs = [(other if run[0] is gone else run[0], run[1]) for run in self.runs]
        else:
            self.runs = [run for run in self.runs if run[0] is not gone]
            self.book.live -= lost
        self.offered = {key: one for key, one in self.offered.items() if key[0] is not gone}

    @invariant()
    def states(self) -> None:
        """Each process knows the same, by name."""
        self.looks += 1
        process = self.process(self.looks % PROCESSES)
        found = [one for one in process.schedules() if one.name.startswith(self.prefix)]
        assert found == [state for _, state in sorted(self.book.states.items())]


@how_many
def test_any_order(back_end: BackEnd, examples: int) -> None:
    """Whatever the processes do in whichever order, each answer and state is as promised."""
    drive(partial(Schedules, back_end), examples)
