"""Which task a test refers to: by id, by `Task`, or by a response with an id in its JSON."""

from __future__ import annotations

from typing import Any

from framework import Task

KEYS = ("task_id", "id")
"""Keys of a JSON object that may hold the id; the first one found counts."""


def task_id_of(ref: Any) -> str:  # Any: what a user gives, checked here
    """Return the id of the task that *ref* refers to.

    Args:
        ref: An id, a `framework.Task`, a JSON object with a key of `KEYS`, or an HTTP
            response with such a body.

    Raises:
        LookupError: If it contains no id.
    """
    if isinstance(ref, Task):
        return str(ref.task_id)
    if isinstance(ref, str):
        return str(ref)
    body = ref
    if callable(getattr(ref, "json", None)):
        body = _json(ref)
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        for key in KEYS:
            if isinstance(body.get(key), str):
                return str(body[key])
    raise LookupError(
        f"no task id was found in {_shown(ref, body)}: pass the id, a Task, or a response "
        f"whose JSON has the key {' or '.join(map(repr, KEYS))}"
    )


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise LookupError(
            f"no task id was found in {response!r}: its body is not JSON but "
            f"{str(response.text)[:200]!r}"
        ) from None


def _shown(ref: object, body: object) -> str:
    return repr(ref) if ref is body else f"{ref!r} with the body {body!r}"
