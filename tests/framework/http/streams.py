"""Reads streams of server-sent events in tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class Event(NamedTuple):
    """One event of a stream.

    Attributes:
        kind: Its name.
        id: Its id; "" for none.
        data: Its data, read as JSON.
    """

    kind: str
    id: str
    data: dict[str, Any]  # a task, as JSON

    @property
    def state(self) -> tuple[str, float | None]:
        """The task's status and progress."""
        return self.data["status"], self.data["progress"]


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events in the lines of a stream, without comments."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
