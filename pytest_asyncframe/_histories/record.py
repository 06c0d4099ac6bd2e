"""What is recorded of one operation: what was asked, when it began and ended, and how."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import Any, TypeAlias

NEVER = float("inf")
"""The number of an end that has not come."""


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """An operation that has returned.

    Attributes:
        value: Its result.
        given: Whether somebody has set it; otherwise it is None.
    """

    value: Any
    given: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Raised:
    """An operation that has raised an error.

    Attributes:
        error: The error.
    """

    error: Exception


Outcome: TypeAlias = Returned | Raised


@dataclass(slots=True, eq=False)
class Record:
    """One operation of a history.

    Attributes:
        name: The name of the model's method.
        args: The positional arguments, as they were when it began.
        kwargs: The keyword arguments.
        who: The task, the coroutine or the thread that it ran in.
        called: The number of its beginning among all beginnings and ends of the history.
        called_at: When that was, in seconds since the test began.
        returned: The number of its end; `NEVER` if it has not ended.
        returned_at: When that was.
        outcome: How it has ended; None if nobody knows whether it took effect.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    who: str
    called: int
    called_at: float = 0.0
    returned: float = NEVER
    returned_at: float = 0.0
    outcome: Outcome | None = field(default=None)

    @property
    def must_be(self) -> bool:
        """Whether it has taken effect, and is to be explained."""
        return self.outcome is not None

    def cut(self, until: float) -> Record:
        """Return it as it was when *until* beginnings and ends had come."""
        return self if self.must_be and self.returned < until else self.forgotten()

    def forgotten(self) -> Record:
        """Return it as if it had not returned, so that it may have taken effect or not."""
        return Record(self.name, self.args, self.kwargs, self.who, self.called, self.called_at)


def snapshot(value: Any) -> Any:  # Any: a user's value
    """Return a value that stays as it is: lists, dicts, sets and tuples are copied.

    What a dict shows of itself, such as its keys, becomes a set, a list or a dict. Anything else
    is the same object, since it may be compared by identity.
    """
    kind = type(value)
    if isinstance(value, ItemsView):
        return dict(value)
    if isinstance(value, KeysView):
        return set(value)
    if isinstance(value, ValuesView):
        return list(value)
    if kind in (list, tuple, set):
        return kind(map(snapshot, value))
    if kind is dict:
        return {key: snapshot(one) for key, one in value.items()}
    return value


def objects(values: Iterable[Any]) -> Iterator[object]:
    """Yield what `snapshot` would not copy, in *values* and in what they contain."""
    for value in values:
        kind = type(value)
        if kind in (list, tuple, set):
            yield from objects(value)
        elif kind is dict:
            yield from objects(value.values())
        else:
            yield value
