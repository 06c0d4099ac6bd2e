"""The command that works: it runs an app without its server, and takes the tasks that wait."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from framework._manager.frameworks import STATE, Framework
from framework._manager.hosting.role import ROLE, WorkerRole
from framework._records.checks import nearest
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework.cli._apps import serving_app
from framework.cli._health import answering
from framework.cli._lifespan import Lifespan
from framework.cli._mistakes import GOOD, USAGE, CommandError
from framework.cli._screen import Screen
from framework.cli._sources import APP
from framework.protocols import TaskStore

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)
)
"""What ends a worker in order. On Windows nothing sends SIGTERM, but Ctrl+Break sends SIGBREAK."""


def worker(screen: Screen, arguments: Namespace) -> int:
    """Run an app without its server until a signal comes, and drain it.

    Raises:
        CommandError: If there is no such app, or it has no tasks that a worker can take.
    """
    name = arguments.app or os.environ.get(APP)
    if not name:
        raise CommandError(
            f"which app? Name it as for uvicorn, asyncframe worker module:app, or set {APP}", USAGE
        )
    if os.getpid() == 1:
        # While it imports the app, nothing else would end it.
        for one in _SIGNALS:
            signal.signal(one, _at_once())
    asyncio.run(_work(name, arguments, screen))
    return GOOD


def _store(url: str | None) -> TaskStore | None:
    """Return the store that is named; None if none is.

    Raises:
        CommandError: If there can be no such store.
    """
    if url is None:
        return None
    try:
        from framework.stores.sql import SQLStore

        return SQLStore(url, durable=True)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(str(error).replace("url must", "--store must"), USAGE) from None


def _checked(only: list[str] | None) -> frozenset[str] | None:
    """Return the names of functions, which the app must have."""
    if only is None:
        return None
    known = registry.names()
    for name in only:
        if name not in known:
            raise CommandError(
                f"the app has no function {name!r}; it has "
                f"{', '.join(sorted(known)) or 'none'}{nearest(name, known)}",
                USAGE,
            )
    return frozenset(only)


async def _work(name: str, arguments: Namespace, screen: Screen) -> None:
    # While the loop runs, as uvicorn imports it: an app may want the loop when it is made.
    lifespan = Lifespan(serving_app(name, by_factory=arguments.factory), name)
    ROLE.set(WorkerRole(arguments.max_workers, _checked(arguments.only), _store(arguments.store)))
    stop, frameworks = asyncio.Event(), list[Framework]()

    def why_not() -> str:
        if not frameworks:
            return "starting"
        return "stopping" if stop.is_set() else _fault(frameworks)

    with _signals(stop):
        async with answering(arguments.health_port, why_not):
            await _run(lifespan, name, stop, frameworks, screen)
    _say(screen, f"{name} has stopped: {_ended(frameworks)}")


async def _run(
    lifespan: Lifespan,
    name: str,
    stop: asyncio.Event,
    frameworks: list[Framework],
    screen: Screen,
) -> None:
    """Run the app until it is to stop; its frameworks are put into the list."""
    await lifespan.start()
    # A task group of the app's lifespan may have failed, and no framework runs any more.
    lifespan.at_end(stop.set)
    try:
        frameworks += _frameworks(name)
        # What the app consists of stays until the process ends. Each look for garbage would go
        # through all of it again, which took an eighth of the CPU time of short tasks.
        gc.collect()
        gc.freeze()
        _say(screen, f"{name} is ready: {'; '.join(_places(one) for one in frameworks)}")
        await stop.wait()
        running = sum(one.core.ledger.running for one in frameworks)
        what = "1 task is" if running == 1 else f"{running} tasks are"
        _say(screen, f"{name} is stopping, {what} running")
    finally:
        # Whoever called this in a process of their own, such as a test, goes on after it.
        gc.unfreeze()
        await lifespan.stop()


def _fault(frameworks: list[Framework]) -> str:
    """Return which store of the app fails; "" if none does."""
    failing = [part for one in frameworks for part, why in one.core.faults().items() if why]
    return f"the {failing[0]} fails" if failing else ""


def _frameworks(name: str) -> list[Framework]:
    """Return the frameworks of the app, which has started.

    Raises:
        CommandError: If there is none whose tasks a worker could take.
    """
    running = STATE.running
    if not running:
        raise CommandError(
            f"{name} has started, but runs no framework: add it to the app, "
            "FastAPI(lifespan=setup_async_framework(store=SQLStore(url)))"
        )
    able = [one for one in running if one.core.requeued.is_possible]
    if not able:
        engine = running[0].core.remote
        raise CommandError(
            f"{name} leaves its tasks to {type(engine).__name__}: start the workers of that"
            if engine is not None
            else f"{name} has no store that other processes share, so there is nothing to take: "
            "setup_async_framework(app, store=SQLStore(url))"
        )
    return able


def _places(framework: Framework) -> str:
    """Say what a framework takes, and from where."""
    core = framework.core
    known = registry.names() if core.only is None else sorted(core.only)
    most, count = core.pool._crew.max_workers, len(known)
    what = ", ".join(known) if core.only is not None else f"{count} function{'s' * (count != 1)}"
    return (
        f"process {os.getpid()} takes tasks of {what} from {core.ledger.store!r}, "
        f"up to {most} on threads and {most} on the loop"
    )


def _ended(frameworks: list[Framework]) -> str:
    """Say how the tasks of this process have ended."""
    ledgers = [one.core.ledger for one in frameworks]
    counts = {
        status: sum(ledger.ended[status] for ledger in ledgers)
        for status in TaskStatus
        if status.is_final
    }
    told = [f"{count} {status}" for status, count in counts.items() if count]
    return ", ".join(told) or "it had no task"


def _say(screen: Screen, text: str) -> None:
    try:
        screen.write(f"asyncframe worker: {text}")
        # At once, also into a pipe: whoever started it waits for that.
        screen.flush()
    except OSError:  # who reads it has gone, or its disk is full; the tasks go on
        screen.drop()


def _at_once() -> Callable[[int, object], object] | signal.Handlers:
    """Return the handler of a signal that ends this process at once."""
    if os.getpid() != 1:
        return signal.SIG_DFL
    # The first process of a container, which Linux spares what a signal does by default.
    return lambda number, _: os._exit(128 + number)


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Set *stop* at the first signal to end; the second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def told(*_: object) -> None:
        for one in _SIGNALS:
            signal.signal(one, _at_once())
        loop.call_soon_threadsafe(stop.set)

    before = {one: signal.signal(one, told) for one in _SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
