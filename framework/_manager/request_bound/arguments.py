"""Arguments: the check that a call passes nothing that is closed with the current request.

Relies on: `current_scope`, which is also set in tasks that the request has made.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final

from framework._manager.request_bound.kinds import PLAIN, refused
from framework._manager.request_bound.parts import held_by, parts_of, shown
from framework._manager.request_bound.yielded import files_in, yielded_in
from framework._tasks.current import current_scope
from framework._tasks.functions import bare_function, one_line, signature_of
from framework._tasks.live import current_record
from framework._tasks.specs import TaskSpec

_DEPTH: Final = 3
"""How far below an argument something is looked for that a dependency has yielded."""

_LAYER: Final = 100
"""How many objects are looked at in each layer below the first one."""


def require_lasting(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a call that passes what is closed with the request, perhaps before the task runs.

    That is a request, an upload or the like, or what a dependency of the current request has
    yielded. It may be an argument, a part of one, or what the function itself holds.

    Args:
        spec: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        TypeError: If there is one, and the options of the function do not allow it.
    """
    # Most calls end here, so this is written for them.
    for value in args:
        if type(value) not in PLAIN:
            break
    else:
        if spec.holds is None:
            spec.holds = _holds(bare_function(spec.fn))
        if not kwargs and not spec.holds:
            return
    if spec.options["check_arguments"]:
        error = _refusal(spec, args, kwargs)
        if error is not None:
            raise error


def _holds(fn: object) -> bool:
    """Return whether a function, without our decorators, may hold values of any kind."""
    return not isinstance(fn, types.FunctionType) or fn.__closure__ is not None


def _refusal(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TypeError | None:
    """Return the error for a call that is to be refused, which names the first reason."""
    layer = list(_given(spec, args, kwargs))
    if not layer:
        return None
    closed = _closed_with_request()
    for depth in range(_DEPTH + 1 if closed else 2):
        for path, value in layer:
            kind: Any = type(value)
            # Not further below: an app or a router has a ``Depends`` somewhere.
            why = refused(kind) if depth < 2 else None
            if why is not None:
                what = _named(spec, args, path)
                return TypeError(f"{what} is {why.what}: {why.why}; {why.cure}")
            if id(value) in closed:
                return TypeError(f"{_named(spec, args, path)} {closed[id(value)]}")
        below = (
            ((*path, part), one)
            for path, value in layer
            for part, one in parts_of(value)
            if type(one) not in PLAIN
        )
        layer = list(islice(below, _LAYER if depth else None))
    return None


def _given(
    spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the values that may be refused, each after its path, which `_named` takes."""
    for key, value in chain(kwargs.items(), enumerate(args)):
        if type(value) not in PLAIN:
            yield ("argument", key), value
    if spec.holds is not False:
        fn = bare_function(spec.fn)
        role = "variable" if isinstance(fn, types.FunctionType) else "argument"
        for key, value in held_by(fn):
            if type(value) not in PLAIN:
                yield (role, key), value


def _named(spec: TaskSpec, args: tuple[Any, ...], path: tuple[Any, ...]) -> str:
    """Return the name of a value for a message, such as ``argument 'order.items' of app.work``."""
    role, key, *parts = path
    name = _positions(spec, len(args))[key] if isinstance(key, int) else key
    return f"{role} {''.join((name, *map(shown, parts)))!r} of {spec.name}"


def _yielded_by(dependency: str) -> str:
    return (
        f"was yielded by the dependency {dependency}, which closes it when the request ends, "
        "perhaps before the task runs: declare the dependency in the task itself, "
        f"Annotated[..., Depends({dependency.rpartition('.')[2]})], or pass an id; if it outlives "
        "the request, use check_arguments=False"
    )


def _closed_with_request() -> dict[int, str]:
    """Return the ids of what is closed with the current request, each with a message about it."""
    scope = current_scope.get()
    # A task sees the scope of the request that made it, which may have ended.
    if scope is None or current_record.get() is not None:
        return {}
    closed = {id(one): _OF_UPLOAD for one in files_in(scope)}
    for one in yielded_in(scope):
        closed.setdefault(id(one.value), _yielded_by(one_line(one.dependency)))
    return closed


_OF_UPLOAD: Final = (
    "is the file of an upload: it is closed when the request ends, perhaps before the task runs; "
    "read it first and pass the bytes, or pass the path of a copy"
)


def _positions(spec: TaskSpec, count: int) -> list[str]:
    """Return the names of the first parameters of a function, as far as they are known."""
    names: list[str] = []
    signature = signature_of(spec.fn)
    for parameter in () if signature is None else signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{place}]" for place in range(count - len(names))]
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            names.append(parameter.name)
    return names + [str(place + 1) for place in range(len(names), count)]
