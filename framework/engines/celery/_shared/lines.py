"""The places of unique tasks, and of those that run in limited numbers, shared through Redis.

One thread in each process asks for places and gives them back, in the order of the calls, so
that no caller waits for Redis. Who waits for a place learns of it from the reports.

Guarantees: no line has more tasks with a place than its limit. A task that is published keeps
its places until it is final, whoever dies; one that is not loses them some seconds after its
process has died. A process that others consider dead cannot publish such a task any more.
Relies on: the reports, and a repeated request, which gets the answer of the first one.
Lock order: `_condition` is innermost: neither Redis nor a caller is called under it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from framework._records.jsonsafe import safe_str
from framework._tasks.places import GRANTED, MOST_AHEAD, PlaceAnswer, PlaceRequest
from framework._threads.clock import SystemClock
from framework.engines.celery._redis import line_scripts as _line_scripts
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.state import LIFE, State, holder_here

_LOGGER = logging.getLogger("asyncframe")

BEAT: Final = 2.0
"""Seconds between two signs of life of a process whose tasks are in lines."""

_LOOKED_AT: Final = 100
_PAUSES: Final = (0.1, 0.3, 1.0, 2.0)

Told: TypeAlias = Callable[[PlaceAnswer], object]


class _Asked:
    """A request that has no place yet.

    Attributes:
        request: The request.
        told: Called with the answers.
        answered: Whether it was told that it waits.
    """

    __slots__ = ("answered", "request", "told")

    def __init__(self, request: PlaceRequest, told: Told) -> None:
        self.request = request
        self.told = told
        self.answered = False


class RedisLines:
    """The lines of all processes, as `protocols.SharedPlaces` has them.

    Args:
        state: Redis.
        prepare: Called on the thread before the first request, to read reports from then on.

    Attributes:
        holder: This process; see `holder_here`.
    """

    def __init__(self, state: State, prepare: Callable[[], object]) -> None:
        self._state = state
        self._prepare = prepare
        self.holder: str = holder_here()
        self._alive = f"{state.prefix}alive:{self.holder}"
        self._clock = SystemClock()
        self._condition = threading.Condition(threading.Lock())
        self._calls: deque[Callable[[], object]] = deque()
        # The lines in which tasks may be, until they leave.
        self._lines: dict[str, set[str]] = {}
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._closed = self._missed = self._busy = self._away = self._stays = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked = 0
        register = state.client.register_script
        self._join = register(scripts.JOIN)
        self._leave = register(scripts.LEAVE_LINES)
        self._drop = register(scripts.DROP)
        self._look = register(scripts.LOOK)
        self._beat = register(_line_scripts.BEAT)

    # -- any thread

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._lines

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        asked = _Asked(request, told)
        with self._condition:
            self._lines.setdefault(request.task_id, set()).add(request.key)
            self._asked[request.task_id, request.key] = asked
            self._put(partial(self._ask, asked))

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        with self._condition:
            lines = self._lines.pop(task_id, None)
            if lines is None:
                return
            for line in lines:
                self._asked.pop((task_id, line), None)
            self._put(lambda: self._leave(self._state.keys(task_id), [task_id]))

    def stay_alive(self) -> None:
        """Show from now on that this process lives, also while none of its tasks is in a line."""
        if not self._stays:
            with self._condition:
                self._stays = True
                self._put(self._show_life)

    def placed(self, task_id: str, line: str) -> None:
        """Tell a task of this process that it has a place, as Redis has reported."""
        with self._condition:
            asked = self._asked.pop((task_id, line), None)
        if asked is not None:
            asked.told(GRANTED)

    def missed(self) -> None:
        """Ask again for all places, since reports may have been missed."""
        with self._condition:
            self._missed = True
            self._condition.notify_all()

    def flush(self) -> None:
        """Block until all calls so far were made, unless Redis is unavailable."""
        with self._condition:
            while (self._calls or self._busy) and not self._away and not self._closed:
                self._condition.wait()

    def close(self, patience: float) -> None:
        """Make the calls so far for at most *patience* seconds, and stop."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(patience)
            self._stop.set()

    def _put(self, call: Callable[[], object]) -> None:
        """Queue a call; called with the lock held."""
        self._calls.append(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asyncframe-lines", daemon=True)
            self._thread.start()
        self._condition.notify_all()

    # -- the thread

    def _run(self) -> None:
        self._insist(self._prepare)
        next_beat = self._clock.monotonic()
        while True:
            with self._condition:
                wait = self._wait(next_beat - self._clock.monotonic())
                call = self._calls.popleft() if self._calls else None
                self._busy = call is not None
                if call is None and self._closed:
                    break
            if wait <= 0 or self._missed:
                next_beat = self._clock.monotonic() + BEAT
                self._show_life()
            if call is not None:
                self._insist(call)
                self._set(away=False)
        self._give_back()

    def _give_back(self) -> None:
        """Leave all tasks that were not published: they end with this process."""
        # First: it is enough for the others, who then look for themselves.
        self._insist(lambda: self._state.client.delete(self._alive), tries=1)
        with self._condition:
            ids = list(self._lines)
        for task_id in ids:
            self._insist(partial(self._drop, self._state.keys(task_id), [task_id]), tries=1)

    def _wait(self, left: float) -> float:
        """Wait for a call, or until the next sign of life; return the seconds until that."""
        while not (self._calls or self._closed or self._missed):
            shows = self._lines or self._stays
            if shows and left <= 0:
                break
            began = self._clock.monotonic()
            self._condition.wait(left if shows else None)
            left -= self._clock.monotonic() - began
        return left

    def _insist(self, call: Callable[[], object], tries: int | None = None) -> None:
        """Repeat a call until Redis answers, or until this process stops."""
        number = 0
        while not self._stop.is_set():
            try:
                call()
            except Exception as error:  # whatever the client raises, Redis is unavailable
                if not number:
                    _LOGGER.warning("places cannot be shared now: %s", safe_str(error, 200))
                    self._set(away=True)
            else:
                return
            number += 1
            if number == tries:
                return
            self._stop.wait(_PAUSES[min(number, len(_PAUSES)) - 1])

    def _set(self, *, away: bool) -> None:
        """Note whether Redis is unavailable, at the end of a call or of a try."""
        with self._condition:
            self._away, self._busy = away, away
            self._condition.notify_all()

    def _ask(self, asked: _Asked) -> None:
        request = asked.request
        key = request.task_id, request.key
        with self._condition:
            if self._asked.get(key) is not asked:  # it has left, or has its place
                return
        has, *ahead = self._join(
            self._state.keys(request.task_id),
            [
                request.task_id,
                request.key,
                request.limit,
                "1" if request.waits else "",
                request.rank,
                self.holder,
                LIFE,
                MOST_AHEAD,
            ],
        )
        with self._condition:
            if self._asked.get(key) is not asked:
                return
            if has or not request.waits:
                del self._asked[key]
            if not has and not request.waits:
                self._forget(request)
            known, asked.answered = asked.answered, True
        if has or not known:
            asked.told(GRANTED if has else PlaceAnswer(False, tuple(ahead)))

    def _forget(self, request: PlaceRequest) -> None:
        """Forget a request that entered no line; called with the lock held."""
        lines = self._lines[request.task_id]
        lines.discard(request.key)
        if not lines:
            del self._lines[request.task_id]

    def _show_life(self) -> None:
        """Renew this process's key, and look whether other processes have died."""
        try:
            if not self._beat([self._alive], [LIFE]):
                self.missed()
            self._look_around()
        except Exception as error:  # Redis is unavailable; the next time will do
            _LOGGER.debug("no sign of life: %s", safe_str(error))
        with self._condition:
            missed, self._missed = self._missed, False
            waiting = list(self._asked.values()) if missed else []
        for asked in waiting:
            self._insist(partial(self._ask, asked))

    def _look_around(self) -> None:
        with self._condition:
            lines = sorted({line for _, line in self._asked})
        if not lines:
            return
        begin = self._looked % len(lines)
        self._looked = begin + _LOOKED_AT
        # All of them, if they are not too many, and else the next ones.
        some = [*lines[begin:], *lines[:begin]][:_LOOKED_AT]
        self._look(self._state.keys(""), ["", *some])
