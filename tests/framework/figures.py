"""Made-up figures of benchmarks: a row, a curve, and a run that has both."""

from __future__ import annotations

from benchmarks._measure import OURS, Samples
from benchmarks._report import Group, Place, Run
from benchmarks._rows import Curve, Flat, Goal, Row
from benchmarks.adopters import CASES, FIGURES, NO_TASK, rows_of

LONG = "a memory transport with its threads, polled every millisecond (every second by default)"
CURVE = Curve(
    key="cleanup",
    title="Forget 100 tasks",
    x_label="finished tasks",
    unit="ms",
    xs=[100, 1_000, 10_000, 1_000_000],
    series={
        OURS: [60.0, 60.0, 60.0, 60.0],
        "a deque": [60.0, 61.0, 60.0, 60.0],
        LONG: [59.0, 60.0, 60.0, 60.0],
        "a scan": [None, 100.0, 1_000.0, 100_000.0],
    },
    note="It may not grow.",
    flat=[Flat(OURS), Flat("a scan", beside="a deque"), Flat("absent")],
)


def samples(ratio: float, floor: float = 10.0) -> Samples:
    """Return three rounds at a ratio to the floor, on a machine that slows down."""
    floors = [floor, floor * 2, floor * 3]
    return Samples([value * ratio for value in floors], floors)


def made_up_row() -> Row:
    """Return a row that meets one goal, misses one, and has one that was not measured."""
    return Row(
        key="submit",
        title="Submit a task",
        unit="ms",
        floor="a pool",
        samples={
            "a pool": samples(1),
            OURS: samples(0.25),
            "quick": samples(0.5),
            LONG: samples(4_000),
            "a sketch": samples(0.1),
        },
        goals=[Goal("a pool", 0.3), Goal("quick", 0.4), Goal("absent", 1)],
        unranked=["a sketch"],
        note="Nothing but ours keeps a status.",
    )


def made_up_run() -> Run:
    """Return a run with one row and one curve."""
    place = Place("3.11.7", "CPython", 2, "Linux x86_64", "2026-11-25", 3, {"huey": "3.5"})
    return Run(place, [Group("submission", "Submission", [made_up_row()])], [CURVE])


def made_up_adopters() -> Group:
    """Return what `adopters` gives, with a figure of its own for each case, 1.5 µs to 0.5 s."""
    found = {name: [dict.fromkeys(FIGURES, 1.5 * 2.0**at)] for at, name in enumerate(CASES)}
    for name in ("request", "request_cpu", "request_p50"):
        found[NO_TASK][0][name] = 100.0
    del found["ARQ"]
    for name in ("result", "task", "task_cpu"):
        del found[NO_TASK][0][name]
    return Group("adopters", "Made up", list(rows_of(found, {"ARQ": "it is not there"})))
