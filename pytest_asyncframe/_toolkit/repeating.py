"""What running one test several times needs of pytest.

Relies on: names of pytest's that are not public. A pytest without one of them ends the run at the
first test that is to run several times, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

_FIXTURES_ONLY = ("setuponly", "setupplan", "setupshow")
"""Options of pytest that show the fixtures of a test, which several runs would show again."""


def shows_fixtures(config: pytest.Config) -> bool:
    """Whether pytest only shows fixtures, so that each test is run once, as any other."""
    return any(config.getoption(name, False) for name in _FIXTURES_ONLY)


def forget_runs(item: pytest.Item, properties: Sequence[tuple[str, object]]) -> None:
    """Let the next run of a test begin without what the earlier ones have left on it.

    Args:
        item: The test.
        properties: Its properties for reports before its first run.
    """
    _require_known(item)
    made: Any = item  # some of its attributes are not public
    made._report_sections.clear()
    made.user_properties[:] = properties
    if isinstance(item.parent, pytest.Class):
        # pytest makes an instance of the class for each item, and would keep it.
        vars(item).pop("_obj", None)
        vars(item).pop("_instance", None)
    if hasattr(made, "_request") and not made._request:
        made._initrequest()


def _require_known(item: pytest.Item) -> None:
    needed: list[tuple[object, str]] = [
        (item, "_report_sections"),
        (item.session, "_setupstate"),
        (item.config.hook.pytest_runtest_logreport, "_hookexec"),
    ]
    for owner, name in needed:
        if not hasattr(owner, name):
            raise pytest.UsageError(
                f"a test that runs several times needs {name} of pytest's {type(owner).__name__}, "
                f"which pytest {pytest.__version__} does not have: use a newer asyncframe, or an "
                "older pytest"
            )


@contextmanager
def withheld(item: pytest.Item, name: str) -> Iterator[list[pytest.TestReport]]:
    """Call no plugin for a hook inside the block.

    Args:
        item: The test that runs.
        name: A hook that gets a report.

    Yields:
        The reports with which it was called.
    """
    caller: Any = getattr(item.config.hook, name)
    told: list[pytest.TestReport] = []
    real = caller._hookexec

    def kept(_: str, __: object, given: dict[str, Any], ___: bool) -> list[object]:
        told.append(given["report"])
        return []

    caller._hookexec = kept
    try:
        yield told
    finally:
        caller._hookexec = real
