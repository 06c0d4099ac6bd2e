"""TaskBenchmark: what a task costs, and how much of it is the task's own.

Guarantees: what is timed is the way of production in real time: real threads, no
interceptor, one event loop for all rounds, whose starts and stops are not timed. The
function runs in each round, and its tasks have ended before the next round begins.
Relies on: pytest-benchmark to make the rounds and to report them; it takes the time from
a stopwatch of ours, which only the timed part of a round moves.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_asyncframe.benchmark._rounds import Bench, Bodies, Call, Figures, Timed, opened, repeat

if TYPE_CHECKING:
    from pytest_asyncframe._toolkit.toolkit import Toolkit
    from pytest_asyncframe.clock import VirtualClock

_WARM_UP, _BESIDE = 0.1, 0.2
"""Shares of a benchmark's time: to warm up, and for each figure beside the timed one."""

_MOST_ROUNDS = 100_000

_MOST_TASKS = 10_000
"""How many may wait at once, and so the largest batch."""


class TaskBenchmark:
    """Benchmarks a task; what the fixture ``task_benchmark`` gives.

    For tests that are plain ``def``, one measurement in each. The function may be sync or
    ``async def``. One that is decorated with ``background_task`` is called, one with
    ``async_task`` is awaited, any other is submitted. The measurement has a framework of
    its own, with a real pool and in real time, whatever else the test asks for. Schedules
    do not run in it.

    Beside the statistics of what is timed, ``benchmark.extra_info``, and with it the file of
    ``--benchmark-json``, gets medians, in seconds:

    ``submit``
        From the call until it has returned the task's id. Missing where a function
        decorated with ``async_task`` is awaited, since there is no id.
    ``body``
        What the function itself takes within a round trip: all of its attempts, without
        the delays between them.
    ``framework``
        The rest of the round trip.
    ``round_trip``
        From the call until whoever awaits the result has it.
    ``per_task``
        A batch, from its first submission to its last result, divided by its size. Where
        bodies wait it is below ``round_trip``, since several run at once.
    ``tasks``
        The size of the batch; the one figure that is no time.

    The first four are taken in rounds of their own right after the timed ones, with an
    interceptor around each attempt, which costs 1 to 3 µs of ``framework``. So they are to
    be compared with each other; the way of production is what the statistics show.

    Args:
        benchmark: The fixture of pytest-benchmark.
        name: The test's name, for the summary.
        min_rounds: The fewest rounds to time, from 1 on.
        max_time: Seconds that the timed rounds take, about, if `min_rounds` allows.
        outside: Gives a context in which time is real.
        rows: Where a line of the summary is added; None for nowhere.

    Attributes:
        benchmark: That fixture, for its ``stats``, ``group`` and ``extra_info``.
        max_workers: Threads of the pool, from 1 on; None for the standard default. Set it
            before you measure.
    """

    def __init__(
        self,
        benchmark: Any,  # a BenchmarkFixture, which is not typed
        *,
        name: str = "",
        min_rounds: int = 5,
        max_time: float = 1.0,
        outside: Callable[[], AbstractContextManager[object]] = nullcontext,
        rows: list[Row] | None = None,
    ) -> None:
        self.benchmark = benchmark
        self.max_workers: int | None = None
        self._name = name
        self._min_rounds = min_rounds
        self._max_time = max_time
        self._outside = outside
        self._rows = rows
        self._used = False

    @classmethod
    def of(
        cls,
        request: pytest.FixtureRequest,
        toolkit: Toolkit | None = None,
        rows: list[Row] | None = None,
    ) -> TaskBenchmark:
        """Make the benchmark of a test.

        Args:
            request: The request of a fixture.
            toolkit: What the test's other fixtures are parts of; None if there are none.
            rows: Where a line of the summary is added; None for nowhere.

        Raises:
            pytest.UsageError: If pytest-benchmark is not there.
        """
        benchmark = _fixture_of(request)
        marker = request.node.get_closest_marker("benchmark")
        marked = {} if marker is None else marker.kwargs

        def option(key: str) -> Any:  # a number or its text
            return marked.get(key, request.config.getoption(f"benchmark_{key}"))

        return cls(
            benchmark,
            name=request.node.name,
            min_rounds=int(option("min_rounds")),
            max_time=float(option("max_time")),
            outside=functools.partial(_real_time, toolkit),
            rows=rows,
        )

    # -- what can be measured

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time round trips of ``fn(*args, **kwargs)``, and take all the figures.

        Returns:
            What the task returned, the last time.

        Raises:
            RuntimeError: On a running event loop, or if the test has measured before.
            BaseException: What the task raised.
        """
        return self._measure(Call(fn, args, kwargs), Bench.round_trip, batches=True)

    def round_trip(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time round trips and make no batches; else as calling the benchmark itself."""
        return self._measure(Call(fn, args, kwargs), Bench.round_trip)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time submissions; each task is waited for, which is not timed.

        A function that is decorated with ``async_task`` is given to the manager's
        ``submit_nowait``. Returns and raises what calling the benchmark itself does.
        """
        return self._measure(Call(fn, args, kwargs, by_id=True), Bench.submission)

    def throughput(
        self, fn: Callable[..., Any], /, *args: Any, tasks: int = 1_000, **kwargs: Any
    ) -> Any:
        """Time batches, divided by their size; the table's OPS are tasks in a second.

        Args:
            fn: The function.
            args: Its positional arguments.
            tasks: The size of a batch, from 1 to 10,000. Where benchmarks are disabled, one
                task is run.
            kwargs: Its keyword arguments; one of its own named *tasks* can be bound with
                `functools.partial`.

        Returns:
            What the task returned, the last time.

        Raises:
            TypeError: If *tasks* is no whole number.
            ValueError: If it is out of range.
            RuntimeError: As when calling the benchmark itself.
            BaseException: What the first task that failed has raised.
        """
        given: object = tasks
        if not isinstance(given, int) or isinstance(given, bool):
            raise TypeError(f"tasks must be a whole number, not {tasks!r}")
        if not 1 <= tasks <= _MOST_TASKS:
            raise ValueError(f"tasks must be from 1 to {_MOST_TASKS:,}, not {tasks!r}")
        batch = functools.partial(Bench.batch, tasks=tasks)
        return self._measure(Call(fn, args, kwargs), batch)

    # -- how it is measured

    def _measure(
        self, call: Call, timed: Callable[[Bench], Timed], *, batches: bool = False
    ) -> Any:
        """Measure one part of *call*, and what is to be told beside it.

        Args:
            call: What is called.
            timed: Makes a round, and returns the seconds of what the table is to show.
            batches: Whether to make batches beside it.
        """
        self._begin()
        try:
            with self._outside(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                result, figures = self._rounds(runner, call, timed, batches)
        except BaseException:
            # Figures of a test that has failed are not to be compared with.
            self.benchmark.has_error = True
            raise
        if figures:
            self.benchmark.extra_info.update(figures)
            if self._rows is not None:
                self._rows.append(Row(self._name, figures))
        return result

    def _begin(self) -> None:
        """Refuse a second measurement, and one on a running event loop."""
        if self._used:
            raise RuntimeError(
                "task_benchmark has measured already: one test measures one thing; write another "
                "test, or parametrize this one"
            )
        self._used = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._refuse(
            RuntimeError(
                "task_benchmark was called on a running event loop, and runs one of its own: "
                "write the test as 'def' and not as 'async def'; what it measures may be either"
            )
        )

    def _refuse(self, error: BaseException) -> NoReturn:
        """Raise *error* out of pytest-benchmark, which else warns of not being used."""

        def refuse() -> NoReturn:
            raise error

        self.benchmark.pedantic(refuse)
        raise error

    def _rounds(
        self,
        runner: asyncio.Runner,
        call: Call,
        timed: Callable[[Bench], Timed],
        batches: bool,
    ) -> tuple[Any, Figures]:
        """Return the last result, and the figures; none where benchmarks are disabled."""
        benchmark, clock = self.benchmark, self.benchmark._timer
        bench_with = functools.partial(opened, runner, call, clock, self.max_workers)
        with bench_with() as bench:
            if benchmark.disabled:
                return benchmark.pedantic(bench.once), {}
            result = self._time(functools.partial(timed, bench), clock)
            figures = bench.figures()
        seconds = self._max_time * _BESIDE
        bodies = Bodies(clock)
        with bench_with(bodies) as bench:
            fitting = len(repeat(functools.partial(bench.apart, bodies), seconds))
            # These replace the timed ones, so that they add up.
            figures |= bench.figures()
        if batches:
            with bench_with() as bench:
                tasks = max(fitting, bench.workers)  # one for each thread at least
                repeat(functools.partial(bench.batch, tasks), seconds)
                figures |= bench.figures()
        return result, figures

    def _time(self, step: Callable[[], Timed], clock: Callable[[], float]) -> Any:
        """Have pytest-benchmark make rounds of *step*, as many as there is time for."""
        begin = perf_counter()
        try:
            made = repeat(step, self._max_time * _WARM_UP)
        except BaseException as error:  # a time limit of the test is no Exception
            self._refuse(error)
        fitting = int(self._max_time * len(made) / (perf_counter() - begin))
        stopwatch = self.benchmark._timer = _Stopwatch(clock)

        def timed() -> Any:
            seconds, result = step()
            stopwatch.total += seconds
            return result

        rounds = min(max(self._min_rounds, fitting), _MOST_ROUNDS)
        return self.benchmark.pedantic(timed, rounds=rounds)


@dataclass(frozen=True, slots=True)
class Row:
    """What one test has measured.

    Attributes:
        name: The test's name.
        figures: Its medians; see `TaskBenchmark` for their names.
    """

    name: str
    figures: Figures


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a summary, a line for each row."""
    columns = ("submit", "body", "framework", "round_trip", "per_task")
    width = max(len("name"), *(len(row.name) for row in rows))
    lines = [f"{'name':{width}}" + "".join(f"{column:>14}" for column in columns)]
    for row in rows:
        shown = [_shown(row.figures.get(column)) for column in columns]
        lines.append(f"{row.name:{width}}" + "".join(f"{text:>14}" for text in shown))
    return lines


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:,.2f} {unit}"
    return f"{seconds * 1e9:,.0f} ns"


class _Stopwatch:
    """Stands where pytest-benchmark has its timer, and shows the seconds timed so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.total = 0.0
        # Under this name the timer is in pytest-benchmark's reports.
        self.__name__ = getattr(clock, "__name__", repr(clock))

    def __call__(self) -> float:
        """Return the seconds timed so far."""
        return self.total


# -- where it is measured


def _fixture_of(request: pytest.FixtureRequest) -> Any:  # a BenchmarkFixture, not typed
    found: object = None
    try:
        found = request.getfixturevalue("benchmark")
    except pytest.FixtureLookupError:
        told = "which is not installed, or is switched off"
    else:
        if hasattr(found, "_timer"):
            return found
        told = f"and 'benchmark' is another's here: {found!r}"
    raise pytest.UsageError(
        f"task_benchmark stands on pytest-benchmark, {told}: pip install 'asyncframe[pytest]'"
    )


@contextmanager
def _real_time(toolkit: Toolkit | None) -> Iterator[None]:
    """Let the calling thread be in real time, although the test's other fixtures are not."""
    with ExitStack() as stack:
        if toolkit is not None and toolkit.sequencer is not None:
            stack.enter_context(toolkit.sequencer.real())
        if toolkit is not None and toolkit.clock is not None:
            stack.enter_context(_real_wall(toolkit.clock))
        yield


@contextmanager
def _real_wall(clock: VirtualClock) -> Iterator[None]:
    """Let ``datetime.now()`` and ``time.time()`` show real time."""
    try:
        import time_machine  # optional; where it is missing, nothing else is shown
    except ImportError:
        yield
        return
    now = time_machine.escape_hatch.datetime.datetime.now(UTC)
    clock.date_is_real = True
    try:
        with time_machine.travel(now, tick=True):
            yield
    finally:
        clock.date_is_real = False
