"""Windows: what a throttled call asks of a window that all processes share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """A call that is to be counted in a window.

    Attributes:
        key: The window: printable text that is the same in every process.
        entry: The call: a random text of its caller's.
        rate: How many calls the window allows, 1 or more.
        length: Its length in seconds, above 0.
        ahead: Count it this many seconds from now at the earliest, 0 or more.
        waits: Whether it may be counted later than that; if not, and the window is full, it is
            not counted.
    """

    key: str
    entry: str
    rate: int
    length: float
    ahead: float = 0.0
    waits: bool = False


@dataclass(frozen=True, slots=True)
class WindowAnswer:
    """The answer to a `WindowRequest`: whether and when the call is counted.

    Attributes:
        counted: Whether it is counted.
        wait: How many seconds after the moment of the answer it is, or could be, counted.
    """

    counted: bool
    wait: float
