"""Calls submitted to the test's pool directly: where, and which have not ended."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import CodeType
from typing import Any, TypeAlias

from framework import ThreadPoolExecutorEnhanced
from framework.testing import function_name
from pytest_asyncframe._locations import at, users_frame

_Submitted: TypeAlias = tuple[Callable[..., Any], tuple[CodeType, int] | None]
"""A function, and where it was submitted."""


class PoolCalls:
    """The calls of one pool whose futures somebody still refers to.

    Args:
        pool: Its ``submit`` is replaced by one that records its caller.

    Attributes:
        were_made: Whether there was one, ended or not.
    """

    def __init__(self, pool: ThreadPoolExecutorEnhanced) -> None:
        self._known: weakref.WeakKeyDictionary[Future[Any], _Submitted] = (
            weakref.WeakKeyDictionary()
        )
        self.were_made: bool = False
        known, real = self._known, pool.submit

        def submit(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.were_made = True
            call = real(fn, *args, **kwargs)
            frame = users_frame(sys._getframe(1))
            # Formatted only if the call is left behind, since benchmarks submit many.
            known[call] = (fn, None) if frame is None else (fn, (frame.f_code, frame.f_lineno))
            return call

        pool.submit = submit  # type: ignore[method-assign]  # see above

    def left(self, grace: float) -> list[str]:
        """Return the calls that have not ended, a line each.

        Args:
            grace: Real seconds to wait for the next one to end, repeatedly; 0 for no wait.
        """
        living = {call for call in list(self._known.keys()) if not call.done()}
        ended = living
        while grace and living and ended:
            ended, living = wait(living, timeout=grace, return_when=FIRST_COMPLETED)
        lines = []
        for call, (fn, location) in list(self._known.items()):
            if not call.done():
                state = "is running" if call.running() else "waits for a thread"
                submitted = "" if location is None else f" submitted at {at(*location)},"
                lines.append(f"{function_name(fn)},{submitted} {state}")
        return lines
