"""TaskSpec and Schedule: a task's function with its options, and the times to run one."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, TypeAlias, cast

from framework._records.due import DueTimes
from framework._records.records import Heading, Kind, heading_of
from framework._tasks.functions import Check, checker_for, is_wrapper, kind_of, layer_of, name_of
from framework._tasks.injection import injected
from framework._tasks.options import (
    COPY,
    LOG,
    NORMAL,
    PRIORITIES,
    SCHEDULE,
    CopyOptions,
    ScheduleOptions,
    merged,
)
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
        heading: Name, description, label and meta, for records.
        kind: Where it runs.
        description: A text for people.
        timeout: Time limit in seconds, counted from the start; None for the framework's,
            infinity for no limit.
        delay: Seconds from submission until it may start, 0 or more.
        hooks: The hooks for its end; None if there are none.
        task_id: The id that the user chose, or None.
        after: The ids of the tasks that it waits for.
        level: The place of its priority in `options.PRIORITIES`.
        requeue: Whether another process may run it, if its own one ends or it has none.
        resumes: Whether it goes on from its steps there.
        needs_place: Whether it is unique, or may only run in limited numbers; see `places`.
        special: The names of the options that need more than the ledger and the engine, of those
            that are set. Most tasks have none of them, so the submission reads only this.
        options: All options, checked; the fields above are read often.
        check: Raises TypeError for arguments that do not fit; None if that is unknown.
        attempts_inside: Whether the function is a retry, which counts its attempts itself.
        engine_note: Belongs to the engine, see `protocols.TaskFunction`.
        holds: Whether the function itself holds values, as a closure, a method or a partial
            does; None until that is asked.
    """

    fn: Callable[..., Any]
    name: str
    heading: Heading
    kind: Kind
    check: Check | None
    description: str
    timeout: float | None
    delay: float
    hooks: Hooks | None
    task_id: str | None
    after: tuple[str, ...]
    level: int
    requeue: bool
    resumes: bool
    needs_place: bool
    special: tuple[str, ...]
    options: CopyOptions
    engine_note: Any
    holds: bool | None
    attempts_inside: bool

    __slots__ = tuple(__annotations__)

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
        self.fn = fn
        self.name = name
        label: object = options["label"]
        meta: object = options["meta"]
        self.heading = heading_of(
            name,
            description,
            None,
            label if isinstance(label, str) else None,
            meta if isinstance(meta, str) else None,
        )
        self.kind = kind
        self.check = check
        self.description = description
        # Their checks turn timedeltas into seconds.
        self.timeout = cast("float | None", options["timeout"])
        self.delay = cast(float, options["delay"])
        self.hooks = None if complete is None and error is LOG else _hooks(complete, error)
        self.task_id = options["task_id"]
        # Their check makes a tuple of them.
        self.after = cast("tuple[str, ...]", options["after"] or ())
        self.level = PRIORITIES.index(options["priority"])
        self.resumes = options["on_restart"] == "resume"
        self.requeue = options["on_restart"] != "interrupt" or options["session"] is not None
        # A submission of a plain function makes a spec, most often without any option.
        self.needs_place = options is not COPY.defaults and _needs_place(name, options)
        special = []
        if self.delay:
            special.append("delay")
        if self.after or options["after_failure"] != "cancel":
            _require_fit(name, options)
            special.append("after")
        if self.hooks:
            special.append("on_complete")
        if self.task_id:
            special.append("task_id")
        if self.level != NORMAL:
            special.append("priority")
        if self.requeue:
            special.append("on_restart" if options["session"] is None else "session")
        if self.needs_place:
            special += [one for one in ("unique", "max_running") if options[one]]
        if options["owner"]:
            special.append("owner")
        special += [one for one in ("label", "meta") if callable(options[one])]
        if options["show_arguments"]:
            special.append("show_arguments")
        self.special = tuple(special) if special else ()
        self.options = options
        self.engine_note = None
        self.holds = None
        self.attempts_inside = layer_of(fn) == "retry_task" and not is_wrapper(fn)

    @property
    def idempotent(self) -> bool:
        """Whether it may run again after it has started."""
        # Of one that goes on, its steps say what is not to run twice.
        return self.resumes or self.options["idempotent"]

    @property
    def priority(self) -> str:
        """Which task starts first if several wait: high, normal or low."""
        return PRIORITIES[self.level]

    def require_kept(self) -> None:
        """Refuse a task that other processes may run, and whose arguments are not kept.

        Raises:
            ValueError: If the options ask for both.
        """
        if self.requeue and not self.options["keep_arguments"]:
            given = self.options
            why = f"on_restart={given['on_restart']!r}" if given["session"] is None else "session"
            raise ValueError(
                f"keep_arguments must be True with {why}, not False: another process cannot run "
                "the task without its arguments"
            )

    def changed_from(self, known: TaskSpec) -> dict[str, Any]:  # Any: options in JSON
        """Return the options that differ from those of *known*, and that JSON can express.

        Without those that belong to a single task, or are parts of its record.
        """
        own: dict[str, Any] = dict(known.options)
        return {
            name: value
            for name, value in self.options.items()
            if name not in _OF_ONE_TASK
            and isinstance(value, (str, int, float))
            and value != own.get(name)
        }

    def replace(self, changed: Mapping[str, object]) -> TaskSpec:
        """Return a copy with *changed* options, which must be checked already."""
        options = merged(self.options, changed)
        name = self.name if options["name"] is None else options["name"]
        return TaskSpec(self.fn, name, self.kind, self.check, options)


_OF_ONE_TASK: Final = frozenset(
    {
        "task_id",
        "delay",
        "name",
        "description",
        "label",
        "meta",
        "show_arguments",
        "after",
        "after_failure",
    }
)


def _hooks(complete: Hook | None, error: Hook | str | None) -> Hooks | None:
    """Return the hooks of a task; None if neither option is a function."""
    called = error if callable(error) else None
    return None if complete is None and called is None else (complete, called)


def _require_fit(name: str, options: CopyOptions) -> None:
    """Refuse what makes no sense of a task that waits for others.

    Raises:
        TypeError: If it waits for none.
        ValueError: If it waits for itself.
    """
    after = options["after"]
    if not after:
        raise TypeError(
            f"{name}: 'after_failure' has no effect without 'after', the tasks that it waits for"
        )
    if options["task_id"] in after:
        raise ValueError(f"{name}: a task cannot wait for itself: after has its own task_id")


def _needs_place(name: str, options: CopyOptions) -> bool:
    """Return whether *options* ask for places.

    Raises:
        TypeError: If one of them has no effect without another.
    """
    limited = options["max_running"] is not None
    if options["key"] is not None and not limited:
        raise TypeError(
            f"{name}: 'key' has no effect without 'max_running', the number of tasks that may run "
            "for each key; for one task of each key that may exist, use unique=<function>"
        )
    if options["on_duplicate"] != "return" and not options["unique"]:
        raise TypeError(
            f"{name}: 'on_duplicate' has no effect without 'unique': add unique=True, or a "
            "function that makes a key of the arguments"
        )
    return bool(options["unique"]) or limited


@dataclass(slots=True, weakref_slot=True, eq=False)
class Schedule:
    """A function and the times to run it.

    Attributes:
        spec: The function.
        times: When it is due.
        options: All options of `scheduled_task`, checked.
        takes_due: Whether the function has a parameter for the due time.
    """

    spec: TaskSpec
    times: DueTimes
    options: ScheduleOptions = field(default_factory=lambda: SCHEDULE.defaults)
    _: KW_ONLY
    takes_due: bool = False


def spec_for(fn: Callable[..., Any], options: CopyOptions = COPY.defaults) -> TaskSpec:
    """Return the spec of a function that is submitted without a decorator.

    What takes long to find out is found out once, where `_place_of` knows a place for it.

    Args:
        fn: The function.
        options: All options of the submission, checked.
    """
    place = _place_of(fn)
    if place is None:
        fn = injected(fn)
        return TaskSpec(fn, *_inspect(fn), options)
    owner, key = place
    by_key = _INSPECTED.get(owner)
    if by_key is None:
        by_key = _INSPECTED.setdefault(owner, {})
    inspected = by_key.get(key)
    if inspected is None:
        run = injected(fn)
        if run is not fn:
            # Functions with the same code may have different dependencies: nothing is cached here.
            return spec_for(run, options)
        inspected = by_key[key] = _inspect(fn)
    return TaskSpec(fn, *inspected, options)


def _inspect(fn: Callable[..., Any]) -> tuple[str, Kind, Check | None]:
    return name_of(fn), kind_of(fn), checker_for(fn)


def _place_of(fn: Any) -> tuple[Any, tuple[object, ...]] | None:  # Any: a callable of any type
    """Return what the name, kind and check of *fn* are cached with, and a key for them.

    A lambda, a method, a partial or a callable object is often a new object each time. So they
    are cached with its code, or with the class of a builtin method. None if attributes of the
    object may change what is found out.
    """
    kind = type(fn)
    if kind is types.FunctionType:
        # Attributes such as __wrapped__ or __signature__ belong to this very function.
        if fn.__dict__:
            return fn, ()
        # Functions with the same code may differ in these.
        return fn.__code__, (len(fn.__defaults__ or ()), *(fn.__kwdefaults__ or ()))
    if kind is types.MethodType:
        return _inside("method", fn.__func__)
    if kind is functools.partial:
        given = tuple(value is _PLACEHOLDER for value in fn.args)
        return None if fn.__dict__ else _inside(("partial", given, *fn.keywords), fn.func)
    if kind is types.BuiltinFunctionType:
        owner = fn.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            return fn, ()
        return owner if isinstance(owner, type) else type(owner), (fn.__name__,)
    if kind in (types.MethodDescriptorType, types.WrapperDescriptorType):
        return fn.__objclass__, ("descriptor", fn.__name__)
    call = getattr(kind, "__call__", None)  # noqa: B004  # asks for its kind
    if type(call) is types.FunctionType and not any(hasattr(fn, name) for name in _TELLING):
        return _inside(("object", kind.__module__, kind.__qualname__), call)
    return None


def _inside(how: object, inner: object) -> tuple[Any, tuple[object, ...]] | None:
    """Return the place of what calls *inner* in some way."""
    place = _place_of(inner)
    return None if place is None else (place[0], (how, *place[1]))


_TELLING: Final = (
    "__code__",
    "__name__",
    "__qualname__",
    "__signature__",
    "__wrapped__",
    "_is_coroutine_marker",
)
"""Attributes of a callable object that change its name, its kind or its signature."""

_PLACEHOLDER: Final = getattr(functools, "Placeholder", object())
"""Stands in a partial for an argument of the call, from Python 3.14 on."""

_INSPECTED: Final[
    weakref.WeakKeyDictionary[Any, dict[tuple[object, ...], tuple[str, Kind, Check | None]]]
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
