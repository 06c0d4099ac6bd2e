"""Locks that a paused actor can hold without blocking the process.

Guarantees:
    A modelled lock wraps a real one, which alone says whether it is taken. So code that has
    the real lock and code that has the model exclude each other.
    On an actor of the run that is controlled, a lock that is taken makes the actor no option
    until the lock is free, and its timeout passes on the virtual clock. On other threads,
    and outside of a run, a modelled lock waits as the real one does.
Relies on:
    `Turns.block`. One actor runs at a time, so a lock that was free when an actor got its
    turn is free when it takes it, unless a thread that is no actor was faster.
Lock order:
    The sequencer's lock may be held when `is_free` is called, which takes none.
"""

from __future__ import annotations

import _thread
import os
import sys
from abc import abstractmethod
from typing import Any, NoReturn, Protocol

from pytest_asyncframe._explore.locks.origins import Origin
from pytest_asyncframe._turns.actors import Actor, TestEndedError

# Not looked up later, since the names in these modules are replaced.
allocate = _thread.allocate_lock
REAL_LOCK: type[object] = type(allocate())
REAL_RLOCK: type[object] = _thread.RLock


class Control(Protocol):
    """Lets the actors of a run wait for modelled locks."""

    def actor(self) -> Actor | None:
        """Return the actor of the calling thread; None if it waits in real time."""
        ...

    def take(self, lock: Modelled, actor: Actor, timeout: float) -> bool:
        """Take the real lock on an actor; return whether that was possible.

        Args:
            lock: The lock.
            actor: The calling thread's.
            timeout: Virtual seconds to wait; 0 for not at all, -1 for without end.
        """
        ...

    def await_free(self, lock: Modelled, actor: Actor) -> None:
        """Wait on an actor until a lock is free, which it takes then."""
        ...

    def released(self, lock: Modelled) -> None:
        """Let others run after the calling thread has released a lock."""
        ...


class _Current:
    """The run at present.

    Attributes:
        control: Lets its actors wait; None outside of runs.
        makes: Whether the locks that are made now are modelled.
    """

    control: Control | None = None
    makes: bool = False


current = _Current()
"""One for the process, since locks are kept in caches and so outlive runs and tests."""


def _forget_run() -> None:
    current.control = None
    current.makes = False


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows cannot fork
    os.register_at_fork(after_in_child=_forget_run)


class Modelled:
    """What both kinds of modelled locks have in common.

    Args:
        real: The real lock.
        origin: Its name and where it was made.

    Attributes:
        real: See above.
        origin: See above.
        holder: Who took it last, an actor or the identifier of a thread; None if it is free,
            or was taken without the model. For messages only.
    """

    __slots__ = ("__weakref__", "holder", "origin", "real")

    def __init__(self, real: Any, origin: Origin) -> None:  # Any: its methods are private
        self.real = real
        self.origin: Origin = origin
        self.holder: Actor | int | None = None

    # So that `isinstance` goes on working.
    @property  # type: ignore[misc]  # a property, as mocks have it
    def __class__(self) -> type[Any]:
        return type(self.real)

    @abstractmethod
    def is_free(self) -> bool:
        """Return whether nobody holds the lock. Takes no lock."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; see `threading.Lock.acquire`."""
        control = current.control
        actor = None if control is None else control.actor()
        if control is None or actor is None:
            if not self.real.acquire(blocking, timeout):
                return False
            self.holder = _thread.get_ident()
            return True
        if not control.take(self, actor, _waiting_time(blocking, timeout)):
            return False
        self.holder = actor
        return True

    def release(self) -> None:
        """Release the lock; see `threading.Lock.release`."""
        if self._release_once() and current.control is not None:
            current.control.released(self)

    @abstractmethod
    def _release_once(self) -> bool:
        """Release the lock once; return whether it is free now."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        if kind is TestEndedError:
            self._leave()
        else:
            self.release()

    def _leave(self) -> None:
        """Release the lock where the test has ended, without letting others run."""
        # Not if a wait has ended without it, since its holder may never release it.
        if self._is_owned():
            self._release_once()

    @abstractmethod
    def _is_owned(self) -> bool:
        """Return whether the calling thread has the lock, as a condition asks for it."""

    def _await_free(self) -> Actor | int:
        """Wait until the lock is free if this thread is an actor; return who takes it."""
        control = current.control
        actor = None if control is None else control.actor()
        if control is None or actor is None:
            return _thread.get_ident()
        control.await_free(self, actor)
        return actor

    def _at_fork_reinit(self) -> None:
        self.holder = None
        self.real._at_fork_reinit()

    def __repr__(self) -> str:
        return repr(self.real)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        kind = type(self.real)
        raise TypeError(f"cannot pickle '{kind.__module__}.{kind.__name__}' object")


class ModelLock(Modelled):
    """A lock that can be used in place of one of `threading.Lock`; see `Modelled`."""

    __slots__ = ()

    def locked(self) -> bool:
        """Return whether the lock is taken."""
        return bool(self.real.locked())

    def is_free(self) -> bool:
        """Return whether nobody holds the lock. Takes no lock."""
        return not self.real.locked()

    def _release_once(self) -> bool:
        # Before it is free, or it might overwrite the next holder.
        self.holder = None
        self.real.release()
        return True

    acquire_lock = Modelled.acquire
    release_lock = Modelled.release
    locked_lock = locked

    # For conditions, which otherwise try to take a lock to see whether it is taken.

    def _is_owned(self) -> bool:
        return bool(self.real.locked())

    def _release_save(self) -> None:
        self._release_once()

    def _acquire_restore(self, state: object) -> None:
        holder = self._await_free()
        self.real.acquire()
        self.holder = holder


class ModelRLock(Modelled):
    """A lock that can be used in place of one of `threading.RLock`; see `Modelled`."""

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, or take it once more; see `threading.RLock.acquire`."""
        # Taking it once more makes no difference to others, so it is no point.
        if self.real._is_owned():
            return bool(self.real.acquire(blocking, timeout))
        return super().acquire(blocking, timeout)

    def is_free(self) -> bool:
        """Return whether nobody holds the lock. Takes no lock."""
        if sys.version_info >= (3, 14):
            return not self.real.locked()
        # There is no other way to ask a lock that another thread may have.
        return self.holder is None and not repr(self.real).startswith("<locked")

    if sys.version_info >= (3, 14):

        def locked(self) -> bool:
            """Return whether the lock is taken."""
            return bool(self.real.locked())

    def _release_once(self) -> bool:
        holder, real = self.holder, self.real
        if not real._is_owned():
            real.release()  # raises an error
        self.holder = None
        real.release()
        if not real._is_owned():
            return True
        self.holder = holder
        return False

    # For conditions.

    def _is_owned(self) -> bool:
        return bool(self.real._is_owned())

    def _recursion_count(self) -> int:
        return int(self.real._recursion_count())

    def _release_save(self) -> object:
        if self.real._is_owned():
            self.holder = None
        return self.real._release_save()

    def _acquire_restore(self, state: object) -> None:
        holder = self._await_free()
        self.real._acquire_restore(state)
        self.holder = holder


def _waiting_time(blocking: object, timeout: float) -> float:
    """Return how long to wait, -1 for without end; raise what a real lock raises."""
    if blocking is True and timeout == -1:
        return -1
    # A lock that is free does not wait, but checks what it is given.
    allocate().acquire(blocking, timeout)  # type: ignore[arg-type]  # that is what it checks
    return timeout if blocking else 0
