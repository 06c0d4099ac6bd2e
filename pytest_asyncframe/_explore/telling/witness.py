"""Keeps what happens in one run, for its story.

Relies on: one actor running at a time. What a line has set is read when the same actor comes
to its next line, or when another one comes to its first line since then.
"""

from __future__ import annotations

import asyncio
import dis
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

from framework.protocols import TaskEvent
from pytest_asyncframe._explore.schedule import EARLY, Point
from pytest_asyncframe._explore.telling.entries import Deviation, Ended, Entry, Ran
from pytest_asyncframe._explore.telling.statements import statement_at
from pytest_asyncframe._explore.telling.touches import ends_block, set_by, touches_of
from pytest_asyncframe._explore.telling.turns import TEST
from pytest_asyncframe._locations import inwards, is_users_file, outwards, package_of
from pytest_asyncframe._turns.choices import FAULT, Chooser, Pending
from pytest_asyncframe._turns.sequencer import Sequencer

_MOST_VISITS = 200
"""How often one line of one turn is kept; a loop may have any number of turns."""

_RETURNS = frozenset(
    dis.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in dis.opmap
)

_SUSPENDS = frozenset((dis.opmap["YIELD_VALUE"], dis.opmap["RESUME"]))
"""The bytecodes at which a coroutine stands that waits."""

_HANDLES = dis.opmap["PUSH_EXC_INFO"]
"""The bytecode with which each handler of an error begins."""


class Witness:
    """A chooser that keeps the deviations of another one, and the lines that actors run.

    Args:
        chooser: Chooses.
        file_of: Returns the file of a function as it is shown; "" if its lines are not told.
        is_own: Whether code is that of the test or its fixtures, which has no points.

    Attributes:
        entries: What has happened so far.
        takes_time: See `Chooser`.
    """

    def __init__(
        self,
        chooser: Chooser,
        file_of: Callable[[CodeType], str],
        is_own: Callable[[CodeType], bool],
    ) -> None:
        self._chooser = chooser
        self.takes_time: bool = chooser.takes_time
        self._file_of = file_of
        self._is_own = is_own
        self._sequencer: Sequencer | None = None
        self._known: Callable[[asyncio.Task[Any]], str | None] = _unknown
        self._note: Callable[[str], object] = lambda _: None
        self._names = Names(self._is_own, self._is_told)
        # The lines whose values are not read yet, innermost last, by identity.
        self._open: dict[str, list[tuple[Ran, FrameType]]] = {}
        self._latest = ""
        # The lines of its present turn, by their locations.
        self._visits: dict[str, list[Ran]] = {}
        # Who was passed over, and has not come since.
        self._passed: set[str] = set()
        self.entries: list[Entry] = []

    @contextmanager
    def watching(
        self,
        sequencer: Sequencer,
        known: Callable[[asyncio.Task[Any]], str | None] | None,
        note: Callable[[str], object],
    ) -> Iterator[None]:
        """Know who runs inside the block, which is one run.

        Args:
            sequencer: The actors of the test.
            known: Returns the identity of an asyncio task, or None; None where they have none.
            note: Called with a text for the timeline, on the thread of who is paused.
        """
        self._sequencer, self._known, self._note = sequencer, known or _unknown, note
        try:
            yield
        finally:
            self._settle()
            self._open.clear()
            self._names = Names(self._is_own, self._is_told)
            self._sequencer = None
            self._known = _unknown

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next; see `Chooser`."""
        chosen = self._chooser.choose(kind, what, options, preempts)
        taken, default = options[chosen], options[0]
        if kind == FAULT:
            if chosen:
                # Its name has who it happens to at its end.
                happened, _, who = taken.rpartition(": ")
                self.entries.append(Deviation("", f"{who}: {happened}", FAULT, paused=False))
            return chosen
        # To pass over somebody again, who stands where it was, is no further switch.
        if chosen and (preempts or default not in self._passed):
            frame = self._frame_of(default) if preempts and kind != "await" else None
            location, source = ("", "") if frame is None else self._location(frame)
            stood = location, source, "" if kind == "await" else what
            packages = {} if preempts else self._packages_of({default, taken})
            self.entries.append(Deviation(default, taken, kind, preempts, *stood, packages))
            if preempts and self._who() == default:
                at = f" at {location}" if location else ""
                self._note(f"paused{at}; {taken} comes first")
        if chosen:
            self._passed.add(default)
        self._passed.discard(taken)
        return chosen

    def died(self, where: str) -> None:
        """Keep that the process of the test has died."""
        self._settle()
        self.entries.append(Deviation("", f"the process: it dies {where}", FAULT, paused=False))

    def pass_time(self, pending: Sequence[Pending], served: Sequence[str]) -> int | None:
        """Return the index of the timeout until which time passes; see `Chooser`."""
        chosen = self._chooser.pass_time(pending, served)
        if chosen is not None:
            one = pending[chosen]
            told = Deviation("", one.identity, EARLY, paused=False, location=one.where)
            self.entries.append(told)
        return chosen

    def at_lines(self, point: Point) -> Point:
        """Return what is called at each line or bytecode, before *point*, which may pause."""

        def arrive(level: str, what: str) -> None:
            if self._sequencer is not None and self._sequencer.is_undivided:
                # Of a predicate, which is no part of what the test does.
                return
            frame = self._told(sys._getframe(1))
            if frame is None:
                point(level, what)
                return
            who = self._who()
            if who != self._latest:
                self._settle()
            self._unwind(who, frame, level)
            if not self._is_own(frame.f_code):
                point(level, what)
                if who != self._latest:
                    self._settle()
            self._arrived(who, frame)

        return arrive

    def _arrived(self, who: str, frame: FrameType) -> None:
        """Note that a line is about to run."""
        if who != self._latest:
            self._visits.clear()
        self._latest = who
        location, source = self._location(frame)
        last = self.entries[-1] if self.entries else None
        lines = self._open.setdefault(who, [])
        if isinstance(last, Ran) and lines and lines[-1][0] is last and lines[-1][1] is frame:
            # Another line or bytecode of the same statement.
            return
        visited = self._visits.setdefault(location, [])
        if len(visited) >= _MOST_VISITS:
            visited[-1].more += 1
            return
        ran = Ran(
            *(who, location, source, frame.f_code.co_name),
            depth=len(lines),
            touches=touches_of(frame),
            is_end=ends_block(frame),
            thread=self._thread(),
        )
        self._names.name(ran, frame)
        visited.append(ran)
        lines.append((ran, frame))
        self.entries.append(ran)

    def on_event(self, event: TaskEvent) -> None:
        """Keep the end of the task that runs here; see `protocols.EventSink`."""
        who = self._who()
        ends = event.duration is not None  # only the end of a task that has started has one
        if ends and who.startswith(f"{event.name.rpartition('.')[2]}#"):
            self._settle()
            if event.error is not None:
                self._fail(who, type(event.error).__name__)
            self.entries.append(Ended(who, event.kind.replace("_", " ")))

    def _who(self) -> str:
        task = None if asyncio._get_running_loop() is None else asyncio.current_task()
        known = None if task is None else self._known(task)
        return known or self._thread()

    def _thread(self) -> str:
        actor = None if self._sequencer is None else self._sequencer.here
        return "" if actor is None else actor.identity

    def _frame_of(self, identity: str) -> FrameType | None:
        actors = {} if self._sequencer is None else self._sequencer.actors
        ident = next((one.ident for one in actors.values() if one.identity == identity), None)
        return None if ident is None else self._told(sys._current_frames().get(ident))

    def _told(self, frame: FrameType | None) -> FrameType | None:
        """Return the innermost frame of the user's code, or of a package that is followed."""
        while frame is not None and not self._is_told(frame.f_code):
            frame = frame.f_back
        return frame

    def _is_told(self, code: CodeType) -> bool:
        return is_users_file(code.co_filename) or bool(self._file_of(code))

    def _packages_of(self, identities: Collection[str]) -> dict[str, str]:
        """Return the packages of those asyncio tasks of this loop that run no code of the user."""
        loop = asyncio._get_running_loop()
        found: dict[str, str] = {}
        for task in () if loop is None else asyncio.all_tasks(loop):
            identity = self._known(task) or ""
            codes = [frame.f_code for frame in inwards(task.get_coro())]
            if identity in identities and codes and not any(map(self._is_told, codes)):
                found[identity] = package_of(codes[0])
        return found

    def _location(self, frame: FrameType) -> tuple[str, str]:
        """Return where a frame is, and the statement there; "" for what is not told."""
        code = frame.f_code
        file = self._file_of(code)
        if not file:
            return "", ""
        line, text = statement_at(code.co_filename, frame.f_lineno)
        return f"{file}:{line}", text

    def _settle(self) -> None:
        """Read what the lines have set of who ran last, in functions that have returned."""
        lines = self._open.get(self._latest, [])
        is_first = True
        while lines:
            ran, frame = lines[-1]
            if _has_returned(frame):
                self._close(*lines.pop())
            elif ran.who != ran.thread and not _is_suspended(frame):
                # The function of a coroutine that has ended with an error, and what has called it.
                self._close(*lines.pop(), "an error" if is_first else "")
                is_first = False
            else:
                return

    def _fail(self, who: str, error: str) -> None:
        """Note that what ran has ended with an error."""
        lines = self._open.pop(who, [])
        if lines:
            self._close(*lines[-1], error)

    def _unwind(self, who: str, frame: FrameType, level: str) -> None:
        """Read what the lines have set that ran before *frame* came to another one."""
        lines = self._open.get(who, [])
        callers = {id(one) for one in outwards(frame)}
        raised = _raised_in(frame)
        is_latest = True
        while lines:
            ran, its = lines[-1]
            if its is frame and not raised and _line_of(ran) == _first_line(frame):
                # In the middle of a statement, or in the next turn of a loop.
                return
            if its is not frame and id(its) in callers:
                return
            lines.pop()
            # Another one may have run in the middle of it, and after what it has set.
            certain = level != "opcode" or self.entries[-1] is ran
            if its is frame and is_latest:
                self._close(ran, its, raised, certain=certain)
                is_latest = False
            elif its is not frame and _has_returned(its):
                self._close(ran, its)

    def _close(self, ran: Ran, frame: FrameType, raised: str = "", *, certain: bool = True) -> None:
        """Note that a line has run to its end."""
        value = set_by(frame, _line_of(ran)) if certain and not raised else ""
        if self._was_left(ran) and (value or raised):
            # What others have done meanwhile came before what it has set.
            touches = ran.touches
            ran.touches = tuple(touch for touch in touches if not touch.changes)
            late = tuple(touch for touch in touches if touch.changes)
            ran = replace(ran, touches=late, resumed=True)
            self.entries.append(ran)
        ran.value, ran.raised = value, raised
        if self._names.is_endpoint(frame.f_code) and _has_returned(frame):
            self.entries.append(Ended(ran.who, "completed", ran.name))

    def _was_left(self, ran: Ran) -> bool:
        """Whether others have run lines since a line has begun."""
        for entry in reversed(self.entries):
            if entry is ran:
                return False
            if isinstance(entry, Ran) and entry.who != ran.who:
                return True
        return False


class Names:
    """What to call who runs a line: a request by its route, a test as such.

    Args:
        is_own: Whether code is that of the test or its fixtures.
        is_told: Whether code is the user's.
    """

    def __init__(
        self, is_own: Callable[[CodeType], bool], is_told: Callable[[CodeType], bool]
    ) -> None:
        self._is_own = is_own
        self._is_told = is_told
        # By the `id` of ASGI's scope, which each request has one of.
        self._requests: dict[int, _Request] = {}
        # Of tasks that a library has started, by identity.
        self._tasks: dict[str, str] = {}
        self._endpoints: list[CodeType] = []
        self._numbers = Counter[str]()

    def name(self, ran: Ran, frame: FrameType) -> None:
        """Set the name of who runs a line, and of those lines of its request before it.

        Args:
            ran: The line.
            frame: The frame of the line.
        """
        in_step = asyncio._get_running_loop() is not None and asyncio.current_task() is not None
        outermost = frame
        for outer in outwards(frame) if in_step else [frame]:
            code = outer.f_code
            if self._is_own(code):
                ran.name = TEST
                return
            scope = outer.f_locals.get("scope") if "scope" in code.co_varnames else None
            if type(scope) is dict and scope.get("type", "http") in ("http", "websocket"):
                request = self._requests.setdefault(id(scope), _Request(scope))
                request.unnamed.append(ran)
                self._name_request(request)
                return
            if code in _STEPS:
                break
            outermost = outer
        if in_step and not self._is_told(outermost.f_code):
            ran.name = self._of_task(ran.who, frame)

    def _of_task(self, who: str, frame: FrameType) -> str:
        """Return the name of a task of a library: the outermost function of the user in it."""
        if who not in self._tasks:
            told = [one for one in outwards(frame) if self._is_told(one.f_code)]
            self._tasks[who] = self._numbered(told[-1].f_code.co_name)
        return self._tasks[who]

    def _name_request(self, request: _Request) -> None:
        endpoint = request.scope.get("endpoint")
        if not request.name and endpoint is not None:
            name = getattr(endpoint, "__name__", None) or type(endpoint).__name__
            request.name = self._numbered(name)
            code = getattr(endpoint, "__code__", None)
            self._endpoints += [] if code is None else [code]
        if request.name:
            for ran in request.unnamed:
                ran.name = request.name
            request.unnamed.clear()

    def _numbered(self, name: str) -> str:
        self._numbers[name] += 1
        return f"{name}#{self._numbers[name]}"

    def is_endpoint(self, code: CodeType) -> bool:
        """Whether it is the code of an endpoint that has been called."""
        return any(code is one for one in self._endpoints)


@dataclass
class _Request:
    """A request.

    Attributes:
        scope: What ASGI keeps of it; Starlette adds the endpoint when it has found the route.
        name: What it is called; "" before that.
        unnamed: The lines that have run before that.
    """

    scope: dict[str, Any]
    name: str = ""
    unnamed: list[Ran] = field(default_factory=list)


_STEPS = frozenset([asyncio.events.Handle._run.__code__])
"""Where the steps of asyncio tasks begin."""


def _line_of(ran: Ran) -> int:
    return int(ran.location.rpartition(":")[2] or 0)


def _first_line(frame: FrameType) -> int:
    """Return the first line of the statement at which a frame stands."""
    return statement_at(frame.f_code.co_filename, frame.f_lineno)[0]


def _unknown(_: object) -> None:
    """Return no identity."""


def _is_suspended(frame: FrameType) -> bool:
    """Whether a frame of a coroutine that does not run goes on later, as far as one can see."""
    return frame.f_code.co_code[frame.f_lasti] in _SUSPENDS


def _raised_in(frame: FrameType) -> str:
    """Return the name of the error that has led a frame to its line; "" if none has."""
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] == _HANDLES:
        return "an error"  # which is not there yet
    error = sys.exc_info()[0]
    return error.__name__ if error is not None and at > 1 and code[at - 2] == _HANDLES else ""


def _has_returned(frame: FrameType) -> bool:
    """Whether a frame has run to its end, and raised no error."""
    code = frame.f_code.co_code
    return 0 <= frame.f_lasti < len(code) and code[frame.f_lasti] in _RETURNS
