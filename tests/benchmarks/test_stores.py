"""The rows of stores and of Celery workers, with few tasks or made-up figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks import celery_engine, stores
from benchmarks.__main__ import KEYS
from benchmarks._measure import OURS
from benchmarks._rows import Row

FIGURES = {
    stores: ("lag", "submit", "run", "accepted", "requeued", "written"),
    celery_engine: ("submit", "run", "trip", "cpu"),
}


def rows(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Return the rows of three rounds in which ours takes twice as long as all others."""

    def measured(name: str) -> dict[str, float]:
        return dict.fromkeys(FIGURES[module], 200.0 if name == OURS else 100.0)

    def child(_: str, option: str, *words: str) -> dict[str, Any]:
        assert option == "--child"
        if module is stores:
            return measured(*words)
        return {name: measured(name) for name in words[1:]}

    monkeypatch.setattr(module, "child", child)
    found: Callable[..., Iterator[Row]] = module.rows
    return list(found(3, peers=False))


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section gives the rows that can be asked for, each with a sample for every round.

    What takes twice as long as the floor is shown as twice the floor.
    """
    for module in FIGURES:
        found = rows(module, monkeypatch)

        assert [row.key for row in found] == list(KEYS[module.__name__.rpartition(".")[2]])
        assert all(len(case.values) == 3 for row in found for case in row.samples.values())

        ratios = {row.key: row.ours.ratio for row in found}
        assert ratios.pop("store_written", 1.0) == 1.0  # beside 200 us, the goal
        assert ratios.pop("store_requeued", 0.2) == 0.2  # beside 1,000 us
        assert set(ratios.values()) == {2.0}, module


def test_stores_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure of a store is above zero, and a durable one is waited for."""
    monkeypatch.setattr(stores, "_SECONDS", 0.05)
    monkeypatch.setattr(stores, "_MANY", 200)
    monkeypatch.setattr(stores, "_BURSTS", 2)
    monkeypatch.setattr(stores, "_TRIPS", 3)
    monkeypatch.setattr(stores, "_REQUEUED", 20)

    for name in (stores.MEMORY, OURS, stores.DURABLE):
        found = stores.measured(name)

        assert tuple(found) == FIGURES[stores]
        assert min(found.values()) > 0, name


def test_a_task_of_celery_that_returns_something_else() -> None:
    """A result that belongs to another task makes the measurement an error."""
    number = Mock()
    number.delay.return_value.get.return_value = 1

    with pytest.raises(RuntimeError, match=r"^a task returned 1 instead of 0$"):
        celery_engine.measure_bare(number, [])
