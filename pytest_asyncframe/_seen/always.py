"""What a test says must always hold, checked at each event of a task.

Guarantees: predicates are called without a lock of asyncframe, never inside one another on the
same thread, and not any more once they were false.
Relies on: whoever calls `on_event` and `at_point` to do so where the test's state is to be
looked at.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import TypeAlias

import pytest

from framework import current_task
from framework.protocols import TaskEvent
from pytest_asyncframe._locations import at, users_frame
from pytest_asyncframe._seen.entries import unwrapped
from pytest_asyncframe._seen.recorder import Recorder

Predicate: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class _Invariant:
    """One predicate.

    Attributes:
        predicate: Returns whether it holds.
        source: The line of code that defines it.
        location: Where that line is; "" if unknown.
    """

    predicate: Predicate
    source: str
    location: str

    def wrong(self) -> str:
        """Call the predicate; return how it fails, "" if it holds."""
        try:
            holds = self.predicate()
        except AssertionError as error:
            return f"is false ({_first_line(error) or 'AssertionError'})"
        except (Exception, pytest.fail.Exception) as error:
            text = _first_line(error)
            return f"raised {type(error).__name__}{text and f': {text}'}"
        if holds is None:
            return "returned None, and must return whether it holds"
        if inspect.isawaitable(holds):
            if inspect.iscoroutine(holds):
                holds.close()
            return "returned an awaitable, which nobody awaits: it must be a plain function"
        return "" if holds else "is false"


class Invariants:
    """The predicates of one test.

    Args:
        recorder: Keeps what happens in the test.

    Attributes:
        undivided: Context manager in which no other thread or task runs, as far as asyncframe
            decides that.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.undivided: Callable[[], AbstractContextManager[object]] = nullcontext
        self._recorder = recorder
        self._holding: tuple[_Invariant, ...] = ()
        self._broken: list[str] = []
        self._lock = threading.Lock()
        # Without the lock: each thread adds and removes only itself.
        self._checking: set[int] = set()

    def add(self, predicate: Predicate) -> None:
        """Check *predicate* now and from now on.

        Raises:
            TypeError: If it is no function without parameters, or does not return whether
                it holds.
            AssertionError: If it is false now.
            Exception: What it raises.
        """
        __tracebackhide__ = True
        _require_predicate(predicate)
        one = _Invariant(predicate, *_source_of(predicate))
        with self._alone():
            wrong = one.wrong()
        if wrong.startswith("returned "):
            raise TypeError(f"always() takes a predicate, but {one.source!r} {wrong}")
        if wrong:
            raise AssertionError(_text(one, wrong, "from the start"))
        with self._lock:
            self._holding += (one,)

    def on_event(self, event: TaskEvent) -> None:
        """Check all predicates after an event."""
        if self._holding:
            self._check(lambda: f"at the event {event.kind} of {_task(event.name, event.task_id)}")

    def at_point(self, kind: str, what: str) -> None:
        """Check all predicates where an actor is about to do *what*."""
        if self._holding:
            self._check(lambda: f"before {what or kind}{_running()}")

    def end(self, *, check: bool) -> str:
        """Stop checking, after one last time if *check* is true.

        Returns:
            What was broken, for users; "" if nothing was.
        """
        if check and self._holding:
            self._check(lambda: "at the end of the test", located=False)
        with self._lock:
            self._holding = ()
        return "\n".join(self._broken)

    def _check(self, when: Callable[[], str], *, located: bool = True) -> None:
        if threading.get_ident() in self._checking:
            # By an event of what a predicate does itself.
            return
        with self._alone():
            for one in self._holding:
                wrong = one.wrong()
                if wrong:
                    self._broke(
                        one, wrong, when(), users_frame(sys._getframe()) if located else None
                    )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Mark the calling thread as one that calls predicates, inside the block."""
        ident = threading.get_ident()
        self._checking.add(ident)
        try:
            with self.undivided():
                yield
        finally:
            self._checking.discard(ident)

    def _broke(self, one: _Invariant, wrong: str, when: str, frame: FrameType | None) -> None:
        with self._lock:
            if one not in self._holding:
                # Another thread was first.
                return
            self._holding = tuple(it for it in self._holding if it is not one)
        where = "" if frame is None else at(frame.f_code, frame.f_lineno)
        self._recorder.note(f"always() {wrong}: {one.source}", where)
        moment = f"{when}, {round(self._recorder.elapsed, 6):.9g} s after the test began"
        self._broken.append(_text(one, wrong, f"{moment}{where and f', at {where}'}"))


def _require_predicate(given: object) -> None:
    __tracebackhide__ = True
    if not callable(given):
        raise TypeError(f"always() takes a function, such as lambda: sold <= stock, not {given!r}")
    if inspect.iscoroutinefunction(given):
        raise TypeError(f"always() takes a plain function, not the coroutine function {given!r}")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # of C code, which may have none
        return
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(f"always() calls {given!r} without arguments: {error}") from None


def _source_of(predicate: Predicate) -> tuple[str, str]:
    """Return the line of code that defines a predicate, and where it is; its repr without one."""
    code = getattr(unwrapped(predicate)[0], "__code__", None)
    if code is None:
        return repr(predicate), ""
    number = code.co_firstlineno
    line = linecache.getline(code.co_filename, number).strip()
    while line.startswith("@"):
        number += 1
        line = linecache.getline(code.co_filename, number).strip()
    return line or repr(predicate), at(code, number)


def _text(one: _Invariant, wrong: str, when: str) -> str:
    lines = [f"always() {wrong} {when}:", f"    {one.source}"]
    return "\n".join([*lines, f"    {one.location}"] if one.location else lines)


def _running() -> str:
    task = current_task()
    return "" if task is None else f" of {_task(task.name, task.task_id)}"


def _task(name: str, task_id: str | None) -> str:
    short = name.rpartition(".")[2]
    return f"a call of {short}" if task_id is None else f"{short}#{task_id[:8]}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
