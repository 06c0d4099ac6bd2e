"""Taking over: tasks that another process accepted and could not run any more."""

from __future__ import annotations

import math
from contextvars import copy_context
from functools import partial
from typing import Final

from framework._manager.core import Core
from framework._manager.others.questions import Then
from framework._records.ids import TaskId
from framework._records.reasons import cancelled, delayed, has_begun
from framework._records.records import Restart, TaskRecord
from framework._records.statuses import INTERRUPTED, PENDING
from framework._tasks import registry
from framework._tasks.live import CARRIED, LiveTask, current_home, new_task
from framework._tasks.options import COPY, CopyOptions
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import call_options, decode_call, encode_call
from framework._threads.loggers import SafeLogger
from framework.exceptions import FrameworkError, TaskInterruptedError

_LOGGER = SafeLogger("asyncframe")

REASON: Final = "its process ended, and another one has taken it over"

_CARRIED: Final = frozenset(
    {"name", "description", "timeout", "delay", "priority", "idempotent", "on_restart"}
    | {
        "task_id",
        "owner",
        "label",
        "meta",
        "show_arguments",
        "check_arguments",
        "after",
        "after_failure",
    }
)
"""The options of a submission that go with its task."""

MOST_STARTS: Final = 5
"""In how many processes a task starts that end before it, as if it had killed them."""

ENOUGH: Final = (
    f"it was started in {MOST_STARTS} processes, each of which ended or hung before it: it is not "
    "started again, since it may be the cause"
)
"""Reason of a task that has been started that often."""


def take_over(core: Core, record: TaskRecord) -> bool:
    """Run a task of another process here, after the store has given it to this process.

    Its id, name, description, owner, label, meta, arguments, time limit, priority, delay, time of
    submission, number of attempts and trace stay. Its context, the line that submitted it, and the
    hooks of the submission are gone; those of its function apply. A task that was submitted from
    outside the app gets its options here.

    Args:
        core: The core that takes it.
        record: The task, PENDING, with its restart.

    Returns:
        Whether this process runs it. If not, the store has it back.
    """
    restart: Restart | None = record.restart
    assert restart is not None
    spec = _spec_of(core, record, restart)
    if spec is None:
        core.requeued.release(record)
        return False
    is_new, was_offered = restart.fresh, restart.offered
    if is_new:
        _settle_options(core, restart, spec)
    task = _task_of(core, record, restart, spec)
    if is_new or was_offered:
        restart.offered = False
        task.reason = ""
    try:
        core.ledger.add(task, bounded=False, emit_submitted=is_new)
    except (FrameworkError, ValueError):  # it is stopping, or the store takes no more
        core.requeued.release(record)
        return False
    # Whoever waits for it here is woken when it ends: its former process cannot do that.
    core.ledger.register(task, Then(partial(core.others.changed, [str(task.task_id)])))
    if not (is_new or was_offered):
        core.ledger.requeued(task)
    elif task.outbox is not None:
        core.ledger.flush_submitted(task)
    if not record.cancel_asked or task.cancel_waits:
        _begin(core, task, record, is_new)
    else:
        # There is nothing of it that could make up for anything.
        core.ledger.request_cancel(task)
        core.runner.cancel_pending(task, cancelled(has_begun(task.attempts, record.reason)))
    return True


def _begin(core: Core, task: LiveTask, record: TaskRecord, is_new: bool) -> None:
    """Let a task run that was taken over, from a record, if it can."""
    restart, spec = task.restart, task.spec
    assert restart is not None
    try:
        task.args, kwargs = decode_call(spec.fn, restart.call)
        if is_new and not record.run_again_of:
            # A schedule that was triggered from outside, where nobody knows what it takes.
            kwargs |= core.schedules.arguments_by_hand(record.name, record.created_at)
            restart.call = encode_call(spec.fn, task.args, kwargs)
        task.kwargs = kwargs or None
        core.intake.resume(task)
    except Exception as error:  # the function has changed; its types are the user's code
        core.runner.refuse(task, error)
        return
    if restart.permitted or restart.starts < MOST_STARTS:
        core.intake.launch(task)
    else:
        stopped = TaskInterruptedError(task.task_id, task.name)
        core.endings.end(task, INTERRUPTED, error=stopped, reason=ENOUGH, only_from=PENDING)
        core.runner.release_clock(task)


def waits_for_a_place(record: TaskRecord) -> bool:
    """Return whether a free task waits for nothing but a place in a process.

    What has a time, a limit of its own, or options that are yet to be found out is looked at when
    it is taken over; and so is one that has started too often.
    """
    restart: Restart | None = record.restart
    known = registry.find_spec(record.name)
    if restart is None or known is None or known.needs_place:
        return False
    return restart.due is None and not restart.fresh and restart.starts < MOST_STARTS


def may_leave(task: LiveTask) -> bool:
    """Return whether another process that lives would run a task as this one does.

    It may not if it was submitted with options that only this process knows.
    """
    spec, known = task.spec, registry.find_spec(task.name)
    if task.restart is None or known is None or known.fn is not spec.fn:
        return False
    return spec.options is known.options or not any(
        value != known.options.get(name)
        for name, value in spec.options.items()
        if name not in _CARRIED
    )


def _spec_of(core: Core, record: TaskRecord, restart: Restart) -> TaskSpec | None:
    """Return the spec of a task's function, with the options of its submission."""
    known = registry.find_spec(record.name)
    if known is None:
        return None
    if restart.fresh:
        about = record.description or known.description
        return known.replace(
            {**_kept_options(record, restart), "description": about, "on_restart": _on(known)}
        )
    if _is_plain(core, record, restart, known):
        return known
    now = core.clock.time()
    return known.replace(
        {
            "description": record.description,
            "timeout": math.inf if restart.limit is None else restart.limit,
            "delay": 0.0 if restart.due is None else max(0.0, restart.due - now),
            "priority": restart.priority,
            "idempotent": restart.idempotent,
            "on_restart": _on(known),
        }
    )


def _is_plain(core: Core, record: TaskRecord, restart: Restart, known: TaskSpec) -> bool:
    """Return whether a task was submitted with the options of its function: most are."""
    limit = core.intake.default_limit if known.timeout is None else known.timeout
    return (
        restart.due is None
        and known.delay == 0.0
        and record.description == known.description
        and restart.limit == (None if limit == math.inf else limit)
        and restart.priority == known.priority
        and restart.idempotent == known.idempotent
        and known.options["on_restart"] == _on(known)
    )


def _on(known: TaskSpec) -> str:
    """Return how a task of a function restarts that another process has submitted."""
    return "resume" if known.resumes else "requeue"


def _kept_options(record: TaskRecord, restart: Restart) -> CopyOptions:
    """Return the options that were kept with the call of a task that is run again."""
    try:
        return COPY.checked("run_again", call_options(restart.call))
    except (TypeError, ValueError) as error:  # of another release of the app
        _LOGGER.warning(
            "task %s (%s) runs without the options of the one that it repeats: %s",
            record.task_id,
            record.name,
            error,
        )
        return {}


def _settle_options(core: Core, restart: Restart, spec: TaskSpec) -> None:
    """Note the options of a task that was submitted from outside, as `Intake` does for others."""
    limit = core.intake.default_limit if spec.timeout is None else spec.timeout
    restart.limit = None if limit == math.inf else limit
    restart.priority, restart.idempotent = spec.priority, spec.idempotent
    restart.fresh = False


def _task_of(core: Core, record: TaskRecord, restart: Restart, spec: TaskSpec) -> LiveTask:
    """Return the live task; its submission lies before this process's first second, perhaps."""
    created = core.clock.monotonic() - max(0.0, core.clock.time() - record.created_at)
    home = core.intake.home()
    context = copy_context()
    # Inside the task, this framework is the current one.
    context.run(current_home.set, home)
    context.run(CARRIED.set, restart.carried)
    task = new_task(TaskId(record.task_id), spec, context, home, created, record.created_at)
    task.queued = core.clock.monotonic()
    task.heading = record.heading
    core.owners.give(task, record.owner)
    task.limit = restart.limit
    task.attempts = record.attempts
    if record.progress is not None:
        task.progress, task.progress_message = record.progress, record.progress_message
    # The function may have been another kind when the task was submitted.
    restart.resumes = spec.resumes
    task.restart = restart
    task.cancel_waits = record.cancel_asked and restart.stands
    task.hooks = spec.hooks
    task.after = record.after
    if record.run_again_of:
        task.run_again_of = record.run_again_of
    task.reason = delayed(restart.due) if restart.due is not None and spec.delay else REASON
    return task


def warn_of_lost_tasks(core: Core) -> None:
    """Warn if functions ask to be requeued, and the store does not keep their tasks for that."""
    if core.remote is not None or (core.durable.is_needed and core.requeued.is_possible):
        return
    specs = [getattr(one, "__asyncframe_spec__", None) for one in registry.functions()]
    names = sorted({one.name for one in specs if isinstance(one, TaskSpec) and one.requeue})
    if not names:
        return
    lost = (
        "tasks that were accepted just before a crash are lost"
        if core.requeued.is_possible
        else "it has no effect, since no other process knows this one's tasks"
    )
    _LOGGER.warning(
        "on_restart of %s: %s; use store=SQLStore(url, durable=True)",
        names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        lost,
    )
