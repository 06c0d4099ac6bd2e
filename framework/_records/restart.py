"""Restart: what another process needs to run a task that this one has accepted."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias

RestartState: TypeAlias = Literal["own", "left", "free"]
"""Whose a task is; see `Restart.state`."""

WAITS: Final = "its process ended; it waits for a process that knows its function"
"""The reason of a task that no process has."""

_FACTS = ("due", "limit", "priority", "idempotent", "carried", "fresh")


@dataclass(slots=True, eq=False)
class Restart:
    """What another process needs to run a task, and which process has the task.

    Attributes:
        call: The arguments as JSON, from `wire.encode_call`; "" once the store has them.
        due: The wall second before which it must not start; None if it was not delayed.
        limit: Seconds that it may run; None for no limit.
        priority: The one of its submission.
        idempotent: Whether it may run again after it has started.
        carried: What tracers carry from its submission to its start; see `protocols.TaskTracer`.
        fresh: Whether it was submitted from outside the app: its options are those of its
            function, which the process that takes it over finds out.
        state: Whose it is. ``own``: this process's. ``left``: another process may run it, so
            this one neither starts nor stores it any more. ``free``: the copy that a store writes
            of it then. Changed with the ledger's lock held.
        started: The monotonic second at which the store was asked for its start; None before.
            From then on its row is that of a RUNNING task.
        written: Belongs to the store, which notes here where it has written the task.
    """

    call: str
    _: KW_ONLY
    due: float | None = None
    limit: float | None = None
    priority: str = "normal"
    idempotent: bool = False
    carried: dict[str, str] = field(default_factory=dict)
    fresh: bool = False
    state: RestartState = "own"
    started: float | None = None
    written: list[Any] = field(default_factory=list)

    def facts(self) -> str:
        """Return all but the call and the state as JSON."""
        return json.dumps({name: getattr(self, name) for name in _FACTS})

    @classmethod
    def of(cls, call: str, facts: str) -> Self:
        """Make it of a *call*, and of *facts* that `facts` returned."""
        data: dict[str, Any] = json.loads(facts)
        # Another release may have written more.
        return cls(call, **{name: data[name] for name in _FACTS if name in data})

    def free_copy(self) -> Restart:
        """Return a copy that is ``free``, to be stored when this process gives the task up."""
        # With the same `written`: the store may be writing the task right now.
        return replace(self, state="free", started=None)
