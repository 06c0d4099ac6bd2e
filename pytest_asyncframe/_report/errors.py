"""The error of a failed test, as its report shows it."""

from __future__ import annotations

import pytest

from framework.testing import explain
from pytest_asyncframe._locations import without_ways


def prepare(caught: pytest.ExceptionInfo[BaseException], *, whole: bool) -> None:
    """Add what is known of a mistake, and hide how this project came from a test to a task.

    Args:
        caught: The error; the traceback that is shown is replaced, and that of the error is not.
        whole: Whether the report is to show every frame.
    """
    explain(caught.value)
    if not whole:
        shown = (caught.type, caught.value, without_ways(caught.tb))
        caught.traceback = pytest.ExceptionInfo.from_exc_info(shown).traceback
