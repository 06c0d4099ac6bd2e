"""The message to a worker: one JSON object for each delivery, checked when it arrives."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

from framework._tasks import registry
from framework._tasks.functions import name_of, signature_of
from framework._tasks.specs import TaskSpec, spec_for
from framework.exceptions import TaskTimeoutError
from framework.protocols import TaskFunction

VERSION: Final = 1
"""The version of the message format; a worker refuses any other."""


KEEP: Final = 65_536
"""How many bytes of arguments are kept, if nothing else is said."""


class MessageError(ValueError):
    """The message is not one of ours."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a task.

    Attributes:
        task_id: The task.
        fn: Name that the function is registered by.
        name: Name of the task, as records show it.
        about: Its description.
        call: Its arguments, as `wire.encode_call` gives them.
        created: When it was submitted, wall seconds since the epoch.
        limit: Seconds that it may run in total; None for no limit.
        left: The remaining seconds of it.
        seq: Number of the delivery, from 0 on; messages of earlier ones are stale.
        attempt: Number of earlier attempts of the retry, 0 or more.
        waited: Whether it continues after a throttle's wait, in the same attempt.
        turn: Key of the throttle's window that it waits for; "" for none.
        due: Wall second at which it may continue; 0.0 for immediately.
        signature: What `signature_hash` gave where it was submitted.
        namespace: Of the app whose task it is; "" in messages of earlier releases.
        carried: What tracers carry from the submission to the worker, as text; {} in messages
            of earlier releases.
        keep: How many bytes `call` may have to be kept if the task ends without a result; 0
            for none, `KEEP` in messages of earlier releases.
        level: The place of its priority in `options.PRIORITIES`; None if no task has one.
        run_again_of: The task that it repeats; "" for none, and in messages of earlier releases.
        owner: Whom the task belongs to; "" for nobody, and in messages of earlier releases.
        label: What it is about; "" for nothing, and in messages of earlier releases.
        meta: The columns of the app's own, as JSON; "" likewise.
        shown: The arguments as people see them, as JSON; "" likewise.
        version: `VERSION`.
    """

    task_id: str
    fn: str
    name: str
    about: str
    call: str
    created: float
    limit: float | None
    left: float | None
    seq: int = 0
    attempt: int = 0
    waited: bool = False
    turn: str = ""
    due: float = 0.0
    signature: str = ""
    namespace: str = ""
    carried: dict[str, str] = field(default_factory=dict)
    keep: int = KEEP
    level: int | None = None
    run_again_of: str = ""
    owner: str = ""
    label: str = ""
    meta: str = ""
    shown: str = ""
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON.

        Later fields are left out if they say nothing: a worker of an earlier release, which does
        not know them, refuses them.
        """
        # Not `asdict`, which copies each value on its own.
        found = ((name, getattr(self, name)) for name in _TYPES)
        return {name: value for name, value in found if _LATER.get(name, _NEVER) != value}

    def timeout_error(self) -> TaskTimeoutError:
        """Return the error of the task if it reaches its limit."""
        return TaskTimeoutError(self.task_id, self.name, self.limit or 0.0)

    @classmethod
    def from_json(cls, given: object) -> Self:
        """Return the message in a JSON object, checked.

        Raises:
            MessageError: If it is not a message of this version, each field of its type.
        """
        # A message of an earlier release may wait at the broker while workers are upgraded.
        facts = {"namespace": "", **_LATER, **given} if isinstance(given, dict) else {}
        if facts.keys() != _TYPES.keys():
            raise MessageError("the message must be an object with the fields of a task message")
        for name, types in _TYPES.items():
            value = facts[name]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise MessageError(f"the field {name!r} of the message is of the wrong type")
        if facts["version"] != VERSION:
            raise MessageError(f"the message's version must be {VERSION}; update the older side")
        if not facts["task_id"] or len(facts["task_id"]) > _LONGEST_ID:
            raise MessageError("the message's task id must have 1 to 512 characters")
        return cls(**facts)


_LATER: Final[dict[str, Any]] = {
    "carried": {},
    "keep": KEEP,
    "level": None,
    "run_again_of": "",
    "owner": "",
    "label": "",
    "meta": "",
    "shown": "",
}
"""Fields that messages of earlier releases lack, and what they are then."""

_NEVER: Final = object()

_LONGEST_ID = 512
_NAMED: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "float": (float, int),
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "dict[str, str]": (dict,),
    "float | None": (float, int, type(None)),
}
_TYPES: Final = {one.name: _NAMED[str(one.type)] for one in fields(Message)}


class Functions:
    """The functions that a message may name: decorated ones, and those of the engine.

    Args:
        plain: Functions without a decorator that may be submitted.
    """

    def __init__(self, plain: Iterable[Callable[..., Any]]) -> None:
        self._plain = {name_of(fn): spec_for(fn) for fn in plain}

    def spec(self, name: str) -> TaskSpec | None:
        """Return the function registered by *name*, or None; imports nothing."""
        return registry.task_spec(registry.find_function(name)) or self._plain.get(name)

    def name_of(self, spec: TaskFunction) -> str | None:
        """Return the name by which a worker finds the function of *spec*, or None."""
        for name in (name_of(spec.fn), spec.name):
            known = self.spec(name)
            if known is not None and known.fn is spec.fn:
                return name
        return None

    def specs(self) -> dict[str, TaskSpec]:
        """Return all registered functions by name."""
        found = {name: self.spec(name) for name in {*registry.names(), *self._plain}}
        return {name: spec for name, spec in found.items() if spec is not None}

    def signatures(self) -> dict[str, str]:
        """Return the `signature_hash` of every function by its name."""
        return {name: signature_hash(spec.fn) for name, spec in self.specs().items()}


def signature_hash(fn: Callable[..., Any]) -> str:
    """Return 16 hexadecimal digits that change with parameters and annotations."""
    signature = signature_of(fn)
    text = "?" if signature is None else _as_text(signature)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(signature: inspect.Signature) -> str:
    parameters = [
        f"{one.kind.name} {one.name}: {_annotation(one.annotation)}"
        f"{'' if one.default is one.empty else ' ='}"
        for one in signature.parameters.values()
    ]
    return f"({', '.join(parameters)}) -> {_annotation(signature.return_annotation)}"


def _annotation(annotation: Any) -> str:  # Any: annotations are anything
    if annotation is inspect.Signature.empty:
        return ""
    # The same text whether or not the module has postponed annotations.
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
