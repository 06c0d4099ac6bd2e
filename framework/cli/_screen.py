"""Prints: tables and progress on a terminal, and JSON, a line for each object, anywhere else."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, Final, TextIO

from framework._records.statuses import TRAITS

Update = Callable[[float | None, str], object]
"""Shows how far something is: a share or None, and words."""

STYLES: Final = {
    **{status.value: traits.looks.style for status, traits in TRAITS.items()},
    "active": "green",
    "paused": "yellow",
}
"""The colours of statuses, of tasks and of schedules."""

ENDLESS: Final = 1_000_000
"""Columns of a line that is not to be cut."""

GAP: Final = 2
"""Spaces between two columns of a table."""

NARROW: Final = 16
"""What is left at least to a column of a table that gives way."""


def fitted(wanted: Sequence[int], most: int) -> list[int] | None:
    """Return how wide the columns of a table are on a line that may be too short.

    The last column gives way first, and then the widest of the others.

    Args:
        wanted: How wide the columns want to be, two or more.
        most: How long the line is.

    Returns:
        Their widths; None if the line is too short for the columns that do not give way.
    """
    widths = list(wanted)
    over = sum(widths) + GAP * (len(widths) - 1) - most
    for place in (-1, widths.index(max(widths[:-1]))):
        taken = max(0, min(over, widths[place] - NARROW))
        widths[place] -= taken
        over -= taken
    return widths if over <= 0 else None


class Screen:
    """Where a command prints.

    Args:
        as_json: Whether to print JSON, and not tables; None for JSON except on a terminal.
    """

    def __init__(self, as_json: bool | None) -> None:
        if sys.stdout is None:  # it was closed before this process began
            sys.stdout = io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")
        self._out: TextIO = sys.stdout
        self.as_json = not self._out.isatty() if as_json is None else as_json
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A name that the terminal's encoding lacks must not end the command.
                stream.reconfigure(errors="backslashreplace")
        # Without it, tables have neither colours nor wrapped lines.
        self._has_rich = find_spec("rich") is not None
        # In a pipe, ``watch`` and others say with COLUMNS how much they can show.
        self._has_width = self._out.isatty() or "COLUMNS" in os.environ

    def json(self, value: Any) -> None:  # Any: JSON
        """Print a value as one line of JSON."""
        print(json.dumps(value, ensure_ascii=False), file=self._out)

    def say(self, text: str) -> None:
        """Print a line for people; nothing where JSON is printed."""
        if not self.as_json:
            print(text, file=self._out)

    def write(self, text: str) -> None:
        """Print a line, for people and programs."""
        print(text, file=self._out)

    def flush(self) -> None:
        """Let everybody see what was printed so far."""
        self._out.flush()

    def drop(self) -> None:
        """Print no more, nor what could not be printed: nobody can read it."""
        # Python flushes once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def complain(self, text: str) -> None:
        """Print what went wrong on standard error."""
        print(f"asyncframe: {text}", file=sys.stderr)

    def objects(
        self,
        found: Sequence[dict[str, Any]],  # Any: JSON
        head: Sequence[str],
        row: Callable[[dict[str, Any]], Sequence[str]],
        none: str,
    ) -> None:
        """Print objects: each as a line of JSON, or all as a table.

        Args:
            found: The objects.
            head: The head of the table.
            row: Returns the cells of one of them.
            none: What to tell people if there are none.
        """
        if self.as_json:
            for one in found:
                self.json(one)
        elif found:
            self.table(head, [row(one) for one in found])
        else:
            self.say(none)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table for people; the last column takes what is left of the line.

        A line ends where the terminal's does, or at COLUMNS; in a pipe without that, nowhere. If
        little is left, a long name goes on below itself.
        """
        if self._has_rich:
            self._rich_table(head, rows)
        else:
            self._plain_table(head, rows)

    def _rich_table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        found = list(rows)
        # Without a width it asks for COLUMNS and the terminal's itself.
        width = None if self._has_width else ENDLESS
        console = Console(file=self._out, highlight=False, width=width)
        wanted = [max(map(cell_len, cells)) for cells in zip(head, *found, strict=True)]
        # Rich itself would take the same from each column, and so the narrow ones whole.
        widths = fitted(wanted, console.width)
        if widths is None:
            self._plain_table(head, found)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, width in zip(head[:-1], widths, strict=False):
            table.add_column(name, width=width, overflow="fold")
        table.add_column(head[-1], width=widths[-1], no_wrap=True, overflow="ellipsis")
        for row in found:
            # Not as markup: a name may have brackets.
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        console.print(table)

    def _plain_table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        found = [head, *rows]
        widths = [max(len(row[place]) for row in found) for place in range(len(head))]
        most = shutil.get_terminal_size().columns if self._has_width else ENDLESS
        for row in found:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            line = "  ".join(cells).rstrip()
            print(line if len(line) <= most else f"{line[: most - 1]}…", file=self._out)

    def pairs(self, lines: Iterable[tuple[str, str]]) -> None:
        """Print labels and values."""
        found = list(lines)
        width = max((len(label) for label, _ in found), default=0)
        for label, value in found:
            print(f"{label.ljust(width)}  {value}", file=self._out)

    def progress(self, words: str) -> AbstractContextManager[Update]:
        """Return what shows a progress bar on standard error, if that is a terminal."""
        if not sys.stderr.isatty() or not self._has_rich:
            return nullcontext(lambda _share, _words: None)
        return _bar(words)


@contextmanager
def _bar(words: str) -> Iterator[Update]:
    """Show a progress bar, which is about *words*."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = progress.add_task(words, total=None)

    def update(share: float | None, told: str) -> None:
        whole = None if share is None else 1.0
        text = f"{words} {told}".rstrip()
        progress.update(bar, description=text, total=whole, completed=share)

    with progress:
        yield update
