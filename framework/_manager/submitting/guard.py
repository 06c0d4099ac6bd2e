"""The guard: refuses calls with values that are closed with the request that makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framework._manager.request_bound.arguments import require_lasting
from framework._manager.submitting.partner import Awaited, Check, Joined
from framework._tasks.specs import TaskSpec


class Guard:
    """Refuses what does not outlive the request that submits it.

    Args:
        joined: The partners of all submissions.
    """

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self._check: Check | None = None

    def refuse_where(self, where: Callable[[], object]) -> None:
        """Refuse what is closed with a request, as long as *where* does not return None.

        A submission raises TypeError then, unless the request waits for its end.
        """

        def check(
            spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], awaited: Awaited
        ) -> TaskSpec:
            # A function, since every submission calls it: a method would take longer.
            # Others may wait for a unique task, which outlives the request of its first caller.
            if where() is not None and (not awaited or "unique" in spec.special):
                require_lasting(spec, args, kwargs)
            return spec

        if self._check is not None:
            self._joined.checks.remove(self._check)
        self._check = check
        self._joined.check_by(check)
