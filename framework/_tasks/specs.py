"""TaskSpec and Schedule: a function as a task, with its options, and when it runs by itself."""

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
"""What is called with a task once it has ended."""

Hooks: TypeAlias = tuple[Hook | None, Hook | None]
"""What is called when a task is COMPLETED, and when it ends in any other way."""


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
        options: All its options, checked; the fields above are those that are read often.
        check: Raises TypeError for arguments that do not fit; None if that is unknown.
        attempts_inside: Whether the function counts its attempts itself (a retry).
        engine_note: The engine's own, see `protocols.TaskFunction`.
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
        """Return a copy with other options, which were checked."""
        options = merged(self.options, changed)
        name = self.name if options["name"] is None else options["name"]
        return TaskSpec(self.fn, name, self.kind, self.check, options)


class Schedule:
    """A function and when to run it; see `scheduled_task` for the fields."""

    __slots__ = ("__weakref__", "every", "jitter", "run_at_start", "spec")

    def __init__(self, spec: TaskSpec, every: float, jitter: float, run_at_start: bool) -> None:
        self.spec = spec
        self.every = every
        self.jitter = jitter
        self.run_at_start = run_at_start


def spec_for(fn: Callable[..., Any], options: CopyOptions = COPY.defaults) -> TaskSpec:
    """Return the spec of a function that was submitted as it is.

    What is known of it is remembered by its code: a lambda or an inner function is a new
    object at each evaluation, its code is not.

    Args:
        fn: The function.
        options: All options of the submission, checked.
    """
    inner = getattr(fn, "__func__", fn)
    if type(inner) is not types.FunctionType or inner.__dict__:
        return TaskSpec(fn, *_found_out(fn), options)
    # The number of defaults belongs to the object and not to the code.
    key = (fn is inner, len(inner.__defaults__ or ()), tuple(inner.__kwdefaults__ or ()))
    by_key = _KNOWN.setdefault(inner.__code__, {})
    known = by_key.get(key)
    if known is None:
        known = by_key[key] = _found_out(fn)
    return TaskSpec(fn, *known, options)


def _found_out(fn: Callable[..., Any]) -> tuple[str, Kind, Check | None]:
    return name_of(fn), kind_of(fn), checker_for(fn)


_KNOWN: weakref.WeakKeyDictionary[types.CodeType, dict[object, tuple[str, Kind, Check | None]]] = (
    weakref.WeakKeyDictionary()
)


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
