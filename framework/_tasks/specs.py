"""What can be a task: its kind, its name, and the check of its arguments.

Everything slow about a function (its signature, its colour) is found out once, at
decoration or at the first submission of its code, never per call.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from framework._tasks.checks import show
from framework._tasks.jsonsafe import safe_repr
from framework._tasks.records import Kind, Label, label_of

Check: TypeAlias = Callable[..., object]
"""Takes a call's arguments and raises TypeError if they do not fit; returns nothing."""

_MAX_NAME = 200


class TaskSpec:
    """A function as a task: what is known of it before any call.

    Attributes:
        fn: The function to run, as given.
        name: Its name in records and logs.
        label: Name and description, as its records have them.
        kind: Where it runs.
        description: For people.
        timeout: Limit in seconds counted from its start; None to take the framework's,
            infinity for none.
        delay: Seconds from submission until it may start, 0 or more.
        hooks: What to call at its end: on completion, on anything else; None for neither.
        task_id: The id that was chosen for it, or None.
        special: Whether any of these three was chosen; most tasks ask this alone.
        check: Raises TypeError for arguments that do not fit; None if that is unknown.
        attempts_inside: Whether the function counts its attempts itself (a retry).
        wire: What a remote engine has found out of it, for the next call; None before.
    """

    __slots__ = (
        "attempts_inside",
        "check",
        "delay",
        "description",
        "fn",
        "hooks",
        "kind",
        "label",
        "name",
        "special",
        "task_id",
        "timeout",
        "wire",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        kind: Kind,
        check: Check | None,
        description: str = "",
        timeout: float | None = None,
        delay: float = 0.0,
        hooks: tuple[Any, Any] | None = None,
        task_id: str | None = None,
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.name: str = name
        self.label: Label = label_of(name, description)
        self.kind: Kind = kind
        self.check: Check | None = check
        self.description: str = description
        self.timeout: float | None = timeout
        self.delay: float = delay
        self.hooks: tuple[Any, Any] | None = hooks
        self.task_id: str | None = task_id
        self.special: bool = bool(delay or hooks or task_id)
        self.wire: Any = None  # a tuple of that engine's own
        self.attempts_inside: bool = layer_of(fn) == "retry_task" and not is_wrapper(fn)

    def replace(
        self,
        *,
        timeout: float | None = None,
        description: str | None = None,
        name: str | None = None,
        delay: float | None = None,
        hooks: tuple[Any, Any] | None = None,
        task_id: str | None = None,
    ) -> TaskSpec:
        """Return a copy with what is not None in place of what was, each hook by itself."""
        return TaskSpec(
            self.fn,
            name=self.name if name is None else name,
            kind=self.kind,
            check=self.check,
            description=self.description if description is None else description,
            timeout=self.timeout if timeout is None else timeout,
            delay=self.delay if delay is None else delay,
            hooks=merged(hooks, self.hooks),
            task_id=self.task_id if task_id is None else task_id,
        )


class Schedule:
    """A function and when to run it; see `scheduled_task` for the fields."""

    __slots__ = ("__weakref__", "every", "jitter", "run_at_start", "spec")

    def __init__(self, spec: TaskSpec, every: float, jitter: float, run_at_start: bool) -> None:
        self.spec = spec
        self.every = every
        self.jitter = jitter
        self.run_at_start = run_at_start


def merged(hooks: tuple[Any, Any] | None, others: tuple[Any, Any] | None) -> tuple[Any, Any] | None:
    """Return the hooks, those of *others* where there are none; None if there is none at all."""
    if hooks is None or hooks == (None, None):
        return others
    complete, error = others or (None, None)
    return (complete if hooks[0] is None else hooks[0], error if hooks[1] is None else hooks[1])


def spec_for(fn: Callable[..., Any]) -> TaskSpec:
    """Return the spec of a function that was submitted as it is.

    What is known of it is remembered by its code: a lambda or an inner function is a new
    object at each evaluation, its code is not.
    """
    inner = getattr(fn, "__func__", fn)
    if type(inner) is not types.FunctionType or inner.__dict__:
        return TaskSpec(fn, name=name_of(fn), kind=kind_of(fn), check=checker_for(fn))
    # The number of defaults belongs to the object and not to the code.
    key = (fn is inner, len(inner.__defaults__ or ()), tuple(inner.__kwdefaults__ or ()))
    by_key = _KNOWN.setdefault(inner.__code__, {})
    known = by_key.get(key)
    if known is None:
        known = by_key[key] = (name_of(fn), kind_of(fn), checker_for(fn))
    name, kind, check = known
    return TaskSpec(fn, name=name, kind=kind, check=check)


_KNOWN: weakref.WeakKeyDictionary[types.CodeType, dict[object, tuple[str, Kind, Check | None]]] = (
    weakref.WeakKeyDictionary()
)


def kind_of(fn: Callable[..., Any]) -> Kind:
    """Return where *fn* runs as a task."""
    return "loop" if is_async(fn) else "thread"


def layer_of(fn: object) -> str | None:
    """Return which of our decorators *fn* comes from, or None if from none."""
    return getattr(fn, "__asyncframe_layer__", None)


def is_wrapper(fn: object) -> bool:
    """Whether *fn* is somebody's wrapper, whose ``functools.wraps`` copied our marks.

    A decorated function of ours never has ``__wrapped__``.
    """
    return hasattr(fn, "__wrapped__")


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling *fn* gives a coroutine; sees through partials and callable objects."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        getattr(fn, "__call__", None)  # noqa: B004  # asks for its colour, not whether it exists
    )


def name_of(fn: object) -> str:
    """Return a name for *fn* that is one line, printable and at most 200 characters."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    qualname = getattr(fn, "__qualname__", None)
    if not isinstance(qualname, str):
        cls = type(fn)
        qualname, fn = cls.__qualname__, cls
    module = getattr(fn, "__module__", None)
    if module == "__main__":
        # What runs as a script is imported by its own name everywhere else.
        module = getattr(sys.modules["__main__"].__spec__, "name", module)
    full = f"{module}.{qualname}" if isinstance(module, str) else qualname
    return one_line(full)


def one_line(text: str, limit: int = _MAX_NAME) -> str:
    """Return *text* on one printable line, cut at *limit* characters."""
    shown = "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in text)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def require_callable(what: str, fn: object) -> Callable[..., Any]:
    """Return *fn* if it can be run as a task, or say what is wrong with it.

    Args:
        what: The decorator or parameter, for the message.
        fn: What was given.

    Raises:
        TypeError: If it is a coroutine object (which is closed), not callable, or a
            generator function, whose body would never run.
    """
    if inspect.iscoroutine(fn):
        fn.close()
        raise TypeError(
            f"{what} needs a function, not the coroutine {safe_repr(fn)}: give the function "
            "itself and its arguments, as in submit(fn, args=(1, 2))"
        )
    if isinstance(fn, (staticmethod, classmethod)):
        fn = fn.__func__
    if not callable(fn):
        raise TypeError(f"{what} needs a function or another callable, not {show(fn)}")
    inner: object = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    for probe in (inner, getattr(type(inner), "__call__", None)):  # noqa: B004  # asks for its kind
        if inspect.isgeneratorfunction(probe) or inspect.isasyncgenfunction(probe):
            raise TypeError(
                f"{what} cannot take the generator function {name_of(fn)}: its body would "
                "never run as a task; return a list, or loop inside the task"
            )
    return fn


def signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of *fn*, annotations as they stand; None if it has none."""
    try:
        return inspect.signature(fn)
    except (ValueError, TypeError):  # a builtin without a text signature
        return None
    except NameError:  # from 3.14 on, an annotation that names what is not there yet
        from annotationlib import Format  # type: ignore[import-not-found]  # from 3.14 on

        return inspect.signature(fn, annotation_format=Format.FORWARDREF)  # type: ignore[call-arg]  # as above


def positional_range(fn: Callable[..., Any]) -> tuple[int, int]:
    """Return how many positional arguments alone fit *fn*, least and most.

    Counting them costs less than calling a checker. (1, 0), which nothing is within, if
    no such call fits or the signature is unknown.
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

    Calling it costs a tenth of ``Signature.bind`` and raises the interpreter's own
    ``TypeError`` for a wrong call. None if the signature is unknown.
    """
    signature = signature_of(fn)
    if signature is None:
        return None
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return _empty_twin(signature, name)


def _empty_twin(signature: inspect.Signature, name: str) -> Check:
    """Compile ``def name(<the same parameters>): pass``."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    last_positional = kinds.count(inspect.Parameter.POSITIONAL_ONLY) - 1
    star_seen = False
    for index, parameter in enumerate(signature.parameters.values()):
        default = "" if parameter.default is inspect.Parameter.empty else "=None"
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            star_seen = True
            parts.append(f"*{parameter.name}")
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star_seen:
            star_seen = True
            parts.append("*")
        parts.append(f"{parameter.name}{default}")
        if index == last_positional:
            parts.append("/")
    namespace: dict[str, Any] = {}
    exec(f"def twin({', '.join(parts)}): pass", namespace)  # noqa: S102  # names come from a signature
    twin: types.FunctionType = namespace["twin"]
    twin.__name__ = twin.__qualname__ = name if name.isidentifier() else "task"
    return twin


def require_arguments(args: object, kwargs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a submission, copied, or say what is wrong with them.

    Raises:
        TypeError: If *args* is neither None nor a tuple or list, or *kwargs* is neither
            None nor a mapping with string keys.
    """
    if args is None:
        args = ()
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            "args must be a tuple or list of positional arguments, not of type "
            f"{type(args).__qualname__}; for one argument write args=(value,)"
        )
    if kwargs is None:
        kwargs = {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(
            "kwargs must be a dict with parameter names as keys, not of type "
            f"{type(kwargs).__qualname__}, or with other keys"
        )
    return tuple(args), dict(kwargs)
