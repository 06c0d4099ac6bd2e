"""What the page shows of the steps of a task, and what it asks a person who may answer one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from framework._manager.frameworks import get_task_manager
from framework._records.jsonsafe import cut, jsonable
from framework._records.steps import StepInfo
from framework.steps import Message

_MOST: Final = 200
"""How many steps of a task are shown, the latest ones; the route of its steps has all of them."""

_LONGEST: Final = 300
"""Characters that are shown of a name."""

_BUTTONS: Final = 6
"""From more choices than these, one is written and not pressed."""


def questions_of(messages: Sequence[Message[Any]]) -> dict[str, dict[str, Any]]:
    """Return for each kind of message, by its name, how the page asks for it.

    ``choices`` are pairs of a label and of what is sent as JSON; if there are none, the page has a
    field, of which ``plain`` says that what is written there is a text and not JSON.
    """
    return {one.name: _question(one) for one in messages}


def _question(message: Message[Any]) -> dict[str, Any]:
    schema = message.json_schema()
    values = [True, False] if schema.get("type") == "boolean" else schema.get("enum", [])
    if "const" in schema:
        values = [schema["const"]]
    if len(values) > _BUTTONS:
        values = []
    words = {True: "Yes", False: "No"} if schema.get("type") == "boolean" else {}
    choices = [[cut(words.get(value, str(value)), _LONGEST), json.dumps(value)] for value in values]
    return {"choices": choices, "plain": schema.get("type") == "string"}


async def steps_of(task_id: str, questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the latest steps of a task by their beginning, and how many earlier ones there are.

    Args:
        task_id: The task, which is known.
        questions: What `questions_of` returned.
    """
    found = await get_task_manager().get_steps(task_id)
    # Those without a beginning are of a process that did not keep it, so they are old.
    found.sort(key=lambda one: 0.0 if one.started_at is None else one.started_at.timestamp())
    shown = found[-_MOST:]
    return {"left": len(found) - len(shown), "steps": [_step(one, questions) for one in shown]}


def _step(one: StepInfo, questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": jsonable(cut(one.name, _LONGEST)),
        "state": one.state,
        "began": None if one.started_at is None else one.started_at.timestamp(),
        "ended": None if one.ended_at is None else one.ended_at.timestamp(),
        "error": jsonable(one.error_type),
        "message": one.message,
        "asks": questions.get(one.message or "") if one.state == "waiting" else None,
    }
