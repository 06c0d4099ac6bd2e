"""Fields: what tasks are filtered, searched and counted by, the same in every store.

To filter and count by one more, add it to `LABELLED`, to `PageQuery` and to `Label`, and to the
schema of `SQLStore` as a column with an index. The stores have the rest from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute of a record that tasks are filtered and counted by.

    Attributes:
        name: Of the attribute, of that of a `PageQuery`, and of the column in a database.
        values: All values that there are; empty if any text may be one.
        optional: Whether it may be None; then the index of its column has only the others.
    """

    name: str
    values: tuple[Any, ...] = ()
    optional: bool = False

    def of(self, record: TaskRecord) -> Any:
        """Return what a task has."""
        return getattr(record, self.name)


LABELLED: Final = (Field("owner", optional=True), Field("name"))
"""The attributes of a `Label` that a query may give, beginning with the one of the fewest tasks."""

STATUS: Final = Field("status", values=tuple(TaskStatus))

FIELDS: Final = {one.name: one for one in (*LABELLED, STATUS)}
"""All fields, by name."""

SEARCHED_LABEL: Final = ("name", "description")
"""The attributes of a `Label` that a search looks at; it looks at a task's id as well."""
