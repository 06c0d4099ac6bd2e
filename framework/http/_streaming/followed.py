"""The steps of a task that clients follow: streams tell of them beside its states.

Of a task of this process each change is heard; of one that runs elsewhere nobody tells, so its
steps are read once a second while a client is there.

Relies on: calls on the thread of the hub's loop, except for `FollowedSteps.hear`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from framework._manager.core import Core
from framework._manager.face.steps import steps_of
from framework._records.records import TaskRecord
from framework._records.steps import StepInfo, info_of
from framework._tasks import registry
from framework._tasks.live import LiveTask
from framework._threads.clock import SystemClock
from framework.exceptions import (
    FrameworkNotStartedError,
    StoreUnavailableError,
    TaskNotFoundError,
)
from framework.http.views import steps_view
from framework.protocols import TimerHandle

_GAP: Final = 0.1
"""Seconds between two events of steps that ended one after the other."""

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the steps of a task that runs in another process."""


class StepsFrame:
    """The steps of a task at one moment, encoded once for all of its clients.

    Args:
        steps: They.

    Attributes:
        is_final: False; of a frame that is sent in the same way.
    """

    is_final: Final = False

    def __init__(self, steps: Sequence[StepInfo]) -> None:
        self._steps = steps
        self._events: dict[bool, bytes] = {}

    def event(self, _: str, expose_errors: bool, *__: object) -> bytes:
        """Return it as an event without an id: a client that comes back gets the steps anew."""
        event = self._events.get(expose_errors)
        if event is None:
            view = steps_view(self._steps, expose_errors=expose_errors)
            data = json.dumps(view, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            event = self._events[expose_errors] = f"event: steps\ndata: {data}\n\n".encode()
        return event


class FollowedSteps:
    """The steps of one task.

    Args:
        core: The core that knows the task.
        post: Calls a function on the loop of the clients; from any thread.
        task_id: The task.
        changed: Called when the clients are to look.

    Attributes:
        number: Which state of the steps it is, from 1; 0 while there are none.
    """

    def __init__(
        self,
        core: Core,
        post: Callable[[Callable[[], object]], object],
        task_id: str,
        changed: Callable[[], object],
    ) -> None:
        self.number = 0
        self._core = core
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._task_id = task_id
        self._changed = changed
        self._here: LiveTask | None = None
        self._found: list[StepInfo] = []
        self._frame: tuple[int, StepsFrame] | None = None
        self._is_told = False
        self._shown_at = 0.0
        self._delayed: asyncio.TimerHandle | None = None
        self._next_look: TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def frame(self) -> StepsFrame:
        """Return the newest steps."""
        if self._frame is None or self._frame[0] != self.number:
            here = self._here
            if here is not None and here.steps is not None:
                self._found = [info_of(one) for one in here.steps.all()]
            self._frame = self.number, StepsFrame(self._found)
        return self._frame[1]

    def close(self) -> None:
        """Follow them no longer."""
        self._here, self._is_told = None, False
        for one in (self._delayed, self._next_look, self._looking):
            if one is not None:
                one.cancel()
        self._delayed = self._next_look = self._looking = None

    # -- of this process

    def follow_here(self, task: LiveTask) -> None:
        """Follow them as they change in this process."""
        self._here = task
        if task.steps is not None and task.steps.all():
            self.number += 1

    def hear(self) -> None:
        """Note that they have changed; any thread."""
        # It is cleared before they are read, so no change is missed.
        if not self._is_told:
            self._is_told = True
            self._post(self._change)

    def _change(self) -> None:
        """Let the clients look, as soon as they may have taken what they were told last."""
        if self._here is None:
            # It has left meanwhile, and may come back.
            self._is_told = False
            return
        if self._delayed is not None:
            return
        gap = self._shown_at + _GAP - self._loop.time()
        if isinstance(self._core.clock, SystemClock) and gap > 0:
            self._delayed = self._loop.call_later(gap, self._show)
        else:
            self._show()

    def _show(self) -> None:
        self._delayed, self._is_told = None, False
        self._shown_at = self._loop.time()
        self.number += 1
        self._changed()

    # -- of another process

    def follow_elsewhere(self, record: TaskRecord) -> None:
        """Look at them once a second, if its function has steps."""
        spec = registry.find_spec(record.name)
        if self._next_look is None and spec is not None and spec.resumes:
            self._look_in(0.0)

    def _look_in(self, seconds: float) -> None:
        clock = self._core.clock
        at = clock.monotonic() + seconds
        self._next_look = clock.call_at(at, lambda: self._post(self._look), background=True)

    def _look(self) -> None:
        if self._next_look is not None:
            self._looking = self._loop.create_task(self._read())

    async def _read(self) -> None:
        # What cannot be read now can be later, or the stream ends with its task or the app.
        with suppress(StoreUnavailableError, TaskNotFoundError, FrameworkNotStartedError):
            found = await steps_of(self._core, self._task_id)
            if found != self._found:
                self._found = found
                self.number += 1
                self._changed()
        self._looking = None
        self._look_in(_LOOK_EVERY)
