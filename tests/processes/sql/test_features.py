"""What stores say that they can do, beside what they have the methods of."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from framework.protocols import Features, PageQuery
from framework.protocols._features import _KINDS, features_of
from framework.stores.memory import MemoryStore
from framework.stores.sql import SQLStore
from tests.processes.conformance.backends import example

pytestmark = pytest.mark.extended("processes")


def test_what_stores_say(tmp_path: Path) -> None:
    """A built-in store names exactly the protocols that it, or a part of it, has the methods of."""
    for store, parts in (
        (MemoryStore(), set[str]()),
        (
            SQLStore(f"sqlite:///{tmp_path}/tasks.db"),
            {"messages", "processes", "steps", "transactional"}
            | {"pages", "counts", "groups", "times"},
        ),
    ):
        stated = store.features
        said = {field.name: getattr(stated, field.name) for field in fields(stated)}
        own = {name for name, kind in _KINDS.items() if isinstance(store, kind)}
        assert {name for name, part in said.items() if part is store} == own
        others = {name for name, part in said.items() if part not in (store, None)}
        assert others == parts
        assert all(isinstance(said[name], _KINDS[name]) for name in others)
        assert features_of(store) == stated


def test_store_that_says_nothing(tmp_path: Path) -> None:
    """Each protocol that a store without `features` has the methods of is found."""
    store = example("jsonl_store").JsonLinesStore(tmp_path / "tasks.jsonl")
    assert features_of(store) == Features(shared=store, directory=store)


def test_derived_store() -> None:
    """A class that is derived from a store which says what it can do may do more, or less."""

    class Derived(MemoryStore):
        count = None  # type: ignore[assignment]  # a store without this method

        def fault(self) -> str:
            return ""

    store = Derived()
    assert features_of(store) == Features(pages=store, fallible=store)


def test_derived_store_that_counts() -> None:
    """A derived store that only counts in a way of its own is not asked to count by a field."""

    class Derived(MemoryStore):
        def count(self, query: PageQuery) -> int:
            return 0

    class Grouping(Derived):
        def count_by(self, query: PageQuery, field: str) -> dict[str, int]:
            return {}

    store, grouping = Derived(), Grouping()
    assert features_of(store) == Features(pages=store, counts=store)
    assert features_of(grouping) == Features(pages=grouping, counts=grouping, groups=grouping)


def test_another_attribute_of_that_name() -> None:
    """An attribute `features` that is no `Features` does not count, and None can do nothing."""

    class Odd:
        features = ("fast",)

        def fault(self) -> str:
            return ""

    odd = Odd()
    assert features_of(odd) == Features(fallible=odd)
    assert features_of(None) == Features()
