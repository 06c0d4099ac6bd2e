"""Print those of the given coverage data files that SQLite cannot read to the end.

    python3 .ci/damaged.py .coverage.*

A process that is killed while it saves leaves such a file: `coverage combine` skips most of
them with a warning, and fails at one whose first pages are whole.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def is_damaged(file: Path) -> bool:
    """Tell whether pages are missing or contradict each other."""
    # Immutable: no lock or journal beside it is looked at or made.
    uri = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            found: tuple[str] = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error:
        return True
    return found != ("ok",)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if is_damaged(Path(name)):
            print(name)
