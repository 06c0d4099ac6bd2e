"""Telling on the terminal how far a long exploration is."""

from __future__ import annotations

import time
from typing import Any

import pytest

_EVERY = 5.0
"""Real seconds between two lines."""


class Progress:
    """Writes a line every few seconds, if there is a terminal that somebody may watch.

    In a worker of xdist there is none.

    Args:
        item: The test that is explored.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._begun = self._told = time.perf_counter()
        self._runs = 0
        # Any: pytest's terminal reporter, whose methods are not all public.
        self._terminal: Any = item.config.pluginmanager.get_plugin("terminalreporter")

    @property
    def seconds(self) -> float:
        """Real seconds since the exploration began."""
        return time.perf_counter() - self._begun

    def ran(self, what: str) -> None:
        """Count a run, and write a line if it is time.

        Args:
            what: What is being done, with the number of failures so far.
        """
        self._runs += 1
        now = time.perf_counter()
        if self._terminal is None or now - self._told < _EVERY:
            return
        self._told = now
        seconds = now - self._begun
        rate = self._runs / seconds
        often = f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"
        self._terminal.ensure_newline()
        self._terminal.write_line(
            f"{self._item.name}: {what}, {seconds:.0f} s, {often} runs a second"
        )
