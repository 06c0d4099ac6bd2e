"""Following lines and bytecodes on Python 3.11, with `sys.settrace`.

Relies on: each thread having one trace function, so that only one tool can use it. Python
calls it when a function begins or goes on, but not for what it calls itself.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeAlias

import pytest

from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._turns.actors import nothing

Trace: TypeAlias = Callable[[FrameType, str, Any], Any]  # Any: as `sys.settrace` has it

_settrace = sys.settrace
"""The real one, which is replaced while a test is run."""


class Tracing(ABC):
    """Calls a function at locations of the code that is followed; see `Follower`.

    Args:
        level: "line" or "opcode".
    """

    def __init__(self, level: str) -> None:
        self._level = level
        self._point: Point | None = None
        self._on_other: Callable[[str], object] = nothing
        # By `id`, since code is compared by what it does; what is here keeps the code alive.
        self._known: dict[int, tuple[CodeType, Trace | None]] = {}

    @abstractmethod
    def locations_of(self, code: CodeType) -> Mapping[int, str]:
        """Return the names of the locations of a function; see `Monitoring`."""

    def claim(self) -> None:
        """Check that no other tool traces this thread or those that it starts.

        Raises:
            pytest.UsageError: If one does.
        """
        other = sys.gettrace() or threading.gettrace()
        if other is not None:
            raise pytest.UsageError(
                f"level {self._level!r} needs sys.settrace on Python 3.11, which "
                f"{_tool(other)} uses: run the test without it, or on Python 3.12 or later"
            )

    def free(self) -> None:
        """Forget all code."""
        self._known.clear()

    @contextmanager
    def calling(self, point: Point, on_other: Callable[[str], object] = nothing) -> Iterator[None]:
        """Call *point* before each location, inside the block; see `Monitoring.calling`."""

        def settrace(trace: Trace | None) -> None:
            if trace is not None:
                on_other(_tool(trace))
            _settrace(self._trace if trace is None else trace)

        self._point, self._on_other = point, on_other
        self.begin_thread()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "settrace", settrace)
            try:
                yield
            finally:
                self._point = None
        # A debugger that was started meanwhile keeps it.
        if sys.gettrace() == self._trace:
            _settrace(None)

    def begin_thread(self) -> None:
        """Follow what the calling thread calls from now on."""
        other = sys.gettrace()
        if other is None:
            _settrace(self._trace)
        elif other != self._trace:
            self._on_other(_tool(other))

    def _trace(self, frame: FrameType, event: str, argument: object) -> Trace | None:
        """Return what is called at the locations of a function that begins or goes on."""
        if self._point is None:
            # The run is over, and the thread of a pool lives on.
            _settrace(None)
            return None
        code = frame.f_code
        known = self._known.get(id(code))
        if known is None:
            known = self._known[id(code)] = (code, self._tracer(code))
        tracer = known[1]
        if tracer is not None and self._level == "opcode":
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return tracer

    def _tracer(self, code: CodeType) -> Trace | None:
        locations = self.locations_of(code)
        if not locations:
            return None
        level = self._level

        def trace(frame: FrameType, event: str, _: object) -> Trace:
            if event == level:
                at = frame.f_lasti if level == "opcode" else frame.f_lineno
                location = locations.get(at)
                if location is not None and self._point is not None:
                    self._point(level, location)
            return trace

        return trace


def _tool(trace: object) -> str:
    """Return what to call the tool that a trace function belongs to."""
    module = getattr(trace, "__module__", None) or type(trace).__module__
    package = module.partition(".")[0]
    return "a debugger" if package == "bdb" or "pydevd" in package else package
