"""How the documentation is built: `make docs`, or sphinx-build -W docs docs/_build/html."""

import ast
import inspect
import pkgutil
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "asyncframe"
release = pkgutil.resolve_name("framework:__version__")
author = "asyncframe contributors"
copyright = "asyncframe contributors"  # noqa: A001  # Sphinx's own name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "examples"]
default_role = "py:obj"  # what `single backticks` mean in docstrings

myst_heading_anchors = 4
myst_enable_extensions = ["alert"]

copybutton_prompt_text = "$ "  # is not copied, nor what a command prints

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"JSON": "JSON"}
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cost", "Source", "Thread rule"]

html_theme = "furo"
html_title = f"asyncframe {release}"  # beside the pages of other versions
html_copy_source = False
html_show_sphinx = False


def show_public_bases(*given: Any) -> None:
    """Show the public bases of a private base in its place."""
    bases: list[type] = given[-1]
    for private in [base for base in bases if base.__name__.startswith("_")]:
        at = bases.index(private)
        bases[at : at + 1] = private.__bases__


def tidy_signature(*given: Any) -> tuple[str, str | None] | None:
    """Take out of a signature what only Sphinx means by it, and that of protocols."""
    subject, arguments, returns = given[3], given[5], given[6]
    if not arguments:
        return None
    if isinstance(subject, type) and getattr(subject, "_is_protocol", False):
        return "", None
    if returns is not None:
        returns = returns.replace("TypeAliasForwardRef('JSON')", "JSON")
    return arguments.replace("~P", "P"), returns


PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)" alt="(?P<alt>[^"]+)">\s*</picture>'
)


def follow_the_theme(*given: Any) -> None:
    """Show each ``<picture>`` as the theme's switch says, which HTML's own choice cannot see."""
    source: list[str] = given[-1]

    def images(match: re.Match[str]) -> str:
        return "\n\n".join(
            f"```{{image}} {match[scheme]}\n:alt: {unescape(match['alt'])}\n"
            f":class: only-{scheme}\n```"
            for scheme in ("light", "dark")
        )

    source[0] = PICTURE.sub(images, source[0])


LINKS = re.compile(r"<!-- \[\[\[cog links(\([^\n]*\)) \]\]\] -->.*?\[\[\[end\]\]\] -->", re.DOTALL)
HIDDEN = re.compile(r"<!--\n(```\{toctree\}.*?```)\n-->", re.DOTALL)


def make_tables_of_contents(*given: Any) -> None:
    """Make them of lists of links, and of what readers of the repository do not see."""
    source: list[str] = given[-1]

    def table(match: re.Match[str]) -> str:
        call = ast.parse(f"links{match[1]}", mode="eval").body
        assert isinstance(call, ast.Call)
        names = [ast.literal_eval(one) for one in call.args[1:]]
        captions = [f":caption: {ast.literal_eval(one.value)}" for one in call.keywords]
        return "\n".join(["```{toctree}", ":maxdepth: 1", *captions, "", *names, "```"])

    source[0] = HIDDEN.sub(r"\1", LINKS.sub(table, source[0]))


ELSEWHERE = re.compile(r"This page is \[([A-Z]+\.md)\]\(\.\./\1\)\.\n")


def include_pages_of_the_root(*given: Any) -> None:
    """Show the page that a page of one sentence leads to."""
    source: list[str] = given[-1]
    if found := ELSEWHERE.fullmatch(source[0]):
        source[0] = f"```{{include}} ../{found[1]}\n:relative-docs: docs/\n```\n"


OVERLOADED = re.compile(r":: (?P<name>framework[.\w]+)\(\.\.\.\)")


def fill_in_signatures(*given: Any) -> None:
    """Write for ``(...)`` the one signature that stands for all overloads."""
    source: list[str] = given[-1]
    source[0] = OVERLOADED.sub(
        lambda match: f":: {match['name']}{only_signature(match['name'])}", source[0]
    )


def only_signature(name: str) -> str:
    """Return the parameters of a decorator or method without types; forget its overloads.

    Sphinx shows the overloads of a method even if it is given a signature.
    """
    function = pkgutil.resolve_name(name)
    # Imported by name, since types are checked without Sphinx, too.
    analyzer = pkgutil.resolve_name("sphinx.pycode:ModuleAnalyzer").for_module(function.__module__)
    analyzer.analyze()
    analyzer.overloads.pop(function.__qualname__, None)
    signature = inspect.signature(function)
    # The first is the function that is decorated, or self.
    given = [one.replace(annotation=one.empty) for one in signature.parameters.values()][1:]
    shown = str(signature.replace(parameters=given, return_annotation=signature.empty))
    return re.sub(r"<class '(?:builtins\.)?(\w+)'>", r"\1", shown)


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("source-read", follow_the_theme)
    app.connect("source-read", include_pages_of_the_root)
    app.connect("source-read", make_tables_of_contents)
    app.connect("source-read", fill_in_signatures)
