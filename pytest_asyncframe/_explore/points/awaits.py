"""Level "awaits": which step of an event loop comes next, and threads that run in between.

A step is what an asyncio task does up to its next suspension. The timers of a loop that are due
at one moment are such choices too: a loop that was kept busy finds both a timeout and the end of a
sleep due at once, and what the first one wakes may run before the second one fires.

A step may be late, as any coroutine may be on a busy machine; a callback never is, since asyncio
promises their order. So a callback may pass the steps before it, and no step passes a callback.
Those that only count how many tasks are left are the exception: nobody notices when they run, so
they are no choice.

Relies on: asyncio taking what it runs next from the left of ``_ready``, where it puts the timers
that are due; `__self__` of the callbacks of asyncio tasks; the variables of asyncio.gather and of
the task groups of asyncio and anyio.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CodeType, CoroutineType
from typing import Any
from weakref import WeakKeyDictionary

from framework import TaskManager
from pytest_asyncframe._explore.early.moments import EarlyTimeouts
from pytest_asyncframe._locations import inwards, is_users
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.clock._loop import END_OF_SLEEP

_TOGETHER = 1e-6
"""Seconds between timers of one moment at the most."""

_STEPS = frozenset({None, "task_wakeup", "__step", "__wakeup"})
"""The names of what makes the steps of asyncio tasks, in C and in Python."""

_OURS = "asyncframe "
"""What the names of asyncio tasks begin with that run a task of the framework."""


@contextmanager
def installed(
    clock: VirtualClock, manager: Callable[[], TaskManager], own: Collection[CodeType] = ()
) -> Iterator[Identities]:
    """Let the chooser order the steps of loops that are created inside the block.

    Args:
        clock: The test's clock.
        manager: Returns the manager of its tasks.
        own: The code of the test and its fixtures, which others do not notice.
    """
    names = Identities(clock.sequencer)
    timeouts = None
    with ExitStack() as stack:
        if clock.sequencer.takes_time:
            timeouts = EarlyTimeouts(clock, manager, own, names.known, _woken_by)
            stack.enter_context(timeouts.installed())
        clock.make_ready = lambda: _Ready(names, own, timeouts)
        try:
            yield names
        finally:
            clock.make_ready = deque


class Identities:
    """The identities of asyncio tasks, and of due timers.

    Args:
        sequencer: The actors of the test.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self.sequencer = sequencer
        self._known: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
        self._named = Counter[str]()

    def known(self, task: asyncio.Task[Any]) -> str | None:
        """Return the identity of a task that has made a step; None if it has none."""
        return self._known.get(task)

    def of(self, task: asyncio.Task[Any]) -> str:
        """Return the identity of a task, the same in each run that has made the same choices.

        Called for each step when it is next, so that the numbers are in that order.
        """
        found = self._known.get(task)
        if found is None:
            found = self._known[task] = self._new(task)
        return found

    def of_timer(self, handle: Any) -> str:
        """Return the identity of a timer that is due: whom it wakes, or what it calls."""
        what, task = _woken_by(handle)
        whom = "" if task is None else f" of {self.of(task)}"
        self._named[what + whom] += 1
        times = self._named[what + whom]
        return f"{what}{whom}" if times == 1 else f"{what} {times}{whom}"

    def _new(self, task: asyncio.Task[Any]) -> str:
        # asyncio numbers the tasks of the whole process, so its own names do not do.
        name = task.get_name()
        if name.startswith(_OURS):
            return self.sequencer.identity_on_loop(name.removeprefix(_OURS))
        coroutine = task.get_coro()
        return self.sequencer.identity_on_loop(getattr(coroutine, "__qualname__", "coroutine"))


class Passing:
    """The callbacks that have run since the latest step, and what they have scheduled.

    What one of them schedules passes no step if it is like one that has run: a callback that
    schedules itself again would pass them for ever. What threads hand over is never of that kind.
    """

    def __init__(self) -> None:
        self._ran = list[tuple[Callable[..., object], Any]]()
        # Those that are scheduled and pass no step, by `id`.
        self._again = set[int]()
        self._thread = threading.get_ident()

    def scheduled(self, handle: Any) -> None:
        """Take note of a handle that is scheduled now."""
        if not self._ran or threading.get_ident() != self._thread:
            return
        if (handle._callback, handle._args) in self._ran:
            self._again.add(id(handle))

    def may(self, handle: Any) -> bool:
        """Return whether a callback may run before the steps that are ready already."""
        return id(handle) not in self._again

    def took(self, handle: Any, *, is_step: bool) -> None:
        """Take note of what runs next."""
        self._thread = threading.get_ident()
        self._again.discard(id(handle))
        if is_step:
            self._ran.clear()
            self._again.clear()
        else:
            self._ran.append((handle._callback, handle._args))


class _Ready(deque[Any]):  # Any: asyncio's handles, whose private attributes are used
    """What a loop runs next; the chooser decides among steps of asyncio tasks and due timers."""

    def __init__(
        self, names: Identities, own: Collection[CodeType], timeouts: EarlyTimeouts | None
    ) -> None:
        super().__init__()
        self._timeouts = timeouts
        self._names = names
        self._own = own
        self._latest: asyncio.Task[Any] | None = None
        # The identities of due timers, by `id`: such a handle may equal another one.
        self._timers: dict[int, str] = {}
        self._passing = Passing()

    def append(self, handle: Any) -> None:
        """Schedule a handle; any thread."""
        self._passing.scheduled(handle)
        super().append(handle)

    def popleft(self) -> Any:
        """Let threads run first, if the chooser says so; then return what is next."""
        sequencer = self._names.sequencer
        sequencer.between_steps(self._ran_users_code)
        if self._timeouts is not None:
            self._timeouts.before_step(self)
        options = self._options()
        chosen = 0
        if len(options) > 1:
            chosen = [*options][sequencer.choose_step([*options.values()], self._stopped_at())]
        handle = self[chosen]
        del self[chosen]
        self._latest = _task_of(handle)
        self._passing.took(handle, is_step=self._latest is not None)
        self._timers.pop(id(handle), None)
        return handle

    def _options(self) -> dict[int, str]:
        """Return the identity of each handle that may be next, by its index; the first is there.

        No step passes a callback that was scheduled before it, and callbacks keep their order. So
        do timers of different moments, which are due together when the loop was kept busy.
        """
        found: dict[int, str] = {}
        moment = math.inf
        for index, handle in enumerate(self):
            task = _task_of(handle)
            if task is not None:
                found[index] = self._names.of(task)
            elif _is_timer(handle):
                moment = min(moment, handle.when() + _TOGETHER)
                if handle.when() <= moment:
                    found[index] = self._timer(handle)
            elif not found or not _only_counts(handle):
                if not found or self._passing.may(handle):
                    found[index] = "callback"
                break
        return found

    def _timer(self, handle: Any) -> str:
        if id(handle) not in self._timers:
            self._timers[id(handle)] = self._names.of_timer(handle)
        return self._timers[id(handle)]

    def _stopped_at(self) -> str:
        """Return where in the user's code the latest step has stopped; "" if in none."""
        if self._latest is None:
            return ""
        frames = [one for one in inwards(self._latest.get_coro()) if is_users(one.f_code)]
        if not frames:
            return ""
        code, line = frames[-1].f_code, frames[-1].f_lineno
        return f"{code.co_qualname}:{line - code.co_firstlineno}"

    def _ran_users_code(self) -> bool:
        """Whether the latest step has stopped in code of the app, or has ended such code."""
        if self._latest is None:
            return False
        coroutine = self._latest.get_coro()
        codes = [frame.f_code for frame in inwards(coroutine)]
        if not codes:  # it has ended
            codes = [coroutine.cr_code] if isinstance(coroutine, CoroutineType) else []
        users = [code for code in codes if is_users(code)]
        return bool(users) and users[-1] not in self._own


def _task_of(handle: Any) -> asyncio.Task[Any] | None:
    """Return the asyncio task whose next step a handle is; None for any other callback."""
    if handle._cancelled:
        return None
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    # Other methods of a task may be callbacks too, such as `cancel`.
    is_step = getattr(callback, "__name__", None) in _STEPS
    return owner if is_step and isinstance(owner, asyncio.Task) else None


def _is_timer(handle: Any) -> bool:
    return isinstance(handle, asyncio.TimerHandle) and not handle._cancelled


def _only_counts(handle: Any) -> bool:
    """Return whether a callback counts for a gather or a group that waits for others still.

    Args:
        handle: The handle of a callback.
    """
    ended = handle._args[0] if handle._args else None
    if not isinstance(ended, asyncio.Task) or ended.cancelled() or ended.exception() is not None:
        return False
    try:
        others = _counted(handle._callback)
    except (KeyError, AttributeError):
        # Of another release, with other names; then it is one more choice.
        return False
    return others is not None and (not others or not all(other.done() for other in others))


def _counted(callback: Any) -> Any:
    """Return the tasks of which a callback counts those that have ended; None if it does more."""
    match getattr(callback, "__qualname__", ""):
        case "gather.<locals>._done_callback":
            return _variables(callback)["children"]
        case "TaskGroup._on_task_done":
            return _waited_for(callback.__self__)
        case "TaskGroup._spawn.<locals>.task_done":
            inside = _variables(callback)
            return None if inside["task_status_future"] is not None else _waited_for(inside["self"])
    return None


def _waited_for(group: Any) -> Any:
    """Return the tasks that a group waits for; none if it does not wait yet."""
    return () if group._on_completed_fut is None else group._tasks


def _variables(function: Any) -> Mapping[str, Any]:
    """Return the variables of the functions around an inner one that it uses."""
    names = function.__code__.co_freevars
    return {
        name: cell.cell_contents for name, cell in zip(names, function.__closure__, strict=True)
    }


def _woken_by(handle: Any) -> tuple[str, asyncio.Task[Any] | None]:
    """Return what a timer is, in a word, and the task that it wakes or cancels, if it is one."""
    callback, future = handle._callback, next(iter(handle._args), None)
    owner = getattr(callback, "__self__", None)
    for name in ("_task", "_host_task"):  # of asyncio's timeouts, and anyio's scopes
        task = getattr(owner, name, None)
        if isinstance(task, asyncio.Task):
            return "timeout", task
    what = "sleep" if callback is END_OF_SLEEP else "timeout"
    if isinstance(future, asyncio.Future):
        for woken, _ in getattr(future, "_callbacks", None) or ():
            task = getattr(woken, "__self__", None)
            if isinstance(task, asyncio.Task):
                return what, task
    return getattr(callback, "__qualname__", "timer").rpartition(".")[2], None
