"""What the dependencies of a request have yielded, which they close when the request ends.

FastAPI keeps them in two exit stacks in the scope of the request. Their callbacks are methods of
context managers around the generators, which tell what they have yielded: FastAPI's own ones in
a local variable, those of the dependencies by their code.

Relies on: the generators being suspended while code of the request runs, on whichever thread.

Where FastAPI keeps them others, or an interpreter compiles them to instructions that are not
known here, nothing is found, and so the calls that would be refused are let through.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from framework._manager.request_bound.kinds import can_be_closed, is_data

_FILES: Final = "fastapi_middleware_astack"
_STACKS: Final = ("fastapi_inner_astack", "fastapi_function_astack", "fastapi_astack")


class Yielded(NamedTuple):
    """A value that a dependency has yielded, and will close.

    Attributes:
        value: The value.
        dependency: The name of the dependency.
    """

    value: Any
    dependency: str


def yielded_in(scope: Mapping[str, Any]) -> Iterator[Yielded]:
    """Yield what the dependencies of a request have yielded and will close.

    Left out is what they pass on without having made it, what nothing happens to after the
    request, and data, which cannot be closed. A value may come twice, first as what its own
    dependency has yielded, then as that of an override.

    Args:
        scope: The scope of the request.
    """
    stacks = [scope[name] for name in _STACKS if name in scope]
    overrides = getattr(scope.get("app"), "dependency_overrides", None) or {}
    found = _kept_by(stacks)
    if overrides or not stacks:
        # First, since it knows a dependency that was overridden by its own name.
        found = chain(_kept_by_frames(scope, overrides), found)
    for one in found:
        if _is_closed(one.value):
            yield one


def files_in(scope: Mapping[str, Any]) -> Iterator[object]:
    """Yield the files of the uploads of a request, which FastAPI closes with its form."""
    for _, callback in tuple(getattr(scope.get(_FILES), "_exit_callbacks", ())):
        form: Any = getattr(getattr(callback, "__wrapped__", None), "__self__", None)
        if type(form).__name__ == "FormData":
            yield from (one.file for _, one in form.multi_items() if hasattr(one, "file"))


def _kept_by(stacks: Iterable[object]) -> Iterator[Yielded]:
    """Yield the values of the dependencies that these exit stacks will close."""
    for stack in stacks:
        # Without the attribute it is no exit stack.
        for _, callback in tuple(getattr(stack, "_exit_callbacks", ())):
            found = _yielded_by(getattr(callback, "__self__", None))
            if found is not None:
                yield found


def _kept_by_frames(scope: Mapping[str, Any], overrides: Mapping[Any, Any]) -> Iterator[Yielded]:
    """Yield the same for what is in no exit stack of the scope, from the frames of the route.

    Before 0.118 FastAPI has its exit stack in a local variable. Its frame is found from an async
    route. From a sync one, on a thread, only the frame of the route is, and thus only what it
    was given itself. This is also how the values of overrides are found, in tests.
    """
    dependant = getattr(scope.get("route"), "dependant", None)
    if dependant is None:
        return
    endpoint = scope.get("endpoint")
    route = getattr(getattr(endpoint, "__asyncframe_endpoint__", endpoint), "__code__", None)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is route:
            yield from _given_to(frame, dependant.dependencies, overrides)
        elif frame.f_globals.get("__name__") == "fastapi.routing":
            yield from _kept_by([frame.f_locals.get("async_exit_stack")])
        frame = frame.f_back


def _given_to(
    frame: FrameType, dependencies: Iterable[Any], overrides: Mapping[Any, Any]
) -> Iterator[Yielded]:
    """Yield what the parameters of a route got from dependencies, unless it has changed them.

    What an override gives counts as if the dependency had, so that a test refuses it as well.
    """
    for one in dependencies:
        calls = (one.call, overrides.get(one.call, one.call))
        if one.name in frame.f_locals and any(map(_closes, calls)):
            name = getattr(one.call, "__qualname__", type(one.call).__qualname__)
            yield Yielded(frame.f_locals[one.name], name)


def _closes(call: Any) -> bool:  # Any: a dependency is anything that can be called
    """Return whether a dependency closes what it yields."""
    code = getattr(call, "__code__", None) or getattr(type(call).__call__, "__code__", None)
    return code is not None and any(
        one.is_made and one.is_followed for one in _yields(code).values()
    )


def _is_closed(value: object) -> bool:
    """Return whether a value can become unusable when its dependency ends."""
    kind: Any = type(value)
    if not is_data(kind):
        return True
    inside = value.values() if isinstance(value, dict) else getattr(value, "__dict__", {}).values()
    return any(can_be_closed(one) for one in inside)


def _yielded_by(manager: Any) -> Yielded | None:  # Any: whatever an exit stack calls
    """Return what a context manager of FastAPI's exit stack has given; None if unknown."""
    value: Any = _UNKNOWN
    while manager is not None:
        generator = getattr(manager, "gen", None)
        frame = getattr(generator, "ag_frame", None) or getattr(generator, "gi_frame", None)
        if not isinstance(frame, FrameType):
            return None
        if not frame.f_globals.get("__name__", "").startswith("fastapi."):
            return _judged(generator, frame, value)
        # A wrapper of FastAPI's own around the generator of the dependency.
        inside = frame.f_locals
        value = inside.get("value", value)
        manager = inside.get("cm")
    return None


def _judged(generator: Any, frame: FrameType, value: Any) -> Yielded | None:
    """Return what the generator of a dependency has made, yielded and will close."""
    yields = _yields(frame.f_code).get(frame.f_lasti)
    if yields is None or not yields.is_made or not yields.is_followed:
        return None
    if value is _UNKNOWN:
        value = frame.f_locals.get(yields.name, _UNKNOWN)
    # An object is called by the name of its class.
    name = generator.__qualname__.removesuffix(".__call__")
    return None if value is _UNKNOWN else Yielded(value, name)


_UNKNOWN: Final = object()


class _Yield(NamedTuple):
    """A ``yield`` of a generator.

    Attributes:
        name: The local variable whose value it yields; "" for any other expression.
        is_made: Whether the generator has made the value: it is no parameter or global, and no
            attribute of one.
        is_followed: Whether the generator does something after it.
    """

    name: str
    is_made: bool
    is_followed: bool


@lru_cache(maxsize=1_024)
def _yields(code: CodeType) -> Mapping[int, _Yield]:
    """Return the ``yield`` expressions of a function by their offsets; {} if that is unknown."""
    try:
        return _yields_of(code)
    except (LookupError, TypeError, ValueError):  # instructions of another interpreter
        return {}


def _yields_of(code: CodeType) -> Mapping[int, _Yield]:
    every = list(dis.get_instructions(code))
    steps = [one for one in every if one.opname not in _SKIPPED]
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    found = {}
    for place, step in enumerate(steps):
        if step.opname != "YIELD_VALUE":
            continue
        first = place - 1
        while first > 0 and steps[first].opname in _PARTS:
            first -= 1
        source, after = steps[first], [one.opname for one in steps[place + 1 : place + 4]]
        # A variable of an outer function is none of its own; one that it shares is.
        is_local = source.opname.startswith("LOAD_FAST") or source.argval in code.co_cellvars
        one = _Yield(
            name=source.argval if is_local and first == place - 1 else "",
            is_made=source.argval not in parameters if is_local else not _is_foreign(source),
            is_followed=after[:2] != ["POP_TOP", "RETURN_CONST"]
            and after != ["POP_TOP", "LOAD_CONST", "RETURN_VALUE"],
        )
        # Where a generator is suspended: at the instruction, or from 3.13 on at the next one.
        found[step.offset] = found[every[every.index(step) + 1].offset] = one
    return found


_SKIPPED: Final = frozenset(
    {"ASYNC_GEN_WRAP", "CALL_INTRINSIC_1", "RESUME", "NOP", "EXTENDED_ARG", "CACHE"}
)
"""Instructions that change no value."""

_PARTS: Final = ("LOAD_ATTR", "LOAD_METHOD")


def _is_foreign(source: dis.Instruction) -> bool:
    """Whether an instruction takes a value that the function has not made: a global, a constant.

    So does one with a name that is not known, rather than that a call is refused without cause.
    """
    return source.opname.startswith("LOAD_") or source.opname.startswith("<")
