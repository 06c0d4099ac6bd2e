"""The options of tasks, submissions, retries and throttles: each one is declared here alone.

A key of a TypedDict below is an option. Type checkers and editors see it through ``Unpack``.
Beside its type stand the meaning, the check and the default, see `Option`, which decorators,
``.options()``, ``submit``, their signatures and their docstrings take from there. Code that acts
on an option reads it from the ``options`` of a `RetryPolicy`, `ThrottlePolicy` or `TaskSpec`,
where every key is present.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import datetime, time, timedelta, tzinfo
from functools import partial
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypedDict, TypeVar, cast

from framework._records import chains, checks, due
from framework._records.about.meta import Meta, meta_text
from framework._records.jsonsafe import LONGEST_TEXT, cut
from framework._tasks.functions import one_line
from framework._tasks.task import Task

D = TypeVar("D")  # one of the TypedDicts
F = TypeVar("F", bound=Callable[..., Any])


Check = Callable[[str, Any], Any]
"""Called with an option's name and value; returns the value to use, or raises TypeError or
ValueError."""


class Default(NamedTuple):
    """An option's value where none is given; ``Parameter.empty`` if one must be given."""

    value: Any


class Option:
    """What an annotation says of an option.

    Args:
        kind: Its type.
        meaning: A sentence for docstrings, with unit and range.
        more: Its check, unless its type is a bool or a literal, which says all; and its default,
            unless that is None.
    """

    def __init__(self, kind: Any, meaning: str, *more: Check | Default) -> None:
        self.kind = kind
        self.meaning = meaning
        texts = typing.get_args(kind)
        self.check: Check = checks.flag if kind is bool else partial(checks.choice, allowed=texts)
        self.default: Any = None
        for one in more:
            if isinstance(one, Default):
                self.default = one.value
            else:
                self.check = one


def _name(name: str, value: object) -> str:
    return one_line(checks.text(name, value))


def _description(name: str, value: object) -> str:
    return cut(checks.text(name, value), LONGEST_TEXT)


_JOINERS: Final = "\u200c\u200d\u200e\u200f"
"""What emoji and Persian words are joined by, and marks of direction that turn no other text."""


def label_text(text: str) -> str | None:
    """Return a text as the label of a task: in one line, and cut; None for "" and blanks."""
    # Cut first as well, since it may be a megabyte.
    words = " ".join(text[: 10 * LONGEST_LABEL].split())
    return one_line(cut(words, LONGEST_LABEL), kept=_JOINERS) or None


def _label(name: str, value: object) -> object:
    if callable(value):
        return checks.function(name, value, of="the call's arguments")
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be a string, a function of the call's arguments or None, not "
            f"{checks.show(value)}"
        )
    return label_text(value)


def _meta(name: str, value: object) -> object:
    if callable(value):
        return checks.function(name, value, of="the call's arguments")
    return meta_text(name, value)


def _shown(name: str, value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise TypeError(
        f"{name} must be True, False or a tuple of names of parameters, not {checks.show(value)}"
    )


def _hook(name: str, value: object) -> object:
    return value if callable(value) else checks.function(name, value, of="the task")


LONGEST_LABEL: Final = 200
"""How many characters a label has at most."""

PRIORITIES: Final = ("high", "normal", "low")
"""The priorities, highest first."""

NORMAL: Final = PRIORITIES.index("normal")
"""The place of the default."""


LOG: Final = "log"
SILENT: Final = "silent"


def _on_error(name: str, value: object) -> object:
    if callable(value):
        return value
    # These very objects, so that whoever reads the option compares no texts.
    for word in (LOG, SILENT):
        if isinstance(value, str) and value == word:
            return word
    raise (ValueError if isinstance(value, str) else TypeError)(
        f"{name} must be a function of the task, 'log' or 'silent', not {checks.show(value)}"
    )


def _session(name: str, value: object) -> object:
    # Its library is not imported for that; the store knows the rest. All have this; engines,
    # makers of sessions and connections of a driver, which people may give instead, do not.
    if not hasattr(value, "scalars"):
        raise TypeError(
            f"{name} must be a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy, "
            f"not {checks.show(value)}"
        )
    return value


def _unique(name: str, value: object) -> object:
    if callable(value):
        return checks.function(name, value, of="the call's arguments")
    if not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True, False or a function of the call's arguments, not "
            f"{checks.show(value)}"
        )
    return value


class RunOptions(TypedDict, total=False):
    """Options of every task, however it is submitted. None is as if left out."""

    timeout: Annotated[
        float | timedelta | None,
        "Time limit in seconds or as a timedelta, above 0, from the start of the task, "
        "including retries; None for the framework's, infinity for no limit.",
        checks.limit,
    ]
    description: Annotated[
        str | None,
        "A text for people; cut at 2,000 characters.",
        checks.optional(_description),
        Default(""),
    ]
    label: Annotated[
        str | Callable[..., str | None] | None,
        'What the task is about, such as ``"order 7"``, to find it by: a text in one line, cut at '
        "200 characters, and the same for all calls, also with ``{}`` in it; or a function of the "
        "arguments that returns one, or None. It goes into lists, logs and traces. If the "
        "function raises an error, the task is not submitted.",
        checks.optional(_label),
    ]
    meta: Annotated[
        Meta | Callable[..., Meta | None] | None,
        'Columns of your own, such as ``{"tenant_id": 7}``: a mapping of up to 20 names to '
        "strings, numbers, bools or None, a model of pydantic, a dataclass, or a function of the "
        "arguments that returns one, or None; at most 2,000 bytes of JSON. It is stored with the "
        "task, and shown with it. If the function raises an error, the task is not submitted.",
        checks.optional(_meta),
    ]
    show_arguments: Annotated[
        bool | tuple[str, ...] | list[str] | None,
        "Whether everybody who sees the task sees its arguments, or those of some parameters, as "
        "they are at the submission: as JSON, cut, with secrets of pydantic masked, and without "
        "what ``Depends`` provides. None for what the framework says.",
        checks.optional(_shown),
    ]
    priority: Annotated[
        Literal["high", "normal", "low"],
        '``"high"``, ``"normal"`` or ``"low"``: which task starts first if several wait for a '
        "thread. A waiting task lets at most ten of higher priority start before the first "
        "of its own. On the event loop, tasks do not wait, so it changes nothing there.",
        Default("normal"),
    ]
    on_error: Annotated[
        Callable[[Task], object] | Literal["log", "silent"] | None,
        '``"log"`` to log it at ERROR if the task ends FAILED or TIMEOUT and nobody waits '
        'for it, ``"silent"`` to log nothing, or a function. It is called like *on_complete* '
        "when the task ends with any status but COMPLETED; if it does not read "
        "``task.error``, the failure is logged after that.",
        checks.optional(_on_error),
        Default(LOG),
    ]

    keep_arguments: Annotated[
        bool,
        "Whether the arguments may be kept after the task has ended without a result, so that "
        "it can run again; False for secrets, and for what takes much memory.",
        Default(True),
    ]
    check_arguments: Annotated[
        bool,
        "Whether to refuse arguments that are closed with the request, such as an upload or "
        "a database session of a dependency; False if you know that they outlive it.",
        Default(True),
    ]


class PlaceOptions(TypedDict, total=False):
    """Options that say how many tasks of a function may exist or run at a time."""

    unique: Annotated[
        bool | Callable[..., Hashable],
        "True to allow one pending or running task for the same arguments and owner. Or a "
        "function of the arguments, to allow one for each value that it returns, for all "
        "owners together.",
        _unique,
        Default(False),
    ]
    on_duplicate: Annotated[
        Literal["return", "raise", "replace"],
        'What to do if there is one: ``"return"`` its id, ``"raise"`` `DuplicateTaskError`, or '
        '``"replace"`` it, which cancels it and starts the new task when it has ended.',
        Default("return"),
    ]
    max_running: Annotated[
        int | None,
        "How many tasks of the function may run at a time, 1 or more; the others stay PENDING. "
        "None for no limit.",
        checks.optional(partial(checks.integer, at_least=1)),
    ]
    key: Annotated[
        Callable[..., Hashable] | None,
        "A function of the arguments: *max_running* applies to each of its values separately. "
        "None to count all tasks of the function together.",
        partial(checks.function, of="the call's arguments"),
    ]


class NameOptions(TypedDict, total=False):
    """Options that belong to a function and not to one submission."""

    name: Annotated[
        str | None,
        "The name of the task; None for the function's module and qualified name.",
        checks.optional(_name),
    ]


class RestartOptions(TypedDict, total=False):
    """Options for what happens to a task whose process ends before the task does."""

    on_restart: Annotated[
        Literal["interrupt", "requeue", "resume"],
        'What becomes of a task that waits when its process ends: ``"interrupt"`` ends it '
        'INTERRUPTED or CANCELLED; ``"requeue"`` lets another process run it, with its '
        "arguments as JSON, if they share a store such as `SQLStore`; "
        '``"resume"`` does so also with one that was running, which goes on after the last of '
        "its steps that has ended.",
        Default("interrupt"),
    ]
    idempotent: Annotated[
        bool,
        'With ``on_restart="requeue"``: whether a task that was running when its process '
        "ended may run again, from its beginning. Otherwise it ends INTERRUPTED.",
        Default(False),
    ]


class OnceOptions(TypedDict, total=False):
    """Options that belong to single tasks more than to a function."""

    delay: Annotated[
        float | timedelta,
        "Start the task after this many seconds, 0 or more, or after a timedelta.",
        partial(checks.seconds, at_least=0),
        Default(0.0),
    ]
    after: Annotated[
        str | Collection[str] | None,
        "The id of a task, or a list of up to 1,000: the task starts once all of these have ended, "
        "and as if it was submitted then. None or an empty list to wait for none.",
        checks.optional(chains.task_ids),
    ]
    after_failure: Annotated[
        Literal["cancel", "run"],
        'With *after*: ``"cancel"`` to cancel the task if one of those does not end COMPLETED, '
        '``"run"`` to start it all the same.',
        Default("cancel"),
    ]
    task_id: Annotated[
        str | None,
        "Your own id, which must not be in use: 1 to 200 printable characters without a "
        "slash; None for a random id.",
        checks.optional(checks.task_id),
    ]
    owner: Annotated[
        str | None,
        "Whom the task belongs to, 1 to 255 printable characters; None for the owner of the "
        "task that submits it, or else of the request.",
        checks.owner,
    ]
    session: Annotated[
        object | None,
        "A Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy on the database of "
        "the store: the task is there if its transaction commits, and starts after that. None to "
        "submit at once.",
        checks.optional(_session),
    ]
    on_complete: Annotated[
        Callable[[Task], object] | None,
        "Called with the task when it is COMPLETED, on the thread or event loop that completed "
        "it, or on a separate thread if that was in another process. If it raises, the error "
        "is logged.",
        _hook,
    ]


class TaskOptions(RunOptions, NameOptions, PlaceOptions, total=False):
    """Options of `async_task`."""


class BackgroundOptions(TaskOptions, RestartOptions, total=False):
    """Options of `background_task`."""


class SubmitOptions(RunOptions, OnceOptions, PlaceOptions, total=False):
    """Options of `TaskManager.submit` and `TaskManager.submit_nowait`."""


class CopyOptions(RunOptions, NameOptions, RestartOptions, OnceOptions, PlaceOptions, total=False):
    """Options of a task's ``.options()``: all that a task has."""


class ThrottleOptions(TypedDict, total=False):
    """Options of `throttled_task`."""

    rate_limit: Annotated[
        int,
        "How many calls a window allows, 1 or more.",
        partial(checks.integer, at_least=1),
        Default(inspect.Parameter.empty),
    ]
    time_window: Annotated[
        float | timedelta,
        "Length of the window in seconds or as a timedelta, above 0.",
        partial(checks.seconds, above=0),
        Default(60.0),
    ]
    when_limited: Annotated[
        Literal["raise", "wait"],
        '``"raise"`` to raise `RateLimitExceededError`, ``"wait"`` to wait, first come, first '
        "served. A sync function that is called on an event loop's thread cannot wait, and "
        "raises. Waiting does not count towards a task's time limit.",
        Default("raise"),
    ]
    key: Annotated[
        Callable[..., Hashable] | None,
        "Called with the arguments of the call; calls with different keys are counted "
        "separately. None to count all calls together.",
        partial(checks.function, of="the call's arguments"),
    ]
    shared: Annotated[
        bool,
        "Whether to count the calls of all processes together if they share a store such as "
        "`SQLStore`. A sync function that is called on an event loop's thread raises "
        "``RuntimeError`` then. Without such a store each process counts its own calls.",
        Default(True),
    ]


class RetryOptions(TypedDict, total=False):
    """Options of `retry_task`."""

    max_retries: Annotated[
        int,
        "Attempts after the first one, 0 or more.",
        partial(checks.integer, at_least=0),
        Default(3),
    ]
    retry_delay: Annotated[
        float | timedelta,
        "Seconds before the first retry, 0 or more, or a timedelta.",
        partial(checks.seconds, at_least=0),
        Default(1.0),
    ]
    backoff: Annotated[
        float,
        "Factor from one delay to the next, 1 or more.",
        partial(checks.number, at_least=1),
        Default(1.0),
    ]
    max_delay: Annotated[
        float | timedelta | None,
        "Longest delay in seconds or as a timedelta, 0 or more; None for 1e9.",
        checks.optional(partial(checks.seconds, at_least=0)),
    ]
    jitter: Annotated[
        float,
        "Change each delay at random by up to this fraction, up or down, 0.0 to 1.0.",
        partial(checks.number, at_least=0, at_most=1),
        Default(0.0),
    ]
    exceptions: Annotated[
        type[BaseException] | tuple[type[BaseException], ...] | list[type[BaseException]],
        "Which errors to retry: a class, or a tuple or list of classes, not empty.",
        checks.exception_types,
        Default(Exception),
    ]


class ScheduleOptions(RunOptions, NameOptions, RestartOptions, total=False):
    """Options of `scheduled_task`. None is as if left out."""

    cron: Annotated[
        str | None,
        "Five fields, minute, hour, day of month, month and day of week, like "
        '``"0 3 * * *"`` for 03:00 each day.',
        checks.optional(checks.text),
    ]
    at: Annotated[
        str | time | datetime | None,
        'A time of day, like ``"03:00"`` or a `datetime.time`; or a `datetime` with a time '
        "zone for a single run.",
        checks.optional(due.time_or_moment),
    ]
    tz: Annotated[
        str | tzinfo | None,
        "The time zone of *cron* or of a time of day, by name or as a `tzinfo`; None for UTC.",
        checks.optional(due.zone),
    ]
    missed: Annotated[
        Literal["skip", "once", "all"],
        "What to do about due times that passed while nothing could run: "
        '``"skip"`` to leave them out, ``"once"`` for one run that stands for all of them, '
        '``"all"`` for one run for each of the latest 100, one after the other.',
        Default("once"),
    ]
    jitter: Annotated[
        float,
        "Delay each run at random by up to this fraction of *every*, 0.0 to 1.0.",
        partial(checks.number, at_least=0, at_most=1),
        Default(0.0),
    ]
    run_at_start: Annotated[
        bool,
        "Whether to run it at the start too. If processes share the schedule: whether to run "
        "it at the start if it has never run, or has missed a run.",
        Default(False),
    ]
    each_process: Annotated[
        bool,
        "Whether each process has runs of its own, also if they share a store or an engine.",
        Default(False),
    ]


class OptionList(Generic[D]):
    """The options that one TypedDict declares, as code uses them.

    Args:
        declared: The TypedDict.
        drops_none: Whether None is as if an option was left out.

    Attributes:
        options: Each option by its name.
        drops_none: As above.
        defaults: The value of each where none is given.
        copying: The signature of an ``.options()``, which keeps what is left out.
    """

    def __init__(self, declared: type[D], *, drops_none: bool = False) -> None:
        hints = typing.get_type_hints(declared, include_extras=True)
        self.options = {
            name: Option(hint.__origin__, *hint.__metadata__) for name, hint in hints.items()
        }
        self.drops_none = drops_none
        self._checks = {name: one.check for name, one in self.options.items()}
        self.defaults = cast(D, {name: one.default for name, one in self.options.items()})
        self.copying = inspect.Signature(self._parameters(copying=True))

    def checked(self, caller: str, given: Mapping[str, object], hint: str = "") -> D:
        """Return *given* with each value as its check returns it.

        Args:
            caller: What the options were given to, for the message.
            given: The options, by name.
            hint: What else to say of a name that is no option.

        Raises:
            TypeError: If a name is no option, or a value is of the wrong type.
            ValueError: If a value is out of range.
        """
        checks, checked = self._checks, {}
        for name, value in given.items():
            if name not in checks:
                raise self._unknown(caller, given, hint)
            good = checks[name](name, value)
            if good is not None or not self.drops_none:
                checked[name] = good
        return cast(D, checked)

    def complete(self, given: D) -> D:
        """Return *given* with the defaults of all that it lacks."""
        return merged(self.defaults, cast(Mapping[str, object], given))

    def _unknown(self, caller: str, given: Mapping[str, object], hint: str) -> TypeError:
        unknown = [repr(name) for name in given if name not in self.options]
        return TypeError(
            f"{caller}() got an unexpected keyword argument {', '.join(unknown)}; its options "
            f"are {', '.join(self.options)}{hint}"
        )

    def spelled_out_in_copies(self, function: F) -> F:
        """Do as `spelled_out` does for an ``.options()``, which keeps what is left out."""
        return self.spelled_out(function, copying=True)

    def spelled_out(self, function: F, *, copying: bool = False) -> F:
        """Put the options in place of ``**options``: in the signature and the docstring."""
        own = inspect.signature(function)
        others = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        signature = own.replace(parameters=[*others, *self._parameters(copying=copying)])
        function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for
        if function.__doc__ is not None:  # python -OO leaves it out
            function.__doc__ = _OPTIONS_LINE.sub(self._meanings, function.__doc__)
        return function

    def _parameters(self, *, copying: bool) -> list[inspect.Parameter]:
        return [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_KEPT if copying else one.default,
                annotation=one.kind,
            )
            for name, one in self.options.items()
        ]

    def _meanings(self, line: re.Match[str]) -> str:
        indent = line["indent"]
        return "\n".join(
            textwrap.fill(
                f"{name}: {one.meaning}",
                width=92,
                initial_indent=indent,
                subsequent_indent=f"{indent}    ",
            )
            for name, one in self.options.items()
        )


def merged(options: D, changed: Mapping[str, object]) -> D:
    """Return *options* with those of *changed* in their place."""
    return {**options, **changed}  # type: ignore[dict-item, return-value]  # D is a TypedDict


class _Kept:
    """Stands in a signature for the value that a function has already."""

    def __repr__(self) -> str:
        return "..."


_KEPT: Final = _Kept()

_OPTIONS_LINE: Final = re.compile(r"^(?P<indent> *)\*\*options: .*$", re.MULTILINE)

TASK: Final = OptionList(TaskOptions, drops_none=True)
BACKGROUND: Final = OptionList(BackgroundOptions, drops_none=True)
MAP: Final = OptionList(RunOptions, drops_none=True)
SUBMIT: Final = OptionList(SubmitOptions, drops_none=True)
COPY: Final = OptionList(CopyOptions, drops_none=True)
THROTTLE: Final = OptionList(ThrottleOptions)
RETRY: Final = OptionList(RetryOptions)
SCHEDULE: Final = OptionList(ScheduleOptions, drops_none=True)
