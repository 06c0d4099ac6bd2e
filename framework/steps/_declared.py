"""The decorator of steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from framework._tasks.functions import name_of, require_callable
from framework._tasks.injection import injected
from framework.steps._branches import current_branch
from framework.steps._runs import DeclaredStep

P = ParamSpec("P")
T = TypeVar("T")


def step(fn: Callable[P, T], /) -> Callable[P, T]:
    """Make a function a step of the tasks that call it.

    In a task with ``on_restart="resume"`` a call whose end is recorded is not run again, whatever
    happens to the process: its result comes from the record. What is not recorded may have run, so
    a step runs once and, for each time that its process is killed meanwhile, perhaps once more.
    Anywhere else, also inside another step, it is a plain call.

    Arguments and result become JSON, by the annotations, as those of tasks do. A record is found by
    the function, the arguments, and the asyncio task of the run that called it. So the arguments
    must be the same in each run: one that is made anew, such as a new UUID, is refused once the
    step is recorded. What it declares with FastAPI's ``Depends`` is opened each time that its body
    runs, and callers leave it out.

    Args:
        fn: A sync or ``async def`` function at the level of a module or class.

    Returns:
        A function with the same parameters and result. In such a task it raises
        `StepMismatchError` if a call cannot be told from one whose arguments are made anew, and
        `StepTakenError` if the task runs in another process by now.

    Raises:
        TypeError: If *fn* is no function, or a generator, or a dependency needs a request.
    """
    require_callable("step", fn)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(f"step needs a function that returns, not the generator {fn.__qualname__}")
    run = injected(fn)
    declared = DeclaredStep(name_of(fn), run)
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def async_inner(*args: P.args, **kwargs: P.kwargs) -> Any:
            branch = current_branch()
            if branch is None:
                return await run(*args, **kwargs)
            return await branch.run.call(branch, declared, args, kwargs)

        return async_inner  # type: ignore[return-value]  # the same coroutine function

    @functools.wraps(fn)
    def sync_inner(*args: P.args, **kwargs: P.kwargs) -> T:
        branch = current_branch()
        if branch is None:
            return run(*args, **kwargs)  # type: ignore[no-any-return]  # what *fn* returns
        return branch.run.call_sync(branch, declared, args, kwargs)  # type: ignore[no-any-return]

    return sync_inner
