"""The time between SIGTERM and the shutdown of the server, in which it tells that it leaves."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from framework._threads.loggers import SafeLogger

_LOGGER = SafeLogger("asyncframe")


class Leaving:
    """Delays the SIGTERM of the server that runs an app.

    uvicorn stops accepting connections as soon as it gets the signal, so that nobody can be
    told that it is about to. The signal's handler is therefore replaced by one that calls it
    later.

    Args:
        delay: By how many seconds.

    Attributes:
        has_begun: Whether the signal has come.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._is_entered = not delay
        self.has_begun = False

    def require_entered(self) -> None:
        """Log once that the signal is not delayed, if the lifespan has not been entered."""
        if not self._is_entered:
            self._is_entered = True
            _LOGGER.warning(
                "shutdown_delay=%g has no effect: include health_router() in the app that the "
                "server runs, not in one that is mounted",
                self._delay,
            )

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:  # Any: an app of any kind
        """Delay the signal while the app runs; as the lifespan of a router."""
        self.has_begun, self._is_entered = False, True
        served, handler = signal.getsignal(signal.SIGTERM), None
        # On another thread, as in Starlette's test client, there are no signals.
        if threading.current_thread() is threading.main_thread():
            if callable(served) and not _is_of_a_loop(served):
                handler = self._handler(served, asyncio.get_running_loop())
                signal.signal(signal.SIGTERM, handler)
            else:
                _LOGGER.warning(
                    "shutdown_delay=%g has no effect: this server does not handle SIGTERM with a "
                    "function, as uvicorn does",
                    self._delay,
                )
        try:
            yield
        finally:
            if handler is not None and signal.getsignal(signal.SIGTERM) is handler:
                signal.signal(signal.SIGTERM, served)

    def _handler(
        self, served: Callable[[int, FrameType | None], Any], loop: asyncio.AbstractEventLoop
    ) -> Callable[[int, FrameType | None], None]:
        """Return a handler that calls the server's own one later, or now at the second signal."""

        def begin() -> None:
            _LOGGER.info(
                "SIGTERM: the server shuts down in %g s; until then it is unready", self._delay
            )
            loop.call_later(self._delay, served, signal.SIGTERM, None)

        def handle(number: int, frame: FrameType | None) -> None:
            if self.has_begun:
                served(number, frame)
                return
            self.has_begun = True
            # Not here: a signal may interrupt any line, also one of the logging module.
            loop.call_soon_threadsafe(begin)

        return handle


def _is_of_a_loop(handler: object) -> bool:
    """Return whether a signal is handled by an event loop, which does not call the handler."""
    return getattr(handler, "__module__", "").partition(".")[0] in ("asyncio", "uvloop")
