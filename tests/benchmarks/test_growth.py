"""The curves of the benchmarks, with few points: each case counts what it has run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa

from benchmarks import growth, growth_cases, growth_kept, growth_processes
from benchmarks.__main__ import GROWTH, KEYS
from framework import get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore


class _Finished(Exception):  # noqa: N818 - it ends a case, and is no error
    """A case has told its costs, and would end its process now."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure each point twice and with few tasks, and do not end the process."""

    def finish(costs: growth_cases.Costs) -> NoReturn:
        raise _Finished(costs)

    for module in (growth_cases, growth_kept):
        monkeypatch.setattr(module, "finish", finish)
        monkeypatch.setattr(module, "BATCHES", 2)
    monkeypatch.setattr(growth_cases, "BURST", 50)
    monkeypatch.setattr(growth_cases, "SLEEPERS", 2)
    monkeypatch.setattr(growth_cases, "_TRIPS", 4)
    monkeypatch.setattr(growth_cases, "_WAITS", 100)


def costs_of(case: Coroutine[Any, Any, growth_cases.Costs]) -> growth_cases.Costs:
    """Return what a case has measured, also if it ends its process."""
    try:
        return asyncio.run(case)
    except _Finished as finished:
        costs: growth_cases.Costs = finished.args[0]
        return costs


CASES = {
    "pending": (growth_cases.pending, [100, 300]),
    "retained": (growth_kept.retained, [200, 300]),
    "retained_sqlite": (growth.SUBJECTS["retained_sqlite"].measure, [300, 600]),
    "workers": (growth_cases.workers, [1, 2]),
    "waiters": (growth_cases.waiters, [50, 100]),
    "loops": (growth_cases.loops, [1, 2]),
}


@pytest.mark.extended("time")
def test_each_point_of_each_series_is_measured() -> None:
    """A case gives a time above zero for each point, and has the series that may not rise."""
    for key, (measure, points) in CASES.items():
        costs = costs_of(measure(points))

        wanted = {name for goal in growth.SUBJECTS[key].flat for name in (goal.series, goal.beside)}
        assert wanted - {""} <= costs.keys()
        for name, values in costs.items():
            assert len(values) == len(points), (key, name)
            assert all(value is None or value > 0 for value in values), (key, name)


def test_a_curve_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a curve fails, the others are given, and then its error is raised."""

    def child(_module: str, _option: str, key: str, timeout: float) -> growth_cases.Costs:
        if key == "workers":
            raise RuntimeError("no threads")
        return {"ours": [1.0 for _ in growth.SUBJECTS[key].xs]}

    monkeypatch.setattr(growth, "child", child)
    assert list(KEYS[GROWTH]) == list(growth.SUBJECTS)
    measured = growth.curves(3, ["workers", "loops"])

    assert next(measured).key == "loops"
    with pytest.raises(RuntimeError, match=r"^no threads$"):
        next(measured)


async def _orders(url: str, numbers: Sequence[int]) -> float:
    async with setup_async_framework(None, store=SQLStore(url)):
        manager = get_task_manager()
        told = await growth_processes.ORDERS["run"](manager, numbers[0], len(numbers) - 1)
        task_id, ended = await growth_processes.ORDERS["end one"](manager, numbers[-1])
        seen: float = await growth_processes.ORDERS["see"](manager, task_id)
        assert told["begin"] < told["end"] < ended < seen
        assert 0 < told["calling"] < told["end"] - told["begin"]
        return seen


def test_orders_of_a_process(tmp_path: Path) -> None:
    """A process runs the tasks of its share, and all of them are in the database in the end.

    One that is missing, there twice or not completed makes the measurement an error.
    """
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    asyncio.run(_orders(url, range(8)))
    growth_processes.check(url, 8)

    engine = sa.create_engine(url)
    tasks = "asyncframe_tasks"
    one_of_two = f"(SELECT max(rowid) FROM {tasks} WHERE result = '2')"
    for damage, repair in (
        (
            f"UPDATE {tasks} SET status = 'failed' WHERE result = '3'",
            f"UPDATE {tasks} SET status = 'completed'",
        ),
        (
            f"UPDATE {tasks} SET result = '2' WHERE result = '3'",
            f"UPDATE {tasks} SET result = '3' WHERE rowid = {one_of_two}",
        ),
        (f"DELETE FROM {tasks} WHERE result = '3'", None),
    ):
        with engine.begin() as connection:
            assert connection.execute(sa.text(damage)).rowcount == 1
        with pytest.raises(
            RuntimeError, match=r"^\d tasks in the database are not the 8 expected$"
        ):
            growth_processes.check(url, 8)
        if repair is not None:
            with engine.begin() as connection:
                connection.execute(sa.text(repair))
            growth_processes.check(url, 8)
    engine.dispose()


@pytest.mark.soak
def test_two_processes(tmp_path: Path) -> None:
    """Two processes share a database, and every cost of theirs is above zero."""
    costs = growth_processes.point(f"sqlite:///{tmp_path / 'tasks.db'}", 2, [], tasks=200)

    assert all(cost is not None and cost > 0 for cost in costs.values())
