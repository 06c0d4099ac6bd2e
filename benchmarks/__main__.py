"""Measures everything and reports it: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import _pictures, adopters, adopters_page, adopters_pictures
from benchmarks._measure import ROOT
from benchmarks._report import (
    Group,
    Run,
    as_json,
    as_markdown,
    as_text,
    from_json,
    here,
    limit,
    number,
    outcome,
    replaced,
)
from benchmarks._rows import Curve, Row

PAGE = ROOT / "docs" / "performance.md"
DETAILS = ROOT / "docs" / "performance-details.md"
PICTURES = ROOT / "docs" / "performance"
RAW = ROOT / ".benchmarks"

PICTURED = "3.11"
"""The Python whose runs are drawn, and written into the page without being asked."""

TITLES = {
    "adopters": "What a task costs in an app",
    "submission": "Submitting tasks and waiting for them",
    "coroutines": "Tracked coroutines",
    "calls": "Throttles, retries and ids",
    "memory": "Memory and cleanup",
    "served": "Requests",
    "lag": "Lag of the event loop",
    "stores": "Tasks in a database",
    "celery_engine": "Tasks on Celery workers",
    "tests": "Tests with the plugin",
    "exploring": "Tests that are run under many schedules",
}
"""Title of each section with rows, by its module, in the order in which they are run."""

GROWTH = "growth"
"""The section with curves."""

KEYS = {
    "adopters": tuple(f"{adopters.PREFIX}{name}" for name in adopters.FIGURES),
    "submission": (
        "submit_idle",
        "submit_burst",
        "time_per_task",
        "round_trip_p50",
        "round_trip_p99",
        "round_trip_8_p50",
        "round_trip_8_rate",
        "sink_submit",
        "sink_time_per_task",
    ),
    "coroutines": ("coroutine_plain", "coroutine_suspends"),
    "calls": (
        "rate_check_100",
        "rate_check_10000",
        "rate_check_loop_100",
        "rate_check_loop_10000",
        "retry_sync",
        "retry_async",
        "new_id",
    ),
    "memory": (
        "bytes_per_task",
        "bytes_undecorated",
        "bytes_options",
        "gc_pause",
        "gc_pause_undecorated",
        "gc_pause_options",
        "cleanup",
        "cleanup_growth",
    ),
    "served": (
        "http_asyncio",
        "http_uvloop",
        "background_asyncio",
        "background_uvloop",
    ),
    "lag": ("lag_sleeping_p99", "lag_sleeping_max", "lag_busy_p99", "busy_drain"),
    "stores": (
        "store_lag_p99",
        "store_submit",
        "store_run",
        "store_accepted",
        "store_written",
        "store_requeued",
    ),
    "celery_engine": (
        "celery_redis_submit",
        "celery_redis_run",
        "celery_redis_trip",
        "celery_redis_cpu",
        "celery_rabbitmq_submit",
        "celery_rabbitmq_run",
        "celery_rabbitmq_trip",
        "celery_rabbitmq_cpu",
    ),
    "tests": (
        "virtual_sleep",
        "virtual_sleep_100",
        "test_empty",
        "test_run",
        "api_suite",
        "executor",
        "plugin_import",
    ),
    "exploring": ("explored_tasks", "explored_request", "explored_requests", "point", "switch"),
    GROWTH: (
        "pending",
        "retained",
        "retained_sqlite",
        "retained_postgresql",
        "workers",
        "processes_sqlite",
        "processes_postgresql",
        "waiters",
        "loops",
    ),
}
"""The rows of each section, for those who ask for one."""


def wanted(names: Sequence[str]) -> dict[str, set[str]]:
    """Return the sections to run, in order, each with the rows asked for; empty for all.

    Args:
        names: Of sections and of rows; none for everything.

    Raises:
        ValueError: If there is no such section or row.
    """
    known = {name for keys in KEYS.values() for name in keys} | KEYS.keys()
    for name in names:
        if name not in known:
            raise ValueError(
                f"nothing is named {name!r}; sections and their rows are:\n"
                + "\n".join(f"  {section}: {', '.join(keys)}" for section, keys in KEYS.items())
            )
    return {
        section: set() if section in names else {key for key in keys if key in names}
        for section, keys in KEYS.items()
        if not names or {section, *keys} & {*names}
    }


@dataclass
class Bench:
    """One run while it goes on.

    Attributes:
        rounds: How many count.
        peers: Whether to measure those that have to be installed.
        run: What was measured so far.
    """

    rounds: int
    peers: bool
    run: Run
    started: float = field(default_factory=perf_counter)

    def say(self, text: str) -> None:
        """Tell how far it is, on stderr."""
        sys.stderr.write(f"[{perf_counter() - self.started:7.1f} s] {text}\n")
        sys.stderr.flush()

    def measure(self, section: str, keys: set[str]) -> None:
        """Run a section; what it raises is shown and remembered.

        Args:
            section: Name of its module.
            keys: The rows asked for; empty for all.
        """
        self.say(section)
        given = set()
        try:
            module = import_module(f"benchmarks.{section}")
            if section == GROWTH:
                results = module.curves(self.rounds, keys)
                kept: list[Any] = self.run.curves
            else:
                group = Group(section, TITLES[section], [])
                self.run.groups.append(group)
                results = module.rows(self.rounds, peers=self.peers)
                kept = group.rows
            with closing(results):
                for result in results:
                    if keys and result.key not in keys:
                        continue
                    self.say(f"{section}: {told(result)}")
                    kept.append(result)
                    given.add(result.key)
                    if given == keys:
                        break
            if keys - given:
                raise LookupError(f"{section} has no {', '.join(sorted(keys - given))}")
        # Whatever it is, the other sections are still worth measuring.
        except Exception:
            self.run.raised.append(section)
            traceback.print_exc()


def told(result: Row | Curve) -> str:
    """Return one line about what was just measured."""
    if isinstance(result, Curve):
        return f"{result.key}, {len(result.xs)} points"
    ratios = [
        f"{number(result.ratio_to(goal.against))} x {goal.against} "
        f"(goal {limit(goal)}: {outcome(result, goal)})"
        for goal in result.goals
        if goal.against in result.samples
    ]
    return ", ".join([result.key, *ratios])


def save(run: Run, path: Path) -> None:
    """Write every sample of *run* to a file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_json(run), encoding="utf-8")


def publish(run: Run) -> None:
    """Put the run into the pages, and its pictures beside them.

    A page of which nothing was measured stays as it is.
    """
    pictures = run.place.minor == PICTURED
    if part := adopters_page.as_markdown(run, pictures=pictures):
        put(PAGE, run, part)
        if pictures:
            _pictures.write(adopters_pictures.pictures(run), PICTURES / adopters_page.SECTION)
    groups = [group for group in run.groups if group.key != adopters_page.SECTION]
    details = replace(run, groups=groups)
    if groups or run.curves:
        put(DETAILS, run, as_markdown(details, pictures=pictures))
        if pictures:
            _pictures.write(_pictures.pictures(details), PICTURES)


def put(page: Path, run: Run, part: str) -> None:
    """Put a part into a page, as what was measured on the Python of *run*."""
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, run.place.minor, part), encoding="utf-8")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how many count (default: 7)")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME,NAME",
        help="sections, rows or curves; a row's whole section is measured up to it",
    )
    parser.add_argument("--no-peers", action="store_true", help="measure ours and the floors alone")
    parser.add_argument(
        "--saved", type=Path, metavar="FILE", help="report the samples of an earlier run"
    )
    writing = parser.add_mutually_exclusive_group()
    writing.add_argument(
        "--write",
        action="store_true",
        help="put it into the page though it is not complete, or not on Python " + PICTURED,
    )
    writing.add_argument("--no-write", action="store_true", help="leave the page alone")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: one at least")
    try:
        options.sections = wanted([name for name in options.only.split(",") if name])
    except ValueError as error:
        parser.error(str(error))
    return options


def measured(options: argparse.Namespace) -> Run:
    """Run the sections that *options* name, and return all that they gave.

    Samples are saved after each section, so that those before an interrupt are kept.
    """
    run = Run(here(options.rounds))
    bench = Bench(options.rounds, not options.no_peers, run)
    path = RAW / f"{run.place.minor}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    for section, keys in options.sections.items():
        bench.measure(section, keys)
        save(run, path)
    run.complete = bench.peers and not (options.only or run.raised)
    save(run, path)
    bench.say(f"samples are in {path}")
    return run


def loaded(path: Path) -> Run:
    """Return an earlier run.

    Raises:
        ValueError: If it was measured on another Python, whose goals may differ.
    """
    run = from_json(path.read_text(encoding="utf-8"))
    if run.place.minor != here(1).minor:
        raise ValueError(f"{path} is of Python {run.place.minor}; report it with that Python")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; return 1 if a section raised, else 0."""
    options = parsed(arguments)
    run = loaded(options.saved) if options.saved else measured(options)
    sys.stdout.write(f"{as_text(run)}\n")
    unasked = run.publishable and run.place.minor == PICTURED and not options.no_write
    if not run.raised and (options.write or unasked):
        publish(run)
        sys.stdout.write(f"\nwritten into {PAGE.parent}\n")
    return 1 if run.raised else 0


if __name__ == "__main__":
    sys.exit(main())
