"""Put code and lists of links into pages: what cog runs where a page shows something else.

    <!-- [[[cog show("docs/examples/many.py", "thumbnails") ]]] -->
    <!-- [[[end]]] -->

Between these lines `make pages` writes the code, in a block, and `make lint` fails if it is not
what the file has. In a rendered page the two lines are invisible.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LANGUAGES = {".html": "html", ".py": "python", ".ts": "typescript"}


def show(
    path: str,
    *names: str,
    first: str = "",
    last: str = "",
    end: str = "",
    imports: bool = False,
) -> None:
    """Print a block with a file, or with a part of it.

    Args:
        path: The file, from the root of the repository.
        names: Of functions and classes, with their decorators; those inside of another one are
            named ``Outer.inner``. Without names the part consists of lines.
        first: Some text of its first line; "" for that of the file.
        last: Some text of its last line; "" for that of the file.
        end: Some text of the line after its last one.
        imports: Whether the imports that it needs come first, for who pastes it.

    Raises:
        SyntaxError: If the part stops in the middle of a definition.
        LookupError: If nothing is found, or the part begins below a decorator.
    """
    text = (ROOT / path).read_text("utf-8")
    lines = text.splitlines()
    if names:
        places = [_place(ast.parse(text), name) for name in names]
        code = "\n\n\n".join("\n".join(lines[begin:stop]) for begin, stop in places)
    else:
        begin = _find(lines, first, 0) if first else 0
        stop = len(lines)
        if last:
            stop = _find(lines, last, begin) + 1
        elif end:
            stop = _find(lines, end, begin + 1)
        if begin and lines[begin - 1].startswith("@"):
            raise LookupError(f"{path}: {lines[begin - 1]} is left out above {lines[begin]}")
        code = "\n".join(lines[begin:stop]).strip("\n")
    if path.endswith(".py"):
        part = ast.parse(textwrap.dedent(code))
        if imports:
            code = f"{_imports(ast.parse(text), part)}\n\n\n{code}"
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


def _imports(module: ast.Module, part: ast.Module) -> str:
    """Return the imports of a module for the names that a part of it uses, in the same groups."""
    used = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
    groups: list[list[str]] = []
    before = 0
    for node in module.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if node.lineno > before + 1 or not groups:
            groups.append([])
        before = node.end_lineno or node.lineno
        node.names = [one for one in node.names if (one.asname or one.name) in used]
        if node.names:
            groups[-1].append(ast.unparse(node))
    return "\n\n".join("\n".join(group) for group in groups if group)


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
