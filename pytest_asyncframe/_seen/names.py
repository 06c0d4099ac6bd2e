"""Which function a test asks about, given the function or a name.

Guarantees: a name that no function has, or that several functions have, is an error, so that
no assertion passes because of a typo.
"""

from __future__ import annotations

import difflib
import gc
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from framework.testing import bare_function, function_name, registered_functions
from pytest_asyncframe._seen.arguments import unwrapped
from pytest_asyncframe._seen.entries import Target
from pytest_asyncframe._seen.recorder import Recorder

_LISTED = 5
"""How many names a message shows."""


class Names:
    """The names of functions and tasks that one test may use.

    Args:
        recorder: The recorder of the test.
        foreign: Returns the names of other test modules, whose functions do not count.
    """

    def __init__(self, recorder: Recorder, foreign: Callable[[], Collection[str]]) -> None:
        self._recorder = recorder
        self._foreign = foreign

    def target(self, fn: Callable[..., Any] | str) -> Target:
        """Return the target for *fn*, a function or a name.

        A name is that of a task or a function: the full dotted name, or the end of it after
        a dot.

        Raises:
            LookupError: If no function has the name, or several functions have it.
            TypeError: If *fn* is neither a function nor a name.
        """
        __tracebackhide__ = True
        if isinstance(fn, str):
            return self._named(fn)
        if not callable(fn):
            raise TypeError(f"fn must be a decorated function or its name, not {fn!r}")
        bare, args, kwargs = unwrapped(fn)
        shown = str(getattr(fn, "__name__", None) or getattr(bare, "__name__", None) or fn)
        return Target(shown, frozenset({function_name(fn)}), bare, (bare,), args, kwargs)

    def _named(self, name: str) -> Target:
        __tracebackhide__ = True
        labels, functions = self._matching(name)
        if len(functions) > 1:
            # One of them may only be waiting for the garbage collector.
            gc.collect()
            labels, functions = self._matching(name)
        if not labels:
            raise LookupError(self._unknown(name))
        if len(functions) > 1:
            raise LookupError(
                f"several functions are named {name!r}: {', '.join(sorted(functions))}; pass the "
                "function itself, or more of its dotted name"
            )
        return Target(name, frozenset(labels), None, self._functions(frozenset(labels)))

    def _matching(self, name: str) -> tuple[set[str], set[str]]:
        """Return the full names that match *name*, and the names of their functions."""
        known = list(self._known())
        whole = {label for label, _ in known if label == name}
        # A full name is never ambiguous: reports and errors show it.
        if whole:
            return whole, {name}
        found = [pair for pair in known if pair[0].endswith(f".{name}")]
        return {label for label, _ in found}, {function for _, function in found}

    def _known(self) -> Iterator[tuple[str, str]]:
        """Yield each name of a task or function, with the name of its function."""
        foreign = self._foreign()
        for label, function in registered_functions().items():
            if bare_function(function).__module__ not in foreign:
                yield from _labels(label, function)
        for one in tuple(self._recorder.submissions):
            yield from _labels(one.record.name, one.call.fn)
        for event in tuple(self._recorder.events):
            if event.task_id is None:
                yield event.name, event.name

    def _functions(self, labels: frozenset[str]) -> tuple[Callable[..., Any], ...]:
        """Return the functions with one of these names, as they were submitted."""
        submitted = [(one.record.name, one.call.fn) for one in self._recorder.submissions]
        known = [*submitted, *registered_functions().items()]
        return tuple(fn for label, fn in known if not labels.isdisjoint((label, function_name(fn))))

    def _unknown(self, name: str) -> str:
        strangers = [label for label in registered_functions() if f".{label}".endswith(f".{name}")]
        if strangers:
            return (
                f"{name!r} is the name of {' and '.join(sorted(strangers))} in other test "
                "modules, whose functions are not found by name: pass the function itself"
            )
        labels = {label for label, _ in self._known()}
        return (
            f"no decorated function and no task of this test is named {name!r}."
            f"{_nearest(name, labels)} Pass the function itself, or its name with or without "
            "the module."
        )


def _labels(label: str, function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    bearer = function_name(function)
    yield label, bearer
    yield bearer, bearer


def _nearest(name: str, labels: Iterable[str]) -> str:
    """Return a hint with the *labels* that are most like *name*."""
    by_last: dict[str, set[str]] = {}
    for label in labels:
        by_last.setdefault(label.rpartition(".")[2], set()).add(label)
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(last, by_last, n=_LISTED)
    found = [label for one in close for label in sorted(by_last[one])][:_LISTED]
    return f" Did you mean {' or '.join(found)}?" if found else ""
