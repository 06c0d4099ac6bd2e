"""What holds a lock, or what makes locks, and holds a model during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

GONE: Any = object()
"""What is held by a name, a slot or an item that is not there."""


class Kind(NamedTuple):
    """How something holds a value: under a name, in a list, in a slot.

    Attributes:
        get: Returns what an owner holds, given the key; `GONE` or an error for nothing.
        put: Lets an owner hold something else, given the key; `GONE` for nothing.
        step: Returns the step from an owner to the value, given the key, such as ``.lock``.
    """

    get: Callable[[Any, Any], object]
    put: Callable[[Any, Any, Any], object]
    step: Callable[[Any], str]


class Exchange(NamedTuple):
    """A value that is exchanged for a model during a run.

    Attributes:
        kind: How it is held.
        owner: The object that holds it.
        key: Under what that object holds it.
        real: The value that was found.
        model: The value during a run.
    """

    kind: Kind
    owner: Any
    key: Any
    real: object
    model: object

    def begin(self) -> None:
        """Let the owner hold the model, if it still holds the value."""
        self._put(self.model, instead_of=self.real)

    def end(self) -> None:
        """Let the owner hold the value again, if it still holds the model."""
        self._put(self.real, instead_of=self.model)

    def _put(self, new: object, *, instead_of: object) -> None:
        kind, owner, key = self.kind, self.owner, self.key
        try:
            if kind.get(owner, key) is instead_of:
                kind.put(owner, key, new)
        except (AttributeError, LookupError, TypeError, ValueError):
            # It is gone, or has become one that cannot be changed.
            return


def _entry(owner: dict[Any, object], key: Any) -> object:
    return dict.get(owner, key, GONE)


def _put_entry(owner: dict[Any, object], key: Any, value: object) -> None:
    if value is GONE:
        dict.__delitem__(owner, key)
    else:
        dict.__setitem__(owner, key, value)


def _in_brackets(key: Any) -> str:
    # The text of other keys may take the user's code to make.
    return f"[{key!r}]" if type(key) in (str, int) else "[...]"


ENTRY = Kind(_entry, _put_entry, _in_brackets)
"""A value of a dictionary."""

NAME = Kind(_entry, _put_entry, ".{}".format)
"""A value of the dictionary of a module or an instance."""

INNER = Kind(_entry, _put_entry, "".format)
"""The same, where it is named as the instance is, such as the lock of a queue."""

MEMBER = Kind(list.__getitem__, list.__setitem__, _in_brackets)
"""An item of a list."""

CLASS = Kind(lambda owner, key: vars(owner).get(key, GONE), type.__setattr__, ".{}".format)
"""An attribute of a class."""

SLOT = Kind(
    lambda owner, slot: slot.__get__(owner),
    lambda owner, slot, value: slot.__set__(owner, value),
    lambda slot: f".{slot.__name__}",
)
"""An attribute in a slot of an instance; the key is its descriptor."""

ATTRIBUTE = Kind(getattr, setattr, "".format)
"""An attribute of a cell, a function or an object of C code."""

Way: TypeAlias = tuple[Any, Callable[[Any], str], Any] | str  # Any: another way, and a key
"""The way to a value: from where, by which step, with which key; or a name."""


def name_of(way: Way) -> str:
    """Return the text of a way, such as ``app.shop.lock``."""
    steps = []
    while not isinstance(way, str):
        way, step, key = way
        steps.append(step(key))
    return way + "".join(reversed(steps))
