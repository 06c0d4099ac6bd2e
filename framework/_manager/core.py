"""Core: the parts of a task manager, and how they start and stop.

Lock order: none is held here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from framework._manager.cleanup import CleanUp
from framework._manager.others.other_processes import OtherProcesses
from framework._manager.overview import Overview
from framework._manager.resting import Resting
from framework._manager.scene import LiveScene
from framework._manager.scheduling.schedules import Schedules
from framework._manager.settings import Settings
from framework._manager.submitting.durable import Durable
from framework._manager.submitting.guard import Guard
from framework._manager.submitting.headings import Descriptions, Owners
from framework._manager.submitting.held import Chained, Delayed, Limited
from framework._manager.submitting.ids import Children, ChosenIds, Keys
from framework._manager.submitting.intake import Intake
from framework._manager.submitting.offered import Offered
from framework._manager.submitting.partner import Joined, Partner
from framework._manager.submitting.remote import Remote
from framework._manager.submitting.requeued import Requeued
from framework._manager.submitting.tested import AppRules, Intercepted
from framework._manager.submitting.transacted import Transacted
from framework._manager.submitting.unique import Unique
from framework._records.ids import random_id
from framework._records.statuses import EVENT_OF, FAILURES
from framework._running.coroutines import runs_of
from framework._running.endings import Endings
from framework._running.ledger import Ledger
from framework._running.log import log_attempt, log_final, report_unread
from framework._running.results import Results
from framework._running.retention import Retention
from framework._running.runner import Runner
from framework._running.waits.places import Places
from framework._running.waits.policies import Policies, WatchedPolicies
from framework._running.waits.shared_windows import SharedPolicies
from framework._tasks.live import LiveTask, Sleeper
from framework._threads.clock import SystemClock
from framework._threads.loggers import SafeLogger
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.waiters import Mailboxes
from framework.engines.local import LocalEngine
from framework.protocols import (
    Clock,
    Interceptor,
    RemoteEngine,
    TaskEngine,
    TaskStore,
)
from framework.protocols._features import features_of
from framework.steps._resuming import Resuming
from framework.stores.memory import MemoryStore

_LOGGER = SafeLogger("asyncframe")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a framework is made of; None for the default.

    Attributes:
        clock: Source of all time.
        pool: Where sync tasks run.
        store: Where finished tasks are kept.
        engine: Where tasks run; None for *pool* and the event loops of the apps.
        interceptor: Takes part in every task; None for none.
        rules: Those of the apps, whose engines and stores this framework replaces; None for none.
        new_id: Returns a new task id.
        rng: Source of jitter.
        asking_clock: Time of the questions to other processes; None for real time.
        endings_type: Class that ends the tasks; a worker of a remote engine has its own.
        policies_type: Class of the policies, unless there is an interceptor.
        in_place: Whether awaited coroutines run where they are awaited, even with a remote engine.
    """

    clock: Clock | None = None
    pool: ThreadPoolExecutorEnhanced | None = None
    store: TaskStore | None = None
    engine: TaskEngine | None = None
    interceptor: Interceptor | None = None
    rules: AppRules | None = None
    new_id: Callable[[], str] | None = None
    rng: random.Random | None = None
    asking_clock: Clock | None = None
    endings_type: type[Endings] = Endings
    policies_type: type[Policies] = Policies
    in_place: bool = False


class Core:
    """The parts of one task manager.

    Args:
        parts: What it is made of.
        settings: Limits and intervals.
        pool: The pool of *parts*, or one in its place; its owner shuts it down.
        clock: The clock of *parts*, or one in its place.

    Attributes:
        rules: As in *parts*.
        remote: The engine, if its tasks run in other processes; otherwise None.
        abilities: What *remote* can do besides.
        others: Looks for tasks of other processes, if there can be any.
        scene: What is needed to say why a task waits.
        keys, guard, owners, descriptions, children, requeued, chained, durable: The partners that
            others use.
        only: The names of the functions whose tasks and schedules it runs; None for all.
        role: What kind of process it runs in; see `protocols.StoreHost`.
        has_workers: Whether tasks run in this process, or where *remote* runs them.
        takes_over: Whether the app has started, so that tasks that no process has may run.
        manager: The public face of this core; set by `frameworks.Framework`.
        hubs: What `framework.http` keeps for each event loop on which tasks are streamed.
    """

    manager: object  # a TaskManager, whose module imports this one

    def __init__(
        self, parts: Parts, settings: Settings, pool: ThreadPoolExecutorEnhanced, clock: Clock
    ) -> None:
        engine, interceptor, rules = parts.engine, parts.interceptor, parts.rules
        new_id = parts.new_id or random_id
        self.pool, self.clock = pool, clock
        self.rng = parts.rng or random.Random()
        self.rules = rules
        self.boxes = Mailboxes()
        self.engine: TaskEngine = LocalEngine(pool, self.boxes) if engine is None else engine
        # The method first: the check of a protocol takes as long as all else here together.
        may_be_remote = hasattr(engine, "request_cancel")
        self.remote = engine if may_be_remote and isinstance(engine, RemoteEngine) else None
        abilities = self.abilities = features_of(self.remote)
        self.ledger = Ledger(
            clock,
            MemoryStore() if parts.store is None else parts.store,
            settings.queue_size,
            interceptor,
        )
        self.overview = Overview(self.ledger)
        features, shared = self.ledger.features, self.ledger.shared
        # The engine first, since it knows more: the store gets its news from it.
        directories = [one for one in (self.remote, shared) if one is not None]
        self.others = OtherProcesses(directories, clock, self.boxes, parts.asking_clock)
        # From here on, each part is given those before it, and needs none after it.
        places = abilities.places or features.places
        self.places = Places(clock, places, pool._crew.waits)
        forget = None if self.remote is None else partial(self._forget, self.remote)
        retention = Retention(self.ledger, settings.max_finished_tasks, forget)
        settle = None if shared is None else shared.settle
        self.endings = parts.endings_type(
            self.ledger,
            self.engine,
            self.places,
            retention,
            settle if rules is None else rules.convert,
            workers_log=abilities.logging is not None and abilities.logging.logs_failures,
        )
        joined = Joined(rules)
        self.children = Children(
            joined,
            self.ledger,
            lambda: self.requeued.leave_from_within(),  # noqa: PLW0108  # it is made later
            is_remote=self.remote is not None,
        )
        # Before the policies, which it asks for while a task runs.
        self.resuming = Resuming(self.ledger, lambda: self.policies, self.children.expect)
        self.runner = Runner(
            self.endings,
            self.boxes,
            self.engine,
            runs_of,
            pool._crew.queue.use_levels,
            self.resuming.around_attempt,
        )
        self.keys = Keys(joined, self.runner, self.places, self.others, new_id)
        self.guard = Guard(joined)
        self.owners, self.descriptions = Owners(joined), Descriptions(joined)
        requeuing = None if self.remote is not None else features.requeue
        self.requeued = Requeued(self.runner, self.places, requeuing)
        rests = Resting(self.runner, self.places.delays, self.requeued)
        self.policies = self._policies(parts.policies_type, rests)
        remote = None if self.remote is None else Remote(joined, self.remote, abilities.keeping)
        offered = Offered(joined, self.requeued) if settings.max_workers == 0 else None
        self.chained = Chained(
            self.places,
            self.runner,
            self.others,
            rules,
            remote,
            gives_away=offered is not None,
        )
        self.durable = Durable(joined, self.runner, self.requeued, remote, self.others)
        # In the order in which they are asked; see `partner`.
        partners: list[Partner | None] = [
            self.owners,
            self.descriptions,
            self.children,
            ChosenIds(self.ledger),
            Transacted(self.ledger, rules, self._accept, is_remote=self.remote is not None),
            self.chained,
            Unique(self.places, self.runner, self.others),
            # Before what only holds tasks until they run.
            offered,
            Delayed(self.places.delays, self.runner),
            Limited(self.places, self.runner),
            self.requeued,
            None if interceptor is None else Intercepted(joined, interceptor),
            rules,
            remote,
            self.durable,
        ]
        self.intake = Intake(
            self.runner,
            self.places,
            [one for one in partners if one is not None],
            joined,
            self.remote,
            new_id,
            self,
            in_place=parts.in_place or self.remote is None,
        )
        book = features.schedules or abilities.schedules
        self.only, self.role = settings.only, settings.role
        self.schedules = Schedules(self.intake, self.rng, book, self.others, self.only)
        self.clean_up = CleanUp(self.ledger, retention, settings)
        self.has_workers = offered is None
        self.apply(settings)
        self.scene = LiveScene(self.ledger, self.engine)
        self.results = Results(self.runner, pool._crew, self.others)
        self.takes_over, self.hubs = False, dict[asyncio.AbstractEventLoop, object]()
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self.ledger.subscribe(log_final, EVENT_OF.values())
            self.ledger.subscribe(log_attempt, ("retrying",))

    def _policies(self, own_type: type[Policies], rests: Resting) -> Policies:
        """Return the policies, whose windows are shared if the store can do that."""
        interceptor = self.ledger.interceptor
        windows = self.ledger.features.windows
        if interceptor is not None:
            return WatchedPolicies(self.clock, self.rng, self.endings, rests, interceptor)
        # No other process lives in virtual time.
        if windows is None or not isinstance(self.clock, SystemClock):
            return own_type(self.clock, self.rng, self.endings, rests)
        return SharedPolicies(self.endings, self.rng, windows, rests)

    def _accept(self, task: LiveTask) -> None:
        """Submit a task that a partner of submissions has kept back."""
        self.intake.accept(task)

    # -- tasks of other processes

    def unfollow_remote(self) -> None:
        """Stop following the remote tasks that the engine has; they go on without this process.

        Their waiters are woken although the tasks are not final.
        """
        for task in self.ledger.unfinished():
            if task.remote and not self.places.keeps(task):
                self.places.forget_delay(task)
                self.ledger.unfollow(task)
                self.runner.release_clock(task)

    def _forget(self, remote: RemoteEngine, task_ids: list[str]) -> None:
        """Remove finished tasks from the remote engine too, a moment later."""
        # If it has stopped, the engine removes them by age.
        self.others.post(partial(remote.forget, task_ids))

    def faults(self) -> dict[str, str]:
        """Return why the ``store`` and the ``broker`` cannot be used now; "" while they work.

        Those that do not tell are left out. Never blocks.
        """
        parts = {"store": self.ledger.features.fallible, "broker": self.abilities.fallible}
        return {name: part.fault() for name, part in parts.items() if part is not None}

    # -- starting and stopping

    def apply(self, settings: Settings) -> None:
        """Apply other settings; a smaller `queue_size` of the pool still applies."""
        own, most = self.pool.queue_size, settings.queue_size
        self.ledger.queue_size = most if own is None else min(own, most)
        self.endings.retention.max_finished = settings.max_finished_tasks
        self.clean_up.settings = settings
        limit = self.pool.task_timeout if settings.task_timeout is None else settings.task_timeout
        self.intake.default_limit = None if limit == math.inf else limit
        self.descriptions.show_arguments(settings.show_arguments)
        if settings.max_workers:
            self.pool._crew.max_workers = settings.max_workers

    def start(self) -> None:
        """Start the periodic clean-up and the schedules; may be called twice.

        Without workers there are no schedules: those processes run them that have some.
        """
        self.clean_up.start()
        if self.has_workers:
            self.schedules.start()

    def begin_wind_down(self) -> list[Sleeper]:
        """Accept and schedule no more tasks.

        Returns:
            Those that sleep in a retry or a throttle, to be woken in turns of the loop.
        """
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
        self.others.close()
        large = self.ledger.large
        if large is not None:
            report_unread(large.unread())
        else:
            # By status, since most tasks have completed and would be unpacked in vain.
            report_unread(one for status in FAILURES for one in self.ledger.store.list(status))
