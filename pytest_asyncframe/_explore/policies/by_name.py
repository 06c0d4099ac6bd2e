"""Which schedules of a test are run: the policies by their names, and their seeds."""

from __future__ import annotations

import hashlib
import re

from pytest_asyncframe._explore.policies.delays import DelaysPolicy
from pytest_asyncframe._explore.policies.drawn import (
    RandomPolicy,
    evenly,
    mixed,
    orders,
    priorities,
)
from pytest_asyncframe._explore.policies.search import Count, Level, Search
from pytest_asyncframe._explore.schedule import Policy

POLICIES = ("delays", "mixed", "random", "pos", "pct:3", "exhaustive:2", "exhaustive")
"""All policies, with examples of their numbers."""

_NAME_AND_NUMBER = re.compile(r"(pct|exhaustive):([0-9]{1,6})")


def make_policy(text: str, seed: int, runs: int = 200, begin: float = 0.0) -> Policy:
    """Return the policy of a name.

    Args:
        text: ``delays``, ``mixed``, ``random``, ``pos``, ``pct:d`` with d from 1 on,
            ``exhaustive:b`` with b from 0 on, or ``exhaustive`` for no bound.
        seed: Of what is drawn; see `base_seed`. Equal arguments give policies that behave
            equally in every process.
        runs: How many runs there will be at the most, from 1 on. ``delays`` divides them.
        begin: Where ``delays`` begins among its schedules; see `DelaysPolicy`.

    Raises:
        ValueError: If there is no such policy.
    """
    numbered = _NAME_AND_NUMBER.fullmatch(text)
    name, number = (text, None) if numbered is None else (numbered[1], int(numbered[2]))
    match name, number:
        case "delays", None:
            return DelaysPolicy(seed, runs, begin)
        case "mixed", None:
            return RandomPolicy(mixed, seed, "schedules drawn in several ways")
        case "random", None:
            return RandomPolicy(evenly, seed, "schedules drawn at random")
        case "pos", None:
            return RandomPolicy(orders, seed, "a priority drawn for each event (pos)")
        case "exhaustive", most:
            return exhaustive(most)
        case "pct", int(depth) if depth >= 1:
            words = f"priorities drawn at random ({text})"
            return RandomPolicy(priorities(depth), seed, words)
    raise ValueError(
        f"policy {text!r}: it must be one of delays, mixed, random, pos, pct:d (such as pct:3; d "
        "is how many events must come in one order, 1 or more), exhaustive:b (such as "
        "exhaustive:2; b is the most preemptions, 0 or more) and exhaustive"
    )


def base_seed(nodeid: str, session_seed: int) -> int:
    """Return the seed of a test, the same in every process, from 0 to 2**63 - 1.

    Args:
        nodeid: Of the test.
        session_seed: Of the whole run of pytest.
    """
    digest = hashlib.sha256(f"{session_seed} {nodeid}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def exhaustive(most: int | None) -> Search:
    """Return the policy of all schedules, those with fewer preemptions first.

    Which of several actors comes next, where none could go on by itself, is no preemption: all
    those choices are made at each bound.

    Args:
        most: The most preemptions of a schedule, 0 or more; None for any number.

    Source:
        M. Musuvathi, S. Qadeer, "Iterative Context Bounding for Systematic Testing of Multithreaded
        Programs", PLDI 2007; M. Musuvathi and others, "Finding and Reproducing Heisenbugs in
        Concurrent Programs", OSDI 2008.
    """

    def level(count: Count) -> Level | None:
        preemptions = count.preemptions
        return None if most is not None and preemptions > most else (preemptions, 0)

    return Search(level, "preemption")
