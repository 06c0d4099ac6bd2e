"""Stand-ins for what a run must control besides locks: threads, event loops and time."""

from __future__ import annotations

import _thread
import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pools
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

from framework._manager import frameworks
from framework._threads import clock as clocks
from pytest_asyncframe._turns.actors import TestEndedError
from tests.explore.ourselves.locks import put
from tests.explore.ourselves.turns import Turns

_EPOCH = 1e9
"""Wall second at which each run begins."""


class ModelLoop(asyncio.BaseEventLoop):
    """An event loop without files, which waits for its turn, on virtual time."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._signalled = False
        self._selector = SimpleNamespace(select=self._select, close=lambda: None)

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._turns.now / 1e9

    def _select(self, timeout: float | None) -> list[object]:
        if timeout is None or timeout > 0:
            until = None if timeout is None else self._turns.now + max(1, round(timeout * 1e9))
            actor = self._turns.here
            assert actor is not None
            self._turns.block(actor, lambda: self._signalled, until, "its event loop")
        self._signalled = False
        return []

    def _process_events(self, _: object) -> None:
        pass

    def _write_to_self(self) -> None:
        self._signalled = True


class Threads:
    """Starts and joins the threads of a run.

    Args:
        turns: The run's.
        begin: Called on each thread first.

    Attributes:
        refused: Whether the system refuses to start a thread.
        left: How many threads have not ended.
    """

    def __init__(self, turns: Turns, begin: Callable[[], object]) -> None:
        self._turns = turns
        self._begin = begin
        self._errors: list[tuple[str, BaseException]] = []
        self._lives: dict[threading.Thread, bool] = {}
        self._ended = threading.Condition()
        self.refused: Callable[[threading.Thread], bool] = lambda _: False
        self.left = 0

    def start(self, thread: threading.Thread) -> None:
        """Start a thread as an actor of the run; see `threading.Thread.start`."""
        if self._turns.here is None:
            raise RuntimeError("a thread was started outside of the run")
        if self.refused(thread):
            raise RuntimeError("can't start new thread")
        self._lives[thread] = True
        self.left += 1
        arrival = self._turns.sequencer.expect(thread.name)

        def run() -> None:
            actor = self._turns.sequencer.enter(arrival, name=thread.name)
            try:
                self._run(thread)
            finally:
                self._lives[thread] = False
                self._turns.sequencer.leave(actor)
                with self._ended:
                    self.left -= 1
                    self._ended.notify()

        _thread.start_new_thread(run, ())

    def _run(self, thread: threading.Thread) -> None:
        ident = _thread.get_ident()
        # Else the current thread would be a dummy.
        active = threading._active  # type: ignore[attr-defined]
        active[ident] = thread
        try:
            if not self._turns.over:
                self._begin()
                thread.run()
        except TestEndedError:
            pass
        except BaseException as error:  # the run fails with it
            self._errors.append((thread.name, error))
        finally:
            del active[ident]

    def join(self, thread: threading.Thread, timeout: float | None = None) -> None:
        """Wait for the end of a thread; see `threading.Thread.join`."""
        turns = self._turns
        turns.point("lock", f"join {thread.name}")
        until = None if timeout is None else turns.now + round(max(timeout, 0) * 1e9)
        actor = turns.here
        assert actor is not None
        if self._lives.get(thread):
            turns.block(actor, lambda: not self._lives[thread], until, f"{thread.name} to end")

    def is_alive(self, thread: threading.Thread) -> bool:
        """Return whether a thread was started and has not ended."""
        return self._lives.get(thread, False)

    def await_ends(self) -> None:
        """Wait, in real time, until all threads have ended; the run is over."""
        with self._ended:
            self._ended.wait_for(lambda: not self.left)

    def error(self, otherwise: str) -> BaseException | None:
        """Return an error for what a thread has raised, else with a text; None for neither."""
        for name, raised in self._errors:
            error = AssertionError(f"{name} raised {raised!r}; {otherwise}".removesuffix("; "))
            error.__cause__ = raised
            return error
        return AssertionError(otherwise) if otherwise else None


@contextmanager
def installed(turns: Turns, threads: Threads) -> Iterator[None]:
    """Use the threads, loops and time of a run inside the block, and a global state of its own."""

    def new_event_loop() -> ModelLoop:
        return ModelLoop(turns)

    time = SimpleNamespace(
        time=lambda: _EPOCH + turns.now / 1e9,
        monotonic=lambda: turns.now / 1e9,
        sleep=lambda seconds: sleep(turns, seconds),
    )
    with ExitStack() as stack:
        for name in ("start", "join", "is_alive"):
            put(stack, threading.Thread, name, _method(getattr(threads, name)))
        put(stack, clocks, "time", time)
        # Kept at the import of the class.
        put(stack, clocks.SystemClock, "monotonic", staticmethod(time.monotonic))
        put(stack, clocks.SystemClock, "sleep", staticmethod(time.sleep))
        put(stack, asyncio, "new_event_loop", new_event_loop)
        put(stack, asyncio.events, "new_event_loop", new_event_loop)
        # The real one would be joined at the end of the process.
        put(stack, pools, "_threads_queues", weakref.WeakKeyDictionary())
        # Field by field: functions that were decorated before keep the object itself.
        for name, value in vars(frameworks._State()).items():
            put(stack, frameworks.STATE, name, value)
        yield


def _method(call: Callable[..., object]) -> Callable[..., object]:
    def method(*args: object, **kwargs: object) -> object:
        return call(*args, **kwargs)

    return method


def sleep(turns: Turns, seconds: float) -> None:
    """Let virtual time pass."""
    actor = turns.here
    assert actor is not None
    turns.block(actor, lambda: False, turns.now + round(seconds * 1e9), "its sleep to end")
