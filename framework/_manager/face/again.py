"""Running tasks again: the call of a task that did not complete becomes a new task.

A task that goes on from its steps does so here, too: the new one has the steps of the old one from
the commit on that brings it. There is one such task for each that has ended, since its id is made
of the id of that one: whoever asks again, wherever, finds the last of the line.

In memory the call is kept as it was, by reference. A shared store or a remote engine keeps it
as JSON, and the function is found by its name, so that every process gives the same answer.

Lock order: none is held here.
"""

from __future__ import annotations

import json
from functools import partial
from types import FrameType

from framework._manager.core import Core
from framework._manager.face.submitting import Call
from framework._manager.request_bound.arguments import require_lasting
from framework._records.ids import TaskId, following
from framework._records.jsonsafe import safe_str
from framework._records.records import TaskRecord
from framework._records.statuses import COMPLETED
from framework._tasks import registry
from framework._tasks.live import LiveTask
from framework._tasks.options import COPY
from framework._tasks.places import Existing
from framework._tasks.wire import call_options, decode_call, encode_call
from framework.exceptions import RunAgainError, TaskNotFoundError
from framework.protocols import CallStore

_OF_ONE_TASK = {"task_id": None, "delay": 0.0}
"""Options that belong to a single task, so that the next one does not have them."""


_OPTED_OUT = "its option keep_arguments is False"


async def run_again(core: Core, task_id: str, frame: FrameType) -> LiveTask | Existing:
    """Submit the call of a task again; see `TaskManager.run_again`.

    Args:
        core: The core.
        task_id: The task.
        frame: The frame of the caller.
    """
    record = await _found(core, task_id)
    if not record.status.is_final:
        raise _refusal(record, f"it is {record.status.value}; wait until it has ended")
    if record.status is COMPLETED:
        raise _refusal(record, "it completed, and the arguments of such tasks are not kept")
    asked = record
    while True:
        call = await _call_of(core, record)
        try:
            require_lasting(*call)
        except TypeError as error:  # the request that waited for it has ended
            raise _refusal(record, str(error)) from None
        if record.owner is not None:
            # Those that the new task submits belong to it, too.
            core.owners.expect()
        # On workers of an engine its steps are kept for one delivery only.
        if core.remote is not None or not call[0].resumes:
            return await core.intake.submit_patiently(*call, frame, repeated=record)
        next_id = following(str(record.task_id), goes_on=bool(record.run_again_of))
        async with core.keys.hold(next_id) as held:
            if held.found is None:
                spec = call[0].replace({"task_id": held.task_id})
                return await core.intake.submit_patiently(spec, *call[1:], frame, repeated=record)
        record = held.found
        if not record.status.is_final:
            return Existing(TaskId(record.task_id))
        if record.status is COMPLETED:
            raise _refusal(asked, f"it has gone on as task {record.task_id}, which completed")


async def _found(core: Core, task_id: str) -> TaskRecord:
    record: TaskRecord | None = core.ledger.find(task_id)
    if record is None:
        record = await core.others.find(task_id)
    if record is None:
        raise TaskNotFoundError(task_id)
    return record


async def _call_of(core: Core, record: TaskRecord) -> Call:
    args = record.args if isinstance(record, LiveTask) else None
    keeper = _keeper(core, record)
    if isinstance(record, LiveTask) and args is not None and keeper is None:
        return record.spec.replace(_OF_ONE_TASK), args, record.kwargs or {}
    try:
        # The store may not have written it yet.
        text = None if args is None or keeper is None else _unwritten(keeper, record)
        if text is None:
            text = await _fetched(core, str(record.task_id))
    except ValueError as error:
        raise _refusal(record, f"its arguments were not kept: {error}") from None
    if text is None:
        raise _refusal(record, _not_kept(core, record))
    return _decoded(record, text)


def _keeper(core: Core, record: TaskRecord) -> CallStore | None:
    """Return the store that keeps calls as JSON; in a test that of the app, which is replaced."""
    features = core.ledger.features
    if core.rules is not None and isinstance(record, LiveTask):
        features = core.rules.store_of(record.home) or features
    return features.calls


def _unwritten(keeper: CallStore, record: TaskRecord) -> str | None:
    """Return the call of a task of this process as the store will have it; None for nothing.

    Raises:
        ValueError: If it will not have it; it says why.
    """
    text = call_text(record, keeper.keep_arguments)
    if text is not None and text.startswith('"'):
        raise ValueError(json.loads(text))
    return text


async def _fetched(core: Core, task_id: str) -> str | None:
    """Return the call that the store or the engine has kept; None if neither has.

    Raises:
        ValueError: If one says why it has not.
    """
    for keeper in (core.ledger.features.calls, core.abilities.calls):
        if keeper is not None:
            text = await core.others.call(partial(keeper.fetch_call, task_id))
            if text is not None:
                return text
    return None


def _not_kept(core: Core, record: TaskRecord) -> str:
    if isinstance(record, LiveTask) and not record.spec.options["keep_arguments"]:
        return f"its arguments were not kept: {_OPTED_OUT}"
    most = core.ledger.calls.most
    if not most:
        return "its arguments were not kept: the store has keep_arguments=0"
    return (
        "its arguments are not known here: they were not kept, or only by the process that ran "
        f"it, which keeps those of the latest {most:,} tasks that did not complete"
    )


def _decoded(record: TaskRecord, text: str) -> Call:
    spec = registry.find_spec(record.name)
    if spec is None:
        raise _refusal(
            record, "this process does not know its function: import the module that defines it"
        )
    try:
        args, kwargs = decode_call(spec.fn, text)
        if spec.check is not None:
            spec.check(*args, **kwargs)
        given = COPY.checked("run_again", call_options(text))
    except (TypeError, ValueError) as error:
        raise _refusal(record, f"its arguments do not fit its function any more: {error}") from None
    if record.description != spec.description:
        given["description"] = record.description
    return spec.replace({**given, **_OF_ONE_TASK}), args, kwargs


def _refusal(record: TaskRecord, reason: str) -> RunAgainError:
    return RunAgainError(str(record.task_id), record.name, reason)


def call_text(record: TaskRecord, most: int) -> str | None:
    """Return the call of a task of this process as JSON; see `protocols.StoreHost.call_of`."""
    if not isinstance(record, LiveTask):
        return None
    kwargs, args, spec = record.kwargs, record.args, record.spec
    if not spec.options["keep_arguments"]:
        return json.dumps(_OPTED_OUT)
    if args is None:
        return None
    known = registry.find_spec(record.name)
    if known is None:
        return json.dumps(f"{record.name} is not a decorated function that others can find")
    try:
        text = encode_call(spec.fn, args, kwargs, spec.changed_from(known))
    except Exception as error:  # converting them may call the user's code
        return json.dumps(safe_str(error))
    size = len(text)  # it is ASCII
    if size > most:
        return json.dumps(f"they take {size:,} bytes of JSON, and at most {most:,} are kept")
    return text
