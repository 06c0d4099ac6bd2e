"""Modules of libraries are imported once, also by runs of pytest inside this one."""

from __future__ import annotations

import sys
from types import ModuleType

import httpx
import pytest

from tests.plugin.endings import LOOPS, PLAIN
from tests.plugin.lasting_modules import not_lasting


def test_what_a_run_inside_imports_stays(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of a library stays in sys.modules after such a run, and one of the test does not."""
    # Nothing else imports it.
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    pytester.makepyfile(
        a_module_of_the_test="",
        test_it="""
        import sys

        import a_module_of_the_test
        import colorsys

        def test_it():
            sys.imported = colorsys
        """,
    )
    pytester.syspathinsert()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "imported", None, raising=False)
        pytester.runpytest_inprocess(*PLAIN, *LOOPS).assert_outcomes(passed=1)
        imported = vars(sys)["imported"]

    assert imported.__name__ == "colorsys"
    assert sys.modules["colorsys"] is imported
    assert "a_module_of_the_test" not in sys.modules


def test_what_is_not_as_before() -> None:
    """Modules of libraries that were replaced or dropped are named, and no others."""
    before = {"httpx": httpx, "pytest": pytest, "sys": sys, "shop": ModuleType("shop")}

    assert not_lasting(before, before) == []
    assert not_lasting(before, {"pytest": pytest, "sys": ModuleType("sys")}) == ["httpx", "sys"]
