"""Goes through calls that must be refused, and tells which are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Refusal = tuple[dict[str, Any], type[Exception], str]
"""The arguments of a call, its error, and a pattern of the whole message."""


def not_refused(call: Callable[..., object], refusals: Iterable[Refusal]) -> list[str]:
    """Return the calls that raise another error than theirs, or another message, or nothing."""
    wrong = []
    for arguments, error, message in refusals:
        try:
            call(**arguments)
        except Exception as raised:
            if type(raised) is error and re.fullmatch(message, str(raised)):
                continue
            told = repr(raised)
        else:
            told = "no error"
        wrong.append(f"{arguments}: {told}")
    return wrong
