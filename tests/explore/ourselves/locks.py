"""The locks of a run: modelled ones, and one that keeps nobody out.

A lock is known by its name: ``Crew.lock`` for an attribute, ``registry._LOCK`` for a global
variable. All locks of one name are alike.
"""

from __future__ import annotations

import _thread
import linecache
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pools
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from framework._manager import frameworks
from framework._records import records
from framework._tasks import registry
from framework.telemetry import _series
from pytest_asyncframe._explore.locks.model import Modelled, ModelLock, ModelRLock, current
from pytest_asyncframe._explore.locks.origins import Origin, found_in, made_by
from pytest_asyncframe._turns.actors import Actor
from pytest_asyncframe._turns.hearing import Listeners
from tests.explore.ourselves.turns import Turns

Make = Callable[[], Any]
"""Makes a lock of any kind."""

_CONDITION = re.compile(r"\s*self\.(\w+) = threading\.Condition\(threading\.Lock\(\)\)")

_GLOBAL = (
    (pools, "_global_shutdown_lock"),
    (registry, "_LOCK"),
    (records, "_FIRST"),
    (frameworks, "_LOCK"),
    (_series, "_LOCK"),
)


class Control:
    """Lets the threads of a run wait for modelled locks; see `model.Control`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.listeners = Listeners()

    def actor(self) -> Actor | None:
        """Return the actor of the calling thread."""
        return self._turns.here

    def take(self, lock: Modelled, actor: Actor, timeout: float) -> bool:
        """Take a lock, within virtual seconds: 0 for at once, -1 for without end."""
        turns = self._turns
        turns.point("lock", lock.origin.acquire)
        # A moment at least, or who waits for what a rounding has left would wait without end.
        until = None if timeout < 0 else turns.now + max(1, round(timeout * 1e9))
        while not lock.real.acquire(False):
            if not timeout or not turns.block(actor, lock.is_free, until, lock.origin.name):
                return False
        return True

    def await_free(self, lock: Modelled, actor: Actor) -> None:
        """Wait until a lock is free."""
        while not lock.is_free():
            self._turns.block(actor, lock.is_free, None, lock.origin.name)

    def released(self, lock: Modelled) -> None:
        """Do nothing: there is a point at the next line."""


class NoLock:
    """A lock that keeps nobody out, to see what it is needed for.

    Args:
        turns: The run's.
        origin: Its name.
        owned: What a condition is told, which asks before it notifies.
    """

    def __init__(self, turns: Turns, origin: Origin, *, owned: bool) -> None:
        self._turns = turns
        self._origin = origin
        self._owned = owned

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return True."""
        self._turns.point("lock", self._origin.acquire)
        return True

    def release(self) -> None:
        """Do nothing."""

    def locked(self) -> bool:
        """Return False."""
        return False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        pass

    def _is_owned(self) -> bool:
        return self._owned


@contextmanager
def modelled(turns: Turns, without: str | None) -> Iterator[set[str]]:
    """Model all locks that are made inside the block, and the global ones.

    Args:
        turns: The run's.
        without: The name of the locks that keep nobody out; None for none.

    Yields:
        The names of the framework's locks, as they are made.
    """
    names: set[str] = set()

    def maker(kind: str, model: type[Modelled], real: Make, *, owned: bool) -> Make:
        def make() -> Any:
            frame = sys._getframe(1)
            origin = _origin(kind, frame)
            if str(frame.f_globals["__name__"]).startswith("framework."):
                names.add(origin.name)
                if origin.name == without:
                    return NoLock(turns, origin, owned=owned)
            return model(real(), origin)

        return make

    lock = maker("Lock", ModelLock, _thread.allocate_lock, owned=True)
    # A pool asks its own lock whether the calling thread holds it already.
    rlock = maker("RLock", ModelRLock, _thread.RLock, owned=False)
    with ExitStack() as stack:
        for owner, name, make in (
            (threading, "Lock", lock),
            (threading, "_allocate_lock", lock),
            (threading, "RLock", rlock),
        ):
            put(stack, owner, name, make)
        for module, name in _GLOBAL:
            origin = found_in(module, f"{module.__name__.rpartition('.')[2]}.{name}")
            if module is not pools:
                names.add(origin.name)
            model = ModelLock(_thread.allocate_lock(), origin)
            no_lock = NoLock(turns, origin, owned=True)
            put(stack, module, name, no_lock if origin.name == without else model)
        put(stack, current, "control", Control(turns))
        yield names


def _origin(kind: str, frame: FrameType) -> Origin:
    """Return the origin of a lock; that of a condition has the name of the condition."""
    origin = made_by(kind, frame)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    condition = _CONDITION.match(line)
    if condition is None:
        return origin
    owner = frame.f_code.co_qualname.rpartition(".")[0]
    return Origin(f"{owner}.{condition[1]}", lambda: "")


def put(stack: ExitStack, owner: Any, name: str, new: object) -> None:
    """Replace an attribute until *stack* is closed."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, new)
