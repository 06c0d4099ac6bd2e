"""What all decorators do: check a function, and make what replaces it look like it.

What replaces it resolves the manager per call and starts nothing at import. It reads no name
of its module while it runs, only closures: its `Dress` gives it the globals of the function that
it stands for, so that FastAPI finds its string annotations there.
"""

from __future__ import annotations

import builtins
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, Final, TypeVar

from framework._records import checks
from framework._records.ids import TaskId
from framework._tasks.functions import (
    dependencies_of,
    layer_of,
    optional_of,
    require_callable,
    signature_of,
    without_partials,
)
from framework._tasks.options import OptionList

D = TypeVar("D")  # one of the lists of options

_RANKS = {
    "throttled_task": 1,
    "retry_task": 2,
    "background_task": 3,
    "async_task": 3,
    "scheduled_task": 3,
}
_ORDER = (
    "background_task, async_task or scheduled_task outermost (written first), then "
    "retry_task, then throttled_task, each at most once"
)


def decorate(
    layer: str, fn: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:  # Any: what was decorated, and what it becomes
    """Check *fn* and return ``make(fn)``, wrapped as a class or static method if *fn* was.

    Raises:
        TypeError: If *fn* cannot be a task, or has a decorator that must stand outside.
    """
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(decorate(layer, fn.__func__, make))
    function = require_callable(layer, fn)
    if isinstance(function, type) and _is_being_defined(function):
        raise TypeError(
            f"{layer} needs a function, not the class {function.__qualname__}, which would be no "
            "class any more: decorate a function that creates it, or one of its methods"
        )
    below = layer_of(without_partials(function))
    if below is not None and _RANKS[below] >= _RANKS[layer]:
        raise TypeError(
            f"{layer} cannot decorate a function that is decorated with {below}; the order "
            f"is {_ORDER}"
        )
    return make(function)


def _is_being_defined(cls: type) -> bool:
    """Return whether a class is decorated at its definition: its module does not have it yet.

    A class may be passed as any function may. Of one inside a function nobody can know.
    """
    found: object = sys.modules.get(cls.__module__)
    if found is None or "<locals>" in cls.__qualname__:
        return False
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not cls


class Dress:
    """What makes a function look like another: name, document, signature, attributes, globals.

    ``__wrapped__`` is not set: FastAPI would look through it and await an id. A dress is made
    once for a function and all its copies with other options, since finding it out takes long.

    Args:
        fn: The function to look like.
        layer: The decorator.
        returns_id: Whether a call returns a task id, and not what *fn* returns.
        undecorated: What the user has decorated, if *fn* stands for it; None for *fn*.
        signature: Its signature, if that of *fn* is another; None for that of *fn*.
    """

    __slots__ = ("_annotations", "_attributes", "_named", "_namespace")

    def __init__(
        self,
        fn: Callable[..., Any],
        layer: str,
        *,
        returns_id: bool = False,
        undecorated: Callable[..., Any] | None = None,
        signature: inspect.Signature | None = None,
    ) -> None:
        unwrapped = without_partials(fn)
        self._namespace = getattr(unwrapped, "__globals__", {"__builtins__": builtins})
        self._attributes: dict[str, Any] = {
            key: value
            for key, value in getattr(unwrapped, "__dict__", {}).items()
            if isinstance(unwrapped, types.FunctionType)
            and key != "__wrapped__"
            and not key.startswith("__asyncframe")
        }
        self._named: list[tuple[str, str]] = []
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            # A callable object has no name of its own, but its class does.
            value = getattr(unwrapped, name, getattr(type(unwrapped), name, None))
            if isinstance(value, str):
                self._named.append((name, value))
        self._annotations: dict[str, Any] | None = None
        signature = signature or signature_of(fn)
        if signature is not None:
            if returns_id:
                signature = signature.replace(
                    return_annotation=_id_annotation(signature.return_annotation, self._namespace)
                )
            # What inspect looks for.
            self._attributes["__signature__"] = signature
            self._annotations = _annotations(signature)
        dependencies = dependencies_of(fn)
        if dependencies:
            self._attributes["__asyncframe_dependencies__"] = dependencies
            self._attributes["__asyncframe_optional__"] = optional_of(fn)
        self._attributes.update(fn=undecorated or fn, __asyncframe_layer__=layer)

    # Any: typed by the decorator that returns it.
    def put_on(self, inner: Callable[..., Any], **attributes: Any) -> Any:
        """Return a copy of the function *inner* with further *attributes*."""
        assert isinstance(inner, types.FunctionType)
        dressed = types.FunctionType(
            inner.__code__, self._namespace, inner.__name__, inner.__defaults__, inner.__closure__
        )
        for name, value in self._named:
            setattr(dressed, name, value)
        if self._annotations is not None:
            dressed.__annotations__ = self._annotations.copy()
        dressed.__dict__.update(self._attributes, **attributes)
        return dressed


def _id_annotation(returned: Any, namespace: dict[str, Any]) -> Any:  # Any: annotations
    if returned is inspect.Signature.empty:
        return TaskId[Any]
    if isinstance(returned, str):
        try:
            returned = eval(returned, namespace)  # noqa: S307  # the function's own annotation
        except Exception:  # a name that is not there yet; the id is a string all the same
            return TaskId[Any]
    return TaskId[returned]


def _annotations(signature: inspect.Signature) -> dict[str, Any]:
    empty = inspect.Signature.empty
    found = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not empty
    }
    if signature.return_annotation is not empty:
        found["return"] = signature.return_annotation
    return found


def copier(known: OptionList[D], name: str, make: Callable[[D], Any]) -> Callable[..., Any]:
    """Return the ``.options`` of a decorated function, which makes a copy with other options.

    Args:
        known: The options that there are.
        name: The function's, for messages.
        make: Makes the copy, from the options that change.
    """

    def options(**changed: Any) -> Any:
        """Return a copy with other options; what is left out stays as it was."""
        if known.drops_none:
            # Also where a check would refuse it: None keeps what was.
            changed = {name: value for name, value in changed.items() if value is not None}
        return make(known.checked(f"{name}.options", changed))

    options.__qualname__ = f"{name}.options"
    options.__signature__ = known.copying  # type: ignore[attr-defined]  # what inspect looks for
    return options


BRACKETS: Final = object()
"""Stands for the function that the form with brackets is not given; None is refused."""


def apply(layer: str, fn: object, make: Callable[[Callable[..., Any]], Any]) -> Any:
    """Decorate *fn*, or return the decorator if it is used with arguments."""
    if fn is BRACKETS:
        return lambda it: decorate(layer, it, make)
    if isinstance(fn, (int, float, str)):
        raise by_name(layer, fn)
    return decorate(layer, fn, make)


_MEANT: Final = {
    "background_task": ("timeout", 30),
    "async_task": ("timeout", 30),
    "throttled_task": ("rate_limit", 5),
    "retry_task": ("max_retries", 3),
}
"""What a number without a name is probably meant for, with an example."""


def by_name(layer: str, given: object) -> TypeError:
    """Return the error for an option that was given without its name."""
    option, example = _MEANT[layer]
    if type(given) is int:
        example = given
    like = f"{option}={example}"
    if isinstance(given, str) and option == "timeout":
        like = f"description={checks.show(given)}"
    return TypeError(
        f"{layer} takes its options by name, as in @{layer}({like}), not {checks.show(given)}"
    )
