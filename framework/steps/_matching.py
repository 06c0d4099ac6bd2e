"""Matching: which record of a step answers a call, when a task goes on from its records.

A task that goes on runs its function from the beginning. A step of which there is a record is not
run again: its record answers. Calls have no numbers, since code under `gather`, races and deploys
changes their order. The rule, which `Matching` decides by plain data alone:

1. A *branch* is what one asyncio task of the run does. It stands for the stored branch of the same
   number, if all branches that its parent has started were started with the same as then.
   Otherwise those that were started with the same belong together, and of the rest those of one
   name, in their order.
2. A call asks for the first record of its function and arguments in its own branch that was not
   asked for. That is the usual case, and the only one in which a record answers at once that
   another living branch may ask for.
3. A record of another branch answers if that branch has ended, or waits for this one. With
   unchanged code only if the task has just one record of such a call, and the branch has begun.
4. If that branch lives, the call is *held*. With unchanged code it is the other branch that will
   ask, unless it *strays*: it has asked for something else while it had records left. Then the
   record answers, as one that workers of a queue have shared out differently. If nobody asks, stray
   or ends for `PATIENCE`, the record answers as well, unless the branch waits for something that
   this process gives, such as a lock: then it may wait for the one that is held here, and keeps its
   record.
5. A call of which its branch has an unasked record with other arguments is refused after the same
   time, or at once if nothing else can move: arguments that are made anew in each run look like
   that. A step with a key is never refused.

6. A step that was cancelled while it ran waits to be cancelled again, so that a race goes the same
   way. If nobody does so for the same time, or nothing else can move, it is run again: what has
   cancelled it may have been the end of an attempt.

Nothing waits anywhere else, so no run hangs. Guarantees, for programs whose arguments are not made
anew: no recorded step is run again, and no call gets the result of another one. What the rule
cannot tell apart is said in 5: a loop over what is left to do, or over a set, is refused without
keys, and so is a deploy that puts another call of the same function before recorded ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from framework._records.steps import Origin, Path, StepRecord

PATIENCE: Final = 10.0
"""For how many seconds a call is held at most while nothing is seen of the other branch."""

State: TypeAlias = Literal["runs", "joins", "inside", "outside", "held", "ended"]
"""What a branch does. It runs, also the body of a step; waits for branches that it has started, for
something that this process gives, such as a lock, or for something from outside, such as an answer
of a server; is held by the rule; or has ended.
"""


_Key: TypeAlias = tuple[str, str]
"""A call: its step and the digest of its arguments."""


class Branch(Protocol):
    """A branch of the run."""

    @property
    def path(self) -> Path:
        """Which one it is."""
        ...

    @property
    def parent(self) -> Branch | None:
        """The one that has started it."""
        ...

    @property
    def origin(self) -> Origin:
        """What it was started with."""
        ...

    @property
    def children(self) -> Sequence[Branch]:
        """Those that it has started, in their order."""
        ...

    @property
    def state(self) -> State:
        """What it does now."""
        ...


class Call(NamedTuple):
    """A call of a step.

    Attributes:
        function: Which step.
        digest: Of its arguments, or of its key.
        has_key: Whether the key says what the work is.
    """

    function: str
    digest: str
    has_key: bool = False


class Answer(NamedTuple):
    """What becomes of a call.

    Attributes:
        what: Its record answers; the step is run; it waits to be cancelled, as it was; nobody knows
            yet; or it is refused.
        record: The record that answers, is run again since it had only started, or makes the call
            suspect.
    """

    what: Literal["take", "run", "never", "hold", "refuse"]
    record: StepRecord | None = None

    @property
    def recorded(self) -> StepRecord:
        """The record; only of an answer that has one."""
        assert self.record is not None
        return self.record


class Held(NamedTuple):
    """A call that is held.

    Attributes:
        branch: Whose it is.
        call: The call.
        since: For how many seconds.
        cancelled: Its record, if it waits to be cancelled as it was; None otherwise.
    """

    branch: Branch
    call: Call
    since: float
    cancelled: StepRecord | None = None


class _Found(NamedTuple):
    """What there is for a call: its record, one of a living branch, one that it contradicts."""

    what: Literal["its own", "of another", "suspect", "new"]
    record: StepRecord | None = None


class Matching:
    """Answers the calls of one run of a task; see the rule above.

    Args:
        records: What earlier runs have stored, in the order in which it was.
        branches: Those of this run, in the order in which they began; the run adds to it.
        is_changed: Whether the code is not that of the records.
    """

    def __init__(
        self, records: Sequence[StepRecord], branches: Sequence[Branch], *, is_changed: bool
    ) -> None:
        self._branches = branches
        self._is_changed = is_changed
        self._places: dict[Path, Path] = {(): ()}
        self._strayed = set[Path]()
        # What nobody has asked for, by its branch and by its call, in the order of its end; and how
        # many records there are of each call.
        self._left: dict[Path, dict[StepRecord, None]] = {}
        self._unasked: dict[_Key, dict[StepRecord, None]] = {}
        self._many = Counter[_Key]()
        # What the branches that a stored branch has started were started with, by their paths.
        self._stored: dict[Path, dict[Path, Origin]] = {}
        for record in records:
            key = _key_of(record)
            self._left.setdefault(record.path, {})[record] = None
            self._unasked.setdefault(key, {})[record] = None
            self._many[key] += 1
            for depth, origin in enumerate(record.origins):
                parent, child = record.path[:depth], record.path[: depth + 1]
                self._stored.setdefault(parent, {})[child] = origin

    def add(self, record: StepRecord) -> None:
        """Add the record of a step that this run has started."""
        self._many[_key_of(record)] += 1

    @property
    def unasked(self) -> list[StepRecord]:
        """What nobody has asked for yet, by branch and in the order of its end."""
        return [one for path in sorted(self._left) for one in self._left[path]]

    @property
    def is_over(self) -> bool:
        """Whether all was asked for."""
        return not any(self._left.values())

    # -- which branch

    def place(self, branch: Branch) -> Path:
        """Return which stored branch a branch stands for, or a path that nothing is stored of."""
        if branch.path not in self._places:
            assert branch.parent is not None
            self._place_children(branch.parent)
        return self._places[branch.path]

    def _place_children(self, parent: Branch) -> None:
        """Find the places of all branches that *parent* has started, and that have none yet."""
        up = self.place(parent)
        stored = self._stored.get(up, {})
        children = [(one, (*up, one.path[-1])) for one in parent.children]
        if all(
            stored.get(usual, one.origin) == one.origin
            and self._places.get(one.path, usual) == usual
            for one, usual in children
        ):
            self._places |= {one.path: usual for one, usual in children}
            return
        taken = {self._places[one.path] for one, _ in children if one.path in self._places}
        free = sorted(path for path in stored if path not in taken)
        todo = [one for one, _ in children if one.path not in self._places]
        for is_same in (_is_equal, _is_of_one_name):
            for one in [one for one in todo if one.path not in self._places]:
                usual = (*up, one.path[-1])
                fitting = [path for path in free if is_same(stored[path], one.origin)]
                if fitting:
                    found = usual if usual in fitting else fitting[0]
                    free.remove(found)
                    self._places[one.path] = found
        used = {
            *taken,
            *stored,
            *(self._places[one.path] for one in todo if one.path in self._places),
        }
        for one in todo:
            if one.path not in self._places:
                self._places[one.path] = _unused(up, used)
                used.add(self._places[one.path])

    # -- which record

    def ask(self, branch: Branch, call: Call) -> Answer:
        """Answer a call as it comes."""
        found = self._look(branch, call)
        if found.what == "its own":
            return self._take(found.record)
        return Answer("run") if found.what == "new" else Answer("hold")

    def settle(self, held: Sequence[Held], *, is_stuck: bool) -> tuple[Held, Answer] | None:
        """Answer one of the calls that are held, if that can be said now.

        Called whenever no branch is ready to run, and when one has been held for `PATIENCE`.

        Args:
            held: They, in the order in which they came.
            is_stuck: Whether nothing can go on unless one is answered.
        """
        asking = [one for one in held if one.cancelled is None]
        found = [(one, self._look(one.branch, one.call)) for one in asking]
        for one, (what, record) in found:
            if what == "its own":
                return one, self._take(record)
            if what == "new":
                return one, Answer("run")
        for one, (what, record) in found:
            if what == "of another" and record is not None and self._has_strayed(record):
                return one, self._take(record)
        for one, (what, record) in found:
            if is_stuck or one.since >= PATIENCE:
                return one, self._last(one, what, record)
        for one in held:
            if one.cancelled is not None and (is_stuck or one.since >= PATIENCE):
                return one, Answer("run", one.cancelled)
        return None

    def _last(self, held: Held, what: str, record: StepRecord | None) -> Answer:
        """Answer a call that was held for long enough."""
        if what == "of another" and record is not None and not self._waits_inside(record):
            return self._take(record)
        contradicted = self._contradicted(held.branch, held.call)
        return Answer("run") if contradicted is None else Answer("refuse", contradicted)

    def _look(self, branch: Branch, call: Call) -> _Found:
        path, key = self.place(branch), (call.function, call.digest)
        left = self._left.get(path, {})
        own = next((one for one in left if _key_of(one) == key), None)
        if own is not None:
            return _Found("its own", own)
        if left and not self._is_changed:
            self._strayed.add(path)
        others = list(self._unasked.get(key, ()))
        if not self._is_changed and self._many[key] > 1:
            others = []
        if others:
            found = self._of_another(branch, others)
            if found is not None:
                return found
        contradicted = self._contradicted(branch, call)
        return _Found("new") if contradicted is None else _Found("suspect", contradicted)

    def _of_another(self, branch: Branch, others: Sequence[StepRecord]) -> _Found | None:
        """Return which of some records answers a call, or may do so later; None for none."""
        places = {self.place(one): one for one in self._branches}
        above = {self.place(one) for one in _waiting_for(branch)}
        for one in others:
            there = places.get(one.path)
            if one.path in above or (there is not None and there.state == "ended"):
                return _Found("its own", one)
        # With unchanged code one that has not begun yet asks for its own.
        later = [one for one in others if self._is_changed or one.path in places]
        return _Found("of another", later[0]) if later else None

    def _contradicted(self, branch: Branch, call: Call) -> StepRecord | None:
        """Return the record of its function that a call has other arguments than; None for none."""
        if call.has_key:
            return None
        left = self._left.get(self.place(branch), ())
        return next((one for one in left if one.function == call.function), None)

    def _take(self, record: StepRecord | None) -> Answer:
        assert record is not None
        del self._left[record.path][record], self._unasked[_key_of(record)][record]
        if record.state == "started":
            return Answer("run", record)
        return Answer("never" if record.state == "cancelled" else "take", record)

    def _has_strayed(self, record: StepRecord) -> bool:
        return not self._is_changed and record.path in self._strayed

    def _waits_inside(self, record: StepRecord) -> bool:
        return not self._is_changed and any(
            one.state == "inside" and self.place(one) == record.path for one in self._branches
        )


def _waiting_for(branch: Branch) -> Iterator[Branch]:
    """Yield the branches that wait for this one, and so cannot ask for anything meanwhile."""
    above = branch.parent
    while above is not None and above.state == "joins":
        yield above
        above = above.parent


def _key_of(record: StepRecord) -> _Key:
    return record.function, record.digest


def _is_equal(stored: Origin, now: Origin) -> bool:
    return stored == now


def _is_of_one_name(stored: Origin, now: Origin) -> bool:
    return stored[0] == now[0]


def _unused(up: Path, used: set[Path]) -> Path:
    """Return the first path below *up* that nothing is stored of."""
    number = 0
    while (*up, number) in used:
        number += 1
    return (*up, number)
