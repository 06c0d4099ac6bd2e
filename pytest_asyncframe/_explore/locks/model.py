"""Locks that a paused actor can hold without blocking the process, and how actors wait for them.

Guarantees:
    A modelled lock wraps a real one, which alone says whether it is taken. So code that has
    the real lock and code that has the model exclude each other.
    On an actor of the run that is controlled, a lock that is taken makes the actor no option
    until the lock is free, and its timeout passes on the virtual clock. On other threads,
    and outside of a run, a modelled lock waits as the real one does.
Relies on:
    `Turns.block` and `Points.point`; the frames of threads, to say where each waits.
    One actor runs at a time, so a lock that was free when an actor got its turn is free when
    it takes it, unless a thread that is no actor was faster.
Lock order:
    The sequencer's lock may be held when `is_free` is called, which takes none.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn

from pytest_asyncframe._explore.locks.origins import Origin
from pytest_asyncframe._locations import where_is
from pytest_asyncframe._turns.actors import Actor, TestEndedError
from pytest_asyncframe._turns.hearing import Listeners
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._clock import nanoseconds

# Not looked up later, since the names in these modules are replaced.
allocate = _thread.allocate_lock
REAL_LOCK: type[object] = type(allocate())
REAL_RLOCK: type[object] = _thread.RLock

_SPINS = 100
"""How often an actor may try in vain to take a lock before some time passes."""

_SPIN_NS = 1_000_000
"""The virtual time that passes then, in nanoseconds."""


class _Current:
    """The run at present.

    Attributes:
        control: Lets its actors wait; None outside of runs.
        makes: Whether the locks that are made now are modelled.
    """

    control: Control | None = None
    makes: bool = False

    @property
    def hears(self) -> bool:
        """Whether somebody hears in the present run what orders its actors."""
        return self.control is not None and bool(self.control.listeners)


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
        elif control.take(self, actor, _waiting_time(blocking, timeout)):
            self.holder = actor
        else:
            return False
        self._tell_acquired()
        return True

    def release(self) -> None:
        """Release the lock; see `threading.Lock.release`."""
        if self._release_once() and current.control is not None:
            current.control.released(self)

    def _tell_acquired(self) -> None:
        if current.control is not None:
            current.control.listeners.acquired(self)

    def _tell_released(self) -> None:
        # Before it is free, or the next holder would not know.
        if current.control is not None:
            current.control.listeners.released(self)

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

    def free_from_dead(self) -> None:
        """Let the lock be free if its holder belonged to a process that has died."""
        if isinstance(self.holder, Actor) and self.holder.is_gone:
            self._at_fork_reinit()

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
        self._tell_released()
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
        self._tell_acquired()


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
        self._tell_released()
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
            self._tell_released()
        return self.real._release_save()

    def _acquire_restore(self, state: object) -> None:
        holder = self._await_free()
        self.real._acquire_restore(state)
        self.holder = holder
        self._tell_acquired()


def _waiting_time(blocking: object, timeout: float) -> float:
    """Return how long to wait, -1 for without end; raise what a real lock raises."""
    if blocking is True and timeout == -1:
        return -1
    # A lock that is free does not wait, but checks what it is given.
    allocate().acquire(blocking, timeout)  # type: ignore[arg-type]  # that is what it checks
    return timeout if blocking else 0


class Control:
    """Lets the actors of a run wait for modelled locks.

    Args:
        sequencer: The run's sequencer.
        note: Called with a text for the timeline when actors wait for each other, which a
            time limit may end before nothing else can happen.
        points: Whether others may run before a lock is taken and after it is released.

    Attributes:
        points: See above.
        sequencer: See above.
        listeners: Who hears of locks that are taken and released.
    """

    # Why there are points on both sides: before it is taken, others may take it first, which
    # finds deadlocks. After it is released, others may run before what should have been done
    # while it was held. Inside of it, whoever uses the lock could not run anyway.

    def __init__(
        self, sequencer: Sequencer, note: Callable[[str], object], *, points: bool
    ) -> None:
        self.sequencer: Sequencer = sequencer
        self.listeners: Listeners = sequencer.listeners
        self._note = note
        self.points: bool = points
        self._waits: dict[Actor, LockWait] = {}
        self._endless: dict[Actor, LockWait] = {}  # those without a timeout
        # What each actor has tried to take in vain, without waiting, and how often in a row.
        self._vain: dict[Actor, tuple[Modelled, int]] = {}

    def actor(self) -> Actor | None:
        """Return the actor of the calling thread; None if it waits in real time."""
        return self.sequencer.here

    def take(self, lock: Modelled, actor: Actor, timeout: float) -> bool:
        """Take the real lock on an actor; return whether that was possible.

        Args:
            lock: The lock.
            actor: The calling thread's.
            timeout: Virtual seconds to wait; 0 for not at all, -1 for without end.
        """
        if lock.origin.has_points:
            # Others may notice it, also where it is no point.
            actor.was_seen = True
            # Who has to wait lets others run anyway.
            if self.points and (lock.holder is None or timeout >= 0):
                self.sequencer.point("lock", lock.origin.acquire)
        if lock.real.acquire(False):
            if self._vain:
                self._vain.pop(actor, None)
            return True
        if not timeout:
            return self._tried_in_vain(lock, actor)
        until = None if timeout < 0 else self.sequencer.now + nanoseconds(timeout)
        while self._wait(lock, actor, until):
            if lock.real.acquire(False):
                return True
        return False

    def _wait(self, lock: Modelled, actor: Actor, until: int | None) -> bool:
        """Wait until a lock is free; False once nanosecond *until* has come."""
        wait = self._waits[actor] = LockWait(self.sequencer, lock, actor)
        if until is None:
            self._endless[actor] = wait
            self._tell_circle(actor)
        try:
            return self.sequencer.block(actor, lock.is_free, until, wait)
        finally:
            self._waits.pop(actor, None)
            self._endless.pop(actor, None)

    def _tell_circle(self, actor: Actor) -> None:
        """Note it if *actor* waits for others that wait for it."""
        circle: dict[Actor, LockWait] = {}
        holder: object = actor
        while isinstance(holder, Actor) and holder not in circle and holder in self._endless:
            circle[holder] = self._endless[holder]
            holder = circle[holder].lock.holder
        # Of one alone: another one may release what it holds.
        if holder is actor and len(circle) > 1:
            waits = (f"{one.identity} waits {wait}" for one, wait in circle.items())
            self._note(f"deadlock: {'; '.join(waits)}")

    def _tried_in_vain(self, lock: Modelled, actor: Actor) -> bool:
        """Let some time pass for an actor that does nothing but try; return False."""
        before, times = self._vain.get(actor, (lock, 0))
        times = times + 1 if before is lock else 1
        self._vain[actor] = lock, times % _SPINS
        if times == _SPINS:
            self._wait(lock, actor, self.sequencer.now + _SPIN_NS)
        return False

    def await_free(self, lock: Modelled, actor: Actor) -> None:
        """Wait on an actor until a lock is free, which it takes then."""
        while not lock.is_free():
            ended = sys.exception()
            if isinstance(ended, TestEndedError):
                # Who holds it may have ended long ago.
                raise ended
            self._wait(lock, actor, None)

    def released(self, lock: Modelled) -> None:
        """Let others run after the calling thread has released a lock."""
        actor = self.actor()
        if actor is None:
            # Only actors see to it that the next one runs.
            if self._waits:
                self.sequencer.dispatch()
        elif lock.origin.has_points:
            actor.was_seen = True
            if self.points:
                self.sequencer.point("lock", lock.origin.released)


class LockWait:
    """The lock that an actor waits for, and its holder; for messages.

    Args:
        sequencer: The run's sequencer.
        lock: The lock.
        actor: The actor that waits.

    Attributes:
        lock: See above.
    """

    def __init__(self, sequencer: Sequencer, lock: Modelled, actor: Actor) -> None:
        self._sequencer = sequencer
        self.lock: Modelled = lock
        self._actor = actor

    def __str__(self) -> str:
        """Return ``for app.lock, made at app.py:3, held by ...``, as it is now."""
        return f"for {self.lock.origin}, {self._holder()}"

    def _holder(self) -> str:
        holder, actors = self.lock.holder, self._sequencer.actors
        if holder is None:
            return "held by code that is not controlled"
        ident = holder if isinstance(holder, int) else holder.ident
        actor = actors.get(ident)
        if isinstance(holder, Actor) and actor is not holder:
            return f"held by {holder.identity}, which has ended"
        if actor is self._actor:
            # A coroutine that waits does not let go of what its thread has.
            elsewhere = ", maybe in another coroutine of its event loop"
            return "held by itself" + (elsewhere if self._actor.loop is not None else "")
        location = where_is(sys._current_frames(), ident)
        if actor is not None:
            return f"held by {actor.identity}, which waits at {location}"
        thread = threading._active.get(ident)  # type: ignore[attr-defined]  # no dead ones
        if thread is None:
            return "held by a thread that has ended"
        return f"held by {thread.name}, which is at {location}"
