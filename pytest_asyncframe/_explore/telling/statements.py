"""The statement that a line of a file belongs to, as one line of text."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator

_LONGEST = 100
"""How many characters of a statement are shown."""


@functools.lru_cache(maxsize=4096)
def statement_at(file: str, line: int) -> tuple[int, str]:
    """Return the first line of the innermost statement at a line, and its text on one line.

    Of a statement with a block, the text is what stands before the block.

    Args:
        file: The name of the file.
        line: The line, from 1 on.
    """
    first, last = _spans(file).get(line, (line, line))
    text = " ".join(linecache.getline(file, number).strip() for number in range(first, last + 1))
    return first, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@functools.lru_cache(maxsize=64)
def _spans(file: str) -> dict[int, tuple[int, int]]:
    """Return the first and last lines of statements with several lines, by each of these."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, tuple[int, int]] = {}
    # Outer statements come before inner ones, which replace them.
    for first, last in _statements(tree):
        if last > first:
            found.update(dict.fromkeys(range(first, last + 1), (first, last)))
        else:
            found.pop(first, None)
    return found


def _statements(tree: ast.AST) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.end_lineno is not None:
            body = getattr(node, "body", None)
            header = isinstance(body, list) and body and isinstance(body[0], ast.stmt)
            last = body[0].lineno - 1 if header and body is not None else node.end_lineno
            yield node.lineno, max(node.lineno, last)
