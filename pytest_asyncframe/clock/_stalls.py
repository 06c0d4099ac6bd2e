"""Errors for a test that cannot continue, or that blocks outside the virtual clock.

Relies on: the frames of threads and coroutines, to say where each of them waits.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

from pytest_asyncframe._locations import inwards, shown, where_is
from pytest_asyncframe._turns import activity
from pytest_asyncframe._turns.actors import Actor, State
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._clock import StuckError, VirtualDeadlockError
from pytest_asyncframe.clock._loop import loops_of
from pytest_asyncframe.clock._patched.threads import busy, lasting

STUCK_AGAIN = 0.5
"""Real seconds after which a test that was stuck before counts as stuck again."""


def watch(
    sequencer: Sequencer,
    mode: str,
    before: set[threading.Thread],
    note: Callable[[str], object],
) -> None:
    """Let *sequencer* raise an error at a deadlock and where something blocks unseen.

    Args:
        sequencer: The test's sequencer.
        mode: The name of the test's mode.
        before: The threads that existed before the test.
        note: Called with a text for the timeline when the sequencer did not wait for something.
    """
    seen: object = None
    watchdog = sequencer.watchdog
    sequencer.outside.watch(lasting(before))
    strangers = functools.partial(_strangers, sequencer, before, activity.native_threads())

    def on_stall() -> BaseException | None:
        if _waits_outside(sequencer) or any(strangers()):
            return None
        return VirtualDeadlockError(_why(sequencer, mode))

    def on_runaway() -> BaseException | None:
        moved = (
            f"time has moved {sequencer.most_moves:,} times, to {sequencer.now / 1e9:.9g} s, "
            "without progress in any task:"
        )
        return VirtualDeadlockError("\n".join([moved, *_table(sequencer)]))

    def on_quiet(actor: Actor) -> BaseException | None:
        nonlocal seen
        if actor is not sequencer.first:
            return None
        at_work = [one for one in list(sequencer.actors.values()) if not one.is_stopped]
        children = activity.child_activity() if sequencer.elsewhere else None
        found = (sequencer.beats, [activity.activity(one.native_id) for one in at_work], children)
        moved, seen = found != seen, found
        # A thread that computes is slow, not stuck.
        if moved or (_waits_outside(sequencer) and not at_work):
            return None
        error = StuckError(_who_blocks(sequencer, strangers()))
        # Clients, loops and pools meet the same again when they are closed, one after another.
        watchdog.patience = min(watchdog.patience, STUCK_AGAIN)
        return error

    def on_overtake(others: list[Actor]) -> None:
        frames = sys._current_frames()
        blocked = ", ".join(f"{one.name} at {where_is(frames, one.ident)}" for one in others)
        sequencer.outside.met[f"what blocks outside the virtual clock: {blocked}"] = None
        note(f"runs beside what blocks outside the virtual clock: {blocked or 'a timer'}")

    watchdog.on_give_up = functools.partial(_tell_pollers, note)
    sequencer.on_stall = on_stall
    sequencer.on_runaway = on_runaway
    watchdog.on_overtake = on_overtake
    watchdog.on_quiet = on_quiet


def _tell_pollers(note: Callable[[str], object], threads: list[threading.Thread]) -> None:
    frames = sys._current_frames()
    for thread in threads:
        location = where_is(frames, thread.ident)
        note(f"time moves on without waiting for {thread.name}, which keeps polling: {location}")


def _strangers(
    sequencer: Sequencer, before: set[threading.Thread], native_before: set[int]
) -> Iterator[threading.Thread]:
    """Yield the threads that may wake somebody unseen by the clock.

    Those from before the test are among them once they have run; without `/proc`, while they are
    not where they were before it.
    """
    certain = activity.unseen_threads_rest(native_before)
    for thread in busy(before - sequencer.outside.stirred):
        if thread.ident in sequencer.actors or thread is threading.current_thread():
            continue
        if sequencer.outside.is_back(thread):
            continue
        native_id = thread.native_id
        if certain and native_id is not None and activity.waits_for_a_thread(native_id):
            continue
        yield thread


def _waits_outside(sequencer: Sequencer) -> bool:
    """Whether a loop may yet be woken by a socket or a signal."""
    return any(loop.awaits_outside for loop in loops_of(sequencer))


def _why(sequencer: Sequencer, mode: str) -> str:
    lines = [f"nothing can continue at {sequencer.now / 1e9:.9g} s of virtual time:"]
    lines += _table(sequencer)
    queue = sequencer.queue.waiting
    if queue:
        names = ", ".join(queued.name for queued in queue)
        lines.append(f"{len(queue)} queued and not started: {names}")
        if mode == "manual":
            lines.append(
                "tasks do not start by themselves here: call run_next(), run(task_id) or drain()"
            )
    elif not sequencer.moves and sequencer.timers():
        lines.append("time does not move by itself here: call task_clock.advance() or run_for()")
    return "\n".join(lines)


def _who_blocks(sequencer: Sequencer, strangers: Iterable[threading.Thread]) -> str:
    lines = [f"nothing has happened for {sequencer.watchdog.patience:g} s of real time:"]
    frames = sys._current_frames()
    lines += [
        f"  {actor.name} blocks outside the virtual clock: {where_is(frames, actor.ident)}"
        for actor in list(sequencer.actors.values())
        if not actor.is_stopped
    ]
    lines += [
        f"  {one.name}, which the clock does not control, is at {where_is(frames, one.ident)}"
        for one in strangers
    ]
    if sequencer.elsewhere:
        lines.append(f"  calls in other processes that have not returned: {sequencer.elsewhere}")
    return "\n".join([*lines, *_table(sequencer)])


def _table(sequencer: Sequencer) -> list[str]:
    """Return a line for each actor that waits, and for each coroutine on its loop."""
    frames = sys._current_frames()
    lines = []
    for actor in list(sequencer.actors.values()):
        if not actor.is_stopped:
            continue
        if actor.state is not State.PARKED:
            location = where_is(frames, actor.ident)
            lines.append(f"  {actor.identity} waits at {location} {actor.wants}")
            continue
        if actor.loop is None:
            lines.append(f"  {actor.name} waits {actor.wants}: {where_is(frames, actor.ident)}")
            continue
        lines.append(f"  {actor.name} waits in its event loop:")
        tasks = sorted(asyncio.all_tasks(actor.loop), key=lambda task: task.get_name())
        lines += [f"    {task.get_name()}: {_where(task)}" for task in tasks]
    return lines


def _where(task: asyncio.Task[object]) -> str:
    frames = list(inwards(task.get_coro()))
    return f"waits at {shown(frames[::-1])}" if frames else "is about to end"
