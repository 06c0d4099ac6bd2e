"""The places of a module that a mutant can change, and the text that it would have then.

Five kinds: a condition is negated, a comparison is another one, ``and`` is ``or``, a statement
is gone, a lock is not taken. A mutant has as many lines as the module, so that each line keeps
its number.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
"""What a comparison becomes: the other answer, or the other answer for equal values."""

UNLOCKED = "__import__('contextlib').nullcontext()"
"""Stands where a lock was."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One change of one module.

    Attributes:
        line: Where the change begins, from 1.
        kind: What is changed, in words.
        start: First byte that is replaced, from 0.
        stop: The byte behind the last that is replaced.
        text: What stands there instead.
    """

    line: int
    kind: str
    start: int
    stop: int
    text: str

    def apply(self, source: str) -> str:
        """Return the source of the module with the change."""
        encoded = source.encode()
        return (encoded[: self.start] + self.text.encode() + encoded[self.stop :]).decode()


class _Finder(ast.NodeVisitor):
    """Collects the sites of one module; what only type checkers or readers see has none."""

    def __init__(self, source: str) -> None:
        self.found: list[Site] = []
        self._source = source.encode()
        starts = [0]
        starts += [place + 1 for place, byte in enumerate(self._source) if byte == ord("\n")]
        self._starts = starts

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self._negate(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            other = COMPARISONS[type(node.ops[0])]
            left, right = self._text(node.left), self._text(node.comparators[0])
            self._add(node, "another comparison", f"({left}) {other} ({right})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        parts = word.join(f"({self._text(value)})" for value in node.values)
        self._add(node, f"{word.strip()} in place of the other", parts)
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        self._unlock(node)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add(node, "a statement is gone", "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "a statement is gone", "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # Without a name it would be a NameError, which any test sees.
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add(node, "a statement is gone", "pass")
        self.generic_visit(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if not any("overload" in ast.unparse(mark) for mark in node.decorator_list):
            for statement in node.body:
                self.visit(statement)

    def _negate(self, test: ast.expr) -> None:
        # A single comparison has a site of its own.
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
            self._add(test, "a condition is negated", f"(not ({self._text(test)}))")

    def _unlock(self, node: ast.With) -> None:
        for item in node.items:
            held = item.context_expr
            if isinstance(held, ast.Attribute | ast.Name) and item.optional_vars is None:
                self._add(held, "a lock is not taken", UNLOCKED)

    def _add(self, node: ast.expr | ast.stmt, kind: str, text: str) -> None:
        start, stop = self._range(node)
        was = self._source[start:stop].count(b"\n")
        if was > text.count("\n"):
            # In parentheses an expression may have empty lines; a statement ends with them.
            ends = "\n" * (was - text.count("\n"))
            text = f"({text}{ends})" if isinstance(node, ast.expr) else text + ends
        elif isinstance(node, ast.expr):
            text = f"({text})"
        self.found.append(Site(node.lineno, kind, start, stop, text))

    def _text(self, node: ast.expr) -> str:
        start, stop = self._range(node)
        return self._source[start:stop].decode()

    def _range(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )


def sites(source: str) -> Iterator[Site]:
    """Yield the changes that a module allows, by line."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    yield from sorted(finder.found)
