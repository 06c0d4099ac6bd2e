"""Races in miniature, each of which hides in some schedules of a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

from tests.explore.policies.models import Body, Model, Point, State, Until

Actor: TypeAlias = Callable[[State], Body]


def beside(*actors: tuple[str, Actor], fails: Callable[[State], bool] = lambda _: False) -> Model:
    """Return a test that starts actors, waits for all of them, and then checks the outcome."""

    def test(state: State) -> Body:
        ended: list[str] = []
        for identity, actor in actors:
            state.start(identity, _told(ended, identity, actor))
        yield Until(lambda: len(ended) == len(actors))
        state.failed = state.failed or fails(state)

    return test


def _told(ended: list[str], identity: str, actor: Actor) -> Actor:
    def body(state: State) -> Body:
        yield from actor(state)
        ended.append(identity)

    return body


def points(number: int, what: str, kind: str = "line") -> Generator[Point, None, None]:
    """Pass so many points, each at a place of its own."""
    for n in range(number):
        yield Point(kind, f"{what} {n}")


def several(name: str, number: int, actor: Actor) -> list[tuple[str, Actor]]:
    """Return equal actors, numbered from 1."""
    return [(f"{name}#{n}", actor) for n in range(1, number + 1)]


# -- by threads and tasks


def oversell(before: int = 8, after: int = 8, buyers: int = 2, kind: str = "framework") -> Model:
    """Two buyers look for the last one in stock before either takes it."""

    def buy(state: State) -> Body:
        yield from points(before, "before", kind)
        seen = state.values.get("stock", 1)
        yield Point(kind, "window")
        if seen > 0:
            state.values["stock"] = state.values.get("stock", 1) - 1
        yield from points(after, "after", kind)

    return beside(*several("buy", buyers, buy), fails=lambda state: state.values["stock"] < 0)


def oversell_by_relay(first: int = 2, second: int = 9) -> Model:
    """Each request is a chain of actors, as through a test client; the second chain is longer."""

    def test(state: State) -> Body:
        state.values.update(stock=1, ended=0)
        state.start("client-1", hop(1, first))
        state.start("client-2", hop(2, second))
        yield Until(lambda: state.values["ended"] == 2)
        state.failed = state.values["stock"] < 0

    def hop(request: int, left: int) -> Actor:
        def body(state: State) -> Body:
            yield from points(3, "boundary", "await")
            if left:
                state.start(f"hop#{100 * request + left}", hop(request, left - 1))
            else:
                state.start(f"buy#{request}", buy)
            yield Point("framework", "submitted")

        return body

    def buy(state: State) -> Body:
        seen = state.values["stock"]
        yield Point("framework", "window")
        state.values["stock"] -= seen > 0
        yield Point("framework", "after")
        state.values["ended"] += 1

    return test


def lost_update(before: int = 2, visits: int = 1, raced: int = 0, kind: str = "line") -> Model:
    """``n += 1`` by two, in one of the visits of a loop."""

    def increase(state: State) -> Body:
        for visit in range(visits):
            yield from points(before, "before", kind)
            seen = state.values.get("n", 0)
            yield Point(kind, "window")
            if visit == raced:
                state.values["n"] = seen + 1
            yield Point(kind, "after")

    return beside(*several("add", 2, increase), fails=lambda state: state.values["n"] != 2)


def raced_by_two_of(number: int, pair: tuple[int, int], before: int = 8) -> Model:
    """Of many equal actors, only two race with one another."""

    def actor(own: int) -> Actor:
        def body(state: State) -> Body:
            yield from points(before, "before")
            seen = state.values.get("n", 0)
            yield Point("line", "window")
            if own in pair:
                state.values["n"] = seen + 1
            yield from points(before, "after")

        return body

    actors = [(f"task#{n}", actor(n)) for n in range(1, number + 1)]
    return beside(*actors, fails=lambda state: state.values["n"] != 2)


def abba(before: int = 2) -> Model:
    """Two take two locks in opposite orders."""

    def both(mine: str, other: str) -> Actor:
        def body(state: State) -> Body:
            yield from points(before, "before", "lock")
            for lock in (mine, other):
                if state.values.get(lock):
                    yield Until(lambda lock=lock: not state.values[lock])  # type: ignore[misc]
                state.values[lock] = True
                yield Point("lock", "held")
            state.values[mine] = state.values[other] = False
            yield Point("lock", "released")

        return body

    return beside(("move#1", both("a", "b")), ("move#2", both("b", "a")))


def double_checked(before: int = 4) -> Model:
    """An object is announced before it is made."""

    def use(state: State) -> Body:
        yield from points(before, "before")
        if not state.values.get("announced"):
            yield Point("line", "check")
            state.values["announced"] = True
            yield Point("line", "make")
            state.values["made"] = True
        yield Point("line", "use")
        state.failed = state.failed or not state.values.get("made")

    return beside(*several("use", 2, use))


def deep_window(length: int = 20) -> Model:
    """One must do all its steps between two steps of the other, which comes second by default."""

    def long(state: State) -> Body:
        state.values["begun"] = True
        yield from points(length, "step")
        state.values["done"] = True

    def short(state: State) -> Body:
        yield from points(3, "before")
        begun = state.values.get("begun")
        yield Point("line", "window")
        state.failed = state.failed or (not begun and "done" in state.values)
        yield from points(length, "after")

    return beside(("long#1", long), ("short#1", short))


def to_and_fro(before: int = 3) -> Model:
    """A reader comes while a cache is cleared, and stores an old value when it is filled again."""

    def refresh(state: State) -> Body:
        yield from points(before, "refresh")
        state.values["cache"] = ""
        yield Point("line", "cleared")
        state.values["cache"] = "new"
        yield from points(before, "refreshed")

    def read(state: State) -> Body:
        yield from points(before, "read")
        seen = state.values.get("cache", "old")
        yield Point("line", "missed")
        if not seen:
            state.values["cache"] = "old"
        yield from points(before, "stored")

    actors = [("refresh#1", refresh), ("read#1", read)]
    return beside(*actors, fails=lambda state: state.values["cache"] == "old")


def three_orders(gap: int = 2) -> Model:
    """Two reads must fall into two windows of a writer: a race of depth 3."""

    def write(state: State) -> Body:
        for value in (1, 2, 3):
            yield from points(gap, f"before {value}")
            state.values["x"] = value

    def read(state: State) -> Body:
        yield from points(gap, "before")
        first = state.values.get("x")
        yield from points(gap, "between")
        state.failed = state.failed or (first == 1 and state.values.get("x") == 2)

    return beside(("write#1", write), ("read#1", read))


def all_windows(at: Sequence[int], length: int = 30) -> Model:
    """Each of some windows between two of many steps must be hit: many switches are needed."""

    def long(state: State) -> Body:
        hit = []
        for step in range(length):
            before = state.values.get("n", 0)
            yield Point("line", f"long {step}")
            hit.append(state.values.get("n", 0) > before)
        state.failed = all(hit[step] for step in at)

    def count(state: State) -> Body:
        for step in range(length):
            state.values["n"] = step + 1
            yield Point("line", f"count {step}")

    return beside(("long#1", long), ("count#1", count))


def last_wholly_first(length: int = 4) -> Model:
    """The last of three must take all its steps before another one begins."""

    def actor(name: str) -> Actor:
        def body(state: State) -> Body:
            for n in range(length):
                take(state, name)
                yield Point("line", f"step {n}")
            take(state, name)

        return body

    actors = [(f"{name}#1", actor(name)) for name in "abc"]
    last = "c" * (length + 1)
    return beside(*actors, fails=lambda state: state.values["taken"].startswith(last))


def nested() -> Model:
    """The two steps of one must be around those of another, and these around those of a third."""

    def actor(name: str) -> Actor:
        def body(state: State) -> Body:
            take(state, name)
            yield Point("line", f"in {name}")
            take(state, name)

        return body

    actors = [(f"{name}#1", actor(name)) for name in "abc"]
    return beside(*actors, fails=lambda state: state.values["taken"] == "abccba")


def take(state: State, name: str) -> None:
    """Write down who has taken a step."""
    state.values["taken"] = state.values.get("taken", "") + name


def order_of_tasks(number: int = 3) -> Model:
    """The first of some tasks need not come first."""

    def task(own: int) -> Actor:
        def body(state: State) -> Body:
            state.failed = state.failed or state.values.setdefault("first", own) != 1
            yield Until(lambda: True)

        return body

    return beside(*[(f"task#{n}", task(n)) for n in range(1, number + 1)])


GALLERY: dict[str, Model] = {
    "oversell": oversell(),
    "oversell by three": oversell(buyers=3),
    "oversell by lines": oversell(12, 14, kind="line"),
    "oversell late in many lines": oversell(90, 40, kind="line"),
    "oversell by relay": oversell_by_relay(),
    "lost update by opcodes": lost_update(20, kind="opcode"),
    "lost update by lines": lost_update(),
    "lost update in the last visit": lost_update(3, visits=30, raced=29),
    "two of eight": raced_by_two_of(8, (3, 7)),
    "ABBA": abba(),
    "double-checked": double_checked(),
    "deep window": deep_window(),
    "to and fro": to_and_fro(),
    "order of tasks": order_of_tasks(),
}
"""Races as in the prototype of exploration, and some in more steps."""
