"""The schedules of all processes that share a Redis: who runs which due time, what is paused.

Guarantees: each due time is claimed once, in one script that also adds the run's task. If the
process dies before it publishes the task, others publish it, as any task that is in Redis.
Thread rule: every method blocks for a round trip or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from framework._tasks.records import TaskRecord
from framework._tasks.schedules import CLOCK_ERROR, RunClaim, ScheduleState
from framework.engines.celery import _scripts
from framework.engines.celery._messages import Message
from framework.engines.celery._state import State

_ENTER: Final = """
-- KEYS: the schedule's hash, the set of names. ARGV: name, timing, now.
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('HSETNX', KEYS[1], 'last_due', ARGV[3])
redis.call('HSET', KEYS[1], 'timing', ARGV[2])
return redis.call('HGETALL', KEYS[1])
"""

_PAUSE: Final = """
-- KEYS: the schedule's hash. ARGV: whether to pause ('1'), now.
local last = redis.call('HGET', KEYS[1], 'last_due')
if not last then return 0 end
local paused = redis.call('HGET', KEYS[1], 'paused') == '1'
if paused and ARGV[1] ~= '1' and tonumber(ARGV[2]) > tonumber(last) then
  redis.call('HSET', KEYS[1], 'last_due', ARGV[2])
end
redis.call('HSET', KEYS[1], 'paused', ARGV[1])
return 1
"""


class RedisSchedules:
    """The book of schedules in Redis; see `protocols.ScheduleBook`.

    Args:
        state: Redis.

    Raises:
        redis.RedisError: Each method, if Redis does not answer.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._names = f"{state.prefix}schedules"
        register = state.client.register_script
        self._enter = register(_ENTER)
        self._pause = register(_PAUSE)
        self._claim = register(_scripts.CLAIM_RUN)

    def enter(self, name: str, timing: str, now: float) -> ScheduleState:
        """Enter a schedule that this process runs; see `ScheduleBook.enter_schedule`."""
        told = self._enter([self._key(name), self._names], [name, timing, repr(now)])
        return _state_of(name, dict(zip(told[::2], told[1::2], strict=True)))

    def claim(
        self, name: str, due: float | None, record: TaskRecord, message: Message | None, skip: bool
    ) -> RunClaim:
        """Claim one run; see `ScheduleBook.claim_run`.

        Args:
            name: Its name.
            due: The due time; None for a run that was triggered by hand.
            record: The task.
            message: Its message; None if it cannot be published.
            skip: Whether the due time is skipped if the last run is still live.
        """
        answer: RunClaim = self._claim(
            [*self._state.keys(record.task_id), self._key(name), self._names],
            [
                record.task_id,
                name,
                "" if due is None else repr(due),
                repr(record.created_at),
                "1" if skip else "",
                CLOCK_ERROR,
                *(() if message is None else self._state.facts_to_add(message)),
            ],
        )
        return answer

    def pause(self, name: str, paused: bool, now: float) -> bool:
        """Pause or resume a schedule; see `ScheduleBook.pause_schedule`."""
        return bool(self._pause([self._key(name)], ["1" if paused else "", repr(now)]))

    def last_task(self, name: str) -> str | None:
        """Return the id of the task of the last run; None if there was none."""
        found: str | None = self._state.client.hget(self._key(name), "task_id")
        return found

    def all(self) -> Sequence[ScheduleState]:
        """Return all schedules by name."""
        names = sorted(self._state.client.smembers(self._names))
        pipe = self._state.client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._key(name))
        told = pipe.execute() if names else []
        return [_state_of(name, facts) for name, facts in zip(names, told, strict=True) if facts]

    def _key(self, name: str) -> str:
        return f"{self._state.prefix}schedule:{name}"


def _state_of(name: str, facts: dict[str, Any]) -> ScheduleState:
    return ScheduleState(
        name=name,
        timing=facts.get("timing", ""),
        last_due=float(facts["last_due"]),
        ran_at=float(facts["ran_at"]) if "ran_at" in facts else None,
        task_id=facts.get("task_id"),
        paused=facts.get("paused") == "1",
        skipped=int(facts.get("skipped", 0)),
    )
