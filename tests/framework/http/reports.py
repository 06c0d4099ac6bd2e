"""The task of apps whose routes accept tasks."""

from __future__ import annotations

from pydantic import BaseModel

from framework import background_task


class Report(BaseModel):
    """What the task returns."""

    title: str


@background_task
def make_report(title: str) -> Report:
    """Make a report."""
    return Report(title=title)
