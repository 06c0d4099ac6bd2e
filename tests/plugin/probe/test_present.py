"""Replacements of functions: made once, for the test that runs now, and undone after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from pytest_asyncframe.clock import VirtualClock
from pytest_asyncframe.clock._patched import patches
from pytest_asyncframe.clock._patched.present import Present, Replaced, replaced
from pytest_asyncframe.probe import Probe


def _owner() -> Any:
    """Return a module with a function."""
    owner = ModuleType("owner")
    owner.read = lambda: "real"  # type: ignore[attr-defined]  # a module of this test
    return owner


def _reading(present: Present, real: Callable[[], str]) -> Callable[[], str]:
    return lambda: f"{real()} at {present.clock.monotonic():g}"


def _of(owner: Any) -> list[Replaced]:
    return [(owner, "read", _reading)]


def _clock_at(seconds: float) -> VirtualClock:
    clock = VirtualClock()
    clock.advance(seconds)
    return clock


def test_replacement_is_made_once() -> None:
    """A function has the same replacement in each test, which looks at the test's own clock."""
    owner, seen = _owner(), []
    for seconds in (1, 2):
        with replaced(_clock_at(seconds), _of(owner)):
            seen.append((owner.read, owner.read()))

    assert [told for _, told in seen] == ["real at 1", "real at 2"]
    assert seen[0][0] is seen[1][0]


def test_function_that_is_another_one() -> None:
    """What somebody else has put in the place of a function between tests is replaced too."""
    owner = _owner()
    with replaced(_clock_at(1), _of(owner)):
        pass
    owner.read = lambda: "other"
    with replaced(_clock_at(2), _of(owner)):
        inside = owner.read()

    assert (inside, owner.read()) == ("other at 2", "other")


def test_test_inside_a_test() -> None:
    """A test that another one runs has replacements of its own, around those of the other."""
    owner = _owner()
    with replaced(_clock_at(1), _of(owner)):
        outer = owner.read
        with replaced(_clock_at(2), _of(owner)):
            inner = owner.read()
        assert owner.read is outer
        assert (inner, owner.read()) == ("real at 1 at 2", "real at 1")

    assert owner.read() == "real"


def test_replacement_after_its_test() -> None:
    """A replacement that somebody has kept looks at the clock of no earlier test."""
    owner = _owner()
    with replaced(_clock_at(5), _of(owner)):
        kept = owner.read

    assert kept() == "real at 0"


def test_replacements_that_cannot_be_made() -> None:
    """What was replaced before an error is restored."""
    owner = _owner()
    real = owner.read
    wrong: Replaced = (owner, "write", _reading)
    with (
        pytest.raises(AttributeError, match=r"^module 'owner' has no attribute 'write'$"),
        replaced(_clock_at(1), [*_of(owner), wrong]),
    ):
        raise AssertionError("nothing runs before all is replaced")

    assert owner.read is real


def test_time_is_real_after_the_test() -> None:
    """Every function is its own again when a test has ended."""
    before = {(owner, name): getattr(owner, name) for owner, name, _ in patches.all_replaced()}
    with patches.installed(VirtualClock(), wall=False):
        inside = {(owner, name): getattr(owner, name) for owner, name in before}

    assert not [key for key, real in before.items() if inside[key] is real]
    assert {(owner, name): getattr(owner, name) for owner, name in before} == before


_KEPT: list[Callable[[float], None]] = []


@pytest.mark.parametrize("number", [1, 2])
def test_function_kept_by_a_module(asyncframe: Probe, number: int) -> None:
    """A function imported while a test ran waits on the clock of later tests too."""
    if not _KEPT:
        _KEPT.append(time.sleep)  # noqa: TID251  # on virtual time
    _KEPT[0](number)

    assert asyncframe.clock.monotonic() == number
