"""Locks that a paused actor can hold without blocking the process, and which ones are such."""

from __future__ import annotations

from pytest_asyncframe._explore.locks.control import controlled
from pytest_asyncframe._explore.locks.found import FoundLocks, kept_by

__all__ = ["FoundLocks", "controlled", "kept_by"]
