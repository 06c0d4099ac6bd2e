"""Injection: a task's function, with a value at each call for each of its dependencies.

What solves dependencies imports FastAPI, so it is loaded when a function first has some. A
function without dependencies stays as it is, and its calls cost nothing.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol  # any callable may be a task

from framework._records.exports import provided
from framework._tasks.functions import (
    dependencies_of,
    given_dependencies,
    is_wrapper,
    layer_of,
    name_of,
    signature_of,
    without_partials,
)

LAYER: Final = "dependencies"
"""What `layer_of` says of a function that gets values for its dependencies."""

_MADE: Final = "__asyncframe_injected__"


class Injector(Protocol):
    """Makes a function whose calls get values for its dependencies."""

    def __call__(self, fn: Callable[..., Any], dependencies: Mapping[str, Any]) -> Any:
        """Return *fn* without the parameters that *dependencies* names.

        Args:
            fn: The function that declares them.
            dependencies: FastAPI's ``Depends`` by parameter name.

        Raises:
            TypeError: If a task cannot have one of them.
        """
        ...


def injected(fn: Any) -> Any:  # Any: a callable of any type, and what stands for it
    """Return what runs as a task in place of *fn*: itself, if it has no dependencies.

    Its retry and its throttle stay around it, so each attempt gets values of its own.

    Raises:
        TypeError: If a task cannot have one of its dependencies.
    """
    marker = _marker()
    if marker is None:
        return fn
    kind = type(fn)
    if kind is types.MethodType:
        inner = injected(fn.__func__)
        return fn if inner is fn.__func__ else types.MethodType(inner, fn.__self__)
    if kind is functools.partial:
        return _partial(fn)
    known = _known(fn)
    if known is not None:
        return known
    made = _made(fn, marker)
    if made is not fn and isinstance(getattr(fn, "__dict__", None), dict):
        # On the function itself: what a weak dictionary would keep refers to the function.
        fn.__dict__[_MADE] = (fn, made)
    return made


def signature_of_task(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of *fn* as a task, which has no dependencies; None if unknown."""
    return signature_of(as_task(fn))


def as_task(fn: Any) -> Any:  # Any: see `injected`
    """Return what `injected` has made of *fn*; itself if nothing was made."""
    if type(fn) is types.MethodType:
        return types.MethodType(as_task(fn.__func__), fn.__self__)
    if type(fn) is functools.partial:
        return functools.partial(as_task(fn.func), *fn.args, **fn.keywords)
    known = _known(fn)
    return fn if known is None else known


def _marker() -> Any:
    """Return FastAPI's class of dependencies; None if nobody has imported FastAPI."""
    return getattr(sys.modules.get("fastapi.params"), "Depends", None)


def _known(fn: Any) -> Any:
    owner, made = getattr(fn, "__dict__", {}).get(_MADE, (None, None))
    # functools.wraps copies the attribute to a function of another library.
    return made if owner is fn else None


def _made(fn: Any, marker: Any) -> Any:
    layer = None if is_wrapper(fn) else layer_of(fn)
    if layer is None:
        dependencies = declared(fn, marker)
        if not dependencies:
            return fn
        injector: Injector = provided.injector()
        return injector(fn, dependencies)
    if layer == "scheduled_task":
        inner = injected(fn.fn)
        return fn if inner is fn.fn else inner
    around = getattr(fn, "__asyncframe_around__", None)
    if around is None:
        return fn
    inner = injected(fn.fn)
    return fn if inner is fn.fn else around(inner)


def _partial(fn: functools.partial[Any]) -> Any:
    inner = injected(fn.func)
    if inner is fn.func:
        return fn
    given = [name for name in fn.keywords if name in dependencies_of(inner)]
    if given:
        raise TypeError(given_dependencies(name_of(fn), given))
    return functools.partial(inner, *fn.args, **fn.keywords)


# -- what a function declares


def declared(fn: Callable[..., Any], marker: Any = None) -> dict[str, Any]:
    """Return FastAPI's ``Depends`` of a function by parameter name.

    A ``Depends()`` without a function is that of the annotation, as in FastAPI.

    Args:
        fn: The function.
        marker: FastAPI's class ``Depends``; None to look for it.

    Raises:
        TypeError: If an annotation has a ``Depends`` but cannot be evaluated, or if a parameter
            has two.
    """
    marker = marker or _marker()
    signature = signature_of(fn)
    if signature is None or marker is None:
        return {}
    found = {}
    for name, parameter in signature.parameters.items():
        one = _declared_by(fn, parameter, marker)
        if one is not None:
            found[name] = one
    return found


def _declared_by(fn: Callable[..., Any], parameter: inspect.Parameter, marker: Any) -> Any:
    default = parameter.default if isinstance(parameter.default, marker) else None
    annotation = annotation_of(fn, parameter)
    if isinstance(annotation, str):
        if default is None and any(word in annotation for word in ("Depends(", "Security(")):
            raise TypeError(
                f"the annotation of {parameter.name!r} in {name_of(fn)} cannot be evaluated: "
                f"{annotation}; define its names in the module, outside of functions and of 'if "
                "TYPE_CHECKING'"
            )
        annotation = Any
    in_annotation = None
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *rest = typing.get_args(annotation)
        in_annotation = next((one for one in reversed(rest) if isinstance(one, marker)), None)
    if in_annotation is not None and default is not None and default.dependency is not None:
        raise TypeError(
            f"{parameter.name!r} in {name_of(fn)} has two dependencies, in its annotation and as "
            "its default: remove one; 'Depends()' as the default only tells type checkers that "
            "callers leave it out"
        )
    chosen = in_annotation or default
    if chosen is not None and chosen.dependency is None:
        # Any: the class is FastAPI's.
        chosen = _of_class(fn, parameter, chosen, annotation)
    return chosen


def _of_class(
    fn: Callable[..., Any], parameter: inspect.Parameter, depends: Any, annotation: Any
) -> Any:
    if not callable(annotation) or annotation is Any or annotation is parameter.empty:
        raise TypeError(
            f"{parameter.name!r} in {name_of(fn)} has 'Depends()' without a function, and no class "
            "as its annotation: use Depends(<function>)"
        )
    return type(depends)(annotation, use_cache=depends.use_cache)


def annotation_of(fn: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter; its text if a name in it is unknown."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, _namespace(fn))  # noqa: S307  # the function's own
        except Exception:  # a name that is not there, or not yet
            return parameter.annotation
    # A "type" statement, from Python 3.12 on.
    return getattr(annotation, "__value__", annotation)


def _namespace(fn: Any) -> dict[str, Any]:
    inner = inspect.unwrap(without_partials(fn))
    if isinstance(inner, type):
        return dict(vars(sys.modules.get(inner.__module__, typing)))
    if not isinstance(inner, (types.FunctionType, types.MethodType)):
        inner = getattr(type(inner), "__call__", inner)  # noqa: B004  # its module's names
    found: dict[str, Any] = getattr(inspect.unwrap(inner), "__globals__", {})
    return found
