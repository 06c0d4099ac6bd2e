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

from framework._manager.app_rules import AppRules
from framework._manager.core import Core
from framework._manager.host import RemoteHost
from framework._manager.manager import TaskManager
from framework._manager.settings import Settings
from framework._running.endings import Endings
from framework._running.policies import Policies, standalone
from framework._tasks.current import current_home
from framework._tasks.ids import random_id
from framework._tasks.live import Home
from framework._threads.clock import SystemClock
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import Clock, Interceptor, TaskEngine, TaskStore
from framework.stores.memory import MemoryStore

POOL_NAME = "asyncframe-"


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
    endings_type: type[Endings] = Endings
    policies_type: type[Policies] = Policies


class Framework:
    """One pool, clock, store and engine, and the core and manager on top of them.

    What is not given is made here and ended by `close`; what is given belongs to its giver.
    """

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._own_clock = SystemClock() if parts.clock is None else None
        clock: Clock | None = parts.clock if self._own_clock is None else self._own_clock
        assert clock is not None
        self._own_pool = parts.pool is None
        self.pool = parts.pool or ThreadPoolExecutorEnhanced(
            settings.max_workers, POOL_NAME, clock=clock
        )
        self.core = Core(
            pool=self.pool,
            clock=clock,
            store=MemoryStore() if parts.store is None else parts.store,
            engine=parts.engine,
            interceptor=parts.interceptor,
            new_id=parts.new_id or random_id,
            rng=parts.rng or random.Random(),
            settings=settings,
            endings_type=parts.endings_type,
            policies_type=parts.policies_type,
        )
        self.core.manager = self.manager = TaskManager(self.core)
        self._adopted: Settings | None = None
        self._rules: AppRules | None = None

    @property
    def reaches_out(self) -> bool:
        """Whether it has a store or an engine that other processes have a part in."""
        return self.core.elsewhere is not None

    def connect(self) -> None:
        """Open a shared store and a remote engine, if there are any; blocks.

        Raises:
            Exception: What they raise if they cannot be used; none is left open then.
        """
        host, shared, remote = RemoteHost(self.core), self.core.ledger.shared, self.core.remote
        if shared is not None:
            shared.open(host)
        try:
            if remote is not None:
                remote.open(host)
        except BaseException:
            if shared is not None:
                shared.close(0.0)
            raise

    def hand_over(self, patience: float) -> None:
        """Publish what waits for the broker, and follow remote tasks no more; blocks.

        Args:
            patience: Most seconds to wait for the broker, 0 or more.
        """
        if self.core.remote is not None:
            self.core.remote.close(patience)
            self.core.release_remote()

    def adopt(self, settings: Settings) -> None:
        """Take over the settings of an app that sets itself up under a test's override.

        Raises:
            ValueError: If another app has asked for other settings before.
        """
        if self._adopted is not None and self._adopted != settings:
            differing = [
                field.name
                for field in fields(settings)
                if getattr(self._adopted, field.name) != getattr(settings, field.name)
            ]
            raise ValueError(
                "apps in one test share its framework and must use the same "
                f"settings; they differ in {', '.join(differing)}"
            )
        self._adopted = settings
        self.core.apply(settings)

    def hold_to(self, rules: AppRules) -> None:
        """Have the rules of apps that are set up under this override kept from now on."""
        self._rules = rules
        self.core.endings.settle = rules.settle

    def take_rules(self, home: Home, parts: Parts) -> None:
        """Hold the tasks of *home* to its app's own *parts*, which this one replaces."""
        if self._rules is not None:
            self._rules.add(home, parts.engine, parts.store)

    def open(self, home: Home, *, schedules: bool = True) -> None:
        """Let tasks belong to *home*, and begin if it is the first.

        Args:
            home: An app's share.
            schedules: Whether to run scheduled functions and the periodic clean-up.
        """
        self.core.intake.add_home(home)
        with _LOCK:
            if self is not _STATE.override and self not in _STATE.running:
                _STATE.running = [*_STATE.running, self]
                _STATE.open = [*_STATE.open, self]
            _STATE.settle()
        if schedules:
            self.core.start()

    def leave(self, home: Home) -> None:
        """Take *home*, which is drained, off the list."""
        homes = self.core.intake.homes
        if home in homes:
            homes.remove(home)

    def close(self, patience: float) -> None:
        """End everything that was made here; blocks for at most *patience* seconds.

        Threads that are still busy after it no longer keep the process from ending.
        """
        with _LOCK:
            _STATE.running = [one for one in _STATE.running if one is not self]
            _STATE.settle()
        self.core.stop()
        if self.core.ledger.shared is not None:
            self.core.ledger.shared.close(max(patience, _LAST_WORDS))
        with _LOCK:
            _STATE.open = [one for one in _STATE.open if one is not self]
            _STATE.settle()
        if self._own_pool:
            stats = self.pool.get_stats()
            bare_calls = stats["busy"] or stats["queued"]
            self.pool.shutdown(timeout=patience if bare_calls else min(patience, _SETTLE))
            self.pool.shutdown(wait=False, cancel_futures=True)
        if self._own_clock is not None:
            self._own_clock.close()

    def forget(self) -> None:
        """Refuse everything in a forked child."""
        self.core.forget()
        if self._own_clock is not None:
            self._own_clock.forget_thread()


_LAST_WORDS = 2.0
"""Seconds that a shared store gets at least: how tasks have ended must be written."""

_SETTLE = 0.25
"""Seconds that idle threads get to end; one that needs longer runs on past a limit."""


class _State:
    """What the process knows; changed under `_LOCK`.

    Attributes:
        running: The frameworks that have begun and not been closed.
        open: The same until they have stopped for good, and the override.
        override: That of a test, which is meant everywhere.
        sole: The core that is meant wherever one asks, since no other could be; None if
            the context must tell.
        forked: Whether this is a child of a process that had a framework.
        standalone: Policies of code outside any framework; None until asked for.
    """

    def __init__(self) -> None:
        self.running: list[Framework] = []
        self.open: list[Framework] = []
        self.override: Framework | None = None
        self.sole: Core | None = None
        self.forked = False
        self.standalone: Policies | None = None

    def settle(self) -> None:
        """Find out anew whether one core is meant everywhere."""
        if self.override is not None:
            self.sole = self.override.core
        elif len(self.open) == 1 and self.open == self.running:
            self.sole = self.open[0].core
        else:
            self.sole = None


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
                "override_framework() is already active, and a test has one framework: leave "
                "the first override before the next one, or replace it with "
                "override_framework(nested=True)"
            )
        _STATE.override = framework
        _STATE.settle()


def find_core() -> Core | None:
    """Return the core that is meant here, or None if there is none or no telling."""
    core, forced = _STATE.sole, _STATE.override
    if core is not None:
        return core
    if forced is not None:
        return forced.core
    home = current_home.get()
    if home is not None:
        own = home.core
        assert isinstance(own, Core)
        if not own.ledger.has_ended:
            return own
    running = _STATE.running
    return running[0].core if len(running) == 1 else None


def require_core() -> Core:
    """Return the core that is meant here.

    Raises:
        FrameworkNotStartedError: If no framework is running, or several are running and this
            code does not run inside one of them.
    """
    core = _STATE.sole or find_core()
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
    """Return the state of retries and throttles here: a manager's, else the process's."""
    core = _STATE.sole or find_core()
    if core is not None:
        return core.policies
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
    _STATE.open = []
    _STATE.override = None
    _STATE.sole = None
    _STATE.standalone = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
