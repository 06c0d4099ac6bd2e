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

from tests.benchmarks._measure import ROOT
from tests.benchmarks.request_app import Served, Switch, run


@dataclass
class Recorder:
    """A profile function that notes which functions are entered, while it is on.

    Attributes:
        on: Whether it notes anything.
        entered: The code that was entered, and the thread on which; a coroutine that goes
            on is entered again.
    """

    on: bool = False
    entered: list[tuple[int, CodeType]] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call."""
        if self.on and event == "call":
            self.entered.append((threading.get_ident(), frame.f_code))


class Recording(Switch):
    """Serves as `Switch` does; ``GET /calls`` gives what was called since ``GET /record``."""

    def __init__(self, ways: list[Served]) -> None:
        super().__init__(ways)
        self._recorder = Recorder()
        self._control.get("/record", response_model=None)(self.record)
        self._control.get("/calls", response_model=None)(self.calls)
        # Before the threads of the pool start, which take it over.
        threading.setprofile(self._recorder)
        sys.setprofile(self._recorder)

    async def record(self) -> None:
        """Note what is called from now on."""
        self._recorder.on = True

    async def calls(self) -> JSONResponse:
        """Stop, and return what was called on which thread, in order."""
        recorder = self._recorder
        recorder.on = False
        entered, recorder.entered = recorder.entered, []
        here = threading.get_ident()
        told = [
            {
                "place": _place(code),
                "name": code.co_qualname,
                "bytes": len(code.co_code),
                "on_loop": thread == here,
            }
            for thread, code in entered
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
        lines.append(f"    {where}{one['place']}: {one['name']}, {one['bytes']} bytes")
    return "\n".join([*lines, ""])


def _sum(entered: Entered) -> str:
    codes = {(one["place"], one["name"]): one["bytes"] for one in entered}
    size = sum(codes.values())
    return f"{len(entered)} calls of {len(codes)} functions, {size:,} bytes of code"


if __name__ == "__main__":
    run(Recording, *sys.argv[1:])
