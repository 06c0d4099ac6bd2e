"""Points before calls that give up the interpreter's lock, from level ``framework`` on.

A call counts if code of a task, a ``def`` endpoint or another thread makes it, itself or in a
library; see `outgoing` for which calls. On a thread that runs an event loop none counts, and
none of the test itself. Neither does one that the import of a module, logging or the end of an
object has led to: these hold locks that nobody can see.

Relies on: `sys.monitoring` from Python 3.12 on, with events only in functions that name such a
call; `sys.setprofile` on 3.11, on threads that are actors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from pytest_asyncframe._explore.locks.making import is_machinery
from pytest_asyncframe._explore.points import outgoing
from pytest_asyncframe._explore.points.follower import Followed
from pytest_asyncframe._explore.points.monitoring import give_back_tool, take_tool
from pytest_asyncframe._explore.schedule import CALL, Location
from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._turns.actors import nothing
from pytest_asyncframe._turns.sequencer import Sequencer

_monitoring: Any = getattr(sys, "monitoring", None)
"""Any: the module, which Python 3.11 does not have."""

_TOOLS = (5, 4, 3)
"""Numbers of tools. The first is set aside for optimizers, of which there are none."""

_HOLDS_LOCKS = ("importlib", "logging", "_frozen_importlib", "_frozen_importlib_external")
"""Packages that have a lock while they call others."""


class Calls:
    """Watches calls through all runs of one test.

    Args:
        scope: The code of the user.
    """

    def __init__(self, scope: Followed) -> None:
        self._scope = scope
        self._tool = 0
        self._watched: dict[int, CodeType] = {}
        self._arrive: Callable[[str, FrameType], object] | None = None
        self._outgoing = outgoing.Outgoing()
        self._on_other: Callable[[str], object] = nothing

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep what Python gives to one tool at a time, for all runs.

        Raises:
            pytest.UsageError: If other tools have all of it.
        """
        if _monitoring is None:
            yield
            return
        self._claim()
        try:
            yield
        finally:
            self._free()

    @contextmanager
    def calling(
        self, sequencer: Sequencer, on_other: Callable[[str], object] = nothing
    ) -> Iterator[None]:
        """Let others run before each such call inside the block, which is one run.

        Args:
            sequencer: The actors of the test.
            on_other: Called with the name of a profiler that has a thread for itself, so that
                there are no points on it.
        """

        def arrive(what: str, caller: FrameType) -> None:
            actor = sequencer.here
            if actor is None or actor is sequencer.first or actor.loop is not None:
                return
            location = self._location(what, caller)
            if location is not None:
                sequencer.point(CALL, location)

        self._arrive, self._outgoing, self._on_other = arrive, outgoing.Outgoing(), on_other
        try:
            yield
        finally:
            self._arrive = None

    def begin_thread(self) -> None:
        """Watch the calls of the calling thread, which has become an actor."""
        if _monitoring is not None:
            return
        other = sys.getprofile()
        if other is None:
            sys.setprofile(self._profile)
        elif other != self._profile:
            module = getattr(other, "__module__", None) or type(other).__module__
            self._on_other(module.partition(".")[0])

    def _location(self, what: str, caller: FrameType) -> Location | None:
        """Return the name of a point; None if there is none, see the top of this file."""
        users: FrameType | None = None
        frame: FrameType | None = caller
        while frame is not None:
            module, code = frame.f_globals.get("__name__"), frame.f_code
            if str(module).partition(".")[0] in _HOLDS_LOCKS or code.co_name == "__del__":
                return None
            if users is None:
                if is_users_file(code.co_filename) or self._scope.file_of(code):
                    users = frame
                elif is_machinery(module) or outgoing.is_database(module):
                    return None
            frame = frame.f_back
        if users is None or self._scope.is_own(users.f_code):
            return None
        code = users.f_code
        file = self._scope.file_of(code) or Path(code.co_filename).name
        at = f"{what}() at {file}:{users.f_lineno}"
        return Location.of(at, f"{code.co_qualname} {what}")

    # -- from Python 3.12 on

    def _claim(self) -> None:
        self._tool = take_tool(_TOOLS, "an explored test", self._on_start)
        _monitoring.register_callback(self._tool, _monitoring.events.CALL, self._on_call)

    def _free(self) -> None:
        give_back_tool(self._tool, self._watched.values(), _monitoring.events.CALL)
        self._watched.clear()

    def _on_start(self, code: CodeType, _: int) -> object:
        if id(code) not in self._watched and outgoing.may_call_out(code):
            self._watched[id(code)] = code
            _monitoring.set_local_events(self._tool, code, _monitoring.events.CALL)
        return _monitoring.DISABLE

    def _on_call(self, _: CodeType, __: int, called: object, first: object) -> None:
        arrive = self._arrive
        if arrive is not None and (what := self._outgoing.named(called, first)):
            arrive(what, sys._getframe(1))

    # -- on Python 3.11

    def _profile(self, frame: FrameType, event: str, called: object) -> None:
        arrive = self._arrive
        if arrive is None:
            # The run is over, and the thread of a pool lives on.
            sys.setprofile(None)
        elif event == "c_call":
            if what := self._outgoing.named(called, None):
                arrive(what, frame)
        elif event == "call":
            what = self._outgoing.of_python(frame.f_code, lambda: _first(frame))
            if what and frame.f_back is not None:
                arrive(what, frame.f_back)


def _first(frame: FrameType) -> object:
    """Return the first argument of a function that has just been called."""
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if frame.f_code.co_argcount else None
