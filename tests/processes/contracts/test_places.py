"""The contract of `SharedPlaces`, on every back end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from framework._tasks.places import MOST_AHEAD
from framework.protocols import PlaceAnswer, PlaceRequest
from tests.processes.contracts.drawn import Machine, drive, how_many, mortal, numbers
from tests.processes.contracts.implementations import BackEnd, Process, Told

GRANTED: Final = PlaceAnswer(True)
KEY: Final = "key"


class Guests:
    """The tasks of a test, and what each was told.

    Args:
        back_end: Has two processes, of which tasks take turns.
    """

    def __init__(self, back_end: BackEnd) -> None:
        self._back_end = back_end
        self._turns = deque([back_end.start(), back_end.start()])
        self.of: dict[str, Process] = {}
        self.told: dict[str, list[PlaceAnswer]] = {}

    def join(
        self, task_id: str, limit: int = 1, *, key: str = KEY, waits: bool = True, rank: int = 0
    ) -> PlaceAnswer:
        """Ask for a place; return the answer."""
        if task_id not in self.of:
            self.of[task_id] = self._turns[0]
            self._turns.rotate()
        told = self.told.setdefault(task_id, [])
        before = len(told)
        request = PlaceRequest(key, task_id, limit, waits, rank)
        self.of[task_id].post([(request, told.append)])
        assert len(told) == before + 1
        self._back_end.settle()
        return told[-1]

    def leave(self, task_id: str) -> list[str]:
        """Leave all lines; return who got a place by that."""
        return self.granted_by(partial(self.of[task_id].post, [task_id]))

    def granted_by(self, step: Callable[[], object]) -> list[str]:
        """Take a step; return who got a place by that, once each, in no order."""
        before = {task_id: len(told) for task_id, told in self.told.items()}
        step()
        self._back_end.settle()
        new = {task_id: told[before[task_id] :] for task_id, told in self.told.items()}
        assert all(told in ([], [GRANTED]) for told in new.values()), new
        return sorted(task_id for task_id, told in new.items() if told)


def waits_behind(*others: str) -> PlaceAnswer:
    """Return the answer to a task that has no place, with who is there."""
    return PlaceAnswer(False, others)


def test_in_turn(back_end: BackEnd) -> None:
    """As many have a place as the limit allows; the others follow by rank, and as they came."""
    guests = Guests(back_end)
    assert [guests.join(one, 2) for one in "ab"] == [GRANTED, GRANTED]
    assert guests.join("c", 2) == waits_behind("a", "b")
    assert guests.join("d", 2, rank=1) == waits_behind("a", "b", "c")
    assert guests.join("e", 2) == waits_behind("a", "b", "c", "d")
    # Of a lower rank than all that wait, and ahead of them.
    assert guests.join("f", 2, rank=-1) == waits_behind("a", "b", "c", "e", "d")
    assert guests.join("z", 1, key="another") == GRANTED
    assert [guests.leave(one) for one in "bfacde"] == [["f"], ["c"], ["e"], ["d"], [], []]


def test_one_that_needs_more_room(back_end: BackEnd) -> None:
    """A task with a lower limit waits for more to leave, and others of its rank wait behind it."""
    guests = Guests(back_end)
    for one in "ab":
        guests.join(one, 2)
    assert guests.join("c", 1) == waits_behind("a", "b")
    assert guests.leave("a") == []
    assert guests.join("d", 2) == waits_behind("b", "c")
    assert guests.join("e", 2, rank=-1) == GRANTED
    assert guests.leave("b") == []
    assert "c" in guests.leave("e")


def test_only_asked(back_end: BackEnd) -> None:
    """Who does not wait is told who is there, and is in nobody's way."""
    guests = Guests(back_end)
    assert guests.join("a", waits=False) == GRANTED
    assert guests.join("b", waits=False) == waits_behind("a")
    assert guests.join("c") == waits_behind("a")
    assert guests.leave("a") == ["c"]
    assert guests.leave("c") == []
    assert guests.join("b", waits=False) == GRANTED


def test_all_at_once(back_end: BackEnd) -> None:
    """The calls of one process take effect in their order, also if they are made at once."""
    process = back_end.start()
    told: dict[str, list[PlaceAnswer]] = {one: [] for one in "abcd"}
    a, b, c, d = ((PlaceRequest(KEY, one, 1, False), told[one].append) for one in "abcd")
    process.post([a])
    process.post([b, "a", c, d])
    assert told == {
        "a": [GRANTED],
        "b": [waits_behind("a")],
        "c": [GRANTED],
        "d": [waits_behind("c")],
    }


def test_asked_twice(back_end: BackEnd) -> None:
    """A repeated request gets the same answer, and a task that leaves twice has left."""
    guests = Guests(back_end)
    for _ in range(2):
        assert guests.join("a") == GRANTED
        assert guests.join("b") == waits_behind("a")
    assert guests.join("c") == waits_behind("a", "b")
    assert guests.join("b") == waits_behind("a", "c")
    assert guests.leave("a") == ["b"]
    assert guests.leave("a") == []
    assert guests.join("b") == GRANTED
    assert guests.leave("b") == ["c"]


def test_left_while_waiting(back_end: BackEnd) -> None:
    """Who leaves gives back its places in all lines, and waits in none any more."""
    guests = Guests(back_end)
    for one, keys in (("a", "kl"), ("gone", "km"), ("b", "k"), ("c", "l"), ("d", "m")):
        for key in keys:
            guests.join(one, key=key)
    assert guests.leave("gone") == ["d"]
    assert guests.leave("a") == ["b", "c"]


def test_the_end_of_a_task(back_end: BackEnd) -> None:
    """A task that has ended is in nobody's way, though its `leave` is late, unless it runs on."""
    guests = Guests(back_end)
    if back_end.has_bodies:
        guests.join("late", key="k")
        guests.of["late"].is_over("late", runs_on=True)
        assert guests.join("b", key="k", waits=False) == waits_behind("late")
    guests.join("a")
    guests.of["a"].is_over("a")
    assert guests.join("b", waits=False) == GRANTED
    assert guests.leave("a") == []
    assert guests.join("c") == waits_behind("b")
    guests.of["b"].is_over("b")
    assert guests.join("d", waits=False) == waits_behind("c"), "its place is that of who waits"
    assert guests.told["c"][-1] == GRANTED
    assert guests.leave("b") == []


def test_a_long_line(back_end: BackEnd) -> None:
    """A task is told the first hundred of a longer line, also if it asks once more."""
    process, told = back_end.start(), list[PlaceAnswer]()
    ids = [f"{number:03}" for number in range(MOST_AHEAD + 3)]
    requests = [PlaceRequest(KEY, task_id, 1) for task_id in ids]
    process.post([(request, told.append) for request in requests])
    process.post([(requests[50], told.append)])
    assert [len(answer.others) for answer in told[:102]] == [*range(101), 100]
    assert told[-2] == waits_behind(*ids[:100])
    assert told[-1] == waits_behind(*ids[:50], *ids[51:101])


@mortal
def test_the_death_of_a_process(back_end: BackEnd) -> None:
    """The others get the places of a dead process at once, but not those of what goes on."""
    guests = Guests(back_end)
    for one in ("dies", "waits", "dies too", "waits too"):
        guests.join(one)
    guests.join("goes on", key="another")
    guests.join("waits long", key="another")
    dead, alive = guests.of["dies"], guests.of["waits"]
    assert guests.of["goes on"] is dead
    dead.hand_over("goes on")
    assert guests.granted_by(partial(back_end.kill, dead)) == ["waits"]
    assert guests.leave("waits") == ["waits too"]
    assert guests.granted_by(partial(alive.finish, "goes on")) == ["waits long"]


@mortal
def test_the_dead_are_not_told_of(back_end: BackEnd) -> None:
    """Once a process is known to be dead, nobody is told of its tasks that waited."""
    guests, told = Guests(back_end), list[PlaceAnswer]()
    for one, key in (("a", KEY), ("elsewhere", "another"), ("b", KEY), ("dies", KEY)):
        guests.join(one, key=key)
    alive = guests.of["a"]
    assert guests.of["b"] is alive is not guests.of["dies"]
    back_end.kill(guests.of["dies"])
    alive.post([(PlaceRequest(KEY, "c", 1), told.append)])
    assert told == [waits_behind("a", "b")]


@mortal
def test_deaths_in_several_lines(back_end: BackEnd) -> None:
    """Who waits in several lines gets all places of a process that died, and of the next one."""
    alive, told = back_end.start(), dict[str, list[PlaceAnswer]]()
    for name in ("first", "second"):
        dies = back_end.start()
        for key in "klm":
            for process, who in ((dies, "dies"), (alive, "waits")):
                task_id = f"{name} {key} {who}"
                told[task_id] = []
                process.post([(PlaceRequest(key, task_id, 1), told[task_id].append)])
        back_end.kill(dies)
        waits = [f"{name} {key} waits" for key in "klm"]
        assert [told[one][-1] for one in waits] == [GRANTED] * 3, name
        alive.post(waits)


# -- in any order


@dataclass
class Guest:
    """A task in a line."""

    request: PlaceRequest
    number: int
    has_place: bool


class Line:
    """One line as `SharedPlaces` promises it, over plain data."""

    def __init__(self) -> None:
        self._guests: dict[str, Guest] = {}
        self._numbers = count()

    def placed(self) -> frozenset[str]:
        """Return who has a place."""
        return frozenset(one for one, guest in self._guests.items() if guest.has_place)

    def waiting(self) -> list[Guest]:
        """Return who waits, the next first."""
        waiting = [guest for guest in self._guests.values() if not guest.has_place]
        return sorted(waiting, key=lambda guest: (guest.request.rank, guest.number))

    def join(self, request: PlaceRequest) -> bool:
        """Ask for a place; return whether it was granted."""
        known = self._guests.get(request.task_id)
        if known is not None:
            return known.has_place
        first = next(iter(self.waiting()), None)
        is_first = first is None or request.rank < first.request.rank
        granted = is_first and len(self.placed()) < request.limit
        if granted or request.waits:
            guest = Guest(request, next(self._numbers), granted)
            self._guests[request.task_id] = guest
        return granted

    def leave(self, task_id: str) -> list[str]:
        """Take a task out; return who has a place now."""
        if self._guests.pop(task_id, None) is None:
            return []
        granted = []
        for guest in self.waiting():
            if len(self.placed()) >= guest.request.limit:
                break
            guest.has_place = True
            granted.append(guest.request.task_id)
        return granted

    def answer(self, request: PlaceRequest) -> Seen:
        """Return the answer to a request that was just made."""
        if request.task_id in self.placed():
            return Seen(True)
        others = tuple(guest.request.task_id for guest in self.waiting())
        return Seen(False, self.placed(), tuple(one for one in others if one != request.task_id))


class Seen(NamedTuple):
    """An answer, with those who have a place in no order."""

    granted: bool
    placed: frozenset[str] = frozenset()
    waiting: tuple[str, ...] = ()


def seen(answer: PlaceAnswer, placed: int) -> Seen:
    """Return an answer with its first *placed* others in no order."""
    return Seen(answer.granted, frozenset(answer.others[:placed]), answer.others[placed:])


LIMITS: Final = {"k": 1, "l": 2, "m": 3}
"""The lines, each with the limit that all of its tasks ask for."""

tasks = st.integers(0, 11)
requests = st.tuples(tasks, st.sampled_from(sorted(LIMITS)), st.integers(0, 1), st.booleans())
"""The number of a task, its line, its rank, and whether it waits."""

bursts = st.lists(st.one_of(requests, requests, tasks), max_size=5)
"""What a process asks at once: places, and to leave the lines for the tasks of some numbers."""


class Places(Machine):
    """Processes whose tasks join, ask again, leave, end and die with them, in any order."""

    def __init__(self, back_end: BackEnd) -> None:
        super().__init__(back_end)
        self.lines: dict[str, Line] = {self.prefix + key: Line() for key in LIMITS}
        self.of: dict[str, Process] = {}
        self.elsewhere: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.requests: dict[tuple[str, str], PlaceRequest] = {}
        self.told: dict[tuple[str, str], list[PlaceAnswer]] = {}
        self.expected: dict[tuple[str, str], list[Seen]] = {}

    @rule(number=numbers, asked=bursts)
    def ask(self, number: int, asked: list[tuple[int, str, int, bool] | int]) -> None:
        """Let a process ask for places and leave lines, all at once."""
        process = self.process(number)
        posted: list[tuple[PlaceRequest, Told] | str] = []
        # A task that asks once more before it has an answer, or leaves, may not be told.
        seen_now: set[str] = set()
        for step in asked:
            task_id = self.task(step if isinstance(step, int) else step[0])
            if task_id in seen_now | self.elsewhere:
                continue
            seen_now.add(task_id)
            if isinstance(step, int):
                if self.of.get(task_id) is process:
                    self.leave(task_id)
                    posted.append(task_id)
            elif self.of.setdefault(task_id, process) is process:
                _, key, rank, waits = step
                line = self.prefix + key
                made = PlaceRequest(line, task_id, LIMITS[key], waits, rank)
                # Who asks once more asks for the same; in one step with what gives it the place
                # it is told of that once or twice.
                request = self.requests.setdefault((task_id, line), made)
                if request is not made and len(asked) > 1:
                    continue
                self.join(request)
                told = self.told.setdefault((task_id, line), [])
                posted.append((request, told.append))
        process.post(posted)
        self.back_end.settle()
        # Who leaves in this moment may have heard of its place, or not.
        gone = {step for step in posted if isinstance(step, str)}
        for where in [where for where in self.told if where[0] in gone]:
            del self.told[where]

    def task(self, number: int) -> str:
        """Return the id of the task that has a number now: once it has left, it is another one."""
        name = f"{self.prefix}{number}"
        return f"{name}/{self.ended[name]}"

    def join(self, request: PlaceRequest) -> None:
        """Expect the answer to a request."""
        line = self.lines[request.key]
        line.join(request)
        expected = self.expected.setdefault((request.task_id, request.key), [])
        expected.append(line.answer(request))

    def leave(self, task_id: str) -> None:
        """Expect what the others are told when a task leaves."""
        self.of.pop(task_id, None)
        self.elsewhere.discard(task_id)
        self.ended[task_id.partition("/")[0]] += 1
        for key, line in self.lines.items():
            for granted in line.leave(task_id):
                if granted in self.of:
                    self.expected[granted, key].append(Seen(True))

    def placed(self) -> list[str]:
        """Return the tasks that have a place wherever they stand, in the order of their names."""
        waiting = {g.request.task_id for line in self.lines.values() for g in line.waiting()}
        placed = frozenset[str]().union(*(line.placed() for line in self.lines.values()))
        return sorted(placed - waiting - self.elsewhere)

    @precondition(lambda self: self.placed())
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        """Let a task that has its places go on elsewhere."""
        task_id = data.draw(st.sampled_from(self.placed()))
        self.of[task_id].hand_over(task_id)
        self.elsewhere.add(task_id)

    @precondition(lambda self: self.elsewhere)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Let such a task end."""
        task_id = data.draw(st.sampled_from(sorted(self.elsewhere)))
        process = self.of[task_id]
        self.leave(task_id)
        process.finish(task_id)
        self.back_end.settle()

    @precondition(lambda self: self.back_end.loses_processes and self.placed())
    @rule(number=numbers)
    def kill(self, number: int) -> None:
        """Let a process die; its tasks leave, unless they go on elsewhere."""
        gone = self.process(number)
        lost = {task_id for task_id, process in self.of.items() if process is gone}
        for task_id in lost - self.elsewhere:
            self.of.pop(task_id)
        for task_id in sorted(lost - self.elsewhere):
            self.leave(task_id)
        self.back_end.kill(gone)
        other = self.back_end.start()
        for task_id in lost & self.elsewhere:
            self.of[task_id] = other
        self.back_end.settle()

    @invariant()
    def answers(self) -> None:
        """Each task was told what it is to be told, and nothing else."""
        found = {}
        for where, told in self.told.items():
            expected = self.expected.get(where, [])
            places = [len(one.placed) for one in expected] + [0] * len(told)
            found[where] = [seen(*one) for one in zip(told, places, strict=False)]
        assert found == {where: self.expected.get(where, []) for where in self.told}


@how_many
def test_any_order(back_end: BackEnd, examples: int) -> None:
    """Whatever the processes do in whichever order, each task is told what is promised."""
    drive(partial(Places, back_end), examples)
