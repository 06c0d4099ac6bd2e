"""Following lines and bytecodes from Python 3.12 on, with `sys.monitoring`.

Relies on: events of single functions, so that all other code runs at full speed. Python does
not call a callback for what a callback calls.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any

import pytest

from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._turns.actors import nothing

_monitoring: Any = getattr(sys, "monitoring", None)
"""Any: the module, which Python 3.11 does not have."""

_TOOLS = (3, 4)
"""The numbers that Python leaves to tools of no fixed kind."""


def take_tool(
    numbers: Sequence[int], what: str, on_start: Callable[[CodeType, int], object]
) -> int:
    """Take the first number for tools that is free.

    Args:
        numbers: Those that will do.
        what: What needs it, for the error.
        on_start: Called with each function that begins or goes on, and the offset.

    Raises:
        pytest.UsageError: If other tools have them all.
    """
    users = {tool: _monitoring.get_tool(tool) for tool in numbers}
    free = [tool for tool, user in users.items() if user is None]
    if not free:
        names = [repr(user) for _, user in sorted(users.items())]
        raise pytest.UsageError(
            f"{what} needs a free tool number of sys.monitoring, "
            f"{_listed(map(str, sorted(numbers)), 'or')}, which {_listed(names, 'and')} use: "
            "run the test without one of them"
        )
    tool, events = free[0], _monitoring.events
    _monitoring.use_tool_id(tool, "asyncframe")
    for event in (events.PY_START, events.PY_RESUME):
        _monitoring.register_callback(tool, event, on_start)
    # An earlier tool of this number may have turned them off in some functions.
    _monitoring.restart_events()
    _monitoring.set_events(tool, events.PY_START | events.PY_RESUME)
    return int(tool)


def give_back_tool(tool: int, followed: Iterable[CodeType], event: int) -> None:
    """Watch nothing any more, and give a number back.

    Args:
        tool: The number.
        followed: The functions with events of their own.
        event: Which events these are.
    """
    events = _monitoring.events
    _monitoring.set_events(tool, 0)
    for code in followed:
        _monitoring.set_local_events(tool, code, 0)
    for one in (events.PY_START, events.PY_RESUME, event):
        _monitoring.register_callback(tool, one, None)
    _monitoring.free_tool_id(tool)


def _listed(names: Iterable[str], word: str) -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}"


class Monitoring(ABC):
    """Calls a function at locations of the code that is followed; see `Follower`.

    Args:
        level: "line" or "opcode".
    """

    def __init__(self, level: str) -> None:
        self._level = level
        self._tool = 0
        # By `id`, since code is compared by what it does, and takes long to be hashed. What is
        # in the first one keeps the code alive.
        self._followed: dict[int, CodeType] = {}
        self._locations: dict[int, Mapping[int, str]] = {}

    @abstractmethod
    def locations_of(self, code: CodeType) -> Mapping[int, str]:
        """Return the names of the locations of a function, by line or by offset in bytes.

        There are none in code that is not followed.
        """

    @property
    def _event(self) -> int:
        events = _monitoring.events
        return int(events.INSTRUCTION if self._level == "opcode" else events.LINE)

    def claim(self) -> None:
        """Take a number for tools.

        Raises:
            pytest.UsageError: If none is free.
        """
        self._tool = take_tool(_TOOLS, f"level {self._level!r}", self._on_start)

    def free(self) -> None:
        """Follow nothing any more, and give the number back."""
        give_back_tool(self._tool, self._followed.values(), self._event)
        self._followed.clear()
        self._locations.clear()

    @contextmanager
    def calling(self, point: Point, on_other: Callable[[str], object] = nothing) -> Iterator[None]:
        """Call *point* before each location, inside the block, which is one run.

        Args:
            point: Called with the level and the name of the location, on the thread that is
                about to run it, which it may block. That thread's innermost frame of the
                user's code is the one that stands at the location; see `users_frame`. What it
                calls itself is not followed. What it raises, the user's code raises.
            on_other: Called with the name of another tool that takes over on a thread, so
                that there are no points for a while.
        """
        _monitoring.register_callback(self._tool, self._event, self._callback(point))
        try:
            yield
        finally:
            _monitoring.register_callback(self._tool, self._event, None)

    def begin_thread(self) -> None:  # noqa: B027  # the follower for 3.11 has to
        """Do nothing, since all threads are followed."""

    def _on_start(self, code: CodeType, offset: int) -> object:
        """Follow a function that begins or goes on for the first time."""
        if id(code) not in self._followed and (locations := self.locations_of(code)):
            self._followed[id(code)] = code
            self._locations[id(code)] = locations
            self._set_event(code)
        return _monitoring.DISABLE

    def _set_event(self, code: CodeType) -> None:
        """Let the callback be called for a function."""
        # Python 3.12 to 3.14 forget the bytecodes of a function's first tool when the second one
        # comes, such as a debugger in the middle of a run, unless it had two tools before.
        second = next(tool for tool in _TOOLS if tool != self._tool)
        has_two = self._level == "opcode" and _monitoring.get_tool(second) is None
        if has_two:
            _monitoring.use_tool_id(second, "asyncframe")
            _monitoring.set_local_events(second, code, self._event)
        _monitoring.set_local_events(self._tool, code, self._event)
        if has_two:
            _monitoring.set_local_events(second, code, 0)
            _monitoring.free_tool_id(second)

    def _callback(self, point: Point) -> Callable[[CodeType, int], object]:
        level, locations, disable = self._level, self._locations, _monitoring.DISABLE

        def at_location(code: CodeType, where: int) -> object:
            location = locations[id(code)].get(where)
            if location is None:
                return disable
            point(level, location)
            return None

        return at_location
