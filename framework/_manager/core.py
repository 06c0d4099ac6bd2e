"""Core: what a manager is put together from, and how that begins and ends.

Lock order: none of its own.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress

from framework._manager.cleanup import CleanUp
from framework._manager.delays import Delays
from framework._manager.elsewhere import Elsewhere
from framework._manager.intake import Intake
from framework._manager.schedules import Schedules
from framework._manager.settings import Settings
from framework._running.coroutines import runs_of
from framework._running.endings import Endings
from framework._running.ledger import Ledger
from framework._running.log import log_final, report_unread
from framework._running.pauses import Pauses
from framework._running.policies import Policies, WatchedPolicies
from framework._running.results import Results
from framework._running.runner import Runner
from framework._tasks.records import EVENT_OF
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework._threads.waiters import Mailboxes
from framework.engines.local import LocalEngine
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import Clock, Interceptor, RemoteEngine, TaskEngine, TaskStore

_LOGGER = logging.getLogger("asyncframe")


class Core:
    """The parts of one task manager, put together.

    Args:
        pool: Where sync tasks run; shut down by its creator.
        clock: Time for everything.
        store: Where finished tasks are kept.
        engine: Where tasks run; None for *pool* and the apps' loops.
        interceptor: Takes part in every task; None for nobody.
        new_id: Makes task ids.
        rng: Randomness for jitter.
        settings: How much and how long.
        endings_type: Ends the tasks; a worker of a remote engine has its own.
        policies_type: The state of retries and throttles, without an interceptor.

    Attributes:
        remote: The engine, if its tasks run in other processes.
        elsewhere: Asks for tasks of other processes; None if there can be none.
        manager: What users see of it; set by whoever puts both together.
    """

    manager: object  # a TaskManager, which is made of this

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
        self.remote = engine if isinstance(engine, RemoteEngine) else None
        self.ledger = Ledger(clock, store, settings.queue_size)
        shared = self.ledger.shared
        # The engine's word comes first: the store has it from one who heard the engine.
        directories = [one for one in (self.remote, shared) if one is not None]
        self.elsewhere = Elsewhere(directories, clock, self.boxes) if directories else None
        self.endings = endings_type(self.ledger, self.engine, settings.max_finished_tasks)
        self.runner = Runner(self.endings, self.boxes, self.engine, interceptor)
        self.runner.runs = runs_of(self.runner)
        if self.remote is not None:
            self.endings.retention.forget = self._forget_elsewhere
        pauses = Pauses(self.ledger, self.endings.limits)
        self.policies = (
            policies_type(clock, rng, pauses)
            if interceptor is None
            else WatchedPolicies(clock, rng, pauses, interceptor)
        )
        self.delays = Delays(self.runner)
        self.intake = Intake(
            self.ledger, self.runner, self.delays, self.elsewhere, self.remote, new_id, self
        )
        self.schedules = Schedules(self.intake, rng)
        self.clean_up = CleanUp(self.ledger, self.endings.retention, settings)
        self.apply(settings)
        self.results = Results(self.ledger, self.boxes, self.engine, pool._crew)
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self.ledger.subscribe(log_final, EVENT_OF.values())

    # -- letting tasks go

    def unfollow_remote(self) -> None:
        """Let go of the remote tasks that were published: they go on without this process.

        Whoever waits for one is woken; it is not final.
        """
        for task in self.ledger.unfinished():
            if task.remote and task not in self.delays:
                self.ledger.unfollow(task)
                self.runner.release_clock(task)

    def _forget_elsewhere(self, task_ids: list[str]) -> None:
        """Have finished tasks forgotten by the remote engine, too, a moment later."""
        remote, elsewhere = self.remote, self.elsewhere
        assert remote is not None
        assert elsewhere is not None
        with suppress(FrameworkNotStartedError):  # then it forgets them by their age
            elsewhere.post(lambda: remote.forget(task_ids))

    # -- beginning and ending

    def apply(self, settings: Settings) -> None:
        """Take over other settings; the pool's bound still holds if it is narrower."""
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
        """Begin the periodic clean-up and the schedules; harmless to call twice."""
        self.clean_up.start()
        self.schedules.start()

    def wind_down(self) -> None:
        """Take no tasks any more, start none by itself, and end the sleep of those that retry."""
        self.ledger.wind_down()
        self.clean_up.stop()
        self.schedules.stop()
        self.policies.close()

    def stop(self) -> None:
        """Take no tasks any more and let go of every timer; drain before, if at all.

        Failures that nobody has read are logged. Harmless to call twice.
        """
        if not self.ledger.stop():
            return
        self.policies.close()
        self.clean_up.stop()
        self.schedules.stop()
        self.endings.limits.close()
        if self.elsewhere is not None:
            self.elsewhere.close()
        for record in self.ledger.store.list():
            report_unread(record)

    def after_fork(self) -> None:
        """Refuse everything in a forked child, where neither threads nor loop exist."""
        self.ledger.after_fork()
