"""Inspect functions: their name, kind and signature, and a check of their arguments.

All of this is slow, so it is done once: by the decorator, or at the first submission of a
function's code, and never at each call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from framework._records.checks import show
from framework._records.jsonsafe import cut, safe_repr
from framework._records.records import Kind

Check: TypeAlias = Callable[..., object]
"""Called with a call's arguments; raises TypeError if they do not fit the signature."""

Args: TypeAlias = tuple[Any, ...]
"""The positional arguments of a call."""

Kwargs: TypeAlias = dict[str, Any]
"""The keyword arguments of a call."""

_MAX_NAME = 200


def kind_of(fn: Callable[..., Any]) -> Kind:
    """Return where *fn* runs as a task: on the event loop or on a thread."""
    return "loop" if is_async(fn) else "thread"


def layer_of(fn: object) -> str | None:
    """Return the name of our decorator that made *fn*; None if there is none."""
    return getattr(fn, "__asyncframe_layer__", None)


def bare_function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return *fn* without decorators of the framework; partials and bound objects are kept."""
    inner: Any = fn
    # functools.wraps copies our mark to wrappers of other libraries, but these have no `fn`.
    while layer_of(inner) is not None and hasattr(inner, "fn"):
        is_bound = type(inner) is types.MethodType
        inner = types.MethodType(inner.fn, inner.__self__) if is_bound else inner.fn
    function: Callable[..., Any] = inner
    return function


def is_wrapper(fn: object) -> bool:
    """Whether *fn* is a wrapper of another library, to which our marks were copied.

    ``functools.wraps`` copies them and sets ``__wrapped__``, which our own functions never
    have.
    """
    return hasattr(fn, "__wrapped__")


def without_partials(fn: Any) -> Any:  # Any: a callable of any type
    """Return what *fn* calls if it is a partial, perhaps of a partial; else itself."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether *fn* returns a coroutine, also as a partial or a callable object."""
    fn = without_partials(fn)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(fn, "__call__", None)  # noqa: B004  # asks if it is async, not if it exists
    )


def name_of(fn: object) -> str:
    """Return a name for *fn*: one printable line of at most 200 characters."""
    fn = without_partials(fn)
    qualname = getattr(fn, "__qualname__", None)
    if not isinstance(qualname, str):
        cls = type(fn)
        qualname, fn = cls.__qualname__, cls
    module = getattr(fn, "__module__", None)
    if module == "__main__":
        # Other processes import what runs as a script here under its module's real name.
        module = getattr(sys.modules["__main__"].__spec__, "name", module)
    full = f"{module}.{qualname}" if isinstance(module, str) else qualname
    return one_line(full)


def one_line(text: str, limit: int = _MAX_NAME, *, kept: str = "") -> str:
    """Return *text* as one printable line, cut at *limit* characters.

    Args:
        text: The text.
        limit: How many characters at most.
        kept: Those that may stay although they cannot be printed.
    """
    shown = "".join(
        ch if ch.isprintable() or ch in kept else "\N{REPLACEMENT CHARACTER}" for ch in text
    )
    return cut(shown, limit)


def require_callable(what: str, fn: object) -> Callable[..., Any]:
    """Return *fn* if it can run as a task.

    Args:
        what: Name of the decorator or parameter, for the message.
        fn: The value given.

    Raises:
        TypeError: If it is a coroutine object (which is closed), or not callable, or a
            generator function or a context manager, whose code would never run.
    """
    if inspect.iscoroutine(fn):
        fn.close()
        raise TypeError(
            f"{what} needs a function, not the coroutine {safe_repr(fn)}: pass the function "
            "itself and its arguments, as in submit(fn, args=(1, 2))"
        )
    if isinstance(fn, (staticmethod, classmethod)):
        fn = fn.__func__
    if not callable(fn):
        raise TypeError(f"{what} needs a function or another callable, not {show(fn)}")
    inner: object = without_partials(fn)
    for probe in (inner, getattr(type(inner), "__call__", None)):  # noqa: B004  # asks for its kind
        if inspect.isgeneratorfunction(probe) or inspect.isasyncgenfunction(probe):
            raise TypeError(
                f"{what} cannot take the generator function {name_of(fn)}: its code would "
                "never run as a task; return a list, or iterate inside the task"
            )
    if getattr(inner, "__code__", None) in _OF_CONTEXT_MANAGERS:
        raise TypeError(
            f"{what} cannot take the context manager {name_of(fn)}: its code would never run as a "
            "task; use it with 'with' inside the task"
        )
    return fn


_OF_CONTEXT_MANAGERS: Final = {
    getattr(one, "__code__", None)
    for one in (contextlib.contextmanager(iter), contextlib.asynccontextmanager(aiter))
}
"""The code of all functions that `contextlib` has made of generators."""


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of *fn*, whose annotations may be strings; None if it is unknown."""
    try:
        return inspect.signature(fn)
    except (ValueError, TypeError):  # a builtin without a text signature
        return None
    except NameError:  # from 3.14 on, for an annotation with a name not defined yet
        from annotationlib import Format  # type: ignore[import-not-found]  # from 3.14 on

        return inspect.signature(fn, annotation_format=Format.FORWARDREF)  # type: ignore[call-arg]  # as above


def check_key(option: str, key: object, fn: Callable[..., Any]) -> None:
    """Refuse a function of a call's arguments that can take those of no call of *fn*.

    Args:
        option: The option that it was given in, for the message.
        key: What was given; whatever is no function, or has no known signature, is accepted.
        fn: The function whose arguments it is called with.

    Raises:
        TypeError: If its parameters never fit.
    """
    if not callable(key):
        return
    takes, given = signature_of(key), signature_of(fn)
    if takes is None or given is None or _takes_any(given):
        return
    if any(_fits(takes, *one) for one in _calls(given, takes)):
        return
    name = name_of(fn)
    raise TypeError(
        f"the {option} function of {name} takes {_bare(takes)}, but it is called with the "
        f"arguments of {name}, which takes {_bare(given)}"
    )


def arguments_by_name(
    fn: Callable[..., Any], args: Args, kwargs: Kwargs, names: Iterable[str] | None
) -> dict[str, Any]:
    """Return the arguments of a call by the names of their parameters.

    Those of ``**kwargs`` have their own names, those of ``*args`` are together. What the call
    leaves out is left out, and so is what `Depends` provides.

    Args:
        fn: The function, as it runs as a task.
        args: Its positional arguments, which fit.
        kwargs: Its keyword arguments, which fit.
        names: Which parameters; None for all.
    """
    signature = signature_of(fn)
    if signature is None:
        return {}
    found = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
    return found if names is None else {name: found[name] for name in names if name in found}


def check_parameters(option: str, names: object, fn: Callable[..., Any]) -> None:
    """Refuse names of parameters that *fn* does not have.

    Args:
        option: The option that they were given in, for the message.
        names: A tuple of them; whatever else was given is accepted.
        fn: The function, as it runs as a task.

    Raises:
        ValueError: If one is no parameter, or one that `Depends` provides.
    """
    signature = signature_of(fn) if isinstance(names, tuple) else None
    if not isinstance(names, tuple) or signature is None:
        return
    parameters = signature.parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    unknown = [one for one in names if one not in parameters]
    if unknown:
        raise ValueError(
            f"{option} must have names of parameters of {name_of(fn)}, "
            f"{', '.join(parameters) or 'which has none'}, not {', '.join(map(repr, unknown))}"
        )


def _takes_any(signature: inspect.Signature) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(one.kind in kinds for one in signature.parameters.values())


def _calls(
    given: inspect.Signature, takes: inspect.Signature
) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield the arguments of the calls of *given* that may fit *takes*.

    A call may leave out parameters with a default, and pass the last ones by their names.
    """
    kinds, parameters = inspect.Parameter, list(given.parameters.values())
    needed = {one.name for one in parameters if one.default is kinds.empty}
    for named in (set[str](), takes.parameters.keys()):
        for count in range(len(parameters) + 1):
            passed = {one.name for one in parameters[:count]} | needed | named
            used = [one for one in parameters if one.name in passed]
            for split in range(len(used), -1, -1):
                first, rest = used[:split], used[split:]
                if (
                    first == parameters[:split]
                    and all(one.kind is not kinds.KEYWORD_ONLY for one in first)
                    and all(one.kind is not kinds.POSITIONAL_ONLY for one in rest)
                ):
                    yield [one.name for one in first], {one.name: one.name for one in rest}


def _fits(signature: inspect.Signature, args: list[str], kwargs: dict[str, str]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """Return *signature* without annotations."""
    empty = inspect.Signature.empty
    parameters = [one.replace(annotation=empty) for one in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=empty)


def positional_range(fn: Callable[..., Any]) -> tuple[int, int]:
    """Return the least and the most positional arguments of a call without keywords.

    Counting arguments is faster than calling a checker. The range is (1, 0), which is empty,
    if *fn* requires keyword arguments or its signature is unknown.
    """
    signature = signature_of(fn)
    if signature is None:
        return 1, 0
    kinds = inspect.Parameter
    least = most = 0
    for parameter in signature.parameters.values():
        needed = parameter.default is kinds.empty
        if parameter.kind is kinds.VAR_POSITIONAL:
            most = sys.maxsize
        elif parameter.kind is kinds.KEYWORD_ONLY and needed:
            return 1, 0
        elif parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            least += needed
            most += most < sys.maxsize
    return least, most


def checker_for(fn: Callable[..., Any]) -> Check | None:
    """Return a function that takes the same arguments as *fn* and does nothing.

    Calling it costs a tenth of ``Signature.bind``, and raises Python's own ``TypeError`` for
    arguments that do not fit. None if the signature is unknown.
    """
    signature = signature_of(fn)
    if signature is None:
        return None
    name = getattr(fn, "__name__", None) or type(fn).__name__
    twin = _empty_twin(signature, name)
    dependencies = dependencies_of(fn)
    return _explained(twin, name, dependencies) if dependencies else twin


def dependencies_of(fn: object) -> tuple[str, ...]:
    """Return the names of the dependencies that calls of *fn* leave out; see `injection`."""
    found: tuple[str, ...] = getattr(fn, "__asyncframe_dependencies__", ())
    return found


def optional_of(fn: object) -> tuple[tuple[str, str], ...]:
    """Return what a request may have for these dependencies, and a task has not.

    Each is the dependency, after those that lead to it, and what it is.
    """
    found: tuple[tuple[str, str], ...] = getattr(fn, "__asyncframe_optional__", ())
    return found


def given_dependencies(name: str, given: Iterable[str]) -> str:
    """Return the message for a call of *name* that passes dependencies."""
    return (
        f"{name}() does not take {', '.join(map(repr, given))}, which Depends provides: leave it "
        f"out; to pass a value of your own, call {name}.fn(...), or set app.dependency_overrides "
        "in a test"
    )


def _explained(check: Check, name: str, dependencies: tuple[str, ...]) -> Check:
    """Return *check* with a message that tells a caller about dependencies."""

    def explained(*args: Any, **kwargs: Any) -> None:
        try:
            check(*args, **kwargs)
        except TypeError as error:
            given = [one for one in dependencies if one in kwargs]
            if given:
                raise TypeError(given_dependencies(name, given)) from None
            names = ", ".join(dependencies)
            raise TypeError(f"{error} ({names}: not counted, since Depends provides it)") from None

    return explained


def _empty_twin(signature: inspect.Signature, name: str) -> Check:
    """Compile an empty function with this name and the parameters of *signature*."""
    parameters = [
        one if one.default is one.empty else one.replace(default=None)
        for one in signature.parameters.values()
    ]
    bare = _bare(signature.replace(parameters=parameters))
    namespace: dict[str, Any] = {}
    exec(f"def twin{bare}: pass", namespace)  # noqa: S102  # names come from a signature
    twin: types.FunctionType = namespace["twin"]
    twin.__name__ = twin.__qualname__ = name if name.isidentifier() else "task"
    return twin
