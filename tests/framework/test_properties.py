"""Properties of delays, deadlines, retention, JSON and the queue's bound."""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from framework import (
    QueueFullError,
    ThreadPoolExecutorEnhanced,
    async_task,
)
from framework._records.jsonsafe import jsonable
from framework._running.waits.retry import MAX_DELAY
from framework._threads.deadlines import Deadlines
from framework.protocols import EngineTask, Kind, Run
from framework.testing import override_framework
from tests.framework.drawn import Loop, explored, seconds
from tests.framework.exact import ExactClock
from tests.framework.policies import retry_policy

# -- retry


@explored
@given(
    retry_delay=seconds(1e-3, 1e6),
    backoff=seconds(1.0, 100.0),
    max_delay=st.none() | seconds(0.0, 1e12),
    retry=st.integers(1, 1_000_000),
)
def test_retry_delay(
    retry_delay: float, backoff: float, max_delay: float | None, retry: int
) -> None:
    """The delay of retry n is ``min(max_delay, retry_delay * backoff**(n - 1))``."""
    policy = retry_policy(
        max_retries=retry, retry_delay=retry_delay, backoff=backoff, max_delay=max_delay
    )
    bound = MAX_DELAY if max_delay is None else max_delay

    delay = policy.delay(retry, no_draw)

    digits = math.log10(retry_delay) + (retry - 1) * math.log10(backoff)
    if digits > 300:
        assert delay == bound
    else:
        exact = Fraction(retry_delay) * Fraction(backoff ** (retry - 1))
        assert delay == float(min(Fraction(bound), exact))


def no_draw(low: float, high: float) -> float:
    """Fail: without jitter nothing is drawn."""
    raise AssertionError


@explored
@given(
    retry_delay=seconds(0.0, 1e6),
    backoff=seconds(1.0, 1e300),
    retry=st.integers(1, 10**9),
    jitter=seconds(1e-3, 1.0),
    seed=st.integers(0, 2**32),
)
def test_retry_jitter(
    retry_delay: float, backoff: float, retry: int, jitter: float, seed: int
) -> None:
    """Jitter moves the delay by at most its share, to either side, and never below 0."""
    plain = retry_policy(max_retries=retry, retry_delay=retry_delay, backoff=backoff)
    jittered = retry_policy(
        max_retries=retry, retry_delay=retry_delay, backoff=backoff, jitter=jitter
    )
    middle = plain.delay(retry, no_draw)

    delay = jittered.delay(retry, random.Random(seed).uniform)

    assert delay >= 0.0
    assert middle * (1 - jitter) * (1 - 1e-9) <= delay <= middle * (1 + jitter) * (1 + 1e-9)
    assert jittered.delay(retry, lambda low, _: low) == max(0.0, middle + -jitter * middle)
    assert jittered.delay(retry, lambda _, high: high) == middle + jitter * middle


def test_no_delay_stays_none() -> None:
    """A delay of 0 is 0 for every retry, however large the factor."""
    for backoff in (1.0, 2.0, 1e300):
        policy = retry_policy(max_retries=9, retry_delay=0.0, backoff=backoff)

        assert {policy.delay(retry, no_draw) for retry in (1, 2, 1_000, 10**9)} == {0.0}


# -- deadlines

LIMITS = (0.5, 1.0, 1.1, 7.0)


@explored
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "wait"]), st.sampled_from(LIMITS), seconds(0.0, 3.0)
        ),
        max_size=40,
    )
)
def test_deadlines(steps: list[tuple[str, float, float]]) -> None:
    """Each entry that is not removed expires once, at its own second, in order."""
    clock = ExactClock()
    fired: list[tuple[int, float]] = []
    deadlines: Deadlines[int] = Deadlines(clock, lambda entry: fired.append((entry, now())))
    now = clock.monotonic
    living: dict[int, tuple[float, float]] = {}
    expected: list[tuple[int, float]] = []

    def expect_until(when: float) -> None:
        due = [entry for entry, (_, deadline) in living.items() if deadline <= when]
        expected.extend((entry, living.pop(entry)[1]) for entry in due)

    for number, (step, limit, pause) in enumerate(steps):
        if step == "add":
            living[number] = (limit, now() + limit)
            deadlines.add(number, limit, now())
        elif step == "remove" and living:
            oldest = next(iter(living))
            its_limit, deadline = living.pop(oldest)
            assert deadlines.remove(oldest, its_limit) == deadline
            assert deadlines.remove(oldest, its_limit) is None
        else:
            expect_until(now() + pause)
            clock.advance_to(now() + pause)
    expect_until(math.inf)
    clock.advance(2 * max(LIMITS))

    assert sorted(fired) == sorted(expected)
    assert [when for _, when in fired] == sorted(when for _, when in fired)
    assert clock.timers == []


@explored
@given(limits=st.lists(st.sampled_from(LIMITS), min_size=1, max_size=20))
def test_deadlines_close(limits: list[float]) -> None:
    """After `close` nothing expires and no timer is left."""
    clock = ExactClock()
    fired: list[int] = []
    deadlines: Deadlines[int] = Deadlines(clock, fired.append)
    for number, limit in enumerate(limits):
        deadlines.add(number, limit, clock.monotonic())

    deadlines.close()
    clock.advance(2 * max(LIMITS))

    assert (fired, clock.timers) == ([], [])


# -- retention

# Sixty-fourths, so that sums and differences are exact.
sixty_fourths = st.integers(0, 640).map(lambda count: count / 64)


@explored
@given(pauses=st.lists(sixty_fourths, max_size=20), age=sixty_fourths)
def test_cleanup(pauses: list[float], age: float) -> None:
    """A clean-up forgets exactly the tasks that ended so long ago or longer."""
    clock = ExactClock()

    @async_task
    async def instant() -> None: ...

    with override_framework(clock=clock) as manager, Loop() as loop:
        ends = []
        for pause in pauses:
            loop.loop.run_until_complete(instant())
            ends.append(clock.monotonic())
            clock.advance(pause)
        due = sum(clock.monotonic() - end >= age for end in ends)

        assert manager.cleanup_completed_tasks(age) == due
        assert manager.cleanup_completed_tasks(age) == 0
        assert manager.get_stats()["kept"] == len(manager.get_all_tasks()) == len(pauses) - due


# -- JSON


class Hostile:
    """Has no text."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")


texts = st.text(st.characters(exclude_categories=())) | st.text()
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.datetimes(timezones=st.just(dt.UTC) | st.none()),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.fractions(),
    st.builds(lambda: 10**5_000),
    st.builds(Hostile),
    st.builds(object),
    st.binary().map(bytearray),
)
hashable = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(hashable, inner, max_size=4),
        st.frozensets(hashable, max_size=4),
        st.sets(st.tuples(hashable, hashable), max_size=4),
    ),
    max_leaves=20,
)


@explored
@given(value=values)
def test_jsonable_is_strict(value: object) -> None:
    """Whatever the value, strict JSON in UTF-8 carries what it becomes, and gives it back."""
    shown = jsonable(value)

    text = json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()

    assert json.loads(text) == shown


@explored
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_jsonable_keeps_json(value: object) -> None:
    """A value that is JSON already, and not too deep, stays as it is."""
    assert jsonable(value) == value


@explored
@given(value=st.decimals(allow_nan=False))
def test_jsonable_decimal(value: Decimal) -> None:
    """No digit of a decimal is lost."""
    shown = jsonable(value)

    assert isinstance(shown, str)
    assert Decimal(shown) == value


# -- the bound of what waits


class HeldEngine:
    """Starts nothing by itself."""

    def __init__(self) -> None:
        self.held: dict[EngineTask, Run] = {}

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Keep a task."""
        self.held[task] = run

    def withdraw(self, task: EngineTask) -> None:
        """Forget a task."""
        self.held.pop(task, None)

    def abandon(self, task: EngineTask) -> None:
        """Do nothing: there is no thread."""

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing inline."""
        return False


Operation = Literal["submit", "run", "cancel"]


@explored
@given(
    size=st.integers(1, 6),
    operations=st.lists(st.sampled_from(["submit", "submit", "run", "cancel"]), max_size=40),
    delayed=st.booleans(),
)
def test_queue_bound(size: int, operations: list[Operation], delayed: bool) -> None:
    """A task is refused exactly if as many wait as may, delayed ones included."""
    clock, engine = ExactClock(), HeldEngine()
    pool = ThreadPoolExecutorEnhanced(max_workers=1, queue_size=size, clock=clock)
    waiting: list[str] = []
    refused = 0

    def submit() -> str | None:
        try:
            return manager.submit_nowait(int, delay=60 if delayed else 0)
        except QueueFullError:
            return None

    with (
        pool,
        override_framework(clock=clock, engine=engine, pool=pool) as manager,
        Loop() as loop,
    ):
        for operation in operations:
            if operation == "submit":
                task_id = submit()
                assert (task_id is None) == (len(waiting) == size)
                if task_id is None:
                    refused += 1
                else:
                    waiting.append(task_id)
            elif waiting and (operation == "cancel" or delayed):
                assert loop.loop.run_until_complete(manager.cancel_task(waiting.pop()))
            elif waiting:
                record, run = engine.held.popitem()
                assert run(record)
                waiting.remove(record.task_id)
            figures = manager.get_stats()
            assert figures["pending"] == len(waiting)
            assert figures.get("rejected", 0) == refused
