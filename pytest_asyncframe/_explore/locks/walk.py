"""A walk to the locks that can be reached from a module, and how models take their place.

Relies on: `type` and the dictionaries of objects alone, so that it runs none of their code.
"""

from __future__ import annotations

import functools
import itertools
import queue
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeAlias

from pytest_asyncframe._explore.locks.making import STAND_INS, is_machinery
from pytest_asyncframe._explore.locks.model import (
    REAL_LOCK,
    REAL_RLOCK,
    Modelled,
    ModelLock,
    ModelRLock,
)
from pytest_asyncframe._explore.locks.origins import found_in
from pytest_asyncframe._seen.reach import attributes_of

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


_MOST_VALUES = 50_000
"""How many objects are looked through; takes some 50 ms."""

_MOST_ITEMS = 1_000
"""How many items of a container are looked at."""

_STEPS = 2
"""How many instances of other packages may lie one behind the other on the way to a lock."""

_ON_LOCKS = (
    *(threading.Condition, threading.Semaphore, threading.Event, threading.Barrier),
    *(queue.Queue, functools.cached_property),
)
"""Classes of the standard library whose instances have locks that others wait for."""

_OF_THREADS = ("_started", "_tstate_lock", "_handle", "_stderr")
"""Attributes of threads that are not the user's."""

_BOUND = ("acquire", "release", "locked")
_SAVING = ("_release_save", "_acquire_restore", "_is_owned")
"""What a condition takes from its lock when it is made; the latter only if it has them."""

_ATOMS = frozenset({*(int, float, complex, bool, str, bytes, bytearray), *(type(None), range)})
"""Types without attributes, for speed."""

_WRAPPERS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget",),
    MethodType: ("__self__", "__func__"),
    functools.partial: ("func", "args", "keywords"),
}
"""What to look through in functions that are wrapped."""

FACTORIES = {id(real): stand_in for real, stand_in in STAND_INS.items()}
_FACTORY_TYPES = frozenset(type(real) for real in STAND_INS)


class Walk:
    """A walk through objects, each of them once.

    Args:
        own: The names of the modules under the root directory.
        models: The models of the locks that were found so far, by the `id` of the real one.

    Attributes:
        exchanges: What was found.
    """

    def __init__(self, own: Collection[str], models: dict[int, Modelled]) -> None:
        self._own = own
        self._models = models
        self._module: ModuleType | None = None
        self._seen: set[int] = set()
        # What is yet to be looked through, the way to it, and the steps that are left there.
        self._ahead: list[tuple[Any, Way, int]] = []
        self.exchanges: list[Exchange] = []

    def through_module(self, module: ModuleType) -> None:
        """Look through the globals of a module, and what can be reached from there."""
        self._module = module
        self._seen.add(id(vars(module)))
        self._dictionary(vars(module), module.__name__, _STEPS, NAME)
        self._go_on()

    def through(self, name: str, value: object) -> None:
        """Look through an object that no module refers to."""
        self._module = None
        self._meet(value, name, _STEPS)
        self._go_on()

    def _go_on(self) -> None:
        while self._ahead and len(self._seen) < _MOST_VALUES:
            value, way, steps = self._ahead.pop()
            try:
                self._look_into(value, way, steps)
            except RuntimeError:
                # Another thread has changed its size.
                continue

    def _meet(
        self,
        value: Any,
        way: Way,
        steps: int,
        kind: Kind | None = None,
        owner: Any = None,
        key: Any = None,
    ) -> None:
        """Note a lock, or what makes locks; put off what is to be looked through.

        Args:
            value: What was met.
            way: The way to its owner.
            steps: How many instances of other packages may still follow.
            kind: How its owner holds it; None if it cannot be exchanged.
            owner: See `Exchange`.
            key: See `Exchange`.
        """
        if type(value) in _ATOMS:
            return
        if kind is not None:
            way = (way, kind.step, key)
        model = self._model_of(value, way)
        if model is not GONE:
            if kind is not None:
                self.exchanges.append(Exchange(kind, owner, key, value, model))
        elif id(value) not in self._seen:
            self._seen.add(id(value))
            self._ahead.append((value, way, steps))

    def _model_of(self, value: Any, way: Way) -> Any:
        """Return what stands for a lock, or for what makes locks; `GONE` for anything else."""
        kind = type(value)
        if kind is REAL_LOCK or kind is REAL_RLOCK:
            model = self._models.get(id(value))
            if model is None:
                model_type = ModelLock if kind is REAL_LOCK else ModelRLock
                model = model_type(value, found_in(self._module, name_of(way)))
                self._models[id(value)] = model
            return model
        return FACTORIES.get(id(value), GONE) if kind in _FACTORY_TYPES else GONE

    def _look_into(self, value: Any, way: Way, steps: int) -> None:
        kind = type(value)
        if issubclass(kind, type):
            self._class(value, way, steps)
        elif kind is FunctionType:
            self._function(value, way, steps)
        elif kind in _WRAPPERS:
            for name in _WRAPPERS[kind]:
                self._meet(getattr(value, name), way, steps)
        else:
            self._items(value, way, steps)
            if kind.__module__ != "builtins":
                self._instance(value, way, steps)

    def _items(self, owner: Any, way: Way, steps: int) -> None:
        kind = type(owner)
        if issubclass(kind, dict):
            self._dictionary(owner, way, steps, ENTRY)
            if kind is defaultdict:
                self._meet(owner.default_factory, way, steps, ATTRIBUTE, owner, "default_factory")
        elif issubclass(kind, (list, deque, tuple, set, frozenset)):
            held = MEMBER if issubclass(kind, list) else None
            for number, one in enumerate(itertools.islice(owner, _MOST_ITEMS)):
                self._meet(one, way, steps, held, owner, number)

    def _dictionary(self, owner: Any, way: Way, steps: int, kind: Kind) -> None:
        for key, value in itertools.islice(list(dict.items(owner)), _MOST_ITEMS):
            self._meet(value, way, steps, kind, owner, key)

    def _class(self, owner: type, way: Way, steps: int) -> None:
        if owner.__module__ in self._own:
            for name, value in list(vars(owner).items()):
                self._meet(value, way, steps, CLASS, owner, name)

    def _function(self, owner: FunctionType, way: Way, steps: int) -> None:
        if owner.__module__ not in self._own:
            return
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # it has no value yet
            self._meet(value, (way, str, f".{name}"), steps, ATTRIBUTE, cell, "cell_contents")
        self._defaults(owner, way, steps)
        for names in (owner.__kwdefaults__, vars(owner), _globals_of_its_own(owner)):
            if names and id(names) not in self._seen:
                self._seen.add(id(names))
                self._dictionary(names, way, steps, NAME)

    def _defaults(self, owner: FunctionType, way: Way, steps: int) -> None:
        real = owner.__defaults__ or ()
        models = [self._model_of(one, way) for one in real]
        if any(one is not GONE for one in models):
            pairs = zip(models, real, strict=True)
            model = tuple(old if new is GONE else new for new, old in pairs)
            self.exchanges.append(Exchange(ATTRIBUTE, owner, "__defaults__", real, model))
        for one in real:
            self._meet(one, way, steps)

    def _instance(self, owner: Any, way: Way, steps: int) -> None:
        kind = type(owner)
        module, names = kind.__module__, attributes_of(owner)
        if issubclass(kind, _ON_LOCKS):
            self._dictionary(names, way, steps, INNER)
            self._condition(names, way)
            return
        if module in self._own:
            steps = _STEPS
        elif steps and not is_machinery(module):
            steps -= 1
        else:
            return
        is_thread = issubclass(kind, threading.Thread)
        for key, value in list(names.items()):
            if not (is_thread and key in _OF_THREADS):
                self._meet(value, way, steps, NAME, names, key)
        for slot in slots_of(kind):
            try:
                value = slot.__get__(owner)
            except AttributeError:
                continue  # it has no value
            self._meet(value, way, steps, SLOT, owner, slot)

    def _condition(self, names: dict[str, Any], way: Way) -> None:
        """Exchange what a condition has taken from its lock."""
        model = self._model_of(names.get("_lock"), way)
        if model is not GONE:
            for name in [*(one for one in _BOUND if one in names), *_SAVING]:
                bound = getattr(model, name)
                self.exchanges.append(Exchange(INNER, names, name, names.get(name, GONE), bound))


def slots_of(kind: type) -> list[MemberDescriptorType]:
    """Return the descriptors of the slots that instances of a class have."""
    return [
        slot
        for one in kind.__mro__
        for slot in vars(one).values()
        if type(slot) is MemberDescriptorType
    ]


def _globals_of_its_own(function: FunctionType) -> dict[str, Any] | None:
    """Return the globals of generated code, as attrs makes it; None for those of a module."""
    names = function.__globals__
    module = sys.modules.get(str(names.get("__name__")))
    return None if module is not None and vars(module) is names else names
