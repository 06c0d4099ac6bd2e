"""Trials: a program is killed at an event, goes on, and is judged by what has happened outside."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from framework._records.steps import StepRecord
from framework.steps._matching import Branch, Matching
from tests.steps.programs import Around, Kind, Make
from tests.steps.replays import Life, Outcome, World

Rule: TypeAlias = Callable[..., Matching]
"""Makes what answers the calls; like `Matching`."""

AGAIN: Final = "a recorded step is run again"
SWAPPED: Final = "a result of another call"
REFUSED: Final = "refused"
HANGS: Final = "hangs"
OFTEN: Final = "more often than it was killed"
TWO_WINNERS: Final = "a race is decided twice"


class Trial(NamedTuple):
    """What a program has left, and how its last run has ended.

    Attributes:
        world: What is left.
        outcome: How it has ended.
        before: Which calls were recorded when the last run began.
    """

    world: World
    outcome: Outcome
    before: set[str]


def tried(
    make: Make, kind: Kind, seed: int, kills: Sequence[int] = (), rule: Rule = Matching
) -> Trial:
    """Run a program, killed at an event of each run in turn, and then to its end."""
    world = World()
    for run in range(len(kills) + 1):
        is_new = kind == "deploy" and run > 0
        around = Around(run, is_new, random.Random(f"{seed}:{run}"), world)
        matching: Callable[[Sequence[StepRecord], Sequence[Branch]], Matching]
        matching, before = partial(rule, is_changed=is_new), world.recorded()
        kill_at = kills[run] if run < len(kills) else None
        rng = random.Random(f"d{seed}:{run}")
        outcome = Life(world, make(around), run, rng, matching, kill_at).run()
        if outcome.how != "killed":
            break
    return Trial(world, outcome, before)


def faults(kind: Kind, trial: Trial, kills: int) -> set[str]:
    """Return what was wrong; of what is made anew only what nothing excuses."""
    world, (how, *_), _ = trial
    found = set[str]()
    if world.faults["recorded step run again"]:
        found.add(AGAIN)
    if how == "hangs":
        found.add(HANGS)
    if any(many > 1 + kills for many in Counter(one for one, *_ in world.effects).values()):
        found.add(OFTEN)
    if kind != "anew":
        if how == "refused":
            found.add(REFUSED)
        if world.faults["result of another call"]:
            found.add(SWAPPED)
    if kind == "race" and len({one for one, *_ in world.effects if one.startswith("buy")}) > 1:
        found.add(TWO_WINNERS)
    return found


def all_kills(make: Make, kind: Kind, seed: int, rule: Rule = Matching) -> list[list[int]]:
    """Return a kill at each event of the first run, and some pairs of kills."""
    events = tried(make, kind, seed, rule=rule).outcome.events
    rng = random.Random(seed)
    pairs = [[rng.randint(1, events), rng.randint(1, events)] for _ in range(6 if events else 0)]
    return [[one] for one in range(1, events + 1)] + pairs
