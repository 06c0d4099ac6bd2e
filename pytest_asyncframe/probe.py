"""The `asyncframe` fixture: clients, waits and matchers."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from framework import Task, TaskManager, TaskNotFoundError
from framework.protocols import TaskRecord
from pytest_asyncframe._backends.names import require_here
from pytest_asyncframe._locations import called_at, users_location
from pytest_asyncframe._seen import matchers
from pytest_asyncframe._seen.names import Names, task_id_of
from pytest_asyncframe._toolkit.clients import BASE_URL, Client, LiveServer, OnCrash
from pytest_asyncframe._toolkit.harm import Harm
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe.clock import VirtualClock, VirtualDeadlockError
from pytest_asyncframe.clock._lazy import LazyCoroutine
from pytest_asyncframe.executor import DeterministicExecutor
from pytest_asyncframe.histories import History

Predicate = TypeVar("Predicate", bound=Callable[[], object])
Waited = TypeVar("Waited")

Watching: TypeAlias = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""Calls what it is given once something has ended, while the block lasts."""

_BLOCKS = "() would block the event loop that runs this test: use 'await asyncframe."
_COMPLETED = f"run_until_complete{_BLOCKS}completed(...)'"
_SETTLED = f"run_until_idle{_BLOCKS}settled()'"


class Probe(Harm):
    """Tests background tasks: a manager, a clock, clients, waits and matchers for one test.

    Args:
        toolkit: The parts of the test.
    """

    def __init__(self, toolkit: Toolkit) -> None:
        super().__init__(toolkit)
        self._recorder = toolkit.recorder
        self._names = Names(toolkit.recorder, toolkit.scope)

    @property
    def manager(self) -> TaskManager:
        """The manager of the test; `get_task_manager()` returns it everywhere."""
        return self._toolkit.manager

    @property
    def mode(self) -> str:
        """The mode of the test: ``auto``, ``manual``, ``virtual``, ``seeded`` or ``threads``."""
        return self._toolkit.mode

    @property
    def backend(self) -> str:
        """What keeps the tasks and runs them: ``memory``, or what the marker's ``on`` lists."""
        return self._toolkit.settings.backend

    @property
    def clock(self) -> VirtualClock:
        """The virtual clock of the test.

        Raises:
            RuntimeError: In the mode ``threads``, where time is real.
        """
        return self._toolkit.require_clock("asyncframe.clock")

    @property
    def executor(self) -> DeterministicExecutor:
        """The deterministic executor of the test.

        Raises:
            RuntimeError: In the modes ``virtual`` and ``threads``, where tasks start by
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
        on_crash: OnCrash = "raise",
        **options: Any,
    ) -> Client:
        """Return a client for *app*; the app's lifespan runs while the client is open.

        ``async with`` gives an ``httpx.AsyncClient`` on the event loop of the test. ``with``
        gives Starlette's ``TestClient``, whose own loop uses the clock of the test too. An
        exception in the lifespan is raised where the client's block starts or ends. If a
        test patches httpx for requests that the app sends, this client is not affected.

        Args:
            app: Any ASGI app.
            base_url: Prefix of relative URLs.
            raise_app_exceptions: Whether an exception in a route is raised in the test.
                Otherwise the app responds to it, usually with status 500.
            on_crash: With ``crash_points``, what becomes of a request whose process dies: "raise"
                raises ``httpx.RemoteProtocolError``, and "again" sends it once more.
            options: Further options of the ``httpx.AsyncClient`` or ``TestClient``.

        Raises:
            TypeError: If *app* is not callable.
            ImportError: At the start of the block, if httpx is not installed.
        """
        location = users_location(sys._getframe(1))
        made = Client(
            app,
            self._toolkit.loop_factory,
            base_url,
            raise_app_exceptions=raise_app_exceptions,
            on_crash=on_crash,
            location=location,
            **options,
        )
        made.transport = self._toolkit.settings.transport
        made.serve = lambda app: self._server(app, location)
        made.around_exit = self._toolkit.leaving
        made.on_error = self._recorder.take_snapshot
        made.on_enter = lambda: self._toolkit.require_loop("asyncframe.client(app)")
        made.polling = self._toolkit.polling()
        made.process = self._toolkit.process
        self._toolkit.clients.append(made)
        return made

    def live_server(self, app: Any) -> LiveServer:
        """Return a real uvicorn server for *app*, to be used in ``with``; it has a ``url``.

        Its event loop runs in real time. While the server is open, tasks start when they are
        submitted, and virtual time moves by itself only while the test waits with methods of
        this object.

        Raises:
            ImportError: If uvicorn is not installed.
        """
        made = self._server(app, users_location(sys._getframe(1)))
        self._toolkit.clients.append(made)
        return made

    def _server(self, app: Any, location: str) -> LiveServer:
        return LiveServer(app, self._toolkit.pace.beside_server, self._toolkit.away, location)

    # -- waiting

    def completed(self, ref: Any, *, check: bool = True) -> Coroutine[Any, Any, Task]:
        """Wait until a task has ended, and return it.

        Args:
            ref: An id, a `framework.Task`, or a response with an id in its JSON.
            check: Whether to raise the task's error if it did not complete. The failure
                counts as read in either case.

        Raises:
            LookupError: If *ref* contains no id, or no task has that id.
            BaseException: The task's own error.
        """
        waiting = partial(self._completed, ref, check=check)
        return self._lazy(waiting, "completed()", "run_until_complete()")

    async def _completed(self, ref: Any, *, check: bool) -> Task:
        self._toolkit.require_loop("completed()")
        record = self._record(ref)
        await _until(self._toolkit, self._end_of(record))
        self._toolkit.back_end.require_end(record.status.is_final)
        if check:
            await self.manager.get_result(record.task_id)
        return _read(record)

    def run_until_complete(self, ref: Any, *, check: bool = True) -> Task:
        """Wait like `completed`, in a test that is not a coroutine."""
        record = self._record(ref)
        _block_until(self._toolkit, self._end_of(record), _COMPLETED, refused=check)
        self._toolkit.back_end.require_end(record.status.is_final)
        if check:
            self.manager.wait_result(record.task_id)
        return _read(record)

    def settled(self) -> Coroutine[Any, Any, None]:
        """Wait until all tasks have ended, including those submitted meanwhile.

        Pollers (see the marker's ``pollers``) are not waited for. Of a task that a fault
        delivers twice, both runs are.
        """
        return self._lazy(self._settled, "settled()", "run_until_idle()")

    def _lazy(
        self, make: Callable[[], Coroutine[Any, Any, Waited]], name: str, in_sync: str
    ) -> Coroutine[Any, Any, Waited]:
        """Return a coroutine for the user to await; the test fails if that is forgotten."""
        location = called_at(sys._getframe(2))
        told = (
            f"{name}, called at {location}, so nothing was waited for: await it, or call "
            f"{in_sync} in a test that is not a coroutine"
        )
        return LazyCoroutine(make, name, lambda: self._toolkit.not_awaited.append(told))

    async def _settled(self) -> None:
        self._toolkit.require_loop("settled()")
        while self._recorder.unsettled:
            await _until(self._toolkit, self._recorder.settling)
            self._toolkit.back_end.require_end(not self._recorder.unsettled)

    def run_until_idle(self) -> None:
        """Wait like `settled`, in a test that is not a coroutine."""
        while self._recorder.unsettled:
            _block_until(self._toolkit, self._recorder.settling, _SETTLED)
            self._toolkit.back_end.require_end(not self._recorder.unsettled)

    def _end_of(self, record: TaskRecord) -> Watching:
        return partial(self._recorder.watching, record, both=self._toolkit.searches_faults)

    def _record(self, ref: Any) -> TaskRecord:
        task_id = task_id_of(ref)
        record = self._recorder.record(task_id)
        if record is None:
            raise _unknown(task_id, self.crashes)
        return record

    # -- matchers

    def submitted(self, fn: Callable[..., Any] | str) -> list[Task]:
        """Return the tasks of *fn*, a decorated function or its name, oldest first.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
        """
        __tracebackhide__ = True
        return [Task(one.record) for one in self._recorder.of(self._names.target(fn))]

    def calls(self, fn: Callable[..., Any] | str) -> list[dict[str, Any]]:
        """Return the arguments of each task of *fn*, oldest first.

        They are given by parameter name, with defaults, so you can compare all calls and
        their order: ``calls(send) == [{"to": "ann", "copies": 1}]``.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
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
        """Assert that *fn* was submitted; if you pass arguments, with exactly these.

        Arguments are compared by parameter, so it does not matter whether they are passed by
        position or by name, or whether a default is written out. See `calls` to compare all
        calls at once.

        Args:
            fn: A decorated function, or its name.
            args: The positional arguments.
            times: How many times, 0 or more; None for at least once.
            kwargs: The keyword arguments.

        Raises:
            AssertionError: If it was not submitted so.
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            TypeError: If *fn* does not take these arguments.
        """
        __tracebackhide__ = True
        if times is not None:
            _require_count("times", times)
        wanted = matchers.Wanted(self._names.target(fn), args, kwargs)
        matchers.assert_submitted(self._recorder, wanted, times)

    def assert_not_submitted(
        self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> None:
        """Assert that *fn* was never submitted; if you pass arguments, not with these.

        Raises:
            AssertionError: If it was.
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            TypeError: If *fn* does not take these arguments.
        """
        __tracebackhide__ = True
        wanted = matchers.Wanted(self._names.target(fn), args, kwargs)
        matchers.assert_not_submitted(self._recorder, wanted)

    def assert_idle(self) -> None:
        """Assert that all tasks have ended, except pollers."""
        __tracebackhide__ = True
        awaited = self._recorder.awaited
        if awaited:
            count = "1 task has" if len(awaited) == 1 else f"{len(awaited)} tasks have"
            lines = [f"  {matchers.described(one.record)}" for one in awaited]
            raise AssertionError("\n".join([f"{count} not ended:", *lines]))

    def assert_transitions(self, ref: Any, expected: str) -> None:
        """Assert which states a task went through: ``"pending>running>completed"``."""
        __tracebackhide__ = True
        task_id = task_id_of(ref)
        went = ["pending"] if self._recorder.record(task_id) is not None else []
        for event in self._recorder.events:
            if event.task_id != task_id or event.status is None:
                continue
            if event.status.value != went[-1]:
                went.append(event.status.value)
        if ">".join(went) != expected.replace(" ", ""):
            raise AssertionError(
                f"task {task_id} went through {'>'.join(went) or 'nothing'}, expected {expected}"
            )

    def delays(self, fn: Callable[..., Any] | str) -> list[float]:
        """Return the delays of retries and throttled calls of *fn*, in order, in seconds."""
        __tracebackhide__ = True
        require_here(self._toolkit.back_end.name, "asyncframe.delays()")
        target = self._names.target(fn)
        ids = {one.record.task_id for one in self._recorder.of(target)}
        return [
            event.delay
            for event in self._recorder.events
            if event.kind in ("retrying", "throttled")
            and event.delay is not None
            and (event.task_id in ids or event.name in target.labels)
        ]

    def rate(self, fn: Callable[..., Any] | str) -> matchers.Rate:
        """Return how often the body of *fn* started: ``rate(fn).max_in(60)`` in any 60 seconds.

        For a throttled function, each call counts when the throttle lets it start: in a task,
        called directly, and at each attempt of a retry. All keys count together; rejected
        calls do not count. For other functions, the attempts of their tasks are counted.

        Args:
            fn: A decorated function, or its name.
        """
        __tracebackhide__ = True
        require_here(self._toolkit.back_end.name, "asyncframe.rate()")
        target, starts = self._names.target(fn), tuple(self._recorder.starts)
        return matchers.Rate(tuple(sorted(one.at for one in starts if one.is_of(target))))

    def always(self, predicate: Predicate) -> Predicate:
        """Require *predicate* to be true from now until the test function ends.

        It is called at once, at each event of a task (submitted, started, retrying, completed
        and so on), and in an explored test at each point where others may run. When it is
        false for the first time, the test goes on, and then fails with the event and the
        task. An error that it raises counts as false. In the modes ``virtual`` and
        ``threads``, other threads may run meanwhile.

        It must be quick, wait for nothing and change nothing. You can also use this method as
        a decorator.

        Args:
            predicate: A function without parameters that returns whether the invariant holds.
                It may use ``assert``, whose message is shown, but must return true.

        Returns:
            *predicate*.

        Raises:
            AssertionError: If it is false now.
            TypeError: If it is not such a function.
        """
        __tracebackhide__ = True
        self._toolkit.add_invariant(predicate)
        return predicate

    def linearizable(
        self, model: Callable[[], object], *, key: str | None = None, states: int = 100_000
    ) -> History:
        """Compare a history of operations with a model that does one after the other.

        See `History` for how they are recorded and when they are checked.

        Args:
            model: Makes a model in its first state: a class, or a function without parameters.
                It has a plain method for each kind of operation.
            key: The name of a parameter of its methods; operations with different values of
                it concern independent objects, and are checked apart. None for one object.
            states: How many states of the model a check may look at, from 1.

        Raises:
            TypeError: If *model* does not make a new object each time that has plain methods,
                or *states* is no whole number.
            ValueError: If *states* is below 1.
        """
        __tracebackhide__ = True
        _require_count("states", states, least=1)
        history = History(
            model,
            key=key,
            states=states,
            elapsed=lambda: self._recorder.elapsed,
            undivided=self._toolkit.undivided,
            location=called_at(sys._getframe(1)),
        )
        self._toolkit.histories.append(history)
        return history

    def expect_failure(
        self,
        fn: Callable[..., Any] | str,
        exc: type[BaseException],
        *,
        times: int = 1,
    ) -> None:
        """Expect exactly this many tasks of *fn* to fail with *exc* or a subclass of it.

        This is checked at the end of the test.

        Args:
            fn: A decorated function, or its name.
            exc: The exception class.
            times: How many tasks, 0 or more.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            TypeError: If *exc* is not an exception class.
        """
        __tracebackhide__ = True
        given: object = exc
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise TypeError(f"exc must be an exception class, such as ValueError, not {exc!r}")
        _require_count("times", times)
        expectation = matchers.Expectation(self._names.target(fn), exc, times)
        self._toolkit.expectations.append(expectation)


def _unknown(task_id: str, crashes: Sequence[str]) -> TaskNotFoundError:
    """Return the error for an id that no task of the test has."""
    error = TaskNotFoundError(task_id)
    if crashes:
        error.add_note(
            f"the process has died ({', '.join(crashes)}), perhaps after it had answered with this "
            "id and before the task was stored: let the route 'await manager.submit(...)', or "
            "return Accepted[...], which answer once it is stored"
        )
    return error


def _read(record: TaskRecord) -> Task:
    """Return a finished task; its failure then counts as read."""
    if record.error is not None:
        record.read = True
    return Task(record)


async def _until(toolkit: Toolkit, watching: Watching) -> None:
    """Wait in a coroutine until *watching* says so, or the tasks cannot end any more."""
    # Not with the manager, since settled() must not mark failures as read.
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(ended.set)

    with watching(tell), toolkit.pace.waiting():
        if not toolkit.back_end.failure:
            await ended.wait()


def _block_until(
    toolkit: Toolkit, watching: Watching, instead: str, *, refused: bool = False
) -> None:
    """Wait on a thread until *watching* says so, or the tasks cannot end any more.

    Args:
        toolkit: The test's.
        watching: Says when the wait is over.
        instead: What to call if the wait blocks the event loop on which the tasks run.
        refused: Whether a running event loop is an error, even if no task needs it.
    """
    if refused and asyncio._get_running_loop() is not None:
        raise RuntimeError(instead)
    ended = threading.Event()
    with watching(ended.set), toolkit.pace.waiting():
        if not toolkit.back_end.failure:
            try:
                ended.wait()
            except VirtualDeadlockError as error:
                if asyncio._get_running_loop() is not None:
                    error.add_note(instead)
                raise


def _require_count(name: str, value: object, *, least: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
