"""Core: the parts of a task manager, and how they start and stop.

Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress

from framework._manager.cleanup import CleanUp
from framework._manager.others.elsewhere import Elsewhere
from framework._manager.scene import LiveScene
from framework._manager.scheduling.schedules import Schedules
from framework._manager.settings import Settings
from framework._manager.submitting.delays import Delays
from framework._manager.submitting.intake import Intake
from framework._manager.submitting.places import Places
from framework._records.statuses import EVENT_OF, FAILURES
from framework._running.coroutines import runs_of
from framework._running.endings import Endings
from framework._running.ledger import Ledger
from framework._running.log import log_attempt, log_final, report_unread
from framework._running.results import Results
from framework._running.runner import Runner
from framework._running.waits.pauses import Pauses
from framework._running.waits.permits import Permits
from framework._running.waits.policies import Policies, WatchedPolicies
from framework._running.waits.shared_windows import SharedPolicies
from framework._tasks.live import Sleeper
from framework._threads.clock import SystemClock
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.waiters import Mailboxes
from framework.engines.local import LocalEngine
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import (
    Clock,
    Interceptor,
    RemoteEngine,
    RequeueStore,
    TaskEngine,
    TaskStore,
)
from framework.protocols._features import features_of

_LOGGER = logging.getLogger("asyncframe")


class Core:
    """The parts of one task manager.

    Args:
        pool: Where sync tasks run; its owner shuts it down.
        clock: Source of all time.
        store: Where finished tasks are kept.
        engine: Where tasks run; None for *pool* and the event loops of the apps.
        interceptor: Takes part in every task; None for none.
        new_id: Returns a new task id.
        rng: Source of jitter.
        settings: Limits and intervals.
        endings_type: Class that ends the tasks; a worker of a remote engine has its own.
        policies_type: Class of the policies, unless there is an interceptor.

    Attributes:
        remote: The engine, if its tasks run in other processes; otherwise None.
        abilities: What *remote* can do besides.
        elsewhere: Looks for tasks of other processes; None if there can be none.
        scene: What is needed to say why a task waits.
        permits: Starts tasks that other processes may take over; None if none may.
        takes_over: Whether the app has started, so that tasks of ended processes may run.
        manager: The public face of this core; set by `frameworks.Framework`.
        hubs: What `framework.http` keeps for each event loop on which tasks are streamed.
    """

    manager: object  # a TaskManager, whose module imports this one

    def __init__(
        self,
        *,
        pool: ThreadPoolExecutorEnhanced,
        clock: Clock,
        store: TaskStore,
        engine: TaskEngine | None,
        interceptor: Interceptor | None,
        new_id: Callable[[], str],
        rng: random.Random,
        settings: Settings,
        endings_type: type[Endings] = Endings,
        policies_type: type[Policies] = Policies,
    ) -> None:
        self.pool = pool
        self.clock = clock
        self.rng = rng
        self.boxes = Mailboxes()
        self.engine: TaskEngine = LocalEngine(pool, self.boxes) if engine is None else engine
        # The method first: the check of a protocol takes as long as all else here together.
        may_be_remote = hasattr(engine, "request_cancel")
        self.remote = engine if may_be_remote and isinstance(engine, RemoteEngine) else None
        abilities = self.abilities = features_of(self.remote)
        self.ledger = Ledger(clock, store, settings.queue_size)
        self.ledger.interceptor = interceptor
        shared = self.ledger.shared
        # The engine first, since it knows more: the store gets its news from it.
        directories = [one for one in (self.remote, shared) if one is not None]
        self.elsewhere = Elsewhere(directories, clock, self.boxes) if directories else None
        self.endings = endings_type(self.ledger, self.engine, settings.max_finished_tasks)
        self.runner = Runner(self.endings, self.boxes, self.engine, interceptor)
        self.runner.runs = runs_of(self.runner)
        self.runner.use_levels = pool._crew.use_levels
        self.permits = self._permits(self.ledger.features.requeue)
        if self.remote is not None:
            self.endings.retention.forget = self._forget_elsewhere
        self.policies = self._policies(policies_type, Pauses(self.ledger, self.endings.limits))
        places = abilities.places or self.ledger.features.places
        self.places = Places(self.runner, self.elsewhere, places, pool._crew.waits)
        self.delays = self.places.delays = Delays(self.runner, self.places.start)
        self.intake = Intake(
            self.ledger,
            self.runner,
            self.delays,
            self.places,
            self.elsewhere,
            self.remote,
            new_id,
            self,
        )
        self.intake.permits = self.permits
        if self.permits is not None:
            self.permits.forget = self.intake.forget
        self.places.cancel_pending = self.intake.cancel_pending
        book = self.ledger.features.schedules or abilities.schedules
        self.schedules = Schedules(self.intake, rng, book, self.elsewhere)
        self.clean_up = CleanUp(self.ledger, self.endings.retention, settings)
        self.apply(settings)
        self.scene = LiveScene(self.ledger, self.engine)
        self.results = Results(self.ledger, self.boxes, self.engine, pool._crew)
        self.results.elsewhere = self.elsewhere
        self.takes_over = False
        self.hubs: dict[asyncio.AbstractEventLoop, object] = {}
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self.ledger.subscribe(log_final, EVENT_OF.values())
            self.ledger.subscribe(log_attempt, ("retrying",))

    def _policies(self, own_type: type[Policies], pauses: Pauses) -> Policies:
        """Return the policies, whose windows are shared if the store can do that."""
        interceptor = self.ledger.interceptor
        windows = self.ledger.features.windows
        if interceptor is not None:
            return WatchedPolicies(self.clock, self.rng, pauses, interceptor)
        # No other process lives in virtual time.
        if windows is None or not isinstance(self.clock, SystemClock):
            return own_type(self.clock, self.rng, pauses)
        return SharedPolicies(self.clock, self.rng, pauses, windows, self.boxes)

    # -- tasks of other processes

    def _permits(self, store: RequeueStore | None) -> Permits | None:
        """Return what starts tasks that other processes may take over; None if none may."""
        if self.remote is not None or store is None:
            return None
        permits = Permits(self.runner, store)
        self.runner.permitted = permits.runs
        return permits

    def unfollow_remote(self) -> None:
        """Stop following the remote tasks that the engine has; they go on without this process.

        Their waiters are woken although the tasks are not final.
        """
        for task in self.ledger.unfinished():
            if task.remote and not self.places.keeps(task):
                self.intake.forget_delay(task)
                self.ledger.unfollow(task)
                self.runner.release_clock(task)

    def _forget_elsewhere(self, task_ids: list[str]) -> None:
        """Remove finished tasks from the remote engine too, a moment later."""
        remote, elsewhere = self.remote, self.elsewhere
        assert remote is not None
        assert elsewhere is not None
        with suppress(FrameworkNotStartedError):  # then the engine removes them by age
            elsewhere.post(lambda: remote.forget(task_ids))

    def faults(self) -> dict[str, str]:
        """Return why the ``store`` and the ``broker`` cannot be used now; "" while they work.

        Those that do not tell are left out. Never blocks.
        """
        parts = {"store": self.ledger.features.fallible, "broker": self.abilities.fallible}
        return {name: part.fault() for name, part in parts.items() if part is not None}

    # -- starting and stopping

    def apply(self, settings: Settings) -> None:
        """Apply other settings; a smaller `queue_size` of the pool still applies."""
        own = self.pool.queue_size
        self.ledger.queue_size = (
            settings.queue_size if own is None else min(own, settings.queue_size)
        )
        self.endings.retention.max_finished = settings.max_finished_tasks
        self.clean_up.settings = settings
        limit = self.pool.task_timeout if settings.task_timeout is None else settings.task_timeout
        self.intake.default_limit = None if limit == math.inf else limit
        if settings.max_workers is not None:
            self.pool._crew.max_workers = settings.max_workers

    def start(self) -> None:
        """Start the periodic clean-up and the schedules; may be called twice."""
        self.clean_up.start()
        self.schedules.start()

    def wind_down(self) -> None:
        """Accept and schedule no more tasks, and wake those that sleep in a retry or throttle."""
        for sleeper in self.begin_wind_down():
            sleeper.interrupt()

    def begin_wind_down(self) -> list[Sleeper]:
        """Do as `wind_down` does, but return the sleepers, to be woken in turns of the loop."""
        self.ledger.wind_down()
        self.clean_up.stop()
        self.schedules.stop()
        return self.policies.begin_close()

    def stop(self) -> None:
        """Accept no more tasks and cancel all timers; call it after a drain, if there is one.

        Failures that nobody has read are logged, unless they were before. May be called twice.
        """
        # The ledger first: nothing can be added while the other parts stop.
        if not self.ledger.stop():
            return
        self.policies.close()
        self.clean_up.stop()
        self.schedules.stop()
        self.endings.limits.close()
        if self.elsewhere is not None:
            self.elsewhere.close()
        large = self.ledger.large
        if large is not None:
            report_unread(large.unread())
        else:
            # By status, since most tasks have completed and would be unpacked in vain.
            report_unread(one for status in FAILURES for one in self.ledger.store.list(status))

    def after_fork(self) -> None:
        """Accept no more tasks in a forked child, which has neither the threads nor the loop."""
        self.ledger.after_fork()
