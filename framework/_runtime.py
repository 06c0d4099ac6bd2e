"""The assembled frameworks of this process, and which of them is current.

The only state of the process itself: the running frameworks, the test's override, and
the policies of code outside any framework.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields

from framework._clock import SystemClock
from framework._context import current_home
from framework._ledger import Home
from framework._manager import TaskManager
from framework._policies import Policies, standalone
from framework._pool import ThreadPoolExecutorEnhanced
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import Clock, Interceptor, TaskEngine, TaskStore

POOL_NAME = "asyncframe-"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an app asks for; None where it leaves the default."""

    max_workers: int | None = None
    task_timeout: float | None = None
    queue_size: int | None = None
    result_ttl: float | None = None
    max_finished_tasks: int | None = None
    cleanup_interval: float | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a framework is put together from; None for the default of each."""

    clock: Clock | None = None
    pool: ThreadPoolExecutorEnhanced | None = None
    store: TaskStore | None = None
    engine: TaskEngine | None = None
    interceptor: Interceptor | None = None
    new_id: Callable[[], str] | None = None
    rng: random.Random | None = None


class Framework:
    """One pool, clock, store and engine, and the manager on top of them.

    What is not given is made here and ended by `close`; what is given belongs to its giver.
    """

    def __init__(self, parts: Parts, limits: Limits) -> None:
        self._own_clock = SystemClock() if parts.clock is None else None
        self.clock: Clock = self._own_clock if parts.clock is None else parts.clock  # type: ignore[assignment]  # one of the two
        self._own_pool = parts.pool is None
        self.pool = (
            ThreadPoolExecutorEnhanced(limits.max_workers, POOL_NAME, clock=self.clock)
            if parts.pool is None
            else parts.pool
        )
        self.manager = TaskManager(
            self.pool,
            clock=self.clock,
            store=parts.store,
            engine=parts.engine,
            interceptor=parts.interceptor,
            new_id=parts.new_id,
            rng=parts.rng,
        )
        self._limits: Limits | None = None
        self._apply(limits)

    def adopt(self, limits: Limits) -> None:
        """Take over the limits of an app that sets itself up under a test's override.

        Raises:
            ValueError: If another app has asked for other limits before.
        """
        if self._limits is not None and self._limits != limits:
            differing = [
                field.name
                for field in fields(limits)
                if getattr(self._limits, field.name) != getattr(limits, field.name)
            ]
            raise ValueError(
                "two apps under one test share its framework and must ask for the same "
                f"limits; they differ in {', '.join(differing)}"
            )
        self._limits = limits
        self._apply(limits)

    def _apply(self, limits: Limits) -> None:
        manager = self.manager
        if limits.task_timeout is not None:
            manager.task_timeout = limits.task_timeout
        bounds = [bound for bound in (limits.queue_size, self.pool.queue_size) if bound]
        if bounds:
            manager.ledger.queue_size = min(bounds)
        if limits.result_ttl is not None:
            manager.result_ttl = limits.result_ttl
        if limits.max_finished_tasks is not None:
            manager.runner.max_finished = limits.max_finished_tasks
        if limits.cleanup_interval is not None:
            manager.cleanup_interval = limits.cleanup_interval
        if limits.max_workers is not None:
            self.pool.crew.max_workers = limits.max_workers

    def open(self, home: Home) -> None:
        """Let tasks belong to *home*, and begin if it is the first."""
        # The latest app comes first: it is the one meant where nothing else says so.
        self.manager.homes.insert(0, home)
        with _LOCK:
            if self is not _STATE.override and self not in _STATE.running:
                _STATE.running.append(self)
        self.manager.start()

    def leave(self, home: Home) -> None:
        """Take *home*, which is drained, off the list."""
        if home in self.manager.homes:
            self.manager.homes.remove(home)

    def close(self, patience: float) -> None:
        """End everything that was made here; blocks for at most *patience* seconds.

        Threads that are still busy after it no longer keep the process from ending.
        """
        with _LOCK:
            if self in _STATE.running:
                _STATE.running.remove(self)
        self.manager.stop()
        if self._own_pool:
            stats = self.pool.get_stats()
            bare_calls = stats["busy"] or stats["queued"]
            self.pool.shutdown(timeout=patience if bare_calls else min(patience, _SETTLE))
            self.pool.shutdown(wait=False, cancel_futures=True)
        if self._own_clock is not None:
            self._own_clock.close()

    def forget(self) -> None:
        """Refuse everything in a forked child."""
        self.manager.forget()
        if self._own_clock is not None:
            self._own_clock.forget_thread()


_SETTLE = 0.25
"""Seconds that idle threads get to end; one that needs longer runs on past a limit."""


class _State:
    """What the process knows; changed under `_LOCK`."""

    def __init__(self) -> None:
        self.running: list[Framework] = []
        self.override: Framework | None = None
        self.forked = False
        self.standalone: Policies | None = None


_LOCK = threading.Lock()
_STATE = _State()


def override() -> Framework | None:
    """Return the framework of the test that runs, or None outside one."""
    return _STATE.override


def set_override(framework: Framework | None) -> None:
    """Begin or end a test's override.

    Raises:
        RuntimeError: If one has begun already.
    """
    with _LOCK:
        if framework is not None and _STATE.override is not None:
            raise RuntimeError(
                "override_framework() is active already: one test has one framework; leave "
                "the first override before the next one"
            )
        _STATE.override = framework


def find_manager() -> TaskManager | None:
    """Return the manager that is meant here, or None if there is none or no telling."""
    if _STATE.override is not None:
        return _STATE.override.manager
    home = current_home.get()
    if home is not None:
        manager: TaskManager = home.manager
        if manager.ledger.state not in _ENDED:
            return manager
    running = _STATE.running
    return running[0].manager if len(running) == 1 else None


_ENDED = ("stopped", "forked")


def get_task_manager() -> TaskManager:
    """Return the task manager of the framework that is current here.

    That is a test's, else that of the app whose request or task this is, else the only
    one running in the process. From any thread.

    Raises:
        FrameworkNotStartedError: If there is none, or several and no telling which.
    """
    manager = find_manager()
    if manager is None:
        raise FrameworkNotStartedError(_why_none())
    return manager


def get_thread_pool() -> ThreadPoolExecutorEnhanced:
    """Return the thread pool of the framework that is current here; see `get_task_manager`.

    Raises:
        FrameworkNotStartedError: If there is none, or several and no telling which.
    """
    return get_task_manager().pool


def find_policies() -> Policies:
    """Return the state of retries and throttles here: a manager's, else the process's."""
    manager = find_manager()
    if manager is not None:
        return manager.policies
    found = _STATE.standalone
    if found is None:
        with _LOCK:
            found = _STATE.standalone = _STATE.standalone or standalone()
    return found


def _why_none() -> str:
    if _STATE.forked:
        return "forked"
    if len(_STATE.running) > 1:
        return "ambiguous"
    return "not started" if current_home.get() is None else "stopped"


def _after_fork_in_child() -> None:
    global _LOCK  # noqa: PLW0603  # the old one may be held by a thread that is not here
    _LOCK = threading.Lock()
    for framework in _STATE.running:
        framework.forget()
    _STATE.forked = bool(_STATE.running)
    _STATE.running = []
    _STATE.override = None
    _STATE.standalone = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
