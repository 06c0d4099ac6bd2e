"""Points at the lines and bytecodes of the framework, where the interpreter may switch threads.

Relies on: CPython with a global lock. It switches at the beginning of a function, after a call
and at a jump back, and nowhere else; some modules rely on that, and say so.
"""

from __future__ import annotations

import dis
from collections.abc import Collection, Mapping
from pathlib import Path
from types import CodeType

import framework
from pytest_asyncframe._explore.points.follower import Followed, Follower

_ROOT = Path(framework.__file__).parent
_APART = ("CACHE", "PRECALL", "EXTENDED_ARG")
_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD")


class _Own(Followed):
    """The functions of the framework, and those of some more files."""

    def __init__(self, more: Collection[str]) -> None:
        super().__init__(_ROOT, ())
        self._more = more

    def file_of(self, code: CodeType) -> str:
        """Return the name of a function's file; "" if it is not followed."""
        file = code.co_filename
        if code.co_name == "__del__" or not (file.startswith(str(_ROOT)) or file in self._more):
            return ""
        return Path(file).name


class FrameworkFollower(Follower):
    """Follows the framework's own code.

    Args:
        level: "line" or "opcode".
        more: Files of other modules to follow.
    """

    def __init__(self, level: str, more: Collection[str] = ()) -> None:
        super().__init__(level, _Own(more))
        self._by_line = level == "line"

    def locations_of(self, code: CodeType) -> Mapping[int, str]:
        """Return those between which threads may be switched; see `Follower`."""
        named = super().locations_of(code)
        return _switchable(code, named, by_line=self._by_line) if named else named


def _switchable(code: CodeType, named: Mapping[int, str], *, by_line: bool) -> dict[int, str]:
    """Return those places between which and the one before threads may be switched."""
    found: dict[int, str] = {}
    before, may, line = "", True, None
    for step in dis.get_instructions(code):
        if step.opname in _APART:
            continue
        may = may or _switches(before) or before in _ENDS or step.is_jump_target
        at = None if step.positions is None else step.positions.lineno
        place = at if by_line else step.offset
        if place is not None and place in named and not (by_line and at == line):
            if may:
                found[place] = named[place]
            may = False
        line, before = at, step.opname
    return found


def _switches(name: str) -> bool:
    return name in ("RESUME", "CALL", "CALL_FUNCTION_EX", "CALL_KW") or "JUMP_BACKWARD" in name
