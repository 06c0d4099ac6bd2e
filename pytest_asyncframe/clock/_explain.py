"""The pending timers of a test, for `VirtualClock.explain`.

Relies on: the timers of event loops and the frames of threads and coroutines, to say which
task waits for a timer and where.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from pytest_asyncframe._locations import inwards, location_of, outwards
from pytest_asyncframe._turns.actors import Timer
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._loop import loops_of

Label: TypeAlias = Callable[[object], tuple[str, str]]
"""Returns the name of the task that runs on a thread (given its identifier) or in an asyncio task,
and its location if the frames do not show it; "" for what is not known."""


def upcoming(sequencer: Sequencer, label: Label) -> list[str]:
    """Return the pending timers, earliest first, a line each."""
    found = [*_of_threads(sequencer, label), *_of_loops(sequencer, label)]
    found.sort(key=lambda one: one[0])
    return [f"t+{(when - sequencer.now) / 1e9:.9g} s {what}" for when, what in found]


def _of_threads(sequencer: Sequencer, label: Label) -> Iterator[tuple[int, str]]:
    frames = sys._current_frames()
    for timer in sequencer.timers():
        actor = timer.actor
        if actor is None:
            yield timer.when, _called(timer)
        elif not actor.listens:
            # An actor that listens is a loop, whose own timers are listed.
            frame = frames.get(actor.ident)
            yield timer.when, _line(actor.name, label(actor.ident), outwards(frame))


def _of_loops(sequencer: Sequencer, label: Label) -> Iterator[tuple[int, str]]:
    for loop in loops_of(sequencer):
        tasks = asyncio.all_tasks(loop)
        handles: list[Any] = list(loop._scheduled)  # type: ignore[attr-defined]  # asyncio's own
        for handle in handles:
            if not handle.cancelled():
                yield round(handle.when() * 1e9), _of_handle(handle, tasks, label)


def _of_handle(handle: Any, tasks: set[asyncio.Task[Any]], label: Label) -> str:
    fn = handle._callback
    owner: Any = getattr(fn, "__self__", None)
    for task in tasks:
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is not None and waits_for in handle._args:
            return _of_task(task, label)
        if task in (getattr(owner, "_task", None), getattr(owner, "_host_task", None)):
            return f"a limit of {_of_task(task, label)}"
    return name_of(fn)


def _of_task(task: asyncio.Task[Any], label: Label) -> str:
    frames = list(inwards(task.get_coro()))
    return _line(task.get_name(), label(task), reversed(frames))


def _line(name: str, known: tuple[str, str], frames: Iterable[FrameType]) -> str:
    task, location = known
    shown = Path(location or location_of(frames)).name
    what = " ".join([task, f"at {shown}"] if shown else [task]).strip()
    return f"{name}: {what}" if what else name


def _called(timer: Timer) -> str:
    name = name_of(timer.fn)
    return f"{name}, in the background" if timer.background else name


def name_of(fn: Any) -> str:  # Any: whatever can be called
    """Return the name of a function."""
    return str(getattr(fn, "__qualname__", None) or repr(fn))
