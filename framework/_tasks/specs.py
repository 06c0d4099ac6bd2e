"""TaskSpec and Schedule: a task's function with its options, and the times to run one."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from framework._tasks.functions import Check, checker_for, is_wrapper, kind_of, layer_of, name_of
from framework._tasks.options import COPY, CopyOptions, merged
from framework._tasks.records import Kind, Label, label_of
from framework._tasks.task import Task

Hook: TypeAlias = Callable[[Task], object]
"""A function that is called with a task when it has ended."""

Hooks: TypeAlias = tuple[Hook | None, Hook | None]
"""The hooks for a task that is COMPLETED, and for one that ends in another way."""


class TaskSpec:
    """A task's function and options: all that is known before it is called.

    Attributes:
        fn: The function to run, with its retry and throttle decorators.
        name: The name in records and logs.
        label: Name and description, for records.
        kind: Where it runs.
        description: A text for people.
        timeout: Time limit in seconds, counted from the start; None for the framework's,
            infinity for no limit.
        delay: Seconds from submission until it may start, 0 or more.
        hooks: The hooks for its end; None if there are none.
        task_id: The id that the user chose, or None.
        special: Whether delay, hooks or id are set. Most tasks have none of them, so the
            submission reads only this.
        options: All options, checked; the fields above are read often.
        check: Raises TypeError for arguments that do not fit; None if that is unknown.
        attempts_inside: Whether the function is a retry, which counts its attempts itself.
        engine_note: Belongs to the engine, see `protocols.TaskFunction`.
    """

    __slots__ = (
        "attempts_inside",
        "check",
        "delay",
        "description",
        "engine_note",
        "fn",
        "hooks",
        "kind",
        "label",
        "name",
        "options",
        "special",
        "task_id",
        "timeout",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        kind: Kind,
        check: Check | None,
        options: CopyOptions = COPY.defaults,
    ) -> None:
        description = options["description"] or ""
        complete, error = options["on_complete"], options["on_error"]
        self.fn: Callable[..., Any] = fn
        self.name: str = name
        self.label: Label = label_of(name, description)
        self.kind: Kind = kind
        self.check: Check | None = check
        self.description: str = description
        self.timeout: float | None = options["timeout"]
        self.delay: float = options["delay"]
        self.hooks: Hooks | None = None if complete is None and error is None else (complete, error)
        self.task_id: str | None = options["task_id"]
        self.special: bool = bool(self.delay or self.hooks or self.task_id)
        self.options: CopyOptions = options
        self.engine_note: Any = None
        self.attempts_inside: bool = layer_of(fn) == "retry_task" and not is_wrapper(fn)

    def replace(self, changed: Mapping[str, object]) -> TaskSpec:
        """Return a copy with *changed* options, which must be checked already."""
        options = merged(self.options, changed)
        name = self.name if options["name"] is None else options["name"]
        return TaskSpec(self.fn, name, self.kind, self.check, options)


class Schedule:
    """A function and the times to run it; see `scheduled_task` for the fields."""

    __slots__ = ("__weakref__", "every", "jitter", "run_at_start", "spec")

    def __init__(self, spec: TaskSpec, every: float, jitter: float, run_at_start: bool) -> None:
        self.spec = spec
        self.every = every
        self.jitter = jitter
        self.run_at_start = run_at_start


def spec_for(fn: Callable[..., Any], options: CopyOptions = COPY.defaults) -> TaskSpec:
    """Return the spec of a function that is submitted without a decorator.

    Its name, kind and check are cached by its code: a lambda or an inner function is a new
    object each time it is evaluated, but its code is the same.

    Args:
        fn: The function.
        options: All options of the submission, checked.
    """
    inner = getattr(fn, "__func__", fn)
    # Attributes may change what is found out, such as __wrapped__ or __signature__.
    if type(inner) is not types.FunctionType or inner.__dict__:
        return TaskSpec(fn, *_inspect(fn), options)
    # Functions with the same code may differ in these.
    key = (fn is inner, len(inner.__defaults__ or ()), tuple(inner.__kwdefaults__ or ()))
    by_key = _INSPECTED.setdefault(inner.__code__, {})
    inspected = by_key.get(key)
    if inspected is None:
        inspected = by_key[key] = _inspect(fn)
    return TaskSpec(fn, *inspected, options)


def _inspect(fn: Callable[..., Any]) -> tuple[str, Kind, Check | None]:
    return name_of(fn), kind_of(fn), checker_for(fn)


_INSPECTED: weakref.WeakKeyDictionary[
    types.CodeType, dict[object, tuple[str, Kind, Check | None]]
] = weakref.WeakKeyDictionary()


def require_arguments(args: object, kwargs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return copies of the arguments of a submission, if they are of the right types.

    Raises:
        TypeError: If *args* is neither None nor a tuple or list, or *kwargs* is neither
            None nor a mapping with string keys.
    """
    if args is None:
        args = ()
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            "args must be a tuple or list of positional arguments, not of type "
            f"{type(args).__qualname__}; for one argument use args=(value,)"
        )
    if kwargs is None:
        kwargs = {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(
            "kwargs must be a dict with parameter names as keys, not of type "
            f"{type(kwargs).__qualname__} or with other keys"
        )
    return tuple(args), dict(kwargs)
