"""Which function a test asks about, given the function or a name, and which task.

Guarantees: a name that no function has, or that several functions have that are equally near
to the test, is an error, so that no assertion passes because of a typo.
"""

from __future__ import annotations

import difflib
import gc
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from framework import Task
from framework.testing import bare_function, function_name, registered_functions
from pytest_asyncframe._seen.entries import Function, Target, unwrapped
from pytest_asyncframe._seen.reach import is_gone, modules_of
from pytest_asyncframe._seen.recorder import Recorder

_LISTED = 5
"""How many names a message shows."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a test has around it, which decides between functions of the same name.

    Attributes:
        modules: The test's module.
        foreign: Names of other test modules, whose functions do not count.
        apps: The apps that the test has used so far.
        scheduled: The functions that the test has scheduled so far, by name.
    """

    modules: Collection[ModuleType]
    foreign: Collection[str]
    apps: Collection[object]
    scheduled: Mapping[str, Function]


class Names:
    """The names of functions and tasks that one test may use.

    Args:
        recorder: The recorder of the test.
        scope: Returns what the test has around it.
    """

    def __init__(self, recorder: Recorder, scope: Callable[[], Scope]) -> None:
        self._recorder = recorder
        self._scope = scope

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
        if not labels:
            raise LookupError(self._unknown(name))
        if len(functions) > 1:
            raise LookupError(
                f"several functions are named {name!r}: {', '.join(sorted(functions))}; pass the "
                "function itself, or more of its dotted name"
            )
        return Target(name, frozenset(labels), None, self._functions(frozenset(labels)))

    def _matching(self, name: str) -> tuple[set[str], set[str]]:
        """Return the full names that match *name*, and the names of their functions.

        What this test has used comes first, then what it or its apps have imported, and then
        what is left of the process.
        """
        # Never ambiguous: reports and errors show it.
        if any(function_name(fn) == name for _, fn in self._registered(name)):
            return {name}, {name}
        used = _chosen(self._own(), name)
        if used[1]:
            return used
        found = _chosen(_pairs(self._registered(name)), name)
        if len(found[1]) > 1:
            # One of them may only be waiting for the garbage collector.
            gc.collect()
            known = self._registered(name)
            near = _chosen(_pairs(self._imported(known)), name)
            found = near if near[1] else _chosen(_pairs(known), name)
        return found

    def _imported(self, known: Iterable[tuple[str, Function]]) -> list[tuple[str, Function]]:
        """Return which of some functions the test or its apps have imported."""
        scope = self._scope()
        near = modules_of([*scope.modules, *scope.apps], without=scope.foreign)
        return [(label, fn) for label, fn in known if bare_function(fn).__module__ in near]

    def _own(self) -> Iterator[tuple[str, str]]:
        """Yield each name of what this test has submitted, called or scheduled."""
        for one in tuple(self._recorder.submissions):
            yield from _labels(one.record.name, one.call.fn)
        for event in tuple(self._recorder.events):
            if event.task_id is None:
                yield event.name, event.name
        for label, fn in self._scope().scheduled.items():
            yield from _labels(label, fn)

    def _registered(self, name: str) -> list[tuple[str, Function]]:
        """Return the decorated functions that *name* may stand for, with their names."""
        foreign = self._scope().foreign
        return [
            (label, fn)
            for label, fn in registered_functions().items()
            if bare_function(fn).__module__ not in foreign
            and _chosen(_labels(label, fn), name)[0]
            and not is_gone(fn)
        ]

    def _functions(self, labels: frozenset[str]) -> tuple[Callable[..., Any], ...]:
        """Return the functions with one of these names, as they were submitted."""
        submitted = [(one.record.name, one.call.fn) for one in self._recorder.submissions]
        known = [*submitted, *registered_functions().items()]
        return tuple(fn for label, fn in known if not labels.isdisjoint((label, function_name(fn))))

    def _unknown(self, name: str) -> str:
        foreign, known, strangers = self._scope().foreign, [], []
        for label, fn in registered_functions().items():
            module = bare_function(fn).__module__
            if module not in foreign:
                if module in sys.modules and not is_gone(fn):
                    known.append((label, fn))
            elif f".{label}".endswith(f".{name}") and not is_gone(fn):
                strangers.append(label)
        if strangers:
            return (
                f"{name!r} is the name of {' and '.join(sorted(strangers))} in other test "
                "modules, whose functions are not found by name: pass the function itself"
            )
        labels = {label for label, _ in (*_pairs(known), *self._own())}
        return (
            f"no decorated function and no task of this test is named {name!r}."
            f"{_nearest(name, labels)} Pass the function itself, or its name with or without "
            "the module."
        )


def _chosen(pairs: Iterable[tuple[str, str]], name: str) -> tuple[set[str], set[str]]:
    """Return which of the names in *pairs* match *name*, and the names of their functions."""
    known = list(pairs)
    if any(label == name for label, _ in known):
        return {name}, {name}
    found = [pair for pair in known if pair[0].endswith(f".{name}")]
    return {label for label, _ in found}, {function for _, function in found}


def _pairs(known: Iterable[tuple[str, Function]]) -> Iterator[tuple[str, str]]:
    """Yield each name of some functions, with the name of the function."""
    for label, fn in known:
        yield from _labels(label, fn)


def _labels(label: str, function: Function) -> Iterator[tuple[str, str]]:
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


# -- tasks


KEYS = ("task_id", "id")
"""Keys of a JSON object that may hold the id; the first one found counts."""


def task_id_of(ref: Any) -> str:  # Any: what a user gives, checked here
    """Return the id of the task that *ref* refers to.

    Args:
        ref: An id, a `framework.Task`, a JSON object with a key of `KEYS`, or an HTTP
            response with such a body, or of status 202 with a ``Location`` that ends with the id.

    Raises:
        LookupError: If it contains no id.
    """
    if isinstance(ref, Task):
        return str(ref.task_id)
    if isinstance(ref, str):
        return str(ref)
    if inspect.iscoroutine(ref):
        ref.close()  # or it would be warned of as well
        raise LookupError(
            f"a coroutine is no task, but this is that of {ref.__qualname__}: await it in an async "
            "test, and pass what it returns"
        )
    body = ref
    if callable(getattr(ref, "json", None)):
        body = _json(ref)
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        for key in KEYS:
            if isinstance(body.get(key), str):
                return str(body[key])
    # An app may have a response of its own, and says in the header where the task is.
    location = getattr(ref, "headers", {}).get("location", "")
    if getattr(ref, "status_code", None) == 202 and location:
        return unquote(location.rpartition("/")[2])
    raise LookupError(
        f"no task id was found in {_shown(ref, body)}: pass the id, a Task, or a response "
        f"whose JSON has the key {' or '.join(map(repr, KEYS))}"
    )


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise LookupError(
            f"no task id was found in {response!r}: its body is not JSON but "
            f"{str(response.text)[:200]!r}"
        ) from None


def _shown(ref: object, body: object) -> str:
    return repr(ref) if ref is body else f"{ref!r} with the body {body!r}"
