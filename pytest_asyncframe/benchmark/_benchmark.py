"""TaskBenchmark: how long a task takes, and how much of that is its own function.

Guarantees: tasks are timed in real time and run as in production: on real threads, without an
interceptor, on one event loop whose start and stop are not timed. The function runs in each
round, and its tasks end before the next round starts.
Relies on: pytest-benchmark to run the rounds and report them. It reads the time from our
stopwatch, which only the timed part of a round moves.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_asyncframe.benchmark._rounds import Bench, Bodies, Call, Figures, Timed, opened, repeat

if TYPE_CHECKING:
    from pytest_asyncframe._toolkit.toolkit import Toolkit
    from pytest_asyncframe.clock import VirtualClock

_WARM_UP, _EXTRA = 0.1, 0.2
"""Shares of a benchmark's time: for the warm-up, and for each additional figure."""

_MOST_ROUNDS = 100_000

_MOST_TASKS = 10_000
"""The largest batch, since all of its tasks may be queued at once."""


class TaskBenchmark:
    """Benchmarks a task; the value of the fixture ``task_benchmark``.

    Use it in a plain ``def`` test, for one measurement. The function may be sync or async. A
    function decorated with ``background_task`` is called, one with ``async_task`` is
    awaited, any other is submitted. The measurement has its own framework with a real pool
    in real time, whatever other fixtures the test uses. Schedules do not run.

    In addition to the statistics of pytest-benchmark, ``benchmark.extra_info`` and the file
    of ``--benchmark-json`` get these medians, in seconds:

    ``submit``
        From the call until it has returned the id of the task. Missing if a function
        decorated with ``async_task`` is awaited, since there is no id.
    ``body``
        The time of the function itself within a round trip: all its attempts, without the
        delays between them.
    ``framework``
        The rest of the round trip.
    ``round_trip``
        From the call until the result has been received.
    ``per_task``
        The time of a batch, from its first submission to its last result, divided by its
        size. Lower than ``round_trip`` if functions wait, since several run at once.
    ``tasks``
        The size of the batch; the only figure that is not a time.

    The first four are measured in extra rounds after the timed ones, with an interceptor
    around each attempt, which adds 1 to 3 µs to ``framework``. Compare them with each
    other; the statistics show the times as in production.

    Args:
        request: The request of the fixture.
        toolkit: The parts behind the test's other fixtures; None if there are none.
        rows: List that gets a row for the summary; None for no summary.

    Attributes:
        benchmark: The fixture of pytest-benchmark, for ``stats``, ``group`` and ``extra_info``.
        max_workers: Number of threads of the pool, from 1 on; None for the default of
            Python's pools. Set it before you measure.

    Raises:
        pytest.UsageError: If pytest-benchmark is not available.
    """

    def __init__(
        self,
        request: pytest.FixtureRequest,
        toolkit: Toolkit | None = None,
        rows: list[Row] | None = None,
    ) -> None:
        marker = request.node.get_closest_marker("benchmark")
        marked = {} if marker is None else marker.kwargs

        def option(key: str) -> Any:  # a number or its text
            return marked.get(key, request.config.getoption(f"benchmark_{key}"))

        self.benchmark: Any = _fixture_of(request)
        self.max_workers: int | None = None
        self._name = request.node.name
        self._min_rounds = int(option("min_rounds"))
        self._max_time = float(option("max_time"))
        self._outside = functools.partial(_real_time, toolkit)
        self._rows = rows
        self._used = False

    # -- measurements

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time round trips of ``fn(*args, **kwargs)``, and measure all figures.

        Returns:
            The result of the last task.

        Raises:
            RuntimeError: On a running event loop, or at a second measurement in the test.
            BaseException: The error of the task.
        """
        return self._measure(Call(fn, args, kwargs), Bench.round_trip, batches=True)

    def round_trip(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time round trips without batches; otherwise like calling the benchmark."""
        return self._measure(Call(fn, args, kwargs), Bench.round_trip)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Time submissions. Each task is waited for, outside the timed part.

        A function decorated with ``async_task`` is passed to the manager's ``submit_nowait``.
        Returns and raises the same as calling the benchmark.
        """
        return self._measure(Call(fn, args, kwargs, by_id=True), Bench.submission)

    def throughput(
        self, fn: Callable[..., Any], /, *args: Any, tasks: int = 1_000, **kwargs: Any
    ) -> Any:
        """Time batches, divided by their size. OPS in the table are tasks per second.

        Args:
            fn: The function.
            args: Its positional arguments.
            tasks: The size of a batch, from 1 to 10,000. If benchmarks are disabled, one
                task is run.
            kwargs: Its keyword arguments. If one of them is named *tasks*, bind it with
                `functools.partial`.

        Returns:
            The result of the last task.

        Raises:
            TypeError: If *tasks* is not a whole number.
            ValueError: If *tasks* is out of range.
            RuntimeError: As when calling the benchmark.
            BaseException: The error of the first task that failed.
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
        """Time one part of *call*, and measure the additional figures.

        Args:
            call: The call.
            timed: Runs a round, and returns the seconds to show in the table.
            batches: Whether to measure batches too.
        """
        self._begin()
        try:
            with self._outside(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                result, figures = self._rounds(runner, call, timed, batches)
        except BaseException:  # raised again; no figure of a failed test is to be compared
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
                "task_benchmark was used before in this test: measure one thing in each test; "
                "write another test, or parametrize this one"
            )
        self._used = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._refuse(
            RuntimeError(
                "task_benchmark was called on a running event loop, but runs its own: write the "
                "test as 'def', not 'async def'; the measured function may be either"
            )
        )

    def _refuse(self, error: BaseException) -> NoReturn:
        """Raise *error* through pytest-benchmark, which would warn of an unused fixture else."""

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
        """Return the last result, and the figures; no figures if benchmarks are disabled.

        The clock of pytest-benchmark is not public. Without it the test ends with an
        AttributeError that names it.
        """
        benchmark, clock = self.benchmark, self.benchmark._timer
        bench_with = functools.partial(opened, runner, call, clock, self.max_workers)
        with bench_with() as bench:
            if benchmark.disabled:
                return benchmark.pedantic(bench.once), {}
            result = self._time(functools.partial(timed, bench), clock)
            figures = bench.figures()
        seconds = self._max_time * _EXTRA
        bodies = Bodies(clock)
        with bench_with(bodies) as bench:
            fitting = len(repeat(functools.partial(bench.split, bodies), seconds))
            # They replace the timed ones, so that body and framework add up to the round trip.
            figures |= bench.figures()
        if batches:
            with bench_with() as bench:
                tasks = max(fitting, bench.workers)  # one for each thread at least
                repeat(functools.partial(bench.batch, tasks), seconds)
                figures |= bench.figures()
        return result, figures

    def _time(self, step: Callable[[], Timed], clock: Callable[[], float]) -> Any:
        """Let pytest-benchmark run rounds of *step*, as many as there is time for."""
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
    """The figures of one test.

    Attributes:
        name: The name of the test.
        figures: The medians; see `TaskBenchmark` for their names.
    """

    name: str
    figures: Figures


def table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the summary table."""
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
    """Replaces the timer of pytest-benchmark; returns the seconds timed so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.total = 0.0
        # The name of the timer in pytest-benchmark's reports.
        self.__name__ = getattr(clock, "__name__", repr(clock))

    def __call__(self) -> float:
        """Return the seconds timed so far."""
        return self.total


# -- the surroundings of a measurement


def _fixture_of(request: pytest.FixtureRequest) -> Any:  # a BenchmarkFixture, not typed
    found: object = None
    try:
        found = request.getfixturevalue("benchmark")
    except pytest.FixtureLookupError:
        reason = "which is not installed or is disabled"
    else:
        if hasattr(found, "_timer"):
            return found
        reason = f"but another fixture 'benchmark' is in its place: {found!r}"
    raise pytest.UsageError(
        f"task_benchmark needs pytest-benchmark, {reason}: install the extra 'pytest' of asyncframe"
    )


@contextmanager
def _real_time(toolkit: Toolkit | None) -> Iterator[None]:
    """Put the calling thread in real time, although the test has a virtual clock."""
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
        import time_machine  # optional; without it they always show real time
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
