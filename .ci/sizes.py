"""Check that the folders, files and classes of the packages stay small enough to be read.

Prints what is too large, and exits with 1 if anything is.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER = 14
"""Modules of a folder, its ``__init__`` included, that can be seen at one look."""

FILE = 600
"""Lines of a file."""

CLASS = 400
"""Lines of a class, from its first decorator to its last line."""


def main(packages: list[str]) -> int:
    """Print what is too large in these folders; return 1 if anything is, else 0."""
    found = [line for package in packages for line in too_large(Path(package))]
    print("\n".join(found) or "No folder, file or class is too large.")
    return 1 if found else 0


def too_large(package: Path) -> Iterator[str]:
    """Yield a line for each folder, file and class of a package that is too large."""
    for folder in sorted(path.parent for path in package.rglob("__init__.py")):
        modules = len(list(folder.glob("*.py")))
        if modules > FOLDER:
            yield f"{folder}: {modules} modules, where {FOLDER} are allowed"
    for path in sorted(package.rglob("*.py")):
        text = path.read_text("utf-8")
        if text.count("\n") > FILE:
            yield f"{path}: {text.count(chr(10))} lines, where {FILE} are allowed"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (lines := _lines(node)) > CLASS:
                yield f"{path}: {node.name} has {lines} lines, where {CLASS} are allowed"


def _lines(node: ast.ClassDef) -> int:
    start = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return (node.end_lineno or start) - start + 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
