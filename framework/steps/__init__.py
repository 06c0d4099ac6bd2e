"""Steps: parts of a task that are not run again when it goes on after its process has ended."""

from __future__ import annotations

from framework.steps._declared import step
from framework.steps._messages import Message
from framework.steps._sleeping import sleep, sleep_sync, sleep_until, sleep_until_sync

__all__ = ["Message", "sleep", "sleep_sync", "sleep_until", "sleep_until_sync", "step"]
