"""Frameworks: the running ones of this process, and which of them is current.

The module has the only global state: the running frameworks, the override of a test, and
the policies of code outside any framework.

Guarantees: what is current is decided in one place, `find_core`: the override of a test, which
may be made only then, else the framework of the current app or task, else the only one that
runs.
Relies on: `update_sole` after every change, since most callers only read `STATE.sole`.
Lock order: `_LOCK` guards changes of the state, and nothing else is called while it is held.
Reads take no lock: each field is read once, and a list is replaced, never changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields

from framework._manager.core import Core, Parts
from framework._manager.face.manager import TaskManager
from framework._manager.hosting.host import RemoteHost
from framework._manager.settings import Settings
from framework._running.waits.policies import Policies, standalone
from framework._tasks.live import Home, current_home
from framework._threads.clock import SystemClock
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.exceptions import FrameworkNotStartedError

POOL_NAME = "asyncframe-"


class Framework:
    """One pool, clock, store and engine, with their core and manager.

    It makes the parts that are not passed in and closes them in `close`; parts that are passed
    in are closed by their owner.
    """

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._own_clock: SystemClock | None = None
        clock = parts.clock
        if clock is None:
            clock = self._own_clock = SystemClock()
        self._own_pool = parts.pool is None
        self.pool = parts.pool or ThreadPoolExecutorEnhanced(
            settings.max_workers or None, POOL_NAME, clock=clock
        )
        self.core = Core(parts, settings, self.pool, clock)
        self.core.manager = self.manager = TaskManager(self.core)
        self._adopted: Settings | None = None

    def connect(self) -> None:
        """Open the shared store and the remote engine, if there are any; blocks.

        Raises:
            Exception: If one of them cannot be opened; then none stays open.
        """
        host = RemoteHost(self.core)
        self.core.others.learned = host.learned
        with ExitStack() as opened:
            for one in (self.core.ledger.shared, self.core.remote):
                if one is not None:
                    one.open(host)
                    opened.callback(one.close, 0.0)
            opened.pop_all()

    def hand_over(self, patience: float) -> None:
        """Publish the tasks that wait for the broker, and stop following all others; blocks.

        Args:
            patience: How many seconds to wait for the broker at most, 0 or more.
        """
        if self.core.remote is not None:
            self.core.remote.close(patience)
            self.core.unfollow_remote()

    def adopt(self, settings: Settings) -> None:
        """Apply the settings of an app that is set up while this is a test's override.

        Raises:
            ValueError: If another app of the test uses different settings.
        """
        if self._adopted is not None and self._adopted != settings:
            differing = [
                field.name
                for field in fields(settings)
                if field.compare
                and getattr(self._adopted, field.name) != getattr(settings, field.name)
            ]
            raise ValueError(
                "apps in one test share its framework and must use the same "
                f"settings; they differ in {', '.join(differing)}"
            )
        self._adopted = settings
        self.core.apply(settings)

    def add_rules(self, home: Home, parts: Parts) -> None:
        """Add the rules of an app's own *parts*, which this framework replaces."""
        if self.core.rules is not None:
            self.core.rules.add(home, parts.engine, parts.store)

    def open(self, home: Home, *, schedules: bool = True) -> None:
        """Accept tasks for *home*, and start the framework if it is the first home.

        Args:
            home: The home of an app.
            schedules: Whether to run scheduled functions and the periodic clean-up.
        """
        # The home first: once the framework is current, tasks may be submitted.
        self.core.intake.add_home(home)
        with _LOCK:
            if self is not STATE.override and self not in STATE.running:
                STATE.running = [*STATE.running, self]
                STATE.open = [*STATE.open, self]
            STATE.update_sole()
        if schedules:
            self.core.start()

    def leave(self, home: Home) -> None:
        """Remove *home*, which has been drained."""
        homes = self.core.intake.homes
        if home in homes:
            homes.remove(home)

    def close(self, patience: float) -> None:
        """Stop for good and close the parts made here; blocks for *patience* seconds at most.

        Threads that are still busy then do not keep the process from exiting.
        """
        with _LOCK:
            STATE.running = [one for one in STATE.running if one is not self]
            STATE.update_sole()
        self.core.stop()
        if self.core.ledger.shared is not None:
            self.core.ledger.shared.close(max(patience, _LAST_WORDS))
        # Not earlier: while the last tasks end, another framework must not become the sole one.
        with _LOCK:
            STATE.open = [one for one in STATE.open if one is not self]
            STATE.update_sole()
        if self._own_pool:
            stats = self.pool.get_stats()
            bare_calls = stats["busy"] or stats["queued"]
            self.pool.shutdown(timeout=patience if bare_calls else min(patience, _SETTLE))
            # What is left after the timeout is dropped.
            self.pool.shutdown(wait=False, cancel_futures=True)
        if self._own_clock is not None:
            self._own_clock.close()

    def after_fork(self) -> None:
        """Accept no more tasks in a forked child, which has none of the threads."""
        self.core.ledger.after_fork()
        if self._own_clock is not None:
            self._own_clock.forget_thread()


_LAST_WORDS = 2.0
"""Least number of seconds for a shared store to write how tasks have ended."""

_SETTLE = 0.25
"""How many seconds idle threads get to end; one that takes longer is stuck in a task."""


class _State:
    """The state of the process; changed with `_LOCK` held.

    Attributes:
        running: The frameworks that have been opened and not been closed.
        open: The same, and those whose `close` is not finished.
        override: The framework of a test, which is current everywhere; None outside a test.
        promise: Makes the override when something first uses it; None if nothing promised one.
        sole: The core that is current everywhere, since there is no other; None if it depends
            on the context.
        forked: Whether this is the child of a process that had a framework.
        standalone: The policies of code outside any framework; None until they are used.
    """

    def __init__(self) -> None:
        self.running: list[Framework] = []
        self.open: list[Framework] = []
        self.override: Framework | None = None
        self.promise: Promise | None = None
        self.sole: Core | None = None
        self.forked = False
        self.standalone: Policies | None = None

    def update_sole(self) -> None:
        """Set `sole` after a change of the others."""
        if self.override is not None:
            self.sole = self.override.core
        elif self.promise is not None:
            self.sole = None
        elif len(self.open) == 1 and self.open == self.running:
            self.sole = self.open[0].core
        else:
            self.sole = None


class Promise:
    """The override of a test, made when something first uses a framework; on any thread.

    Args:
        make: Makes it, by `set_override`; called once at the most.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        # Whoever asks meanwhile waits for it.
        self._lock = threading.RLock()
        self.is_settled = False

    def keep(self) -> None:
        """Make the override if this is the first time."""
        with self._lock:
            if not self.is_settled:
                self.is_settled = True
                self._make()

    def withdraw(self) -> None:
        """From now on, never make the override."""
        with self._lock:
            self.is_settled = True
            # It may refer to whoever refers to this.
            self._make = lambda: None


_LOCK = threading.Lock()
STATE = _State()


def override() -> Framework | None:
    """Return the framework of the running test, which is made now if need be; None outside one."""
    promise = STATE.promise
    if promise is not None and STATE.override is None:
        promise.keep()
    return STATE.override


def set_promise(promise: Promise | None) -> None:
    """Set what makes the override of a test; None ends that.

    Raises:
        RuntimeError: If there is an override or a promise already.
    """
    with _LOCK:
        _check_alone(promise)
        STATE.promise = promise
        STATE.update_sole()


def set_override(framework: Framework | None) -> None:
    """Set the override of a test; None ends it.

    Raises:
        RuntimeError: If there is an override already.
    """
    with _LOCK:
        _check_alone(framework)
        STATE.override = framework
        STATE.update_sole()


@contextmanager
def without_override() -> Iterator[None]:
    """Let what starts inside the block have frameworks of its own, and not the test's."""
    with _LOCK:
        kept = STATE.override, STATE.promise
        STATE.override = STATE.promise = None
        STATE.update_sole()
    try:
        yield
    finally:
        with _LOCK:
            STATE.override, STATE.promise = kept
            STATE.update_sole()


def _check_alone(new: object | None) -> None:
    promise = STATE.promise
    if new is not None and (
        STATE.override is not None or (promise is not None and not promise.is_settled)
    ):
        raise RuntimeError(
            "override_framework() is already active, and a test has one framework: leave the "
            "first override before the next one, or replace it with "
            "override_framework(nested=True)"
        )


def find_core() -> Core | None:
    """Return the current core; None if there is none, or if it is ambiguous."""
    core, forced = STATE.sole, STATE.override
    if core is not None:
        return core
    if forced is None and STATE.promise is not None:
        forced = override()
    if forced is not None:
        return forced.core
    home = current_home.get()
    if home is not None:
        own = home.core
        assert isinstance(own, Core)
        if not own.ledger.has_ended:
            return own
    running = STATE.running
    return running[0].core if len(running) == 1 else None


def require_core() -> Core:
    """Return the current core.

    Raises:
        FrameworkNotStartedError: If no framework is running, or several are running and this
            code does not run inside one of them.
    """
    core = find_core()
    if core is None:
        raise FrameworkNotStartedError(_why_none())
    return core


def get_task_manager() -> TaskManager:
    """Return the current task manager.

    In a request or task it is the manager of that app, in a test with the plugin the test's
    manager, and elsewhere the only one that is running. You may call it on any thread.

    Raises:
        FrameworkNotStartedError: If no framework is running, or several are running and this
            code does not run inside one of them.
    """
    manager = require_core().manager
    assert isinstance(manager, TaskManager)
    return manager


def get_thread_pool() -> ThreadPoolExecutorEnhanced:
    """Return the thread pool of the current task manager; see `get_task_manager`.

    Raises:
        FrameworkNotStartedError: If no framework is running, or several are running and this
            code does not run inside one of them.
    """
    return require_core().pool


def find_policies() -> Policies:
    """Return the policies of the current manager, or those of code outside any framework."""
    core = find_core()
    if core is not None:
        return core.policies
    found = STATE.standalone
    if found is None:
        with _LOCK:
            found = STATE.standalone = STATE.standalone or standalone()
    return found


def _why_none() -> str:
    if STATE.forked:
        return "forked"
    if len(STATE.running) > 1:
        return "ambiguous"
    return "not started" if current_home.get() is None else "stopped"


def _after_fork_in_child() -> None:
    global _LOCK  # noqa: PLW0603  # a thread that the child does not have may hold the old one
    _LOCK = threading.Lock()
    for framework in STATE.running:
        framework.after_fork()
    STATE.forked = bool(STATE.running)
    STATE.running = []
    STATE.open = []
    STATE.override = None
    STATE.promise = None
    STATE.sole = None
    STATE.standalone = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
