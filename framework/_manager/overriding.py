"""Overriding: one framework that is current in the whole process, for a test or a replay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framework._manager.core import Parts
from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import STATE, Framework, override, set_override
from framework._manager.settings import Settings
from framework._manager.submitting.tested import AppRules
from framework._tasks.live import Home
from framework._threads.pool import ThreadPoolExecutorEnhanced
from framework.protocols import Clock, Interceptor, TaskEngine, TaskStore
from framework.protocols._features import features_of


@contextmanager
def override_framework(
    *,
    clock: Clock | None = None,
    engine: TaskEngine | None = None,
    pool: ThreadPoolExecutorEnhanced | None = None,
    store: TaskStore | None = None,
    interceptor: Interceptor | None = None,
    new_id: Callable[[], str] | None = None,
    rng: random.Random | None = None,
    asking_clock: Clock | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
    nested: bool = False,
    app_rules: bool = False,
    offers: bool = False,
) -> Iterator[TaskManager]:
    """Make one framework current in the whole process, for a test.

    ``get_task_manager()``, the decorators and every ``setup_async_framework(app)`` inside the
    block use it. The settings of an app apply, but not its clock, executor, store or engine.
    Each app still drains its own tasks when it stops. Schedules that are created inside the
    block, and not by an import, end with it. The override is not a context variable, because
    test clients and runners run the app in other contexts.

    Args:
        clock: Source of all time; None for the system's clock.
        engine: What runs the tasks; None for *pool* and the apps' event loops.
        pool: Thread pool, which you shut down; None for one that ends with the override.
        store: Where finished tasks are kept; None for memory.
        interceptor: Takes part in every task; None for no interceptor.
        new_id: Creates task ids; None for random ones.
        rng: Random generator for jitter; None for a new one.
        asking_clock: Time of the questions to *store* about tasks of other processes, which are
            asked on a thread; None for real time, since these processes have no other.
        loop: Event loop for ``async def`` tasks that threads submit while no app is set up;
            None for no loop.
        nested: Whether it may replace an active override, which becomes current again
            afterwards. Tasks of the outer override continue, and use this one meanwhile.
        app_rules: Whether to apply the rules of an app's own engine and store to its tasks
            although both are replaced: what they would refuse is refused, and arguments
            and results are converted as they would be; see `protocols.TaskRules` and
            `protocols.SharedStore.settle`.
        offers: Whether it has no workers, and leaves its tasks to other processes that share
            *store*, as an app with ``max_workers=0`` does; see `follow`.

    Yields:
        The manager.

    Raises:
        RuntimeError: If an override is active already and *nested* is false.
    """
    shared = features_of(store).shared
    settle = None if shared is None else shared.settle
    parts = Parts(
        clock=clock,
        pool=pool,
        store=store,
        engine=engine,
        interceptor=interceptor,
        rules=AppRules(settle) if app_rules else None,
        new_id=new_id,
        rng=rng,
        asking_clock=asking_clock,
    )
    framework = Framework(parts, Settings(max_workers=0 if offers else None))
    # Also outside of requests, since a test may call there what a request calls in production.
    framework.core.guard.refuse_where(lambda: True)
    if loop is not None:
        framework.core.intake.add_home(Home(framework.core, None, loop))
    before = override() if nested else None
    if nested:
        set_override(None)
    set_override(framework)
    try:
        framework.connect()
        yield framework.manager
    finally:
        # Unless it was abandoned: what belongs to it is as it was then.
        if STATE.override is framework:
            set_override(None)
            framework.hand_over(0.0)
            framework.close(0.0)
            set_override(before)
