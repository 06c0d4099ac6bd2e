"""What tests cost: virtual sleeps, an empty test, a suite of an API, the plugin's import."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks import sleeps
from benchmarks._measure import OURS, ROOT, Case, Samples, interleave, rotated
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import MICROSECONDS, require, take_turns
from benchmarks.floors import THREADS
from benchmarks.sleeps import PYTEST
from benchmarks.suite.numbers import KINDS
from pytest_asyncframe.executor import DeterministicExecutor

MILLISECONDS = "ms"

BARE = "pytest-asyncio alone"
NOT_ASKED = "asyncframe, not asked for"

UNUSED = f"ThreadPoolExecutor({THREADS}), unused"
STARTED = f"ThreadPoolExecutor({THREADS}), {THREADS} threads started"

ALLOWED = 20.0
"""Milliseconds that every run of pytest on a machine may take longer for the plugin."""
ALLOWANCE = f"the {ALLOWED:g} ms allowed"

TESTS = 200
"""Empty tests in one run of pytest."""

_RUNS = 3
"""Runs of each suite in a round; the least counts, since a busy machine only adds."""

_EXECUTORS = 200
_IMPORTS = 5

_ENVIRONMENT = {
    # Bytecode is kept, as everywhere but in containers that are thrown away.
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONWARNINGS": "ignore",
}


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure sleeps, empty tests, executors, and the import of the plugin."""
    yield from sleeps.rows(rounds, peers=peers)
    yield from _empty_rows(rounds)
    yield _suite_row(rounds)
    yield _executor_row(rounds)
    yield _import_row(rounds, peers)


# -- empty tests


@dataclass(frozen=True)
class _Suite:
    """Empty tests, and what pytest is told for them.

    Attributes:
        fixtures: What each asks for beside its number, such as ``"asyncframe, "``.
        options: Of pytest.
    """

    fixtures: str
    options: tuple[str, ...]

    def source(self, count: int) -> str:
        """Return a file with *count* tests."""
        return (
            "import pytest\n\n\n"
            f"@pytest.mark.parametrize('number', range({count}))\n"
            f"async def test_nothing({self.fixtures}number):\n    pass\n"
        )


_SUITES = {
    BARE: _Suite("", ("-p", "no:asyncframe")),
    NOT_ASKED: _Suite("", ("-p", "asyncframe")),
    OURS: _Suite("asyncframe, ", ("-p", "asyncframe")),
}


def _empty_rows(rounds: int) -> Iterator[Row]:
    whole = {name: Samples() for name in _SUITES}
    each = {name: Samples() for name in _SUITES}
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: _run_of(suite, Path(folder)) for name, suite in _SUITES.items()}
        for run in runs.values():
            run(1)
        for number in range(rounds):
            times = _least(runs, rotated([*runs], number))
            share = {name: (many - one) / (TESTS - 1) for name, (one, many) in times.items()}
            for name, (_, many) in times.items():
                each[name].add(share[name], share[BARE])
                whole[name].add(many, times[BARE][1])
    yield Row(
        key="test_empty",
        title="Empty async test with the probe, beside one without the plugin",
        unit=MILLISECONDS,
        floor=BARE,
        samples=each,
        goals=(Goal(BARE, 1.8),),
        unranked=(NOT_ASKED,),
        note=f"pytest-asyncio runs both. The fastest of {_RUNS} runs of {TESTS} tests, minus the "
        f"fastest run of one test, divided by the other {TESTS - 1}. So the start of pytest is "
        "not counted.",
    )
    yield Row(
        key="test_run",
        title=f"Whole run of {TESTS} such tests",
        unit=MILLISECONDS,
        floor=BARE,
        samples=whole,
        goals=(),
        unranked=(NOT_ASKED,),
        note="From the start of the process to its end, the fastest run as above. The framework "
        "is imported when the first test uses the probe.",
    )


def _least(
    runs: Mapping[str, Callable[[int], float]], order: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return the least that a run of one test and of many takes, each suite by turns."""
    times = dict.fromkeys(order, (math.inf, math.inf))
    for _ in range(_RUNS):
        for name in order:
            one, many = times[name]
            times[name] = min(one, runs[name](1)), min(many, runs[name](TESTS))
    return times


def _run_of(suite: _Suite, folder: Path) -> Callable[[int], float]:
    """Return what runs so many tests, and returns the milliseconds of the process."""

    def run(count: int) -> float:
        file = folder / f"test_{len(suite.fixtures)}_of_{count}.py"
        if not file.exists():
            file.write_text(suite.source(count), encoding="utf-8")
        return time_tests([*suite.options, str(file)], count)

    return run


def time_tests(arguments: list[str], count: int, **environment: str) -> float:
    """Return the milliseconds of a run of pytest, from start to end of its process.

    Args:
        arguments: Of pytest, beside those of `PYTEST`.
        count: How many tests must pass.
        **environment: Further variables of its environment.

    Raises:
        RuntimeError: If others than those pass.
    """
    command = [sys.executable, "-m", *PYTEST, *arguments]
    begin = perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
        env=_ENVIRONMENT | environment,
    )
    spent = perf_counter() - begin
    if done.returncode or not done.stdout.splitlines()[-1].startswith(f"{count} passed"):
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stdout[-2000:]}{done.stderr}")
    return spent * 1e3


# -- a suite of tests of an API

BY_HAND = "by hand, on pytest-asyncio and httpx"

SUITE = 1_000
"""Tests in the suite."""

_SUITE_ROUNDS = 3
"""The most rounds, since a run by hand takes half a minute."""


def _suite_row(rounds: int) -> Row:
    samples = {name: Samples() for name in (BY_HAND, OURS)}
    for number in range(min(rounds, _SUITE_ROUNDS)):
        times = {name: time_suite(name, SUITE) for name in rotated([*samples], number)}
        for name, seconds in times.items():
            samples[name].add(seconds, times[BY_HAND])
    return Row(
        key="api_suite",
        title=f"Suite of {SUITE:,} tests of an API that starts tasks",
        unit="s",
        floor=BY_HAND,
        samples=samples,
        goals=(Goal(BY_HAND, 0.5),),
        note=f"{KINDS} tests of one app with {SUITE // KINDS} values each: a task that completes, "
        "a coroutine, a retry, a throttle, a delay, a time limit, progress, a failure, a "
        "cancellation and a task that starts another one. By hand, a second of the app is 10 ms, "
        "sleeps are replaced where their length does not matter, and a helper polls every 2 ms "
        "until a task has ended. With the plugin the app's times are those of production.",
    )


def time_suite(name: str, count: int) -> float:
    """Return the seconds of a whole run of the suite, from start to end of its process.

    Args:
        name: `BY_HAND` or `OURS`.
        count: How many tests it has, a multiple of `KINDS`.
    """
    tests = {"SHOP_TESTS": str(count)}
    if name == BY_HAND:
        file, option, tests["SHOP_SECOND"] = "by_hand.py", "no:asyncframe", "0.01"
    else:
        file, option = "with_probe.py", "asyncframe"
    path = Path(__file__).with_name("suite") / file
    return time_tests(["-p", option, str(path)], count, **tests) / 1e3


# -- an executor for each test


def _ours() -> None:
    # As for `task_executor`: the sequencer that it makes is the one of a test in manual mode.
    pool = DeterministicExecutor(thread_name_prefix="asyncframe-", clock=None)
    pool.shutdown(cancel_futures=True, timeout=1.0)


def _unused() -> None:
    ThreadPoolExecutor(THREADS).shutdown()


def _started() -> None:
    # They wait for each other: a call that ended before would leave its thread to the next.
    meet = threading.Barrier(THREADS).wait
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(meet) for _ in range(THREADS)]
        require(sorted(future.result() for future in futures), [*range(THREADS)])


def _executor_row(rounds: int) -> Row:
    def case(use: Callable[[], None]) -> Case:
        def measure() -> float:
            times = []
            for _ in range(_EXECUTORS):
                begin = perf_counter()
                use()
                times.append(perf_counter() - begin)
            # The middle, since now and then threads wait for each other for milliseconds.
            return statistics.median(times) * 1e6

        return measure

    uses = {UNUSED: _unused, OURS: _ours, STARTED: _started}
    return Row(
        key="executor",
        title="Make and shut down the executor of a test",
        unit=MICROSECONDS,
        floor=UNUSED,
        samples=take_turns({name: case(use) for name, use in uses.items()}, UNUSED, rounds),
        goals=(Goal(UNUSED, 1.5), Goal(STARTED, 0.02)),
        unranked=(STARTED,),
        note=f"Ours is deterministic and starts no thread. The started one runs {THREADS} calls "
        "that only wait until all threads have started.",
    )


# -- the import of the plugin

_MODULES = {OURS: "pytest_asyncframe.plugin"}
_PEER_MODULES = {
    "pytest-asyncio": "pytest_asyncio.plugin",
    "anyio": "anyio.pytest_plugin",
    "looptime": "looptime._internal.plugin",
}


def _import_row(rounds: int, peers: bool) -> Row:
    modules = {**_MODULES, **(_PEER_MODULES if peers else {})}
    cases: Mapping[str, Case] = {
        ALLOWANCE: lambda: ALLOWED,
        **{name: partial(_least_import, module) for name, module in modules.items()},
    }
    return Row(
        key="plugin_import",
        title="Import of the plugin, after that of pytest",
        unit=MILLISECONDS,
        floor=ALLOWANCE,
        samples=interleave(cases, ALLOWANCE, rounds),
        goals=(Goal(ALLOWANCE, 1.0),),
        note=f"The fastest of {_IMPORTS} new interpreters in each round. Every pytest run on the "
        "machine pays for this, with or without tests of tasks. Most of it is asyncio.",
    )


def _least_import(module: str) -> float:
    return min(time_import(module) for _ in range(_IMPORTS))


_IMPORT = """
import sys, pytest
from importlib import import_module
from time import perf_counter
begin = perf_counter()
import_module(sys.argv[1])
print((perf_counter() - begin) * 1e3)
"""


def time_import(module: str) -> float:
    """Return the milliseconds that *module* takes to import once pytest is there."""
    command = [sys.executable, "-c", _IMPORT, module]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=_ENVIRONMENT
    )
    return float(done.stdout)
