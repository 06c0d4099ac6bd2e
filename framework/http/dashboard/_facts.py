"""What the page shows: rows of its list, and facts beside it, of one process and of the store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from framework._manager.core import Core
from framework._manager.face.listing import TaskPage
from framework._manager.face.manager import TaskManager
from framework._manager.frameworks import get_task_manager
from framework._manager.inside import core_of, record_of, state_of
from framework._records.jsonsafe import cut, jsonable
from framework._records.reasons import facts_of
from framework._records.statuses import TaskStatus
from framework._running.waits.policies import Policies
from framework._running.waits.throttle import ThrottlePolicy
from framework._tasks import registry
from framework._tasks.task import Task
from framework.http._access.access import Access

_LONGEST: Final = 300
"""Characters of a text that a row shows; the task's details have all of it."""

_WAITS: Final = ("delayed", "retrying", "throttled", "sleeping")
"""The kinds of waits whose end is known, so that the page counts the seconds itself."""


def row_of(task: Task) -> dict[str, Any]:
    """Return a task as a row of the list; times in seconds since the epoch.

    Nothing in it changes while only time passes, so that a list without news is not sent again.
    """
    record = record_of(task)
    state, wait = state_of(task, expose_errors=False), _wait_of(record.reason)
    return {
        "id": state["task_id"],
        "name": cut(state["name"], _LONGEST),
        "label": state["label"],
        "text": cut(state["description"], _LONGEST),
        "status": state["status"],
        "created": _second(task.created_at),
        "started": _second(task.started_at),
        "ended": _second(task.ended_at),
        "slept": round(record.slept, 6),
        "asleep": None if record.asleep is None else record.wall_second(record.asleep),
        "attempts": state["attempts"],
        "progress": state["progress"],
        "message": cut(state["progress_message"], _LONGEST),
        "wait": wait,
        "reason": "" if wait and task.ended_at is None else cut(state["reason"], _LONGEST),
        "error": state["error_type"],
        "asked": state["cancel_requested"],
        "lingers": state["still_running"],
    }


def _wait_of(reason: str) -> dict[str, Any] | None:
    """Return what a task waits for, if that ends at a known time."""
    facts = facts_of(reason)
    if facts is None or facts.kind not in _WAITS or facts.until is None:
        return None
    wait = {"kind": facts.kind, "until": round(facts.until, 3)}
    if facts.kind == "retrying":
        attempt, attempts, error = facts.values[:3]
        wait |= {"attempt": attempt, "attempts": attempts}
        wait["error"] = None if error is None else error.partition(":")[0]
    elif facts.kind == "throttled":
        wait["name"] = jsonable(cut(facts.values[0], _LONGEST))
    return wait


# -- beside the list

_LATEST: Final = 300
"""Of how many tasks the page draws how long they waited and ran."""

_LIVE: Final = (TaskStatus.PENDING, TaskStatus.RUNNING)


async def page_facts(
    access: Access, owner: str | None, without: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return the facts about the tasks that *owner* sees.

    Who sees all tasks gets those about what runs them too. How busy threads, throttles and
    schedules are would tell an owner what others do.

    Args:
        access: What may be seen.
        owner: Who asks.
        without: The names of tasks that are left out of what is counted.
    """
    latest = (await access.tasks(owner, limit=_LATEST, without=without)).tasks
    sees_all = access.owner is None
    names = {*(registry.names() if sees_all else ()), *(task.name for task in latest)}
    facts: dict[str, Any] = {
        "counts": await _counts(access, owner, without),
        # Seconds are None for what is not over yet.
        "latest": [_times_of(task) for task in latest],
        "names": [jsonable(name) for name in sorted(names)],
    }
    return {**facts, **await _shared(access)} if sees_all else facts


def _times_of(task: Task) -> list[Any]:
    """Return the status of a task, and for how many seconds it has waited and run."""
    waited, ran, slept = task.queue_time, task.duration, record_of(task).slept
    waited = None if waited is None else waited + slept
    return [task.status.value, waited, None if ran is None else max(0.0, ran - slept)]


async def _shared(access: Access) -> dict[str, Any]:
    """Return the facts about what the tasks of all owners share."""
    manager, live = get_task_manager(), TaskPage([], None, 0)
    core = core_of(manager)
    if core.others.exist:
        # Of calls that are counted for all processes, only the tasks that wait for them tell.
        live = await access.tasks(None, status=_LIVE, limit=_LATEST)
    return {
        **await _processes(core),
        "process": _process(manager),
        "schedules": await _schedules(manager),
        "throttles": _throttles(core.policies, live.tasks),
    }


async def _counts(access: Access, owner: str | None, without: frozenset[str]) -> dict[str, int]:
    """Return how many tasks of each status the list has."""
    if access.owner is not None or without:
        return await access.counts(owner, without=without)
    figures = get_task_manager().get_stats()
    counts = {status.value: figures[status.value] for status in TaskStatus}
    # They count since the start. While nothing was forgotten, that is what the list has.
    if sum(counts[status] for status in TaskStatus if status.is_final) == figures["kept"]:
        return counts
    return await access.counts(None)


def _process(manager: TaskManager) -> dict[str, Any]:
    """Return the figures of this process, whose threads no other one knows."""
    pool = manager.pool.get_stats()
    shown = ("max_workers", "busy", "queued", "abandoned", "degraded")
    lingering = [
        {"name": jsonable(call["name"])}
        for call in manager.pool.get_active_tasks()
        if call["abandoned"]
    ]
    return {"pid": os.getpid(), **{key: pool[key] for key in shown}, "lingering": lingering}


_SILENT: Final = 3.0
"""How many seconds of silence the page tells; a process gives a sign of life each second."""

_NAMED: Final = 3
"""How many functions are named that a process runs."""


async def _processes(core: Core) -> dict[str, Any]:
    """Return the processes that share the store; nothing if there is none that is shared."""
    book = core.ledger.features.processes
    if book is None:
        return {}
    found = await core.others.call(partial(book.processes, core.clock.monotonic()))
    now = core.clock.time()
    shown = [
        {
            "id": one.process_id,
            "host": jsonable(cut(one.host, _LONGEST)),
            "pid": one.pid,
            "kind": one.kind,
            "places": one.places,
            "busy": _fullest(one.running),
            "names": _named(one.running),
            "since": _tenth(one.running_since),
            "started": _tenth(one.started_at),
            "seen": round(now - one.silent) if one.is_gone or one.silent >= _SILENT else None,
        }
        for one in found
    ]
    return {"processes": shown}


def _fullest(running: Mapping[str, int]) -> int:
    """Return how many tasks run on threads, or on the loop if these are more.

    A process has as many places for the ones as for the others.
    """
    kinds = Counter[str]()
    for name, many in running.items():
        spec = registry.find_spec(name)
        kinds["thread" if spec is None else spec.kind] += many
    return max(kinds.values(), default=0)


def _named(running: Mapping[str, int]) -> list[Any]:
    """Return the names of what runs, with their numbers, and how many there are besides."""
    words = [name if many == 1 else f"{many} {name}" for name, many in running.items()]
    rest = len(words) - _NAMED
    return [jsonable(cut(one, _LONGEST)) for one in words[:_NAMED]] + [f"{rest} more"] * (rest > 0)


async def _schedules(manager: TaskManager) -> list[dict[str, Any]]:
    infos = await manager.schedules.get_all()
    return [
        {
            "name": jsonable(info.name),
            "timing": jsonable(info.timing),
            "next": _tenth(_second(info.next_run)),
            "paused": info.paused,
        }
        for info in infos
    ]


def _second(moment: datetime | None) -> float | None:
    """Return a moment in seconds since the epoch, to the microsecond; None for None."""
    return None if moment is None else moment.timestamp()


def _tenth(at: float | None) -> float | None:
    """Return a moment in tenths of a second, so that facts without news stay the same."""
    return None if at is None else round(at, 1)


def _throttles(policies: Policies, live: Iterable[Task]) -> list[dict[str, Any]]:
    """Return the throttles of this process, and those that tasks of any process wait for."""
    found = {policy.name: _throttle(policies, policy) for policy in policies.throttles()}
    waiting = Counter[str]()
    for task in live:
        facts = facts_of(record_of(task).reason)
        if facts is None or facts.kind != "throttled":
            continue
        name, rate, window = facts.values[:3]
        waiting[name] += 1
        seen = found.setdefault(name, _unknown(name, rate, window))
        if facts.until is not None:
            seen["next"] = min(filter(None, (seen["next"], facts.until)))
    for name, throttle in found.items():
        throttle["waiting"] = max(throttle["waiting"], waiting[name])
    return [found[name] for name in sorted(found)]


def _throttle(policies: Policies, policy: ThrottlePolicy) -> dict[str, Any]:
    options, clock = policy.options, policies.clock
    shown = _unknown(policy.name, options["rate_limit"], policy.window)
    if policies.asks and options["shared"]:
        # Its calls are counted in the store.
        return shown
    now = clock.monotonic()
    gates = policies.gates(policy)
    outlook = gates.outlook(now)
    due = None if outlook.due is None else clock.time() + (outlook.due - now)
    return shown | {
        "used": outlook.used,
        "keys": len(gates) if policy.has_key else None,
        "full": outlook.full,
        "waiting": outlook.waiting,
        "next": _tenth(due),
    }


def _unknown(name: str, rate: int, window: float) -> dict[str, Any]:
    known: dict[str, Any] = {"name": jsonable(name), "rate": rate, "window": window}
    return known | {"used": None, "keys": None, "full": 0, "waiting": 0, "next": None}
