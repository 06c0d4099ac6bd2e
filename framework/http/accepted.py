"""Accepted: the return type of routes that answer 202 with a task's id."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework._records.ids import Accepted
else:
    from framework.http._accepting.answer import Accepted

__all__ = ["Accepted"]
