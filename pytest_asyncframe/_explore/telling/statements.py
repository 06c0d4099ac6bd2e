"""The statements of a file: their first lines, their texts, and what they consist of."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from typing import NamedTuple

_LONGEST = 100
"""How many characters of a statement are shown."""


class Statement(NamedTuple):
    """A statement, up to its block if it has one, and others that begin on its line.

    Attributes:
        first: Its first line, from 1 on.
        last: Its last line.
        end: Where its last line ends, without a comment, in bytes.
        nodes: What it consists of, and those others.
    """

    first: int
    last: int
    end: int
    nodes: tuple[ast.stmt, ...]


@functools.lru_cache(maxsize=4096)
def statement_at(file: str, line: int) -> tuple[int, str]:
    """Return the first line of the innermost statement at a line, and its text on one line.

    Of a statement with a block, the text is what stands before the block. A comment at its end
    is left out.

    Args:
        file: The name of the file.
        line: The line, from 1 on.
    """
    found = parsed_at(file, line)
    if found is None:
        first, text = line, linecache.getline(file, line).strip()
    else:
        first, text = found.first, _text(file, found)
    return first, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def parsed_at(file: str, line: int) -> Statement | None:
    """Return the innermost statement at a line; None if it is not known."""
    return _statements_of(file).get(line)


def parts_of(node: ast.stmt) -> Iterator[ast.expr]:
    """Yield the expressions of a statement, but not those of the statements in its block."""
    for _, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.expr):
                yield part
            elif isinstance(part, ast.withitem):
                yield part.context_expr


def _text(file: str, found: Statement) -> str:
    lines = [linecache.getline(file, number) for number in range(found.first, found.last + 1)]
    lines[-1] = lines[-1].encode()[: found.end].decode(errors="replace")
    return " ".join(one.strip() for one in lines)


@functools.lru_cache(maxsize=64)
def _statements_of(file: str) -> dict[int, Statement]:
    """Return the innermost statement at each line that has one."""
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, Statement] = {}
    # Outer statements come before inner ones, which replace them.
    for new in _statements(tree, lines):
        one, known = new, found.get(new.first)
        if known is not None and known.first == new.first:
            nodes, last = (*known.nodes, *new.nodes), max(known.last, new.last)
            one = Statement(new.first, last, max(known.end, new.end), nodes)
        found.update(dict.fromkeys(range(one.first, one.last + 1), one))
    return found


def _statements(tree: ast.AST, lines: list[str]) -> Iterator[Statement]:
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.end_lineno and node.end_col_offset:
            body = getattr(node, "body", None)
            last, end = node.end_lineno, node.end_col_offset
            if isinstance(body, list) and body and body[0].lineno > node.lineno:
                last = max(node.lineno, body[0].lineno - 1)
                end = len(lines[last - 1].encode())
            elif isinstance(body, list) and body:
                # On the same line, as in ``if done: return``.
                last, end = body[-1].end_lineno, body[-1].end_col_offset
            yield Statement(node.lineno, last, end, (node,))
