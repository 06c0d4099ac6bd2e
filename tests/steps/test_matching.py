"""The rule by which a task that goes on finds the records of its steps, killed at every event."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from framework._records.steps import StepRecord
from framework.steps._matching import PATIENCE, Answer, Held, Matching
from tests.steps.drawn import drawn, program_of
from tests.steps.programs import PROGRAMS, Kind, Make
from tests.steps.trials import (
    AGAIN,
    HANGS,
    REFUSED,
    SWAPPED,
    TWO_WINNERS,
    Rule,
    all_kills,
    faults,
    tried,
)

SUSPECT: Final = {
    "unordered_loop": {REFUSED},
    "shrinking_list": {REFUSED},
    "same_step_reordered": {REFUSED},
    "same_step_inserted": {REFUSED},
    "first_argument_removed": {REFUSED},
    "queue_workers_with_long_waits": {REFUSED},
    "limit_around_a_step": {TWO_WINNERS},
}
"""What cannot be told from an argument made anew, and is refused; of workers of a queue only if
they wait for longer than a call is held. The last one is a race that nobody should write: the
cancellation by a limit around a step is stored only with the next commit."""


def judged(seeds: Sequence[int], rule: Rule = Matching) -> dict[str, Counter[str]]:
    """Return the faults of each program that has some, each killed at all of its events."""
    found = dict[str, Counter[str]]()
    for name, (kind, make) in PROGRAMS.items():
        counted = Counter[str]()
        for seed in seeds:
            for kills in all_kills(make, kind, seed, rule):
                trial = tried(make, kind, seed, kills, rule)
                counted.update(faults(kind, trial, len(kills)))
        if counted:
            found[name] = counted
    return found


def test_what_teams_write_goes_on() -> None:
    """Of 43 programs, killed at each event, only those are refused that nobody can tell apart."""
    assert {name: set(found) for name, found in judged(range(4)).items()} == SUSPECT


@pytest.mark.soak
def test_what_teams_write_goes_on_with_many_seeds() -> None:
    """The same with a hundred seeds."""
    assert {name: set(found) for name, found in judged(range(100)).items()} == SUSPECT


def test_an_argument_made_anew_is_refused_once_it_is_recorded() -> None:
    """A step whose argument is made anew is refused if it is recorded, and run if it is not."""
    seen = Counter[str]()
    for kind, make in PROGRAMS.values():
        if kind != "anew":
            continue
        for seed in range(4):
            for kills in all_kills(make, kind, seed):
                trial = tried(make, kind, seed, kills)
                started = {trial.world.identities[one] for one in trial.world.records}
                assert not faults(kind, trial, len(kills))
                if any(one.startswith("pay") for one in trial.before):
                    assert trial.outcome.how == "refused"
                elif not any(one.startswith("pay") for one in started - trial.before):
                    assert trial.outcome.how == "done"
                seen[trial.outcome.how] += 1
    assert set(seen) == {"refused", "done"}


def wrong(programs: Sequence[int], rule: Rule = Matching) -> Counter[str]:
    """Return the faults of drawn programs, each killed at all of its events."""
    found = Counter[str]()
    for seed in programs:
        make = program_of(drawn(seed)[0])
        rng = random.Random(seed)
        events = tried(make, "right", seed, rule=rule).outcome.events
        for at in range(1, events + 1):
            kills = [at] if rng.random() < 0.7 else [at, rng.randint(1, events)]
            found.update(faults("right", tried(make, "right", seed, kills, rule), len(kills)))
            found["runs"] += 1
    return found


def test_drawn_programs_go_on() -> None:
    """Drawn programs that are right are never refused, whenever they are killed, and never hang."""
    found = wrong(range(150))
    assert found.pop("runs") > 1_000
    assert not found


@pytest.mark.soak
def test_very_many_drawn_programs_go_on() -> None:
    """The same with ten thousand programs that were never looked at before."""
    found = wrong(range(100_000, 110_000))
    assert found.pop("runs") > 90_000
    assert not found


def test_a_drawn_argument_made_anew_is_no_harm_to_others() -> None:
    """Of a drawn program with one argument made anew no recorded step is run again, and none hangs.

    It is refused only if that step, or one that gets its result, is recorded.
    """
    for seed in range(150):
        parts, many = drawn(seed)
        anew = random.Random(seed).randrange(many) if many else 0
        make = program_of(parts, anew)
        for kills in all_kills(make, "anew", seed):
            trial = tried(make, "anew", seed, kills)
            assert not faults("anew", trial, len(kills)), (seed, kills)
            if trial.outcome.how == "refused":
                records = trial.world.records
                assert f"s{anew}" in {trial.world.identities[one] for one in records}


# ------------------------------------------------------------------ the rule without a part of it


class _GivesUpOnLocks(Matching):
    """Takes the record of a branch that may wait for the lock that is held here."""

    def _waits_inside(self, record: StepRecord) -> bool:
        return False


class _SeesNobodyStray(Matching):
    """Waits for branches that have strayed."""

    def _has_strayed(self, record: StepRecord) -> bool:
        return False


class _StaysAtHome(Matching):
    """Leaves the records of other branches alone."""

    def _last(self, held: Held, what: str, record: StepRecord | None) -> Answer:
        return super()._last(held, "suspect", record)


def _programs(*names: str) -> Callable[[Rule], set[str]]:
    chosen: list[tuple[Kind, Make]] = [PROGRAMS[name] for name in names]

    def found(rule: Rule) -> set[str]:
        return {
            one
            for kind, make in chosen
            for seed in range(10)
            for kills in all_kills(make, kind, seed, rule)
            for one in faults(kind, tried(make, kind, seed, kills, rule), len(kills))
        }

    return found


@pytest.mark.parametrize(
    ("rule", "found_in", "expected"),
    [
        # The same call in two branches, one of which has the lock that the other one waits for.
        (_GivesUpOnLocks, lambda rule: set(wrong([50_941], rule)), {AGAIN, SWAPPED, REFUSED}),
        (_SeesNobodyStray, _programs("queue_workers_with_waits"), {REFUSED}),
        # Steps that were in branches before a deploy, and are called one after the other.
        (_StaysAtHome, _programs("gather_to_sequence"), {AGAIN}),
    ],
)
def test_each_part_of_the_rule_is_needed(
    rule: Rule, found_in: Callable[[Rule], set[str]], expected: set[str]
) -> None:
    """Without one of its parts the rule has faults, in programs in which it has none."""
    assert not found_in(Matching) - {"runs"}
    assert found_in(rule) & expected


def test_nothing_hangs_without_a_decision() -> None:
    """Calls that are held are answered in time, also if the other branch never goes on."""
    _, make = PROGRAMS["key_made_anew_beside_waits"]
    for kills in all_kills(make, "anew", 1):
        world, outcome, _ = tried(make, "anew", 1, kills)
        assert outcome.how != HANGS
        assert all(seconds <= PATIENCE for seconds in world.held)
