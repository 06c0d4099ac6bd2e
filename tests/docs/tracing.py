"""Noting which rooms of the code a journey enters.

A room is a folder of `framework` or `pytest_asyncframe`, or a module that lies beside the
folders.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import framework

HOME = Path(framework.__file__).parents[1]
PACKAGES = ("framework", "pytest_asyncframe")

_LOOP = asyncio.Handle._run.__code__


def room_of(file: str) -> str:
    """Return the room of a file such as ``framework/_threads/pool.py``."""
    return "/".join(file.split("/")[:2])


@dataclass(frozen=True)
class Journey:
    """What was seen of one journey.

    Attributes:
        calls: The files that call and are called, in order; nobody calls what a loop, a
            thread or the traced program itself begins with.
    """

    calls: list[tuple[str | None, str]] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """The files entered, in the order in which they first were."""
        return list(dict.fromkeys(file for call in self.calls for file in call if file))

    @property
    def rooms(self) -> list[str]:
        """The rooms entered, in the order in which they first were."""
        return list(dict.fromkeys(map(room_of, self.files)))

    @property
    def crossings(self) -> list[tuple[str, str]]:
        """The files of each call from one room into another, in order."""
        calls = [(caller, called) for caller, called in self.calls if caller is not None]
        return [pair for pair in calls if room_of(pair[0]) != room_of(pair[1])]

    @property
    def returns(self) -> int:
        """How many crossings lead back into a room that was entered before."""
        entered: set[str] = set()
        count = 0
        for caller, called in self.calls:
            room = room_of(called)
            if caller is not None:
                entered.add(room_of(caller))
                count += room != room_of(caller) and room in entered
            entered.add(room)
        return count


class Tracer:
    """Notes calls of functions on this thread, and on those that start while it is entered."""

    def __init__(self) -> None:
        self._calls: list[tuple[str | None, str]] | None = None
        self._files: dict[CodeType, str | None] = {}

    def __enter__(self) -> Tracer:
        threading.setprofile(self._hear)
        sys.setprofile(self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @contextmanager
    def journey(self) -> Iterator[Journey]:
        """Note the calls that are made inside, on whichever of the threads."""
        journey = Journey()
        self._calls = journey.calls
        try:
            yield journey
        finally:
            self._calls = None

    def _hear(self, frame: FrameType, event: str, argument: object) -> None:
        calls = self._calls
        if calls is None or event != "call":
            return
        file = self._file(frame.f_code)
        if file is not None:
            # A coroutine that goes on was called before, by somebody else.
            calls.append((file if _goes_on(frame) else self._caller(frame), file))

    def _caller(self, frame: FrameType) -> str | None:
        """Return the file that calls *frame*, perhaps by way of the standard library."""
        caller = frame.f_back
        while caller is not None and not _begins(caller.f_code):
            file = self._file(caller.f_code)
            if file is not None:
                return file
            caller = caller.f_back
        return None

    def _file(self, code: CodeType) -> str | None:
        try:
            return self._files[code]
        except KeyError:
            path = Path(code.co_filename)
            ours = path.is_relative_to(HOME) and path.relative_to(HOME).parts[0] in PACKAGES
            file = path.relative_to(HOME).as_posix() if ours else None
            self._files[code] = file
            return file


def _begins(code: CodeType) -> bool:
    return code is _LOOP or code.co_filename.endswith("/tests/docs/journeys.py")


def _goes_on(frame: FrameType) -> bool:
    """Return whether a frame is resumed: the argument of the RESUME that it stands at tells."""
    return frame.f_code.co_code[frame.f_lasti + 1] & 3 != 0
