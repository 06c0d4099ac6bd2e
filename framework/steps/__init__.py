"""Steps: parts of a task that are not run again when it goes on after its process has ended."""

from __future__ import annotations

from framework.steps._declared import step

__all__ = ["step"]
