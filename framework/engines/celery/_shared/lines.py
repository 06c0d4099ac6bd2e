"""The places of unique tasks, and of those that run in limited numbers, shared through Redis.

One thread in each process asks for places and gives them back, in the order of the calls, so
that no caller waits for Redis. Who waits for a place learns of it from the reports.

Guarantees: no line has more tasks with a place than its limit. A task that is published keeps
its places until it is final, whoever dies; one that is not loses them some seconds after its
process has died. A process that others consider dead cannot publish such a task any more.
Relies on: the reports, and a repeated request, which gets the answer of the first one.
Lock order: `_lock`, and under it that of the courier; neither Redis nor a caller is called under
them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from framework._records.jsonsafe import safe_str
from framework._tasks.places import GRANTED, MOST_AHEAD, PlaceAnswer, PlaceRequest
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework._threads.watch.processes import holder_here
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.state import LIFE, State

_LOGGER = SafeLogger("asyncframe")

BEAT: Final = 2.0
"""Seconds between two signs of life of a process whose tasks are in lines."""

_LOOKED_AT: Final = 100

Told: TypeAlias = Callable[[PlaceAnswer], object]


@dataclass(slots=True, eq=False)
class _Asked:
    """A request that has no place yet.

    Attributes:
        request: The request.
        told: Called with the answers.
        answered: Whether it was told that it waits.
    """

    request: PlaceRequest
    told: Told
    answered: bool = False


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
        self._courier = Courier("asyncframe-lines", self._show_life, failed=self._away)
        # Nothing fails without it while there is a global lock: who finds a table changed while
        # he reads it tries again, as after any error.
        self._lock = threading.Lock()
        # The lines in which tasks may be, until they leave.
        self._lines: dict[str, set[str]] = {}
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._prepared = self._beats = self._missed = self._stays = self._gone = False
        self._looked = 0

    # -- any thread

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._lines

    def join(self, request: PlaceRequest, told: Told) -> None:
        """Ask for a place; see `protocols.SharedPlaces.join`."""
        asked = _Asked(request, told)
        with self._lock:
            self._lines.setdefault(request.task_id, set()).add(request.key)
            self._asked[request.task_id, request.key] = asked
            self._put(partial(self._ask, asked))

    def leave(self, task_id: str) -> None:
        """Take a task out of all lines; see `protocols.SharedPlaces.leave`."""
        with self._lock:
            lines = self._lines.pop(task_id, None)
            if lines is None:
                return
            for line in lines:
                self._asked.pop((task_id, line), None)
            self._put(partial(self._state.change, scripts.LEAVE_LINES, task_id, "1"))

    def stay_alive(self) -> None:
        """Renew this process's sign of life from now on, even without tasks in lines."""
        if not self._stays:
            with self._lock:
                self._stays = True
                self._put(bool)

    def placed(self, task_id: str, line: str) -> None:
        """Tell a task of this process that it has a place, as Redis has reported."""
        with self._lock:
            asked = self._asked.pop((task_id, line), None)
        if asked is not None:
            asked.told(GRANTED)

    def missed(self) -> None:
        """Ask again for all places, since reports may have been missed."""
        with self._lock:
            if self._asked:
                self._missed = True
                self._courier.wake()

    def flush(self) -> None:
        """Block until all calls so far were made, unless Redis is unavailable."""
        self._courier.flush()

    def close(self, patience: float) -> None:
        """Make the calls so far for at most *patience* seconds, and stop."""
        if self._prepared:
            self._courier.put(self._give_back)
        self._courier.close(patience)

    def _put(self, call: Callable[[], object]) -> None:
        """Queue a call, and renew the sign of life from now on; called with the lock held."""
        if not self._prepared:
            self._prepared = True
            self._courier.put(self._prepare)
        if not self._beats:
            self._beats = True
            self._courier.wake()
        self._courier.put(call)

    # -- the thread

    def _away(self, error: Exception) -> None:
        if not self._courier.is_failing:
            _LOGGER.warning("places cannot be shared now: %s", safe_str(error, 200))

    def _give_back(self) -> None:
        """Leave all tasks that were not published: they end with this process."""
        with self._lock:
            self._gone, ids = True, list(self._lines)
        try:
            # First: it is enough for the others, who then look for themselves.
            self._state.client.delete(self._alive)
            for task_id in ids:
                self._state.change(scripts.LEAVE_LINES, task_id, "")
        except Exception as error:  # Redis is unavailable; the others find it out by themselves
            _LOGGER.debug("places are not given back: %s", safe_str(error))

    def _ask(self, asked: _Asked) -> None:
        request = asked.request
        key = request.task_id, request.key
        with self._lock:
            if self._asked.get(key) is not asked:  # it has left, or has its place
                return
        wish = request.key, request.limit, int(request.waits), request.rank
        has, *ahead = self._state.change(
            scripts.JOIN, request.task_id, *wish, self.holder, LIFE, MOST_AHEAD
        )
        with self._lock:
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

    def _show_life(self) -> float | None:
        """Renew this process's key, and look whether other processes have died."""
        if self._gone:  # it would seem to live for some more seconds
            return None
        if not self._state.client.set(self._alive, "1", px=int(LIFE), get=True):
            # It had expired, so others may have taken its places.
            self._missed = True
        self._look_around()
        with self._lock:
            missed, self._missed = self._missed, False
            for asked in self._asked.values() if missed else ():
                self._courier.put(partial(self._ask, asked))
            self._beats = self._stays or bool(self._lines)
            return BEAT if self._beats else None

    def _look_around(self) -> None:
        with self._lock:
            lines = sorted({line for _, line in self._asked})
        if not lines:
            return
        begin = self._looked % len(lines)
        self._looked = begin + _LOOKED_AT
        # All of them, if they are not too many, and else the next ones.
        some = [*lines[begin:], *lines[:begin]][:_LOOKED_AT]
        self._state.change(scripts.LOOK, "", *some)
