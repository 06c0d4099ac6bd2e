"""The server of `request`, which lists what one request calls; see ``--calls`` there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from starlette.responses import JSONResponse

from benchmarks._measure import ROOT
from benchmarks.request_app import Served, Switch, run


@dataclass
class Entry:
    """One time that a function is entered, or a coroutine goes on.

    Attributes:
        code: Its code.
        thread: The thread on which.
        steps: How many instructions of its bytecode are executed until it returns or is
            suspended, those of what it calls not counted.
    """

    code: CodeType
    thread: int
    steps: int = 0


@dataclass
class Recorder:
    """A trace function that notes which functions are entered, while it is on.

    Attributes:
        on: Whether it notes anything.
        entries: What was entered, in order.
    """

    on: bool = False
    entries: list[Entry] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """Note that a function is entered, and have its instructions counted."""
        if not self.on:
            return None
        entry = Entry(frame.f_code, threading.get_ident())
        self.entries.append(entry)
        frame.f_trace_lines, frame.f_trace_opcodes = False, True

        def count(frame: FrameType, event: str, _: object) -> Any:
            if event == "opcode":
                entry.steps += 1
            return count

        return count


class Recording(Switch):
    """Serves as `Switch` does; ``GET /calls`` gives what was called since ``GET /record``."""

    def __init__(self, ways: list[Served]) -> None:
        super().__init__(ways)
        self._recorder = Recorder()
        self._control.get("/record", response_model=None)(self.record)
        self._control.get("/calls", response_model=None)(self.calls)
        # Before the threads of the pool start, which take it over.
        threading.settrace(self._recorder)
        sys.settrace(self._recorder)

    async def record(self) -> None:
        """Note what is called from now on."""
        self._recorder.on = True

    async def calls(self) -> JSONResponse:
        """Stop, and return what was called on which thread, in order."""
        recorder = self._recorder
        recorder.on = False
        entries, recorder.entries = recorder.entries, []
        here = threading.get_ident()
        told = [
            {
                "place": _place(entry.code),
                "name": entry.code.co_qualname,
                "steps": entry.steps,
                "on_loop": entry.thread == here,
            }
            for entry in entries
        ]
        # A response, since FastAPI would take long to convert the list.
        return JSONResponse(told)


@cache
def _place(code: CodeType) -> str:
    """Return the path of the code inside this project, or the name of its package or file."""
    path = Path(code.co_filename).resolve()
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1]
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


Entered = Sequence[dict[str, Any]]
"""The answer of ``GET /calls``."""


def as_text(way: str, entered: Entered, beside: Entered) -> str:
    """Return a list of the framework's functions that a request of *way* enters.

    Args:
        way: Its name.
        entered: By one request.
        beside: By a request without a job.
    """
    ours = [one for one in entered if one["place"].startswith("framework")]
    lines = [f"{way}: {_sum(entered)}; without a job {_sum(beside)}; the framework's {_sum(ours)}"]
    for one in ours:
        where = "" if one["on_loop"] else "on the thread: "
        lines.append(f"{one['steps']:5} {where}{one['place']}: {one['name']}")
    return "\n".join([*lines, ""])


def _sum(entered: Entered) -> str:
    codes = {(one["place"], one["name"]) for one in entered}
    steps = sum(one["steps"] for one in entered)
    return f"{steps:,} instructions in {len(entered)} calls of {len(codes)} functions"


if __name__ == "__main__":
    run(Recording, *sys.argv[1:])
