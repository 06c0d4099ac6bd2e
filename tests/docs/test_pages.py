"""Every Python block of the documentation, and of the pages in the root, runs as it stands."""

from __future__ import annotations

import ast
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Document, Region, Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from framework import exceptions

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if "_build" not in page.relative_to(ROOT).parts
)


SHOWN = re.compile(r"<!-- \[\[\[cog .*?\[\[\[end\]\]\] -->", re.DOTALL)
"""Parts of other files, which run as these files."""


def own_blocks(document: Document) -> Iterator[Region]:
    """Yield a page's blocks of Python, without those that show other files."""
    shown = [match.span() for match in SHOWN.finditer(document.text)]
    for block in PythonCodeBlockParser()(document):
        if not any(begin < block.start < end for begin, end in shown):
            yield block


def parsed(page: Path) -> Document:
    """Return a page with its blocks of Python."""
    return Sybil([own_blocks]).parse(page)


ANSWERS = sorted(page for page in PAGES if page.parent == DOCS / "answers" and page.stem != "index")
"""They are short, so that one test runs all of them."""

WITH_BLOCKS = [page for page in PAGES if page not in ANSWERS and any(parsed(page).examples())]
"""The others would pass without running anything."""


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run from top to bottom, in one namespace."""
    run_blocks(page, monkeypatch)


def run_blocks(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page."""
    document = parsed(page)
    # What pydantic and pickle ask of a class, and pydantic of a generic one's module.
    name = document.namespace["__name__"] = f"page_{page.stem.replace('-', '_')}"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    try:
        for block in document.examples():
            block.evaluate()
    finally:
        # Schedules end with their functions, and the next test must not run these.
        document.namespace.clear()
        gc.collect()


def test_pages_are_found() -> None:
    """The front pages, the tutorial and guides are among the pages whose blocks run."""
    found = {page.relative_to(ROOT).as_posix() for page in WITH_BLOCKS}
    guides = {"docs/howto/typing.md", "docs/howto/shutdown.md"}

    assert {"README.md", "README.zh.md", "docs/index.md", "docs/tutorial.md", *guides} <= found


@pytest.mark.extended("time")
def test_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is to a question, has 150 words, is three clicks away, and its code runs."""
    near = {DOCS / "index.md"}
    for _ in range(3):
        near |= {one for page in near for one in linked(page)}

    assert len(ANSWERS) >= 34
    assert [page.name for page in ANSWERS if page not in near] == []
    for page in ANSWERS:
        text = page.read_text("utf-8")
        title, _, rest = text.partition("\n")
        assert re.fullmatch(r"# [A-Z].*\?", title), title
        assert len(prose(rest).split()) <= 150, title
        assert "```python" in text, title
        run_blocks(page, monkeypatch)


LINK = re.compile(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)")


def linked(page: Path) -> set[Path]:
    """Return the pages to which a page has links that readers see."""
    text = re.sub(r"<!--.*?-->", "", page.read_text("utf-8"), flags=re.DOTALL)
    return {(page.parent / one).resolve() for one in LINK.findall(text)}


def prose(text: str) -> str:
    """Return a text without code, comments and the addresses of links."""
    code = r"^```.*?^```$|<!--.*?-->|(?<=\])\([^)]*\)"
    return re.sub(code, "", text, flags=re.DOTALL | re.MULTILINE)


def test_every_error_and_warning_is_on_the_page_of_errors() -> None:
    """The page of errors has each public error, and each line that is logged from WARNING on."""
    errors, _, messages = (DOCS / "errors.md").read_text("utf-8").partition("## Log messages")
    names = set(re.findall(r"^\| `(\w+)` \|", errors, re.MULTILINE))
    rows = re.findall(r"^\| (`.*?`) \|", messages, re.MULTILINE)
    cells = [cell for row in rows for cell in re.findall(r"`([^`]+)`", row)]
    beginnings = [re.escape(cell).replace(r"\.\.\.", ".*") for cell in cells]
    missing = [
        line for line in logged_lines() if not any(re.match(one, line) for one in beginnings)
    ]

    assert set(exceptions.__all__) - names == {"FrameworkError"}
    assert missing == []


def logged_lines() -> Iterator[str]:
    """Yield the template of each such line, if it is one text in the code."""
    for path in sorted((ROOT / "framework").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func.value) == "_LOGGER" and node.func.attr in LEVELS:
                template = node.args[node.func.attr == "log"]
                # A line that begins with a value has no text to look for.
                if isinstance(template, ast.Constant) and template.value != "%s":
                    yield str(template.value)


LEVELS = ("warning", "error", "exception", "log")


def test_names_of_the_glossary() -> None:
    """Each name that the glossary gives as one of the code is in the code."""
    page = (DOCS / "glossary.md").read_text("utf-8")
    rows = [cells(line) for line in page.splitlines() if line.startswith("| ")]
    named = {
        name
        for _, _, code, _ in rows
        for cell in re.findall(r"`(.+?)`", code)
        for name in words(cell)
    }
    packages = [ROOT / "framework", ROOT / "pytest_asyncframe"]
    code = "\n".join(path.read_text("utf-8") for one in packages for path in one.rglob("*.py"))

    assert len(named) > 50
    assert named - set(words(code)) == set()


def words(text: str) -> list[str]:
    """Return the names in a text."""
    return re.findall(r"\w+", text)


def test_figures_of_the_comparison_are_those_of_the_measurement() -> None:
    """Each figure of the comparison is in the first table of the page on performance."""
    measured = (DOCS / "performance.md").read_text("utf-8").partition("**A request that")[0]
    known = [cells(line) for line in measured.splitlines() if line.startswith("| ")]
    page = (DOCS / "explanation" / "comparison.md").read_text("utf-8")
    costs = page.partition("## What it costs")[2].partition("\n## ")[0]
    shown = [cells(line) for line in costs.splitlines() if line.startswith("| ")][2:]

    assert len(shown) == 10
    assert [
        (name, cpu, result)
        for name, cpu, result in shown
        if not any((row[0], row[1], row[-1]) == (name, cpu, result) for row in known)
    ] == []


def cells(line: str) -> list[str]:
    """Return what is in a row of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]
