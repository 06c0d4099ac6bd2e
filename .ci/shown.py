"""Put code and lists of links into pages: what cog runs where a page shows something else.

    <!-- [[[cog show("docs/examples/many.py", "thumbnails") ]]] -->
    <!-- [[[end]]] -->

Between these lines `make pages` writes the code, in a block, and `make lint` fails if it is not
what the file has. In a rendered page the two lines are invisible.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LANGUAGES = {".html": "html", ".py": "python", ".ts": "typescript"}


def show(path: str, name: str = "", *, first: str = "", last: str = "", end: str = "") -> None:
    """Print a block with a file, or with a part of it.

    Args:
        path: The file, from the root of the repository.
        name: Of a function or class, with its decorators; those inside of another one are named
            ``Outer.inner``. Without a name the part consists of lines.
        first: Some text of its first line; "" for that of the file.
        last: Some text of its last line; "" for that of the file.
        end: Some text of the line after its last one.
    """
    lines = (ROOT / path).read_text("utf-8").splitlines()
    if name:
        begin, stop = _place(ast.parse("\n".join(lines)), name)
    else:
        begin = _find(lines, first, 0) if first else 0
        stop = len(lines)
        if last:
            stop = _find(lines, last, begin) + 1
        elif end:
            stop = _find(lines, end, begin + 1)
    code = "\n".join(lines[begin:stop]).strip("\n")
    fence = max(["```", *(f"{found}`" for found in re.findall("`{3,}", code))], key=len)
    print(f"{fence}{LANGUAGES[Path(path).suffix]}\n{code}\n{fence}")


def links(folder: str, *names: str, caption: str = "") -> None:
    """Print a list of links to the pages of a folder, with their titles.

    When the documentation is built, docs/conf.py makes a table of contents of the call.
    """
    if caption:
        print(f"**{caption}**\n")
    for name in names:
        title = (ROOT / folder / f"{name}.md").read_text("utf-8").partition("\n")[0]
        print(f"- [{title.removeprefix('# ')}]({name}.md)")


def _place(parent: ast.AST, name: str) -> tuple[int, int]:
    """Return the first line of a definition, from 0, and the one after its last."""
    outer, _, inner = name.partition(".")
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
            node.name == outer
        ):
            if inner:
                return _place(node, inner)
            begin = min(one.lineno for one in [node, *node.decorator_list])
            return begin - 1, node.end_lineno or begin
    raise LookupError(f"there is no {name}")


def _find(lines: list[str], text: str, begin: int) -> int:
    """Return the first line from *begin* on that has a text."""
    for number, line in enumerate(lines[begin:], begin):
        if text in line:
            return number
    raise LookupError(f"no line has {text!r}")
