"""The `asyncframe` fixture: clients, waiting, matchers."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from framework import Task, TaskManager, TaskNotFoundError
from framework.protocols import TaskRecord
from pytest_asyncframe._places import users_place
from pytest_asyncframe._seen import matchers
from pytest_asyncframe._seen.names import Names
from pytest_asyncframe._seen.references import task_id_of
from pytest_asyncframe._toolkit.clients import BASE_URL, Client, LiveServer
from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.executor import DeterministicExecutor

if TYPE_CHECKING:
    from pytest_asyncframe._toolkit.toolkit import Toolkit


class Probe:
    """Everything that a test of tasks needs, on parts of its own.

    Args:
        toolkit: The test's parts.
    """

    def __init__(self, toolkit: Toolkit) -> None:
        self._toolkit = toolkit
        self._recorder = toolkit.recorder
        self._names = Names(toolkit.recorder, lambda: toolkit.foreign)

    @property
    def manager(self) -> TaskManager:
        """The test's manager, which is current everywhere."""
        return self._toolkit.manager

    @property
    def clock(self) -> VirtualClock:
        """The test's clock.

        Raises:
            RuntimeError: In the mode ``threads``, where time is real.
        """
        return self._toolkit.require_clock("asyncframe.clock")

    @property
    def executor(self) -> DeterministicExecutor:
        """The test's executor.

        Raises:
            RuntimeError: In the modes ``virtual`` and ``threads``, where threads start by
                themselves.
        """
        return self._toolkit.require_executor("asyncframe.executor")

    # -- clients

    def client(
        self,
        app: Any,
        *,
        base_url: str = BASE_URL,
        raise_app_exceptions: bool = True,
        **options: Any,
    ) -> Client:
        """Return a client of *app*, whose lifespan runs while it is open.

        ``async with`` gives an ``httpx.AsyncClient`` on the test's own loop, ``with`` gives
        Starlette's ``TestClient``, whose loop is on the test's clock too. What the app's
        lifespan raises is raised where the client is entered or left. What a test replaces
        in httpx, for the app's own requests, does not reach the ``httpx.AsyncClient``.

        Args:
            app: Any ASGI app.
            base_url: What relative URLs begin with.
            raise_app_exceptions: Whether an exception in a route is raised into the test;
                else it is answered, with 500 by most apps.
            options: Further options of the client that is made.

        Raises:
            TypeError: If *app* cannot be called.
            ImportError: On entering, if httpx is not installed.
        """
        made = Client(
            app,
            self._toolkit.loop_factory,
            base_url,
            raise_app_exceptions=raise_app_exceptions,
            place=users_place(sys._getframe(1)),
            **options,
        )
        made.on_error = self._recorder.take_snapshot
        made.on_enter = lambda: self._toolkit.require_loop("asyncframe.client(app)")
        self._toolkit.clients.append(made)
        return made

    def live_server(self, app: Any) -> LiveServer:
        """Return a real uvicorn for *app*, to be entered with ``with``; it has a ``url``.

        Its event loop is on real time. While it is open, tasks start as they are submitted,
        and virtual time moves by itself only while the test waits through this object.

        Raises:
            ImportError: If uvicorn is not installed.
        """
        place = users_place(sys._getframe(1))
        made = LiveServer(app, self._toolkit.beside_server, self._toolkit.away, place)
        self._toolkit.clients.append(made)
        return made

    # -- waiting

    async def completed(self, ref: Any, *, check: bool = True) -> Task:
        """Wait until a task has ended, and return it.

        Args:
            ref: An id, a `framework.Task`, or a response in whose JSON an id stands.
            check: Whether to raise the task's error if it has not COMPLETED. Either way the
                failure counts as read: whoever waits for a task knows how it ended.

        Raises:
            LookupError: If no id is found in *ref*, or no task has it.
            BaseException: The task's own error.
        """
        self._toolkit.require_loop("completed()")
        record = self._record(ref)
        await self._until_final(record)
        if check:
            await self.manager.get_result(record.task_id)
        return _read(record)

    def run_until_complete(self, ref: Any, *, check: bool = True) -> Task:
        """Wait as `completed`, in a test that is no coroutine."""
        record = self._record(ref)
        self._block_until_final(record)
        if check:
            self.manager.wait_result(record.task_id)
        return _read(record)

    async def settled(self) -> None:
        """Wait until every task has ended, those too that others submit meanwhile.

        Declared pollers are not waited for.
        """
        self._toolkit.require_loop("settled()")
        while (living := self._recorder.awaited) != []:
            await self._until_final(living[0].record)

    def run_until_idle(self) -> None:
        """Wait as `settled`, in a test that is no coroutine."""
        while (living := self._recorder.awaited) != []:
            self._block_until_final(living[0].record)

    async def _until_final(self, record: TaskRecord) -> None:
        # Not by way of the manager: settled() must not read the failures that it waits for.
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop was closed while this was on its way
                loop.call_soon_threadsafe(ended.set)

        with self._recorder.watching(record, tell), self._toolkit.waiting():
            await ended.wait()

    def _block_until_final(self, record: TaskRecord) -> None:
        ended = threading.Event()
        with self._recorder.watching(record, ended.set), self._toolkit.waiting():
            ended.wait()

    def _record(self, ref: Any) -> TaskRecord:
        task_id = task_id_of(ref)
        record = self._recorder.record(task_id)
        if record is None:
            raise TaskNotFoundError(task_id)
        return record

    # -- matchers

    def submitted(self, fn: Callable[..., Any] | str) -> list[Task]:
        """Return the tasks of *fn*, a decorated function or a name, the oldest first.

        Raises:
            LookupError: If *fn* is a name that no function bears, or several do.
        """
        __tracebackhide__ = True
        return [Task(one.record) for one in self._recorder.of(self._names.target(fn))]

    def calls(self, fn: Callable[..., Any] | str) -> list[dict[str, Any]]:
        """Return the arguments of each of *fn*'s tasks, the oldest first.

        They are by the names of the parameters, with the defaults of those left out, so that
        ``calls(send) == [{"to": "ann", "copies": 1}]`` tells all calls and their order.

        Raises:
            LookupError: If *fn* is a name that no function bears, or several do.
        """
        __tracebackhide__ = True
        return [one.arguments for one in self._recorder.of(self._names.target(fn))]

    def assert_submitted(
        self,
        fn: Callable[..., Any] | str,
        /,
        *args: Any,
        times: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Assert that *fn* was submitted, with these arguments if any are given.

        Arguments are compared by parameter, as Python binds them: by position or by name,
        with or without a default written out, is the same. See `calls` for all calls.

        Args:
            fn: A decorated function, or its name.
            args: Its positional arguments.
            times: How often, 0 or more; None for at least once.
            kwargs: Its keyword arguments.

        Raises:
            AssertionError: If it was not.
            LookupError: If *fn* is a name that no function bears, or several do.
            TypeError: If *fn* does not take such arguments.
        """
        __tracebackhide__ = True
        if times is not None:
            _require_count("times", times)
        wanted = matchers.Wanted(self._names.target(fn), args, kwargs)
        matchers.assert_submitted(self._recorder, wanted, times)

    def assert_not_submitted(
        self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> None:
        """Assert that *fn* was never submitted, with these arguments if any are given.

        Raises:
            AssertionError: If it was.
            LookupError: If *fn* is a name that no function bears, or several do.
            TypeError: If *fn* does not take such arguments.
        """
        __tracebackhide__ = True
        wanted = matchers.Wanted(self._names.target(fn), args, kwargs)
        matchers.assert_not_submitted(self._recorder, wanted)

    def assert_idle(self) -> None:
        """Assert that every task has ended, but for declared pollers."""
        __tracebackhide__ = True
        matchers.assert_idle(self._recorder)

    def assert_transitions(self, ref: Any, expected: str) -> None:
        """Assert through which states a task went, such as ``"pending>running>completed"``."""
        __tracebackhide__ = True
        matchers.assert_transitions(self._recorder, task_id_of(ref), expected)

    def delays(self, fn: Callable[..., Any] | str) -> list[float]:
        """Return the delays of *fn*'s retries and throttled calls, in order, in seconds."""
        __tracebackhide__ = True
        return matchers.delays(self._recorder, self._names.target(fn))

    def rate(self, fn: Callable[..., Any] | str) -> matchers.Rate:
        """Return how often the body of *fn* began: ``rate(fn).max_in(60)`` in any 60 seconds.

        A throttled function begins once its turn has come, in a task or called directly, with
        each attempt of a retry; calls of all keys count together, and refused ones do not.
        Of any other function the attempts of its tasks are counted.

        Args:
            fn: A decorated function, or its name.
        """
        __tracebackhide__ = True
        return matchers.rate(self._recorder, self._names.target(fn))

    def expect_failure(
        self,
        fn: Callable[..., Any] | str,
        exc: type[BaseException],
        *,
        times: int = 1,
    ) -> None:
        """Expect that exactly so many tasks of *fn* fail with *exc* or a subclass of it.

        Args:
            fn: A decorated function, or its name.
            exc: The type of the error.
            times: How many, from 0 on.

        Raises:
            LookupError: If *fn* is a name that no function bears, or several do.
            TypeError: If *exc* is no class of errors.
        """
        __tracebackhide__ = True
        given: object = exc
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise TypeError(f"exc must be a class of errors, such as ValueError, not {exc!r}")
        _require_count("times", times)
        expectation = matchers.Expectation(self._names.target(fn), exc, times)
        self._toolkit.expectations.append(expectation)


def _read(record: TaskRecord) -> Task:
    """Return a finished task to a test, which thereby knows of its failure."""
    if record.error is not None:
        record.read = True
    return Task(record)


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
