"""The threads of anyio: time stands still while they work for the actors of a test.

Relies on: ``to_thread.run_sync`` giving a thread to a call right after it has entered the
limiter, and leaving the limiter when its awaiter continues.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from pytest_asyncframe._turns.actors import Arrival
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._loop import VirtualLoop
from pytest_asyncframe.clock._patched.call_names import name_of_call
from pytest_asyncframe.clock._patched.present import Present, Replaced

_Portal = Callable[..., AbstractContextManager[Any]]


def counted() -> Iterator[Replaced]:
    """Yield the replacements that count calls on anyio's threads, and its portals."""
    yield _module("to_thread"), "run_sync", _run_sync
    yield _module("from_thread"), "start_blocking_portal", _portal


def _module(name: str) -> Any:  # Any: a module, whose functions are replaced
    # Imported here, since only tests with virtual time need it.
    return sys.modules.get(f"anyio.{name}") or importlib.import_module(f"anyio.{name}")


def _portal(present: Present, real: _Portal) -> _Portal:
    @functools.wraps(real)
    @contextmanager
    def start_blocking_portal(
        backend: str = "asyncio", backend_options: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[Any]:
        clock = present.clock
        sequencer, arrival = clock.sequencer, None
        if sequencer.here is not None and backend == "asyncio":
            arrival = sequencer.expect("loop")
            chosen = {"loop_factory": clock.new_event_loop, **(backend_options or {})}
            factory = functools.partial(_announced, sequencer, chosen["loop_factory"], arrival)
            backend_options = {**chosen, "loop_factory": factory}
        made = real(backend, backend_options, **options)
        with ExitStack() as stack:
            try:
                # It waits on the clock, so that the portal's thread gets its turn.
                portal = stack.enter_context(made)
            finally:
                sequencer.give_up(arrival)
            yield portal

    return start_blocking_portal


def _announced(
    sequencer: Sequencer, factory: Callable[[], asyncio.AbstractEventLoop], arrival: Arrival
) -> asyncio.AbstractEventLoop:
    """Return a new loop; if it is on the clock, its thread is the announced one."""
    loop = factory()
    if isinstance(loop, VirtualLoop):
        # Until it is closed: its runner runs it several times, and in between others would
        # run or not, as chance has it.
        loop.ending.callback(sequencer.leave, sequencer.enter(arrival))
    return loop


def _run_sync(present: Present, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    async def run_sync(
        func: Callable[..., Any], *args: Any, limiter: Any = None, **options: Any
    ) -> Any:
        sequencer = present.clock.sequencer
        if sequencer.here is None:
            return await real(func, *args, limiter=limiter, **options)
        call = _CountedCall(sequencer, limiter, name_of_call(func, args))
        return await real(call.run, func, args, limiter=call, **options)

    return run_sync


class _CountedCall:
    """One function on a thread of anyio's, and the limiter that it waits for.

    Its thread is announced once the limiter lets it start, and not before: time has to move
    while the holders of the limiter sleep. The thread is an actor until it has woken the
    loop that waits for the result.
    """

    def __init__(self, sequencer: Sequencer, limiter: Any, name: str) -> None:
        self._sequencer = sequencer
        self._name = name
        self._limiter = limiter
        self._arrival: Arrival | None = None

    async def __aenter__(self) -> None:
        if self._limiter is None:
            self._limiter = _module("to_thread").current_default_thread_limiter()
        await self._limiter.__aenter__()
        self._arrival = self._sequencer.expect(self._name)

    async def __aexit__(self, *error: object) -> Any:
        # Its awaiter may have been cancelled before the thread started.
        self._sequencer.give_up(self._arrival)
        return await self._limiter.__aexit__(*error)

    def run(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run *func* on anyio's thread, as an actor."""
        actor = self._sequencer.enter(self._arrival)
        try:
            return func(*args)
        finally:
            self._sequencer.leave_after_wake(actor)
