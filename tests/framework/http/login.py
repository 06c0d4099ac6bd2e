"""What requests to the routes of tasks have, and what lets them in."""

from __future__ import annotations

from fastapi import Depends

ASKED = {"X-Requested-With": "tests"}
"""The header without which nothing is changed."""


def let_in() -> None:
    """Stand for a login check that everybody passes."""


LOGIN = [Depends(let_in)]
"""Dependencies of routes that are not open to everybody."""
