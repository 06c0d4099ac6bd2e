"""The turns of a run: what each actor did in a row, and which of it is worth telling.

Worth telling is where several actors come to the same thing and one of them changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pytest_asyncframe._explore.schedule import EARLY
from pytest_asyncframe._explore.telling.entries import Deviation, Entry, Ran, Touch
from pytest_asyncframe._turns.choices import FAULT

_TIME_PASSED = "time passed while others could go on"
"""What is said of an early timeout."""

TEST = "test"
"""What the code of a test and its fixtures is called."""


@dataclass(slots=True)
class Turn:
    """What one actor did in a row.

    Attributes:
        who: What it is called.
        lines: The lines that it ran, in order.
        goes_on: Whether it had run before, and not ended.
        ended: How its task ended in this turn; "" if it did not.
        paused: The choice that held it back at the end; None if there was none.
        chosen: Whether it came instead of a thread that was paused.
    """

    who: str
    lines: list[Ran] = field(default_factory=list)
    goes_on: bool = False
    ended: str = ""
    paused: Deviation | None = None
    chosen: bool = False


@dataclass(slots=True)
class Order:
    """A choice between two, the first of which had not begun, or is no code of the user.

    Attributes:
        default: What the one is called that would have come first; "" if nobody would have.
        taken: What the one is called that came instead; a sentence if something just happened.
        lines: The lines that it ran then.
    """

    default: str
    taken: str
    lines: list[Ran] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.taken} came before {self.default}" if self.default else self.taken


def turns(entries: Sequence[Entry]) -> list[Turn | Order]:
    """Return the turns of a run, and the choices that are no pauses."""
    return _Turns(entries).found


class _Turns:
    """Makes the turns.

    Attributes:
        found: They.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._names: dict[str, str] = {}
        self._latest: dict[str, Turn] = {}
        # Choices whose taken one has not run a line since then, by its identity; None if it came
        # on another thread than the one that was paused.
        self._chosen: dict[str, Order | None] = {}
        self.found: list[Turn | Order] = []
        for number, entry in enumerate(entries):
            if isinstance(entry, Deviation):
                self._deviate(number, entry)
                continue
            name = self._names[entry.who] = entry.name or entry.who
            turn = self._turn_of(name)
            if isinstance(entry, Ran):
                turn.lines.append(entry)
                if entry.who in self._chosen:
                    order = self._chosen.pop(entry.who)
                    if order is None:
                        turn.chosen = True
                    else:
                        # What is added to the turn came before the other one, too.
                        order.lines = turn.lines
            else:
                turn.ended = entry.how

    def _turn_of(self, name: str) -> Turn:
        last = self.found[-1] if self.found else None
        if isinstance(last, Turn) and last.who == name and last.paused is None and not last.ended:
            return last
        before = self._latest.get(name)
        turn = self._latest[name] = Turn(name, goes_on=before is not None and not before.ended)
        self.found.append(turn)
        return turn

    def _deviate(self, number: int, entry: Deviation) -> None:
        if entry.kind in (EARLY, FAULT):
            # Of a fault, what comes after the name says what has happened.
            who, _, happened = entry.taken.partition(": ")
            who = self._next_name(number, who)
            self.found.append(Order("", f"{who}: {happened or _TIME_PASSED}"))
            return
        default = self._names.get(entry.default) or self._next_name(number, entry.default)
        self._chosen.pop(entry.taken, None)
        if entry.paused:
            self._chosen[entry.taken] = None
        if entry.paused and entry.kind != "await":
            self._turn_of(default).paused = entry
        elif (before := self._held_back(default, entry)) is not None:
            before.paused = entry
        else:
            order = Order(default, self._next_name(number, entry.taken))
            self._chosen[entry.taken] = order
            self.found.append(order)

    def _held_back(self, default: str, entry: Deviation) -> Turn | None:
        """Return the turn at whose end somebody stands who is held back; None for none."""
        before = self._latest.get(default)
        if entry.paused:
            # An event loop: whoever ran on it last goes on later.
            turns_there = (
                one
                for one in reversed(self.found)
                if isinstance(one, Turn) and one.lines and one.lines[-1].thread == entry.default
            )
            before = next(turns_there, None)
        if before is None or before.paused is not None or before.ended:
            return None
        return before

    def _next_name(self, number: int, identity: str) -> str:
        """Return what someone is called from an entry on, which is a choice."""
        choice = self._entries[number]
        for entry in self._entries[number:]:
            if not isinstance(entry, Deviation) and entry.who == identity:
                return entry.name or identity
        known = identity in self._names
        if isinstance(choice, Deviation) and identity in choice.packages and not known:
            return f"a task of {choice.packages[identity]}"
        # Of a timer, whose identity has that of a task in it.
        head, of, tail = identity.rpartition(" of ")
        name = self._names.get(tail) or ("the event loop" if tail.startswith("loop#") else tail)
        return f"{head}{of}{name}"


def contested(all_turns: Iterable[Turn | Order]) -> frozenset[Hashable]:
    """Return the keys of what one actor has changed and another one has read."""
    readers: defaultdict[Hashable, set[str]] = defaultdict(set)
    changers: defaultdict[Hashable, set[str]] = defaultdict(set)
    for turn in all_turns:
        if isinstance(turn, Order):
            continue
        for touch in (touch for line in turn.lines for touch in line.touches):
            for key in touch.reads:
                readers[key].add(turn.who)
            for key in touch.changes:
                changers[key].add(turn.who)
    return frozenset(
        key
        for key, those in changers.items()
        if readers[key] - those or (readers[key] and len(those) > 1)
    )


def contested_touches(line: Ran, keys: frozenset[Hashable]) -> list[Touch]:
    """Return what a line touches that is among *keys*."""
    return [one for one in line.touches if not keys.isdisjoint(one.reads | one.changes)]


def told_turns(
    all_turns: Sequence[Turn | Order], failed_at: str = ""
) -> tuple[int, list[Turn | Order]]:
    """Return where the story begins, and the turns of it.

    The story begins at the first choice. Left out are turns in which nobody comes to what
    several share; what one actor does before and after them is one turn.

    Args:
        all_turns: The turns of the run.
        failed_at: The line of the test that has failed, which is told by itself; "" for none.
    """
    chosen = [n for n, one in enumerate(all_turns) if isinstance(one, Order) or one.paused]
    if not chosen:
        return len(all_turns), []
    window = list(all_turns[chosen[0] :])
    while window and _is_failure(window[-1], failed_at):
        window.pop()
    keys = contested(window)
    return chosen[0], _joined(_kept(window, keys) if keys else window)


def _is_failure(one: Turn | Order, failed_at: str) -> bool:
    if isinstance(one, Order) or one.who != TEST or one.paused is not None:
        return False
    return any(line.location == failed_at for line in one.lines)


def _kept(window: Iterable[Turn | Order], keys: frozenset[Hashable]) -> Iterator[Turn | Order]:
    """Yield the choices, the turns at their ends and after them, and those that touch *keys*."""
    paused: set[str] = set()
    for one in window:
        if isinstance(one, Order):
            yield one
            continue
        was_paused = one.who in paused
        paused.discard(one.who)
        if one.paused is not None:
            paused.add(one.who)
        is_of_a_switch = was_paused or one.chosen or one.paused is not None
        if is_of_a_switch or any(contested_touches(line, keys) for line in one.lines):
            yield one


def _joined(some: Iterable[Turn | Order]) -> list[Turn | Order]:
    """Return the turns, those that one actor has had in a row as one."""
    found: list[Turn | Order] = []
    for one in some:
        last = found[-1] if found else None
        if (
            isinstance(one, Turn)
            and isinstance(last, Turn)
            and (last.who, last.paused, last.ended) == (one.who, None, "")
        ):
            lines = [*last.lines, *one.lines]
            found[-1] = Turn(one.who, lines, last.goes_on, one.ended, one.paused, last.chosen)
        else:
            found.append(one)
    return found


def without_repeats(some: Sequence[Turn | Order]) -> list[Turn | Order]:
    """Return turns and choices, where lines are told once, with the turn if that comes next."""
    found: list[Turn | Order] = []
    for one in some:
        last = found[-1] if found else None
        if isinstance(last, Order) and isinstance(one, Turn) and last.lines is one.lines:
            found[-1] = Order(last.default, last.taken)
        found.append(one)
    return found


_LONGEST_LOOP = 8
"""How many lines a loop has at the most that is told once."""


def folded(lines: Sequence[Ran], keys: frozenset[Hashable]) -> list[tuple[Ran, int]]:
    """Return lines with how often they ran in a row, the turns of a loop once.

    A loop that comes to *keys* is kept as it ran: each turn of it matters.
    """
    places = [(line.location, bool(contested_touches(line, keys))) for line in lines]
    found: list[tuple[Ran, int]] = []
    at = 0
    while at < len(lines):
        size, times = max(
            ((size, _repeats(places, at, size)) for size in range(1, _LONGEST_LOOP + 1)),
            # The shortest one of those that cover as much.
            key=lambda one: (one[0] * one[1] * (one[1] > 1), -one[0]),
        )
        if times == 1:
            size = 1
        begun = [
            sum(not line.resumed for line in lines[at + n :: size][:times]) for n in range(size)
        ]
        last = at + size * (times - 1)
        found += zip(lines[last : last + size], (max(one, 1) for one in begun), strict=True)
        at += size * times
    return found


def _repeats(places: Sequence[tuple[str, bool]], at: int, size: int) -> int:
    """Return how often the next places come in a row, 1 if they matter or do not come again."""
    block = places[at : at + size]
    if len(block) < size or (size > 1 and any(matters for _, matters in block)):
        return 1
    times = 1
    while places[at + size * times : at + size * (times + 1)] == block:
        times += 1
    return times
