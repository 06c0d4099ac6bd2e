"""The errors of the command line: each is one line for people, and an exit status."""

from __future__ import annotations

from typing import Final

GOOD: Final = 0
FOUND: Final = 1
"""What was asked for is not there, or is not as it was asked for."""
USAGE: Final = 2


class CommandError(Exception):
    """Ends a command with a message.

    Args:
        text: For people.
        status: The exit status.
    """

    def __init__(self, text: str, status: int = FOUND) -> None:
        super().__init__(text)
        self.status = status
