"""What a test toolkit needs: a framework put together from the test's own parts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from framework._core import Limits
from framework._manager import TaskManager
from framework._pool import ThreadPoolExecutorEnhanced
from framework._runtime import Framework, Parts, set_override
from framework.protocols import Clock, Interceptor, TaskEngine, TaskStore

__all__ = ["override_framework"]


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
) -> Iterator[TaskManager]:
    """Make one framework current in the whole process, for one test.

    ``get_task_manager()``, the decorators and every ``setup_async_framework(app)`` inside
    use it: the limits that apps ask for apply, their clock, executor, store and engine do
    not. Each app still drains its own tasks when it stops. It is no context variable,
    since test clients and runners run the app in contexts of their own.

    Args:
        clock: Time for everything; None for the system's.
        engine: Where tasks run; None for *pool* and the apps' loops.
        pool: Threads, shut down by you; None for one that ends with the override.
        store: Where finished tasks are kept; None for memory.
        interceptor: Takes part in every task; None for nobody.
        new_id: Makes task ids; None for random ones.
        rng: Randomness for jitter; None for a generator of its own.

    Yields:
        The manager.

    Raises:
        RuntimeError: If an override is active already.
    """
    parts = Parts(
        clock=clock,
        pool=pool,
        store=store,
        engine=engine,
        interceptor=interceptor,
        new_id=new_id,
        rng=rng,
    )
    framework = Framework(parts, Limits())
    set_override(framework)
    try:
        yield framework.manager
    finally:
        set_override(None)
        framework.close(0.0)
