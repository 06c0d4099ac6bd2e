"""Places: how many tasks of one key may exist or run at a time, and which key a call has.

A key is a text that is the same in every process. Tasks with the same key stand in one line:
as many as the limit allows have a place, and the others wait. Who has one is decided by `ask` and
`leave`, whatever keeps the lines; only Redis has the same rule as scripts of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import MethodType
from typing import Any, Final, Literal, Protocol

from framework._records.ids import TaskId
from framework._records.jsonsafe import cut, safe_repr
from framework._tasks.functions import Args, Kwargs, check_key, name_of, signature_of
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import encode_call


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """A task's request for a place in a line.

    Attributes:
        key: The line: printable text of at most 250 characters.
        task_id: The task, which may stand in several lines.
        limit: How many tasks may have a place there at a time, 1 or more.
        waits: Whether it enters the line if no place is free; if not, it is only told who is
            there.
        rank: Tasks of a lower rank get a place first; those of the same rank in the order in
            which they came.
        replaces: Whether the others that are in the line when it enters are to be cancelled.
    """

    key: str
    task_id: str
    limit: int
    waits: bool = True
    rank: int = 0
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class PlaceAnswer:
    """The answer to a `PlaceRequest`.

    Attributes:
        granted: Whether the task has a place.
        others: If not, the ids of the other tasks in the line: those that have a place, and then
            those that wait, in their order; no more than 100.
        replaces: Whether the line cancels the others, as the request wanted; if not, whoever
            asked does.
    """

    granted: bool
    others: tuple[str, ...] = ()
    replaces: bool = False


MOST_AHEAD: Final = 100
"""Maximum length of `PlaceAnswer.others`."""

GRANTED: Final = PlaceAnswer(True)

RUNNING: Final = "r:"
"""How the keys of lines begin in which tasks of a function with ``max_running`` stand."""

_MAX_TEXT: Final = 1_000_000
_SHOWN: Final = 60
_DEPTH: Final = 8
_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+>")


def unique_request(
    spec: TaskSpec, task_id: str, args: Args, kwargs: Kwargs, owner: str | None
) -> PlaceRequest:
    """Return what a unique call asks for; calls the user's key function.

    Args:
        spec: What is called, which is unique: by its owner and all its arguments, or by what a
            function makes of the arguments, for all owners.
        task_id: Its task.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        owner: Whom the task belongs to, such as a user; None if it has no owner.

    Raises:
        TypeError: If an argument, or what the key function returned, has no stable text.
        Exception: What the key function raises.
    """
    name = name_of(spec.fn)
    if callable(spec.options["unique"]):
        text = _key_text(spec, name, "unique", args, kwargs)
    else:
        text = _call_text(spec.fn, args, kwargs)
        if owner is not None:
            text = json.dumps([owner, text])
    waits = spec.options["on_duplicate"] == "replace"
    key = f"u:{name}:{key_digest(text)}"
    return PlaceRequest(key, task_id, 1, waits, spec.level, replaces=waits)


def running_key(spec: TaskSpec, args: Args, kwargs: Kwargs) -> tuple[str, str]:
    """Return the key of a call whose function has `max_running`, and its text for people.

    Raises:
        TypeError: If what the key function returned has no stable text.
        Exception: What the key function raises.
    """
    name = name_of(spec.fn)
    if spec.options["key"] is None:
        return f"{RUNNING}{name}", ""
    text = _key_text(spec, name, "key", args, kwargs)
    return f"{RUNNING}{name}:{key_digest(text)}", cut(text, _SHOWN)


def _key_text(
    spec: TaskSpec, name: str, option: Literal["unique", "key"], args: Args, kwargs: Kwargs
) -> str:
    """Return the text of what the function in an option returns."""
    key: Any = spec.options[option]  # a function here
    try:
        found = key(*args, **kwargs)
    except TypeError:
        # A submission's own key function has not been checked before.
        check_key(option, key, spec.fn)
        raise
    return stable_text(name, option, found)


def key_digest(text: str) -> str:
    """Return a short text that stands for a long one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def stable_text(name: str, option: str, key: object) -> str:
    """Return the text of what a key function returned, the same in every process.

    Args:
        name: The function that has the key function.
        option: The option that it was given in.
        key: What it returned.

    Raises:
        TypeError: If its repr is that of a certain object in memory, or has the elements of a set,
            which come in another order in each process.
    """
    text = safe_repr(key, _MAX_TEXT)
    if _ADDRESS.search(text) or _has_set(key, _DEPTH):
        raise TypeError(
            f"the {option} function of {name} must return a value whose repr is the same "
            f"in every process, such as a string, a number or a sorted tuple of them, not "
            f"{text[:80]}"
        )
    return text


def _call_text(fn: Callable[..., Any], args: Args, kwargs: Kwargs) -> str:
    """Return a text that two calls have in common if their bound arguments are equal."""
    inner: Any = fn
    while True:
        if isinstance(inner, partial):
            args, kwargs = (*inner.args, *args), {**inner.keywords, **kwargs}
            inner = inner.func
        elif isinstance(inner, MethodType):
            args, inner = (inner.__self__, *args), inner.__func__
        else:
            break
    signature = signature_of(inner)
    if signature is not None:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    # The class of a class method; other types are refused below, as everywhere.
    args = tuple(name_of(one) if isinstance(one, type) else one for one in args)
    try:
        if any(_has_set(value, _DEPTH) for value in (*args, *kwargs.values())):
            raise TypeError("a set has no order that all processes share")
        text = encode_call(inner, args, kwargs)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name_of(fn)} is unique by its arguments, which must all have a JSON form: {error}; "
            "or give a function of the arguments, as in unique=lambda order, **_: order.id"
        ) from None
    return json.dumps(json.loads(text), sort_keys=True)


def _has_set(value: object, depth: int) -> bool:
    """Return whether there is a set in a value, up to some levels deep."""
    if isinstance(value, (set, frozenset)):
        return len(value) > 1
    if not depth:
        return False
    inner: Iterable[object] = ()
    if isinstance(value, (list, tuple)):
        inner = value
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(getattr(value, "__dict__", None), dict):  # a model or a dataclass
        inner = vars(value).values()
    return any(_has_set(one, depth - 1) for one in inner)


@dataclass(frozen=True, slots=True)
class Existing:
    """A task that this process does not have, and whose id a submission is to return.

    It is one of another process that a unique submission is to use instead of its own, or its own
    that waits for a transaction.

    Attributes:
        task_id: Its id.
        is_same: Whether an earlier run of the same code has submitted it.
    """

    task_id: TaskId[Any]
    is_same: bool = False


class PlaceState(Enum):
    """How far a task is that is unique, or of which only some may run at a time."""

    ASKING = "its submission goes on, and it may not be the only one of its key"
    ALONE = "its submission goes on, and it is the only one of its key or need not be"
    WAITING = "it was submitted, and waits until it is the only one of its key"
    READY = "it was submitted, and waits at most for its delay and a place to run"
    LAUNCHED = "it was handed to the engine"


@dataclass(slots=True, eq=False)
class TaskPlaces:
    """What a live task has asked of its lines, and what it was told.

    Attributes:
        unique: Its request for a place among the tasks with the same key; None if it may have
            several.
        running: Its request for a place among those that run; None without `max_running`.
        shown: The text of that key for people; "" if there is none.
        state: How far it is.
        answer: The first answer to *unique*; None before.
        reply: Gets that answer; None if nobody waits for it.
        go_on: Called with the task when it becomes READY after a wait; None before.
    """

    unique: PlaceRequest | None
    running: PlaceRequest | None = None
    shown: str = ""
    state: PlaceState = field(init=False)
    answer: PlaceAnswer | None = None
    reply: Any = None  # a waiters.Reply, whose module imports this one
    go_on: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        self.state = PlaceState.ALONE if self.unique is None else PlaceState.ASKING

    @property
    def requests(self) -> tuple[PlaceRequest, ...]:
        """All that it asks for."""
        return tuple(one for one in (self.unique, self.running) if one is not None)

    @property
    def may_wait(self) -> bool:
        """Whether the task may have to wait for a place."""
        return self.running is not None or self.state is PlaceState.ASKING


# -- the rule of the lines, which is the same in the memory of a process and in a database


class LineTable(Protocol):
    """The tasks in lines, as one step of the rule reads and changes them.

    A table belongs to one step at a time: whoever uses it holds a lock, or has its turn.
    """

    def has_place(self, request: PlaceRequest) -> bool | None:
        """Return whether a task has the place that it asks for; None if it is not in the line."""
        ...

    def placed(self, key: str) -> int:
        """Return how many have a place."""
        ...

    def first(self, key: str) -> PlaceRequest | None:
        """Return the request of the first that waits."""
        ...

    def others(self, request: PlaceRequest) -> tuple[str, ...]:
        """Return who else has a place, and then who waits, in their order, `MOST_AHEAD` at most."""
        ...

    def enter(self, request: PlaceRequest, granted: bool) -> None:
        """Let a task stand in the line, with a place or behind those of its rank."""

    def grant(self, request: PlaceRequest) -> None:
        """Give a task that waits a place."""

    def drop_over(self, key: str) -> Collection[str]:
        """Take out who has a place and needs it no more, since its task is over.

        Returns:
            The lines in which somebody may have a place by that.
        """
        ...

    def drop(self, task_id: str) -> Iterable[str]:
        """Take a task out of all lines; return which."""
        ...


def ask(table: LineTable, request: PlaceRequest) -> PlaceAnswer:
    """Ask for a place, as `protocols.SharedPlaces.join` says.

    Those that waited and have a place by this step are told by `LineTable.grant`.
    """
    has_place = table.has_place(request)
    if has_place is None:
        key = request.key
        has_place = table.placed(key) < request.limit
        if not has_place and (freed := table.drop_over(key)):
            grant_free(table, freed)
            has_place = table.placed(key) < request.limit
        if has_place:
            first = table.first(key)
            has_place = first is None or first.rank > request.rank
        if has_place or request.waits:
            table.enter(request, has_place)
    return GRANTED if has_place else PlaceAnswer(False, table.others(request))


def leave(table: LineTable, task_id: str) -> None:
    """Take a task out of all lines, and give its places to the first that wait."""
    grant_free(table, table.drop(task_id))


def grant_free(table: LineTable, keys: Iterable[str]) -> None:
    """Give the free places of lines to the first that wait."""
    for key in keys:
        while (first := table.first(key)) is not None and table.placed(key) < first.limit:
            table.grant(first)
