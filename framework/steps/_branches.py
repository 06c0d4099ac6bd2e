"""Branches: the asyncio tasks of a run, numbered by who has started them.

A task factory on the loop numbers what a branch starts: by ``gather``, ``TaskGroup``,
``create_task`` and all else that makes asyncio tasks. Which branch a call belongs to travels in a
context variable, so code that copies contexts, such as ``asyncio.to_thread``, keeps it.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
import warnings
import weakref
from asyncio import locks, queues, taskgroups, tasks
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from contextvars import ContextVar, copy_context
from pathlib import Path
from types import CellType, CoroutineType, GeneratorType, MethodType
from typing import Any, Final, Protocol

from framework._records.steps import Origin, StepRecord
from framework._records.steps import Path as BranchPath
from framework._running import runner
from framework._tasks.live import HomeCore, LiveTask, current_home, current_record
from framework.steps._matching import PATIENCE, Answer, Call, Held, Matching, State


class Caller(Protocol):
    """What branches call steps by: a `_runs.StepRun`.

    Attributes:
        branches: All of the run, in the order in which they began.
    """

    branches: list[Branch]

    def ended(self, asyncio_task: object) -> None:
        """Hear that a branch has ended; on the loop."""
        ...

    @property
    def task(self) -> LiveTask:
        """Its task."""
        ...

    @property
    def has_run(self) -> bool:
        """Whether its task may have made an attempt before, or goes on from another one."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether its task is the one that runs here: other tasks inherit the context."""
        ...

    async def call(self, branch: Branch, declared: Any, args: Any, kwargs: Any) -> Any:
        """Answer a call of an ``async def`` step."""
        ...

    def call_sync(self, branch: Branch, declared: Any, args: Any, kwargs: Any) -> Any:
        """Answer a call of a sync step, on a thread."""
        ...


class Branch:
    """A branch of a run; see `_matching.Branch`.

    Args:
        run: The run.
        path: Which branch it is.
        parent: The one that has started it; None for the first.
        origin: What it was started with.
        coroutine: What it runs; None for a thread.

    Attributes:
        coroutine: What it runs; None for a thread.
        asyncio_task: The one that runs it; None for a thread, and before it is made.
        waits: What it does by the run's own doing: ``held``, or ``runs`` while a step's body does;
            None while its own code says.
        submitted: How many tasks its code has submitted by each call without waiting for that.
    """

    def __init__(
        self, run: Caller, path: BranchPath, parent: Branch | None, origin: Origin, coroutine: Any
    ) -> None:
        self.run = run
        self.path = path
        self.parent = parent
        self.origin = origin
        self.children: list[Branch] = []
        self.asyncio_task: asyncio.Task[Any] | None = None
        self.waits: State | None = None
        self.submitted: dict[str, int] = {}
        self.coroutine = coroutine
        # Those that it has started, by what they were started with.
        self._started = Counter[Origin]()
        self._rank = 0

    @property
    def origins(self) -> tuple[Origin, ...]:
        """What each branch on its path was started with."""
        return () if self.parent is None else (*self.parent.origins, self.origin)

    @property
    def descent(self) -> tuple[Any, ...]:
        """What each branch on its path was started with, and how many siblings were so before.

        Unlike its path, it does not depend on the order of siblings that can be told apart.
        """
        return () if self.parent is None else (*self.parent.descent, (self.origin, self._rank))

    @property
    def state(self) -> State:
        """What it does now."""
        task = self.asyncio_task
        if task is not None and task.done():
            return "ended"
        if self.waits is not None:
            return self.waits
        # Private, but of each Python since 3.5: what the asyncio task waits for, if for anything.
        if task is None or getattr(task, "_fut_waiter", None) is None:
            return "runs"
        return _waiting_in(self.coroutine, task)

    def limits(self) -> Iterator[float]:
        """Yield when the limits end, on the loop's clock, that its code has set around a wait.

        Those are `asyncio.timeout`, ``wait_for`` and ``wait``, and anyio's cancel scopes.
        """
        coroutine = self.coroutine
        while isinstance(coroutine, CoroutineType):
            if coroutine.cr_code.co_filename.startswith(_STEPS):
                return  # below are the framework's own timers
            yield from _limits_in(coroutine)
            coroutine = coroutine.cr_await

    def start(self, coroutine: Any) -> Branch:
        """Add the branch that runs a coroutine which has not begun."""
        path = (*self.path, len(self.children))
        made = Branch(self.run, path, self, origin_of(coroutine), coroutine)
        made._rank = self._started[made.origin]
        self._started[made.origin] += 1
        self.children.append(made)
        self.run.branches.append(made)
        return made


class Turns:
    """The turns of the threads that run a sync task's code, which all are its one branch.

    Entered by whoever changes its records. Its own thread is the one that begins it; others run in
    copies of its context, such as those of an executor.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self.begin()

    def begin(self) -> None:
        """Begin an attempt on this thread."""
        self._own_thread, self._has_others = threading.get_ident(), False

    def __enter__(self) -> None:
        """Wait for the turn of this thread; it may have it already."""
        self._turn.__enter__()

    def __exit__(self, *raised: object) -> None:
        """End it."""
        self._turn.__exit__(None, None, None)

    def ask(self, matching: Matching, branch: Branch, call: Call) -> Answer:
        """Answer a call on this thread, which has its turn."""
        self._has_others |= threading.get_ident() != self._own_thread
        answer = matching.ask(branch, call)
        # What is asked here may answer what is held on another thread.
        self._turn.notify_all()
        since = 0.0
        while answer.what == "hold":
            # On one thread there is nobody else who could ask.
            is_stuck = since >= PATIENCE or not self._has_others
            found = matching.settle([Held(branch, call, since)], is_stuck=is_stuck)
            if found is not None:
                return found[1]
            # As long as others call something, it is too early to say.
            since = 0.0 if self._turn.wait(PATIENCE) else PATIENCE
        return answer


class Body:
    """The body of a step.

    Attributes:
        run: The run of the task.
        record: Of the step.
        submitted: How many tasks it has submitted of each call, while this run of it lasts.
    """

    __slots__ = ("record", "run", "submitted")

    def __init__(self, run: Caller, record: StepRecord) -> None:
        self.run = run
        self.record = record
        self.submitted: dict[str, int] = {}


entered: ContextVar[Branch | Body | None] = ContextVar("asyncframe_branch", default=None)
"""The branch, or the body of a step, in whose context this runs; None outside of tasks that go on.
"""


def current_branch() -> Branch | None:
    """Return the branch whose code runs here; None if that of no such branch does."""
    branch = entered.get()
    return branch if isinstance(branch, Branch) and branch.run.is_here else None


_UNDER_WAY: Final[weakref.WeakSet[Caller]] = weakref.WeakSet()
"""The runs whose code runs now, on whichever threads."""


@contextmanager
def under_way(root: Branch) -> Iterator[None]:
    """Let the code inside be that of the first branch of a run."""
    outside = entered.set(root)
    _UNDER_WAY.add(root.run)
    try:
        yield
    finally:
        _UNDER_WAY.discard(root.run)
        entered.reset(outside)


def forget_runs(core: HomeCore) -> None:
    """Forget the runs of a framework that goes on no more, as if its process had died."""
    for run in [one for one in list(_UNDER_WAY) if one.task.home.core is core]:
        _UNDER_WAY.discard(run)


def warn_if_lost(name: str) -> None:
    """Warn if a sync step is called on a thread that knows of no task, while some go on from steps.

    Args:
        name: The step's.
    """
    if not _UNDER_WAY or entered.get() is not None or current_record.get() is not None:
        return
    thread = threading.current_thread()
    # A loop is that of an app or a script, and a request has a home: both may call steps plainly.
    if thread is threading.main_thread() or asyncio._get_running_loop() is not None:
        return
    if current_home.get() is None:
        warnings.warn(
            f"step {name} was called on thread {thread.name!r}, which knows of no task, while a "
            "task that goes on from its steps runs: it is a plain call there, and nothing records "
            "it; call it by contextvars.copy_context().run() there, or make it async def if the "
            "task is, and await it",
            RuntimeWarning,
            stacklevel=3,
        )


def current_body() -> Body | None:
    """Return the body of a step that runs here; None if none does."""
    body = entered.get()
    # Tasks that it has submitted inherit its context.
    return body if isinstance(body, Body) and body.run.is_here else None


_JOINS: Final = {"_wait", "_wait_for_one", "wait", "wait_for", "gather"}
"""Coroutines of `asyncio.tasks` that wait for other asyncio tasks."""

_INSIDE: Final = (locks.__file__, queues.__file__)

_RUNNING: Final = str(Path(runner.__file__).parent)
"""The folder of the framework whose own asyncio tasks are no branches."""


_STEPS: Final = str(Path(__file__).parent)


def _limits_in(frame: Any, deepest: int = 3) -> Iterator[float]:
    """Yield the limits that a coroutine, or what it has entered, holds on to.

    Nothing lists the timers of a loop. But the limit that a coroutine is inside of is on its stack,
    and the garbage collector knows what is there.
    """
    for one in gc.get_referents(frame):
        found: Any = one.__self__ if isinstance(one, MethodType) else one
        name = type(found).__name__
        if isinstance(found, asyncio.Timeout):
            moment = found.when()
            # One that was left may still have a name. Private, but of each Python since 3.11.
            if moment is not None and found._state.name != "EXITED":  # type: ignore[attr-defined]
                yield moment
        elif name == "TimerHandle" and not found.cancelled():
            yield found.when()
        elif name == "CancelScope" and type(found).__module__.startswith("anyio."):
            if getattr(found, "_active", True):
                yield found.deadline
        elif deepest and isinstance(found, (CellType, GeneratorType)):
            yield from _limits_in(found, deepest - 1)
        elif deepest and isinstance(found, _GeneratorContextManager):
            yield from _limits_in(found.gen, deepest - 1)


def _waiting_in(coroutine: Any, task: asyncio.Task[Any]) -> State:
    """Return what a branch waits for, by the innermost coroutine that it awaits."""
    waits_for = getattr(task, "_fut_waiter", None)
    if isinstance(waits_for, asyncio.Task) or type(waits_for).__name__ == "_GatheringFuture":
        return "joins"
    while isinstance(inner := getattr(coroutine, "cr_await", None), CoroutineType):
        if inner.cr_code.co_filename == taskgroups.__file__:
            return "joins"
        if inner.cr_code.co_filename == tasks.__file__ and inner.cr_code.co_name in _JOINS:
            return "joins"
        coroutine = inner
    code = getattr(coroutine, "cr_code", None)
    return "inside" if code is not None and code.co_filename in _INSIDE else "outside"


def origin_of(coroutine: Any) -> Origin:
    """Return the name of a coroutine that has not begun, and a digest of its arguments."""
    frame = getattr(coroutine, "cr_frame", None)
    name = getattr(coroutine, "__qualname__", type(coroutine).__qualname__)
    if frame is None:
        return name, None
    code = frame.f_code
    many = (
        code.co_argcount
        + code.co_kwonlyargcount
        + bool(code.co_flags & 4)
        + bool(code.co_flags & 8)
    )
    values = [frame.f_locals.get(one) for one in code.co_varnames[:many]]
    if not all(map(_is_plain, values)):
        return name, None
    return name, digest_of(repr(values))


def _is_plain(value: Any) -> bool:
    """Return whether a value has the same text in each process."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def digest_of(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class _Numbering:
    """A task factory that numbers what branches start; all else is left to the one before it.

    Args:
        before: That one; None for none.

    Attributes:
        is_plain: Whether there is none, so that asyncio tasks are made as without a factory.
    """

    def __init__(self, before: Any) -> None:
        self._before = before
        self.is_plain = before is None

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **named: Any
    ) -> Any:
        branch = current_branch()
        code = getattr(coro, "cr_code", None)
        if branch is None or (code is not None and code.co_filename.startswith(_RUNNING)):
            return self._make(loop, coro, **named)
        child = branch.start(coro)
        context = named.pop("context", None) or copy_context()
        context.run(entered.set, child)
        child.asyncio_task = made = self._make(loop, coro, context=context, **named)
        made.add_done_callback(branch.run.ended)
        return made

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **named: Any) -> Any:
        if self._before is not None:
            return self._before(loop, coro, **named)
        return asyncio.Task(coro, loop=loop, **named)


def number_branches(loop: asyncio.AbstractEventLoop) -> None:
    """Number the asyncio tasks that branches start on a loop from now on; on its thread."""
    factory = loop.get_task_factory()
    if not isinstance(factory, _Numbering):
        loop.set_task_factory(_Numbering(factory))  # type: ignore[arg-type]
