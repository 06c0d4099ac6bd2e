"""The tasks and calls that are queued: in which order they may start, and under which names.

Relies on: the lock of `Turns`, which its callers hold. Nothing here takes a lock or calls
    other code.
"""

from __future__ import annotations

from framework.testing import Queued, Ranking
from pytest_asyncframe._turns.actors import Actor


class TaskQueue:
    """What a test has submitted, and what has not started yet.

    Attributes:
        waiting: The queued tasks and calls, oldest first.
    """

    def __init__(self) -> None:
        self.waiting: list[Queued] = []
        self._identities: dict[Queued, str] = {}
        # Those of started tasks that have yet to make their first step on a loop, by name.
        self._on_loops: dict[str, list[str]] = {}
        # Queued by an actor during a call that has not returned yet.
        self._deferred: list[tuple[Actor, Queued]] = []
        # Of the queued calls for threads: how many have each priority, and which is next.
        self._levels = list(Ranking.EMPTY)
        self._ranking = Ranking()

    def add(self, queued: Queued, identity: str, until_returned: Actor | None) -> None:
        """Queue a task or call.

        Args:
            queued: The task or call.
            identity: See `Actor.identity`.
            until_returned: The actor whose call has to return before it may start; None for
                nobody's.
        """
        self.waiting.append(queued)
        self._levels[queued.level] += queued.kind == "thread"
        self._identities[queued] = identity
        if until_returned is not None:
            self._deferred.append((until_returned, queued))

    def release(self, actor: Actor | None) -> None:
        """Let start what had to wait until a call of *actor* returned."""
        if self._deferred:
            self._deferred = [one for one in self._deferred if one[0] is not actor]

    def clear(self) -> None:
        """Take everything off the queue: the process that it would start in is dead."""
        for one in tuple(self.waiting):
            self._take(one)
        self._deferred.clear()
        self._on_loops.clear()

    def remove(self, queued: Queued) -> None:
        """Take a task or call off the queue, if it is there, without starting it."""
        if queued in self.waiting:
            self._take(queued)

    def start(self, queued: Queued) -> str:
        """Take a task or call off the queue to start it; return its identity."""
        if queued.kind == "thread":
            self._ranking.started(queued.level, self._levels)
        identity = self._take(queued)
        if queued.kind == "loop":
            self._on_loops.setdefault(queued.name, []).append(identity)
        return identity

    def _take(self, queued: Queued) -> str:
        self.waiting.remove(queued)
        self._levels[queued.level] -= queued.kind == "thread"
        return self._identities.pop(queued)

    def in_order(self) -> list[Queued]:
        """Return what a pool could start next by its priority, oldest first."""
        levels = self._levels
        if sum(map(bool, levels)) < 2:
            return self.waiting
        chosen = self._ranking.choose(levels)
        return [one for one in self.waiting if one.kind == "loop" or one.level == chosen]

    def startable(self, *, has_room: bool) -> list[Queued]:
        """Return what may start now; a coroutine needs no free thread."""
        deferred = [queued for _, queued in self._deferred] if self._deferred else ()
        return [
            one
            for one in self.in_order()
            if (has_room or one.kind == "loop") and one not in deferred
        ]

    def identity_of(self, queued: Queued) -> str:
        """Return the identity of a queued task or call."""
        return self._identities[queued]

    def identity_on_loop(self, name: str) -> str | None:
        """Return, once, the identity of a started task that makes its first step on a loop."""
        started = self._on_loops.get(name)
        return started.pop(0) if started else None
