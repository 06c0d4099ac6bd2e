"""Which locks of a run are modelled: those that the test's and the app's code makes.

The locks of `threading` and `queue` objects are modelled too, where such code makes the
object. Those of the machinery that a run stands on stay real: it never lets others run while
it holds one. Modelled, but without points, are the locks of logging handlers, which are held
while the user's code formats what is logged. Where somebody hears what orders the actors, so are
those of the futures of `concurrent.futures`.

Relies on: the first frame outside of `threading` and `queue`, to tell who makes a lock.
"""

from __future__ import annotations

import _thread
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from pytest_asyncframe._explore.locks import databases, model
from pytest_asyncframe._explore.locks.origins import OF_A_FUTURE, OF_A_HANDLER, Origin, made_by
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._patched import queues

_THROUGH = ("threading", "queue")
"""Modules that make locks for their callers."""

_MACHINERY = frozenset(
    {
        *("framework", "pytest_asyncframe", "concurrent", "asyncio", "logging", "anyio"),
        *("selectors", "weakref", "importlib", "multiprocessing", "subprocess", "tempfile"),
        *("_frozen_importlib", "_frozen_importlib_external", "sniffio"),
        *("pytest", "_pytest", "pluggy", "pytest_asyncio", "pytest_timeout", "xdist", "execnet"),
        *("coverage", "hypothesis", "time_machine", "freezegun"),
    }
)
"""Packages whose locks stay real."""

_THREAD_INIT = threading.Thread.__init__.__code__
_CREATE_LOCK = logging.Handler.createLock.__code__
_FUTURE_INIT = Future.__init__.__code__


def is_machinery(module: object) -> bool:
    """Whether the locks of a module stay real, given its name."""
    return str(module).partition(".")[0] in _MACHINERY


def _origin_of(kind: str, caller: FrameType) -> Origin | None:
    """Return the origin of a lock that is made for *caller*; None if it stays real."""
    maker: FrameType | None = caller
    while maker is not None and maker.f_globals.get("__name__") in _THROUGH:
        if maker.f_code is _THREAD_INIT:
            # It tells a thread's start, which takes no virtual time.
            return None
        maker = maker.f_back
    if maker is None:
        return None
    if maker.f_code is _CREATE_LOCK:
        return OF_A_HANDLER
    if maker.f_code is _FUTURE_INIT and model.current.hears:
        return OF_A_FUTURE
    return None if is_machinery(maker.f_globals.get("__name__")) else made_by(kind, maker)


class _StandIn(type):
    """The type of what stands for the real types of locks during a run.

    They are classes, since annotations and `isinstance` use `threading.Lock` as one.
    """

    real: type[Any]  # Any: a lock, whose type has no public name
    make: Callable[..., Any]
    modelled: type[model.Modelled]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        real = cls.make(*args, **kwargs)
        if not model.current.makes:
            return real
        origin = _origin_of(cls.__name__, sys._getframe(1))
        return real if origin is None else cls.modelled(real, origin)

    def __instancecheck__(cls, instance: object) -> bool:
        # A modelled lock says that it is a real one.
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)


class Lock(metaclass=_StandIn):
    """Stands for `threading.Lock`."""

    real = model.REAL_LOCK
    make = model.allocate
    modelled = model.ModelLock


class RLock(metaclass=_StandIn):
    """Stands for `threading.RLock`."""

    real = model.REAL_RLOCK
    make = model.REAL_RLOCK
    modelled = model.ModelRLock


STAND_INS: dict[object, object] = {
    threading.Lock: Lock,
    model.allocate: Lock,
    threading.RLock: RLock,
    model.REAL_RLOCK: RLock,
    queues.REAL_QUEUE: queues.ModelQueue,
}
"""What makes real locks and queues, and what stands for it."""

_NAMES = (
    (threading, ("Lock", "RLock")),
    (_thread, ("allocate_lock", "allocate", "RLock")),
    # Python 3.11 holds one over the function of a cached property.
    (functools, ("RLock",)),
)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let the locks that are made inside the block be models, where they shall be."""
    names = [(vars(module), name) for module, names in _NAMES for name in names]
    before = [(owner, name, owner[name]) for owner, name in names]
    made_before, model.current.makes = model.current.makes, True
    for owner, name, real in before:
        owner[name] = STAND_INS.get(real, real)
    try:
        with queues.stand_ins(_makes_models):
            yield
    finally:
        model.current.makes = made_before
        for owner, name, real in before:
            owner[name] = real


def _makes_models(caller: FrameType) -> bool:
    """Whether a queue that is made by a frame is modelled."""
    return not is_machinery(caller.f_globals.get("__name__"))


@contextmanager
def controlled(
    sequencer: Sequencer, note: Callable[[str], object], *, points: bool
) -> Iterator[None]:
    """Let the locks of a run be modelled, and its actors wait for them, inside the block.

    After it, the actors that are left wait as before, but there are no more points.

    Args:
        sequencer: The run's sequencer.
        note: See `model.Control`.
        points: See `model.Control`.
    """
    control = model.current.control = model.Control(sequencer, note, points=points)
    with nullcontext() if model.current.makes else stand_ins(), queues.controlled(sequencer):
        try:
            with databases.controlled():
                yield
        finally:
            control.points = False
