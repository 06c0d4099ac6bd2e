"""What teams write inside a task that goes on, as programs of the model.

Each has a kind. ``right``: nothing is made anew. ``race``: the same, and what was decided once
stays decided. ``keyed``: arguments are made anew, and keys say what the work is. ``anew``:
arguments are made anew, which must not go unseen. ``deploy``: the code changes after the first run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from tests.steps.replays import (
    Acquire,
    FailedError,
    First,
    Gather,
    Limit,
    Outside,
    Program,
    Release,
    Rest,
    Step,
    World,
)

Kind: TypeAlias = Literal["right", "race", "keyed", "anew", "deploy"]


@dataclass(frozen=True)
class Around:
    """What a program meets in a run.

    Attributes:
        run: The number of the run, which is that of the process too.
        is_new: Whether the code has changed.
        rng: What is in another order in each process, such as a set.
        world: What has happened outside.
    """

    run: int
    is_new: bool
    rng: random.Random
    world: World

    def anew(self, what: Hashable) -> str:
        """Return something that each run makes anew."""
        return f"{what}-{self.run}"

    def shuffled(self, items: str) -> list[str]:
        """Return items in an order of this process."""
        found = list(items)
        self.rng.shuffle(found)
        return found


Make: TypeAlias = Callable[[Around], Program]

PROGRAMS: Final = dict[str, tuple[Kind, Make]]()


def of(kind: Kind) -> Callable[[Make], Make]:
    """Put a program among the others."""

    def put(make: Make) -> Make:
        PROGRAMS[make.__name__] = (kind, make)
        return make

    return put


def call(function: str, *args: Any, identity: str | None = None, **facts: Any) -> Step:
    """Return a call of a step; its identity is what it says, if nothing else is said."""
    return Step(function, args, identity or f"{function}{args}", **facts)


def two(first: str, second: str, what: Any, seconds: float = 0.0) -> Program:
    """Call two steps, perhaps after waiting for something each."""
    for function in (first, second):
        if seconds:
            yield Outside(seconds)
        yield call(function, what)


# ------------------------------------------------------------------ one after the other


@of("right")
def sequence(around: Around) -> Program:
    """Three steps."""
    for function in ("charge", "ship", "mail"):
        yield call(function, 1)


@of("right")
def loop(around: Around) -> Program:
    """The same step with other arguments."""
    for number in range(4):
        yield call("f", number)


@of("right")
def depends_on_result(around: Around) -> Program:
    """What is done depends on what a step returned."""
    price = yield call("price", 1)
    if price[1].startswith("price"):
        yield call("charge", price)
    yield call("mail", 1)


@of("right")
def poll_with_the_same_arguments(around: Around) -> Program:
    """The same call again and again."""
    for number in range(3):
        yield call("status", 1, identity=f"status{number}")
    yield call("mail", 1)


@of("right")
def tried_again_inside(around: Around) -> Program:
    """A step that fails twice."""
    for number in range(3):
        try:
            yield call("flaky", 1, identity=f"flaky{number}", fails=number < 2)
        except FailedError:
            continue
        break
    yield call("mail", 1)


@of("right")
def error_caught(around: Around) -> Program:
    """A step that fails, and one that makes up for it."""
    try:
        yield call("pay", 1, fails=True)
    except FailedError:
        yield call("refund", 1)
    yield call("mail", 1)


@of("right")
def unordered_loop(around: Around) -> Program:
    """A loop over a set."""
    for item in around.shuffled("abc"):
        yield call("f", item)


@of("keyed")
def unordered_loop_with_keys(around: Around) -> Program:
    """The same with keys."""
    for item in around.shuffled("abc"):
        yield call("f", item, key=item)


@of("right")
def shrinking_list(around: Around) -> Program:
    """A loop over what is left to do."""
    shipped = {args for _, _, args in around.world.effects}
    for item in (1, 2, 3):
        if (item,) not in shipped:
            yield call("ship", item)


@of("keyed")
def shrinking_list_with_keys(around: Around) -> Program:
    """The same with keys."""
    shipped = {args for _, _, args in around.world.effects}
    for item in (1, 2, 3):
        if (item,) not in shipped:
            yield call("ship", item, key=item)


# ------------------------------------------------------------------ beside each other


@of("right")
def gather_three(around: Around) -> Program:
    """Three branches of two steps."""
    yield Gather([("two", one, two("f", "g", one)) for one in range(3)])
    yield call("mail", 1)


@of("right")
def gather_with_waits(around: Around) -> Program:
    """The same, with a query before each step."""
    yield Gather([("two", one, two("f", "g", one, 2.0)) for one in range(3)])
    yield call("mail", 1)


@of("right")
def same_step_twice_at_once(around: Around) -> Program:
    """Two branches with the same call, whose results go on."""

    def send_and_log(number: int) -> Program:
        yield Outside(1.0)
        sent = yield call("send", "hi", identity=f"send{number}")
        yield call("log", sent, identity=f"log{number}")

    yield Gather([("send_and_log", one, send_and_log(one)) for one in range(2)])


@of("right")
def same_step_after_steps(around: Around) -> Program:
    """The same after other steps."""

    def fetch_send_and_log(number: int) -> Program:
        yield call("fetch", number)
        sent = yield call("send", "hi", identity=f"send{number}")
        yield call("log", sent, identity=f"log{number}")

    yield Gather([("fetch_send_and_log", one, fetch_send_and_log(one)) for one in range(2)])


@of("right")
def under_a_lock(around: Around) -> Program:
    """Three branches, one of which at a time calls a step."""

    def locked(number: int) -> Program:
        yield Outside(1.0)
        yield Acquire("lock")
        yield call("f", number)
        yield Release("lock")
        yield call("g", number)

    yield Gather([("locked", one, locked(one)) for one in range(3)])


@of("right")
def unordered_fan_out(around: Around) -> Program:
    """A branch for each item of a set."""
    yield Gather([("two", one, two("f", "g", one)) for one in around.shuffled("abc")])


@of("right")
def unordered_fan_out_with_waits(around: Around) -> Program:
    """The same, with a query before each step."""
    yield Gather([("two", one, two("f", "g", one, 1.0)) for one in around.shuffled("abc")])


def workers(items: int, seconds: float) -> Program:
    """Two workers that take from one queue: which item goes to which depends on time."""
    queue = list(range(items))

    def worker() -> Program:
        while queue:
            yield from two("f", "g", queue.pop(0), seconds)

    yield Gather([("worker", one, worker()) for one in range(2)])


@of("right")
def queue_workers(around: Around) -> Program:
    """Two workers that take from one queue."""
    yield from workers(4, 0.0)


@of("right")
def queue_workers_with_waits(around: Around) -> Program:
    """The same, with a query before each step."""
    yield from workers(4, 1.0)


@of("right")
def queue_workers_with_long_waits(around: Around) -> Program:
    """The same, with queries that take longer than calls are held."""
    yield from workers(4, 30.0)


@of("right")
def nested_gather(around: Around) -> Program:
    """Branches that start branches."""

    def inner(number: int) -> Program:
        started = [("two", (number, one), two("f", "g", (number, one), 1.0)) for one in range(2)]
        yield Gather(started)
        yield call("sum", number)

    yield Gather([("inner", one, inner(one)) for one in range(2)])
    yield call("mail", 1)


# ------------------------------------------------------------------ races


def asks(function: str, what: Any, seconds: float = 0.0) -> Program:
    """Call one step, and return its result."""
    if seconds:
        yield Outside(seconds)
    found = yield call(function, what)
    return found


@of("race")
def first_of_two_steps(around: Around) -> Program:
    """Buy where the first quote comes from."""
    number, quote = yield First([("asks", one, asks("quote", one)) for one in range(2)])
    yield call("buy", quote, identity=f"buy{number}")
    yield call("mail", 1)


@of("race")
def both_end_then_choose(around: Around) -> Program:
    """Choose after both have ended."""

    def winner() -> Program:
        found = yield First([("asks", one, asks("quote", one)) for one in range(2)])
        return found

    started = [("winner", 0, winner()), ("asks", 0, asks("log", 1, 1.0))]
    (number, quote), _ = yield Gather(started)
    yield call("buy", quote, identity=f"buy{number}")
    yield call("mail", 1)


@of("race")
def first_then_the_rest(around: Around) -> Program:
    """Buy where the first quote comes from, and wait for the other one."""
    started = [("asks", one, asks("quote", one)) for one in range(2)]
    number, quote, others = yield First(started, cancels=False)
    yield call("buy", quote, identity=f"buy{number}")
    yield Rest(others)
    yield call("mail", 1)


@of("race")
def limit_around_a_step(around: Around) -> Program:
    """Ask for a quote for some time."""
    in_time, _ = yield Limit(2.0, ("asks", 0, asks("quote", 1)))
    yield call("buy", in_time, identity=f"buy{int(in_time)}")
    yield call("mail", 1)


@of("race")
def shared_counter(around: Around) -> Program:
    """Branches that count which of them comes first."""
    ended = [0]

    def ranked(number: int) -> Program:
        yield call("fetch", number)
        ended[0] += 1
        yield call("rank", number, ended[0], identity=f"rank{number}")

    yield Gather([("ranked", one, ranked(one)) for one in range(3)])


# ------------------------------------------------------------------ made anew


@of("anew")
def key_made_anew(around: Around) -> Program:
    """A key of each run."""
    yield call("pay", around.anew("uuid"), identity="pay")
    yield call("mail", 1)


@of("anew")
def two_keys_made_anew(around: Around) -> Program:
    """Two of them."""
    for number in range(2):
        yield call("pay", number, around.anew("uuid"), identity=f"pay{number}")
    yield call("mail", 1)


@of("anew")
def key_made_anew_beside_waits(around: Around) -> Program:
    """One beside a branch that waits for other things."""

    def pay() -> Program:
        yield call("pay", around.anew("uuid"), identity="pay")
        yield call("mail", 1)

    yield Gather([("pay", 0, pay()), ("two", 1, two("f", "g", 1, 2.0))])


@of("anew")
def key_made_anew_beside_the_same_step(around: Around) -> Program:
    """Two branches of the same step, each with a key of its run."""

    def pay(number: int) -> Program:
        yield Outside(1.0)
        yield call("pay", number, around.anew("uuid"), identity=f"pay{number}")
        yield call("mail", number)

    yield Gather([("pay", one, pay(one)) for one in range(2)])


@of("anew")
def key_given_to_a_branch(around: Around) -> Program:
    """A branch that is started with a key of its run."""

    def pay(key: str) -> Program:
        yield call("pay", key, identity="pay")
        yield call("mail", 1)

    key = around.anew("uuid")
    yield Gather([("pay", key, pay(key)), ("two", 1, two("f", "g", 1, 2.0))])


@of("anew")
def key_made_anew_under_a_lock(around: Around) -> Program:
    """Two branches, one of which at a time calls a step with a key of its run."""

    def pay(number: int) -> Program:
        yield Acquire("lock")
        yield call("pay", number, around.anew("uuid"), identity=f"pay{number}")
        yield Release("lock")
        yield call("mail", number)

    yield Gather([("pay", one, pay(one)) for one in range(2)])


@of("keyed")
def argument_made_anew_with_a_key(around: Around) -> Program:
    """An argument of each run, and a key that says what the work is."""
    yield call("pay", around.anew("uuid"), identity="pay", key="order-1")
    yield call("mail", 1)


# ------------------------------------------------------------------ deploys


@of("deploy")
def other_step_inserted(around: Around) -> Program:
    """A step of another function in front."""
    if around.is_new:
        yield call("check", 1)
    yield call("charge", 1)
    yield call("ship", 1)


@of("deploy")
def step_removed(around: Around) -> Program:
    """A step is gone."""
    if not around.is_new:
        yield call("check", 1)
    yield call("charge", 1)
    yield call("ship", 1)


@of("deploy")
def steps_reordered(around: Around) -> Program:
    """Steps of two functions change places."""
    for function in ("ship", "charge") if around.is_new else ("charge", "ship"):
        yield call(function, 1)
    yield call("mail", 1)


@of("deploy")
def same_step_reordered(around: Around) -> Program:
    """Steps of one function change places."""
    for number in (2, 1) if around.is_new else (1, 2):
        yield call("f", number)
    yield call("mail", 1)


@of("deploy")
def same_step_inserted(around: Around) -> Program:
    """A step of the same function in front."""
    for number in (0, 1, 2) if around.is_new else (1, 2):
        yield call("f", number)


@of("deploy")
def first_argument_removed(around: Around) -> Program:
    """A loop begins later, and goes on longer."""
    for number in (2, 3) if around.is_new else (1, 2):
        yield call("f", number)


@of("deploy")
def branches_reordered(around: Around) -> Program:
    """Branches change places."""
    numbers = (1, 0) if around.is_new else (0, 1)
    yield Gather([("two", one, two("f", "g", one, 1.0)) for one in numbers])


@of("deploy")
def branch_inserted(around: Around) -> Program:
    """A branch in front."""
    numbers = (9, 0, 1) if around.is_new else (0, 1)
    yield Gather([("two", one, two("f", "g", one, 1.0)) for one in numbers])


def one_or_other(is_gathered: bool) -> Program:
    """Call a step three times, beside each other or one after the other."""
    if is_gathered:
        yield Gather([("asks", one, asks("f", one)) for one in range(3)])
    else:
        for one in range(3):
            yield call("f", one)
    yield call("mail", 1)


@of("deploy")
def sequence_to_gather(around: Around) -> Program:
    """Steps go into branches."""
    yield from one_or_other(around.is_new)


@of("deploy")
def gather_to_sequence(around: Around) -> Program:
    """Steps come out of branches."""
    yield from one_or_other(not around.is_new)
