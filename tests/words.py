"""Sentences that contain times of day, made comparable."""

from __future__ import annotations

import re
from typing import Final

_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d UTC")


def timeless(text: str) -> str:
    """Return *text* with "T" for each moment, which may have a date when it is midnight soon."""
    return _MOMENT.sub("T", text)
