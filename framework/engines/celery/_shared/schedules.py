"""The schedules of all processes that share a Redis: who runs which due time, what is paused.

Guarantees: each due time is claimed once, in one script that also adds the run's task. If the
process dies before it publishes the task, others publish it, as any task that is in Redis.
A state is read, changed by the rule that all books have, and written if nobody has changed it
meanwhile; else all is done once more.
Thread rule: every method blocks for two round trips, and two more for each such change. Each
raises `StoreUnavailableError` if Redis does not answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from framework._records.records import TaskRecord
from framework._records.schedules import (
    RunClaim,
    ScheduleState,
    answer_to,
    state_after,
    state_entered,
    state_paused,
)
from framework._threads.watch.processes import holder_here
from framework.engines.celery._messages import Message
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.state import LIFE, answering
from framework.exceptions import FrameworkError, StoreUnavailableError

_LOOK: Final = """
-- KEYS: the schedule's hash. ARGV: the prefix of the tasks' hashes.
local latest = redis.call('HGET', KEYS[1], 'task_id')
local status = latest and redis.call('HGET', ARGV[1] .. latest, 'status') or ''
local live = (status == 'pending' or status == 'running') and 1 or 0
return {live, redis.call('HGETALL', KEYS[1])}
"""


class RedisSchedules:
    """The book of schedules in Redis; see `protocols.ScheduleBook`.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Any) -> None:  # Any: its module imports this one
        self._engine = engine

    @answering(StoreUnavailableError)
    def enter_schedule(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs; see `ScheduleBook.enter_schedule`."""
        while True:
            facts, _ = self._facts(name)
            state = state_entered(_state_of(name, facts), name, timing, now)
            if self._write(state, facts):
                return state

    @answering(StoreUnavailableError)
    def claim_run(
        self, name: str, due: float | None, record: TaskRecord, *, skip: bool = True
    ) -> RunClaim:
        """Claim one run, and add its task in the same step; see `ScheduleBook.claim_run`."""
        try:
            self._engine.admit(record)
            message = self._engine.admission.message(record)
        except (FrameworkError, TypeError, ValueError):  # the framework is told when it accepts it
            message = None
        task_id, now = record.task_id, record.created_at
        while True:
            facts, live = self._facts(name)
            found = _state_of(name, facts)
            answer = answer_to(found, due, task_id, partial(bool, live))
            state = found or ScheduleState(name, "", now if due is None else due)
            after = state_after(state, answer, due, task_id, now, skip=skip)
            is_new = answer == "claimed" and task_id != state.task_id
            if after == found or self._write(after, facts, message if is_new else None):
                if answer == "busy" and after.task_id is not None:
                    # If its process died before it published the task, nobody else looks at it.
                    self._engine.fetch([after.task_id])
                return answer

    @answering(StoreUnavailableError)
    def pause_schedule(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule; see `ScheduleBook.pause_schedule`."""
        while True:
            facts, _ = self._facts(name)
            found = _state_of(name, facts)
            if found is None:
                return False
            if self._write(state_paused(found, paused, now), facts):
                return True

    @answering(StoreUnavailableError)
    def schedules(self) -> Sequence[ScheduleState]:
        """Return the schedules of all processes, by name."""
        state = self._engine.state
        names = sorted(state.client.smembers(self._names()))
        pipe = state.client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._key(name))
        told = zip(names, pipe.execute(), strict=True)
        found = [_state_of(name, facts) for name, facts in told]
        return [one for one in found if one is not None]

    def _facts(self, name: str) -> tuple[dict[str, str], bool]:
        """Return the fields of a schedule, and whether the task of its last run is live."""
        state = self._engine.state
        live, told = state.script(_LOOK)([self._key(name)], [f"{state.prefix}task:"])
        return dict(zip(told[::2], told[1::2], strict=True)), bool(live)

    def _write(
        self, state: ScheduleState, before: dict[str, str], message: Message | None = None
    ) -> bool:
        """Write a state, and add the task of *message*; False if others have changed *before*."""
        after = _facts_of(state)
        changes = [(field, before.get(field, ""), after.get(field, "")) for field in before | after]
        task_id, added, redis = "", list[str](), self._engine.state
        if message is not None:
            task_id, added = message.task_id, redis.facts_to_add(message)
        keys = [*redis.keys(task_id), self._key(state.name), self._names()]
        flat = itertools.chain.from_iterable(changes)
        given = [task_id, state.name, holder_here(), LIFE, len(changes), *flat, *added]
        return bool(redis.script(scripts.CHANGE_SCHEDULE)(keys, given))

    def _key(self, name: str) -> str:
        return f"{self._engine.state.prefix}schedule:{name}"

    def _names(self) -> str:
        return f"{self._engine.state.prefix}schedules"


def _state_of(name: str, facts: dict[str, Any]) -> ScheduleState | None:
    """Return the state that some fields say; None if there are none."""
    if not facts:
        return None
    return ScheduleState(
        name=name,
        timing=facts.get("timing", ""),
        last_due=float(facts["last_due"]),
        ran_at=float(facts["ran_at"]) if "ran_at" in facts else None,
        task_id=facts.get("task_id"),
        paused=facts.get("paused") == "1",
        skipped=int(facts.get("skipped", 0)),
    )


def _facts_of(state: ScheduleState) -> dict[str, str]:
    """Return the fields of a state."""
    facts = {
        "timing": state.timing,
        "last_due": repr(state.last_due),
        "paused": "1" if state.paused else "0",
        "skipped": str(state.skipped),
    }
    if state.task_id is not None and state.ran_at is not None:
        facts |= {"task_id": state.task_id, "ran_at": repr(state.ran_at)}
    return facts
