"""Keeps what happens in one run, for its story.

Relies on: one actor running at a time. What a line has set is read when the same actor comes
to its next line, and only if nobody else has run in between.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from framework.protocols import TaskEvent
from pytest_asyncframe._explore.schedule import Point
from pytest_asyncframe._explore.telling.story import Deviation, Ended, Entry, Ran
from pytest_asyncframe._locations import users_frame
from pytest_asyncframe._report.values import shown
from pytest_asyncframe._turns.choices import Chooser
from pytest_asyncframe._turns.sequencer import Sequencer

_LONGEST = 100
"""How many characters of a statement are shown."""


class Witness:
    """A chooser that keeps the deviations of another one, and the lines that actors run.

    Args:
        chooser: Chooses.
        file_of: Returns the file of a function as it is shown; "" if its lines are not told.

    Attributes:
        entries: What has happened so far.
    """

    def __init__(self, chooser: Chooser, file_of: Callable[[CodeType], str]) -> None:
        self._chooser = chooser
        self._file_of = file_of
        self._sequencer: Sequencer | None = None
        self._known: Callable[[asyncio.Task[Any]], str | None] = _unknown
        self._latest: FrameType | None = None
        self._note: Callable[[str], object] = lambda _: None
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
            self._latest = self._sequencer = None
            self._known = _unknown

    def choose(self, kind: str, what: str, options: Sequence[str], preempts: bool) -> int:
        """Return the index of what comes next; see `Chooser`."""
        chosen = self._chooser.choose(kind, what, options, preempts)
        if chosen:
            frame = self._frame_of(options[0]) if preempts and kind != "await" else None
            location, source = ("", "") if frame is None else self._location(frame)
            if location:
                self._settle(options[0], location)
            taken = options[chosen]
            stood = location, source, what
            self.entries.append(Deviation(options[0], taken, kind, preempts, *stood))
            if preempts and self._who() == options[0]:
                at = f" at {location}" if location else ""
                self._note(f"paused{at}; {taken} comes first")
        return chosen

    def at_lines(self, point: Point) -> Point:
        """Return what is called at each line or bytecode, before *point*, which may pause."""

        def arrive(level: str, what: str) -> None:
            if self._sequencer is not None and self._sequencer.is_undivided:
                # Of a predicate, which is no part of what the test does.
                return
            frame = users_frame(sys._getframe(1))
            if frame is None:
                point(level, what)
                return
            who, (location, source) = self._who(), self._location(frame)
            self._settle(who, location)
            point(level, what)
            last = self.entries[-1] if self.entries else None
            if not (isinstance(last, Ran) and (last.who, last.location) == (who, location)):
                self.entries.append(Ran(who, location, source, frame.f_code.co_name))
            self._latest = frame

        return arrive

    def on_event(self, event: TaskEvent) -> None:
        """Keep the end of the task that runs here; see `protocols.EventSink`."""
        who = self._who()
        ends = event.duration is not None  # only the end of a task that has started has one
        if ends and who.startswith(f"{event.name.rpartition('.')[2]}#"):
            self._settle(who, "")
            self.entries.append(Ended(who, event.kind.replace("_", " ")))

    def _who(self) -> str:
        sequencer = self._sequencer
        actor = None if sequencer is None else sequencer.here
        if actor is None:
            return ""
        task = None if asyncio._get_running_loop() is None else asyncio.current_task()
        known = None if task is None else self._known(task)
        return actor.identity if known is None else known

    def _frame_of(self, identity: str) -> FrameType | None:
        actors = {} if self._sequencer is None else self._sequencer.actors
        ident = next((one.ident for one in actors.values() if one.identity == identity), None)
        return None if ident is None else users_frame(sys._current_frames().get(ident))

    def _location(self, frame: FrameType) -> tuple[str, str]:
        """Return where a frame is, and the statement there; "" for what is not told."""
        code = frame.f_code
        file = self._file_of(code)
        if not file:
            return "", ""
        line, text = statement_at(code.co_filename, frame.f_lineno)
        return f"{file}:{line}", text

    def _settle(self, who: str, location: str) -> None:
        """Read what the latest line has set, if *who* ran it and now is at another *location*."""
        last, frame = (self.entries[-1] if self.entries else None), self._latest
        if (
            not isinstance(last, Ran)
            or frame is None
            or last.who != who
            or last.location == location
        ):
            return
        self._latest = None
        last.value = _set_by(last.source, frame)


def _unknown(_: object) -> None:
    """Return no identity."""


def _set_by(source: str, frame: FrameType) -> str:
    """Return what an assignment has set, as ``left = 1``; "" for any other line."""
    try:
        statement = ast.parse(source).body[0]
    except (SyntaxError, ValueError, IndexError):
        return ""  # a part of a statement
    match statement:
        case ast.Assign(targets=[target]) | ast.AugAssign(target=target):
            pass
        case ast.AnnAssign(target=target, value=ast.expr()):
            pass
        case _:
            return ""
    try:
        text = shown(_value(target, frame))
    except LookupError:
        return ""
    # An object that shows only its type and address tells nothing.
    return "" if text.startswith("<") else f"{ast.unparse(target)} = {text}"


def _value(node: ast.expr, frame: FrameType) -> Any:  # Any: a user's value
    """Return the value of an expression, without calling a user's code.

    Raises:
        LookupError: If that is not possible, or there is none.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return frame.f_locals[name] if name in frame.f_locals else frame.f_globals[name]
        case ast.Attribute(value=owner, attr=name):
            return getattr(_value(owner, frame), "__dict__", {})[name]
        case ast.Subscript(value=owner, slice=key):
            found = _value(owner, frame)
            if type(found) in {list, dict}:
                return found[_key(_value(key, frame))]
    raise LookupError(ast.unparse(node))


def _key(key: object) -> Any:  # Any: what finds a value in a list or a dict
    """Return a key whose hash and comparison are Python's own.

    Raises:
        LookupError: If they are not.
    """
    if type(key) in {int, str}:
        return key
    raise LookupError(key)


@functools.lru_cache(maxsize=4096)
def statement_at(file: str, line: int) -> tuple[int, str]:
    """Return the first line of the innermost statement at a line, and its text on one line.

    Of a statement with a block, the text is what stands before the block.

    Args:
        file: The name of the file.
        line: The line, from 1 on.
    """
    first, last = _spans(file).get(line, (line, line))
    text = " ".join(linecache.getline(file, number).strip() for number in range(first, last + 1))
    return first, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@functools.lru_cache(maxsize=64)
def _spans(file: str) -> dict[int, tuple[int, int]]:
    """Return the first and last lines of statements with several lines, by each of these."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, tuple[int, int]] = {}
    # Outer statements come before inner ones, which replace them.
    for first, last in _statements(tree):
        if last > first:
            found.update(dict.fromkeys(range(first, last + 1), (first, last)))
        else:
            found.pop(first, None)
    return found


def _statements(tree: ast.AST) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.end_lineno is not None:
            body = getattr(node, "body", None)
            header = isinstance(body, list) and body and isinstance(body[0], ast.stmt)
            last = body[0].lineno - 1 if header and body is not None else node.end_lineno
            yield node.lineno, max(node.lineno, last)
