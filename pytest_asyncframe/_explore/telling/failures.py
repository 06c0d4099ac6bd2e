"""How a run has failed, from pytest's report of it.

Relies on: `reprtraceback` and `chain` of pytest's texts of errors, which are not public; the text
    that Python has for groups of errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_asyncframe._explore.telling.entries import Failure
from pytest_asyncframe._explore.telling.statements import statement_at
from pytest_asyncframe._locations import is_users_file
from pytest_asyncframe._toolkit.repeating import crash_of

_LINE = re.compile(r'[ |]*File "(.+)", line (\d+), in ')
_NEXT = re.compile(r"[ |]*\+-+(?: [2-9] -+)?$")
"""In Python's text of a group: a line of code, and what follows after its first error."""

_OF_A_THREAD = "pytest.PytestUnhandledThreadExceptionWarning: "

_LONGEST = 160
"""How many characters of an error are shown."""


def failure_of(report: pytest.TestReport, root: Path) -> Failure:
    """Return how a phase has failed.

    Args:
        report: The report of the phase.
        root: The root directory of the tests.
    """
    traceback, crash = _told_by(report)
    text = report.longreprtext if crash is None else str(crash.message)
    first, *others = text.strip().removeprefix("Failed: ").splitlines() or [""]
    lost = first.startswith("lost failure: ") and bool(others)
    # Its last line is that of the task's error.
    text = f"{first.partition(',')[0]}: {others[-1].strip()}" if lost else first.rstrip(":")
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    for file, line in reversed(list(_lines(traceback, report.longreprtext))):
        if is_users_file(str(file)):
            shown = file.relative_to(root) if file.is_relative_to(root) else file
            number, source = statement_at(str(file), line)
            return Failure(text, f"{shown.as_posix()}:{number}", source)
    return Failure(text)


def _told_by(report: pytest.TestReport) -> tuple[Any, Any]:  # Any: pytest's, which is not public
    """Return the traceback and the crash of a failure, or of the error of a thread that it is for.

    pytest warns of such an error, and the warning is raised from it.
    """
    chain: Any = getattr(report.longrepr, "chain", ())
    crash = crash_of(report)
    if len(chain) > 1 and crash is not None and str(crash.message).startswith(_OF_A_THREAD):
        traceback, crash, _ = chain[-2]
        return traceback, crash
    return getattr(report.longrepr, "reprtraceback", None), crash


def _lines(traceback: Any, text: str) -> Iterator[tuple[Path, int]]:
    """Yield the files and lines of a traceback, or of its text, the outermost first."""
    for entry in () if traceback is None else traceback.reprentries:
        found = getattr(entry, "reprfileloc", None)
        if found is not None:
            yield (Path.cwd() / found.path).resolve(), found.lineno
    if traceback is None or not any(hasattr(one, "reprfileloc") for one in traceback.reprentries):
        # That of a group of errors is Python's own text.
        yield from _lines_of_first(text)


def _lines_of_first(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the files and lines of the first error in a group, those of the group before them."""
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is not None:
            yield Path(found[1]), int(found[2])
        elif _NEXT.match(line):
            return
