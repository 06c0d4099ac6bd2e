"""The markers ``crash_points`` and ``interleave`` side by side: crashes under many schedules."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from pytest_asyncframe._crashes.plan import plan_for
from pytest_asyncframe._crashes.points import Points
from pytest_asyncframe._crashes.process import Process
from pytest_asyncframe._explore import explorer
from pytest_asyncframe._explore.deaths import Crashes, Deaths
from pytest_asyncframe._toolkit.items import REFUSED
from pytest_asyncframe._toolkit.options import Settings, settings_for


def protocol(
    item: pytest.Item,
    next_item: pytest.Item | None,
    settings: Settings,
    asked: Collection[str],
) -> bool | None:
    """Run a test that has both markers; see the hook ``pytest_runtest_protocol``.

    Returns:
        None if the test is to be run as any other.
    """
    try:
        plan = plan_for(item, settings_for(item, settings), asked)
    except pytest.UsageError as error:
        item.stash[REFUSED] = str(error)
        return None
    crashes = None if plan is None else Crashes(_process, plan.depth, plan.most, plan.deaths)
    return explorer.protocol(item, next_item, settings, asked, crashes)


def _process(deaths: Deaths, died: Callable[[str], object]) -> Process:
    return Process(Points(deaths), died)
