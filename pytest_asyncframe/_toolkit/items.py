"""What a test item says about itself, and what the plugin keeps on it and on its reports.

Every pytest run loads this.

Relies on: `_fixtureinfo` and `_excinfo` of pytest's items, which are not public.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_asyncframe._toolkit.toolkit import ReportedRun

RUN: pytest.StashKey[ReportedRun] = pytest.StashKey()
"""The present run of an explored test, on its item; not set for other tests."""

REFUSED = pytest.StashKey[str]()
"""Why a test that is marked to be run several times cannot be, on its item."""

PROOF = "asyncframe_proof"
"""The attribute of a report that says what a pass proves. xdist sends it to its controller."""

LEFT_OUT = "asyncframe_left_out"
"""The attribute of a report that lists the back ends on which a test did not run, and why."""

PARTIALLY = "partially controlled"
"""How a proof ends that holds but for what no exploration controls."""


def requested(item: pytest.Item, names: Collection[str], module: str) -> frozenset[str]:
    """Return which of a plugin's fixtures a test uses, not a user's with the same name.

    Args:
        item: The test.
        names: The fixtures of the plugin.
        module: The name of the module that defines them.
    """
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return frozenset()
    return frozenset(
        name
        for name in info.names_closure
        if name in names and is_from(module, name, info.name2fixturedefs.get(name, ()))
    )


def is_from(module: str, name: str, definitions: Sequence[Any]) -> bool:  # Any: FixtureDef
    """Whether a fixture of *module* is used for *name*, given all fixtures of that name."""
    for definition in reversed(definitions):
        if definition.func.__module__ == module:
            return True
        # A user's fixture of that name may request the one that it overrides.
        if name not in definition.argnames:
            return False
    return False


def caught_by_unittest(item: pytest.Item) -> pytest.ExceptionInfo[BaseException] | None:
    """Return what ended the test of a `unittest.TestCase`, None for others.

    Its call returns all the same. pytest has put the exception aside, for the report.
    """
    kept: list[pytest.ExceptionInfo[BaseException]] | None = getattr(item, "_excinfo", None)
    return kept[0] if kept else None


def closeness(item: pytest.Item, marker: str, keyword: str | None = None) -> int:
    """Return how close to a test it has a marker: the higher the closer, 0 for nowhere.

    Args:
        item: The test.
        marker: The name of the marker.
        keyword: Only markers with this keyword count; None for all.
    """
    found = [
        node
        for node, one in item.iter_markers_with_node(marker)
        if keyword is None or keyword in one.kwargs
    ]
    if not found:
        return 0
    nodes = item.listchain()
    return max(nodes.index(node) + 1 for node in found)


def applies(item: pytest.Item, marker: str, *, asks: bool, fits: bool = False) -> bool:
    """Whether a test is to be run several times, as a marker of it says.

    A marker of a class or module leaves out tests that ask for nothing which it is about, and
    those with a mode of their own.

    Args:
        item: The test.
        marker: The name of the marker.
        asks: Whether the test asks for what it needs; a marker on the test itself applies anyway.
        fits: Whether it applies to a test in this mode, also if that is its own.
    """
    here = closeness(item, marker)
    has_own_mode = closeness(item, "asyncframe", "mode") > here
    return here == len(item.listchain()) or (asks and (fits or not has_own_mode))


def module_name(item: pytest.Item) -> str:
    """Return the name of the module that a test is in; "" if it is in none."""
    return str(getattr(getattr(item, "module", None), "__name__", ""))


def is_strict_pass(report: pytest.TestReport) -> bool:
    """Whether a phase failed only since the test has passed, which its mark does not allow."""
    return str(report.longrepr).startswith("[XPASS(strict)]")


def code_of(item: pytest.Item) -> list[CodeType]:
    """Return the code objects of a test function and its fixtures."""
    info: Any = getattr(item, "_fixtureinfo", None)
    defined = [] if info is None else info.name2fixturedefs.values()
    functions = [getattr(item, "obj", None), *(one.func for of in defined for one in of)]
    return [fn.__code__ for fn in map(_unwrapped, functions) if hasattr(fn, "__code__")]


def _unwrapped(fn: Any) -> Any:  # Any: a function, a method, or whatever can be called
    return inspect.unwrap(getattr(fn, "__func__", fn))
