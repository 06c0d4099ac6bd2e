"""Messages: what a task waits for from outside, such as the word of a person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar, overload

from framework._records import checks
from framework._records.exports import provided
from framework._records.steps import RECEIVES, MessageRecord, StepRecord
from framework._tasks.wire import MAX_CALL, adapter_of
from framework._threads.waiters import LoopSleeper, ThreadSleeper
from framework.protocols import MessageCameError, StepChange
from framework.steps._bodies import DeclaredStep, refused_in_sync_tasks
from framework.steps._branches import Branch, current_branch
from framework.steps._matching import Call
from framework.steps._runs import StepRun, run_of
from framework.steps._sleeps import Wait

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds between two looks for what another process has sent, while the task is in memory."""


_RECEIVE: Final = "framework.steps.Message.receive"
_STEP: Final = DeclaredStep(_RECEIVE, lambda: None, twin="receive_sync()")
_STEP_SYNC: Final = DeclaredStep(f"{_RECEIVE}_sync", lambda: None, twin="await receive()")


class Message(Generic[T]):
    """A kind of message to tasks that resume, such as an approval.

    Make it once, at the level of a module. Its name and type are all that the sender and the task
    need to have in common.

    Args:
        name: Its name, as in the path of the route: letters, digits, ``_``, ``-`` and ``.``, from 1
            to 100 of them.
        type_: What is sent: whatever pydantic reads from JSON, such as ``bool`` or a model.

    Attributes:
        name: As above.
        type_: As above.

    Raises:
        TypeError: If *name* is no string, or pydantic does not know the type.
        ValueError: If *name* is out of range.
    """

    def __init__(self, name: str, type_: type[T]) -> None:
        self.name: str = _checked(name)
        self.type_ = type_
        given: object = type_
        # Pydantic takes a name, and fails when the first message is sent.
        adapter = None if isinstance(given, str) else adapter_of(type_)
        if adapter is None:
            raise TypeError(
                f"message {name!r} needs a type that pydantic reads from JSON, not "
                f"{checks.show(type_)}"
            )
        self._adapter = adapter
        self._call = Call(RECEIVES + name, "", has_key=True)

    def __repr__(self) -> str:
        return f"Message({self.name!r}, {getattr(self.type_, '__name__', self.type_)})"

    # -- sending

    async def send(self, task_id: str, value: T, *, key: str | None = None) -> None:
        """Send a message to a task, from anywhere in an app; returns once it is stored.

        The task may run, wait or sleep, in whichever process. It gets the message when it receives
        it, also if it comes to that later. Each message is received once.

        Args:
            task_id: The task.
            value: What to send.
            key: A text of yours that tells repeated calls apart: a second message with the same
                name and key is not stored. None for no key.

        Raises:
            TypeError: If *task_id* or *key* is no string.
            ValueError: If *value* does not fit the type, or takes more than 1 MiB as JSON.
            TaskNotFoundError: If no task has this id.
            MessageRefusedError: If the task has ended, or the key was used for another value.
            StoreUnavailableError: If a store that several processes share cannot be used.
            RuntimeError: If no framework runs.
        """
        await provided.send_message(task_id, self, value, key)

    def encode(self, value: object) -> str:
        """Return a value as JSON, as the task will get it.

        Raises:
            ValueError: If it does not fit the type, as pydantic's error says; or if it is longer
                than `MAX_CALL`.
        """
        fitting = self._adapter.validate_python(value)
        text: str = self._adapter.dump_json(fitting).decode()
        if len(text) > MAX_CALL:
            raise ValueError(
                f"message {self.name!r} takes {len(text):,} characters of JSON, but only "
                f"{MAX_CALL:,} are allowed: store the data and send its key instead"
            )
        return text

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of what is sent."""
        schema: dict[str, Any] = self._adapter.json_schema()
        return schema

    # -- receiving

    @overload
    async def receive(self) -> T: ...

    @overload
    async def receive(self, *, timeout: float | timedelta | None) -> T | None: ...

    @refused_in_sync_tasks(_STEP)
    async def receive(self, *, timeout: float | timedelta | None = None) -> T | None:
        """Return the next message of this kind to the task that runs here; waits for it.

        A task of which nothing goes on but waits, of which none ends within a minute, leaves its
        process as it does for `sleep`, and goes on when the message comes. A message that was
        received is recorded: when the task goes on later, it is the same.

        Args:
            timeout: Seconds or a timedelta to wait at most, from the first time on that the task
                comes here, 0 or more. None to wait for as long as it takes.

        Returns:
            The message; None if none has come in time.

        Raises:
            RuntimeError: Outside of a task with ``on_restart="resume"``, or inside a step.
            TypeError: If the task is a sync function: see `receive_sync`; or if *timeout* is
                neither a number nor a timedelta.
            ValueError: If *timeout* is out of range.
            StoreUnavailableError: If the store is closed first; while it fails, the task waits.
        """
        limit, branch = _checked_limit(timeout), self._branch()
        run = run_of(branch)
        answer = await run.ask(branch, _STEP, self._call)
        record = run.record_of(branch, self._call, answer)
        try:
            if answer.what != "take":
                if record.answer is None:
                    record.answer = _waiting(run, limit)
                    await run.store(branch, record)
                await self._await(run, branch, record)
            await run.turn(branch, record)
        except asyncio.CancelledError:
            run.cut_off(record)
            raise
        return self._received(record)

    async def _await(self, run: StepRun, branch: Branch, record: StepRecord) -> None:
        """Wait for a message, and store it or that none has come."""
        loop, inbox = asyncio.get_running_loop(), run.inbox
        until, waiting = _until(record), _wait_again(record)
        sleeper = LoopSleeper(run.sleeps.clock)
        with inbox.listening(sleeper.signal):
            while True:
                if inbox.is_shared:
                    seen = await run.waiting(branch, loop.run_in_executor(None, inbox.look))
                else:
                    seen = inbox.look()
                ending = self._ending(run, record, seen, until)
                if ending is None:
                    wait = Wait(until, self.name, _LOOK if inbox.is_shared else _NEVER)
                    await run.sleeps.sleep(branch, wait, run.watch, sleeper)
                    continue
                number = record.number
                try:
                    await run.store(branch, record, ending)
                except MessageCameError:
                    record.state, record.answer, record.number = "started", waiting, number
                else:
                    return

    @overload
    def receive_sync(self) -> T: ...

    @overload
    def receive_sync(self, *, timeout: float | timedelta | None) -> T | None: ...

    def receive_sync(self, *, timeout: float | timedelta | None = None) -> T | None:
        """Receive as `receive` does, in a task that is a sync function; blocks its thread."""
        limit, branch = _checked_limit(timeout), self._branch()
        run = run_of(branch)
        answer = run.ask_sync(branch, _STEP_SYNC, self._call)
        record = run.record_of(branch, self._call, answer)
        if answer.what != "take":
            if record.answer is None:
                record.answer = _waiting(run, limit)
                run.store_sync(record)
            self._block(run, record)
        return self._received(record)

    def _block(self, run: StepRun, record: StepRecord) -> None:
        until, waiting, inbox = _until(record), _wait_again(record), run.inbox
        sleeper = ThreadSleeper(run.sleeps.clock)
        with inbox.listening(sleeper.signal):
            while True:
                ending = self._ending(run, record, inbox.look(), until)
                if ending is None:
                    wait = Wait(until, self.name, _LOOK if inbox.is_shared else _NEVER)
                    run.sleeps.sleep_here(wait, sleeper)
                    continue
                number = record.number
                try:
                    run.store_sync(record, ending)
                except MessageCameError:
                    record.state, record.answer, record.number = "started", waiting, number
                else:
                    return

    def _ending(
        self, run: StepRun, record: StepRecord, seen: Sequence[MessageRecord], until: float
    ) -> StepChange | None:
        """Note in the record how the wait ends, and return what changes by that; None if it lasts.

        Args:
            run: The run.
            record: Of the wait.
            seen: What a look has found.
            until: The wall second after which nobody waits any more.
        """
        found = run.inbox.give(self.name, seen)
        if found is not None:
            _complete(record, number=found.number, value=found.value)
            return StepChange(takes=(found.number,))
        if until <= run.sleeps.now():
            _complete(record)
            return StepChange(unless=self.name)
        return None

    def _received(self, record: StepRecord) -> T | None:
        kept = json.loads(record.answer)
        if "value" not in kept:
            return None
        value: T = self._adapter.validate_json(kept["value"])
        return value

    def _branch(self) -> Branch:
        branch = current_branch()
        if branch is None:
            raise RuntimeError(
                f"message {self.name!r} can only be received in a task with "
                'on_restart="resume", and not inside a step of it'
            )
        return branch


_NEVER: Final = float("inf")


def _waiting(run: StepRun, limit: float | None) -> str:
    """Return what is kept of a wait that begins now."""
    return json.dumps({"until": None if limit is None else run.sleeps.now() + limit})


def _wait_again(record: StepRecord) -> str:
    """Return what is kept of a wait, now without the message that it had when it was cancelled."""
    waiting = json.dumps({"until": json.loads(record.answer)["until"]})
    record.answer = waiting
    return waiting


def _complete(record: StepRecord, **received: object) -> None:
    """Note how a wait has ended, beside what is kept of it: it may be cancelled yet."""
    record.state, record.answer = "completed", json.dumps(json.loads(record.answer) | received)


def _until(record: StepRecord) -> float:
    until: float | None = json.loads(record.answer)["until"]
    return _NEVER if until is None else until


def _checked(name: str) -> str:
    checks.filled_text("name", name)
    if len(name) > _LONGEST or not all(one.isalnum() or one in "_-." for one in name):
        raise ValueError(
            f"name must be 1 to {_LONGEST} letters, digits, '_', '-' and '.', not "
            f"{checks.show(name)}"
        )
    return name


def _checked_limit(timeout: float | timedelta | None) -> float | None:
    return None if timeout is None else checks.seconds("timeout", timeout, at_least=0)


_LONGEST: Final = 100
