"""Find what makes tests fail on a busy machine, or pass for another reason than they say.

    python3 .ci/steady.py tests docs/examples

- a literal time limit below a minute on a wait (`PATIENCE` from tests.patience is how long a
  failing test waits; 0 asks what is there already)
- a reading of a real clock, with which only tolerances can be compared
- a deadline of Hypothesis (none has one, see tests/conftest.py)
- `pytest.raises` that says neither the message, from its start, nor what it caught; but for the
  examples in docs/, where readers see what users write

Real sleeps are ruff's (TID251). Time is virtual in a function that asks for one of the plugin's
fixtures, or whose module says so. What must stay has a comment on its line with the reason:
``# steady: virtual time``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

LEAST = 60
"""Seconds of a time limit that a busy machine does not reach."""

WAITS = {
    "acquire",
    "communicate",
    "exception",
    "get",
    "get_result",
    "join",
    "result",
    "wait",
    "wait_for",
    "wait_result",
}
"""Methods and functions that wait for at most as long as their argument or `timeout` says."""

LIMIT_IS_SECOND = {"get_result", "wait_for", "wait_result"}
"""Those whose first argument is what they wait for; a server's `wait_for` counts lines instead."""

CLOCKS = {"perf_counter", "perf_counter_ns", "process_time", "thread_time"}
"""Functions that measure; ruff forbids `time.monotonic` and `time.time`."""

VIRTUAL = {"asyncframe", "probe", "task_clock", "task_executor", "task_manager"}
"""Parameters of functions in which time is virtual, or real only where a comment says so."""

EXCUSE = "# steady: "


class Finder(ast.NodeVisitor):
    """Finds such places in one module."""

    def __init__(self, source: str, *, errors: bool) -> None:
        self.found: list[tuple[int, str]] = []
        self._errors = errors
        self._lines = source.splitlines()
        self._virtual = [f"{EXCUSE}virtual time in this module" in source]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Look at a function and at those that it defines."""
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Look at a coroutine function likewise."""
        self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        names = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
        self._virtual.append(self._virtual[-1] or bool(names & VIRTUAL))
        self.generic_visit(node)
        self._virtual.pop()

    def visit_With(self, node: ast.With) -> None:
        """Look at what an error must be."""
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.raises":
                self._look_at_raises(call, caught=item.optional_vars is not None)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Look at time limits, clocks and deadlines."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name in WAITS and not self._virtual[-1]:
            limit = self._limit(node, int(name in LIMIT_IS_SECOND))
            if limit is not None and 0 < limit < LEAST:
                self._tell(node, f"{name} waits for {limit} s at most: take PATIENCE")
        if name in CLOCKS and not self._virtual[-1]:
            self._tell(node, f"{name} reads a real clock: wait for an event, or take virtual time")
        if name == "settings":
            for keyword in node.keywords:
                if keyword.arg == "deadline":
                    self._tell(node, "deadline: no test has one")
        self.generic_visit(node)

    def _limit(self, node: ast.Call, place: int) -> float | None:
        given = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
        if ast.unparse(node.func) != "server.wait_for":
            given += node.args[place : place + 1]
        values = [arg.value for arg in given if isinstance(arg, ast.Constant)]
        return next((each for each in values if isinstance(each, int | float)), None)

    def _look_at_raises(self, call: ast.Call, *, caught: bool) -> None:
        if not self._errors:
            return
        match = next((each.value for each in call.keywords if each.arg == "match"), None)
        if match is None and not caught:
            self._tell(call, "raises: match=r'^the whole message$'")
        text = match.value if isinstance(match, ast.Constant) else None
        if isinstance(text, str) and not text.startswith("^"):
            self._tell(call, "raises: match begins with ^")

    def _tell(self, node: ast.expr, told: str) -> None:
        last = node.end_lineno or node.lineno
        if not any(EXCUSE in line for line in self._lines[node.lineno - 1 : last]):
            self.found.append((node.lineno, told))


def find(source: str, *, errors: bool = True) -> list[tuple[int, str]]:
    """Return the line of each place, and what is to be done; *errors* looks at those too."""
    finder = Finder(source, errors=errors)
    finder.visit(ast.parse(source))
    return sorted(finder.found)


def modules(names: Sequence[str]) -> Iterator[Path]:
    """Yield the modules in folders."""
    for name in names:
        yield from sorted(Path(name).rglob("*.py"))


if __name__ == "__main__":
    told = [
        f"{module}:{line}: {text}"
        for module in modules(sys.argv[1:])
        for line, text in find(module.read_text("utf-8"), errors=module.parts[0] != "docs")
    ]
    print(*told, sep="\n", end="\n" if told else "")
    sys.exit(bool(told))
