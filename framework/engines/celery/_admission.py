"""Admission: which tasks workers can run, and the message of each one that is admitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from framework._records.records import TaskRecord
from framework._tasks import registry
from framework._tasks.options import NORMAL
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import FunctionCodec, codec_of
from framework.engines.celery._messages import Functions, Message, signature_hash
from framework.engines.celery._settings import level_of, require_levels
from framework.protocols import EngineTask, TaskFunction

_NO_LIMIT: Final = 300.0
"""The longest limit that is assumed while no function has one."""

_FOREVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class Admitted:
    """What an engine has found out about a task that it admitted; the task's ``engine_note``.

    Attributes:
        name: The name by which workers find the function.
        call: The arguments as JSON.
        kept: Whether Redis has the task, or is about to, while it waits.
    """

    name: str
    call: str
    kept: bool = False


@dataclass(slots=True, eq=False)
class Admission:
    """The rules of one engine for tasks, whether it is open or not.

    Attributes:
        app: The Celery app.
        functions: The functions that workers know.
        namespace: Of the engine.
        default_limit: The limit in seconds of tasks without their own; None for none.
        max_limit: The longest limit in seconds that a task may have; None for the longest of
            *default_limit* and the functions.
        keep: How many bytes of arguments are kept for tasks that end without a result.
    """

    app: Any  # Any: Celery has no types
    functions: Functions
    namespace: str
    default_limit: float | None
    max_limit: float | None
    keep: int
    _longest: float = field(default=0.0, init=False)
    # Without any priority, messages go where those of earlier releases went.
    _has_levels: bool = field(default=False, init=False)
    _signatures: dict[str, str] = field(default_factory=dict, init=False)

    # -- functions

    def longest(self) -> float:
        """Return the longest limit in seconds that a task may have."""
        if self.max_limit is not None:
            return self.max_limit
        own = [spec.timeout for spec in self._decorated().values() if spec.timeout is not None]
        known = [one for one in (*own, self.default_limit) if one is not None and one < _FOREVER]
        return max(known, default=_NO_LIMIT)

    def limitless(self) -> list[str]:
        """Return the names of decorated functions whose tasks would have no limit."""
        if self.default_limit is not None:
            return []
        found = self._decorated().items()
        return sorted(name for name, spec in found if spec.timeout in (None, _FOREVER))

    def _decorated(self) -> dict[str, TaskSpec]:
        specs = {name: self.functions.spec(name) for name in registry.names()}
        return {name: spec for name, spec in specs.items() if spec is not None}

    def refusals(self) -> list[str]:
        """Return the annotations that JSON cannot represent, and what to do about each."""
        specs = self.functions.specs()
        return [one for _, spec in sorted(specs.items()) for one in codec_of(spec.fn).refusals()]

    def require_good(self) -> None:
        """Check all functions.

        Raises:
            ValueError: If a task could run without a limit, or could not be sent.
        """
        names = self.limitless()
        if names:
            raise ValueError(
                "every function that workers run needs a timeout; it is missing for "
                f"{', '.join(names)}: set it in the decorator of each one, or for all of them, "
                "also those of libraries and other apps in this process, with "
                "CeleryEngine(default_limit=...)"
            )
        _require_none(self.refusals())
        self._note_levels(list(self.functions.specs().values()))

    def _note_levels(self, specs: list[TaskSpec] | list[TaskFunction]) -> None:
        require_levels(self.app, specs)
        self._has_levels |= any(level_of(spec) != NORMAL for spec in specs)

    # -- tasks

    def admit(self, task: EngineTask) -> None:
        """Look at a task before it is accepted; see `CeleryEngine.admit`."""
        spec = task.spec
        known = spec.engine_note
        if known is None or known[0] is not self:
            self._note_levels([spec])
            known = spec.engine_note = (self, self._name_of(spec), _codec(spec))
        _, name, codec = known
        if task.limit is None:
            task.limit = self.default_limit
        if task.limit is None:
            raise ValueError(
                f"timeout is missing for {spec.name}: on a worker every task needs a time limit, "
                "from its decorator, submit(timeout=...) or CeleryEngine(default_limit=...)"
            )
        if task.limit > self._longest:
            self._longest = self.longest()
        if task.limit > self._longest:
            raise ValueError(
                f"timeout must be at most {self._longest:g} s, the longest that the workers allow, "
                f"not {task.limit:g} s for {spec.name}: see CeleryEngine(max_limit=...)"
            )
        codec.require_secrets(task.args or (), task.kwargs)
        task.engine_note = Admitted(name, codec.encode(task.args or (), task.kwargs))

    def _name_of(self, spec: TaskFunction) -> str:
        name = self.functions.name_of(spec)
        if name is None:
            raise ValueError(
                f"func must be a function that workers know, not {spec.name}: decorate it in "
                "a module that the worker imports, or pass it in CeleryEngine(functions=[...])"
            )
        return name

    def message(self, task: EngineTask) -> Message:
        """Return the message of an admitted task."""
        note: Admitted = task.engine_note
        name, spec = note.name, task.spec
        may_keep = isinstance(spec, TaskSpec) and spec.options["keep_arguments"]
        if name not in self._signatures:
            self._signatures[name] = signature_hash(spec.fn)
        return Message(
            task_id=str(task.task_id),
            fn=name,
            name=task.name,
            about=task.description,
            call=note.call,
            created=task.created_at,
            limit=task.limit,
            left=task.limit,
            signature=self._signatures[name],
            namespace=self.namespace,
            carried=dict(task.carried),
            level=level_of(spec) if self._has_levels else None,
            keep=self.keep if may_keep else 0,
            run_again_of=task.run_again_of if isinstance(task, TaskRecord) else "",
            owner=task.owner or "",
            label=task.label or "",
            meta=task.meta or "",
            shown=task.arguments or "",
        )


def _codec(spec: TaskFunction) -> FunctionCodec:
    codec = codec_of(spec.fn)
    # For functions that the app knew when it started this was checked then.
    _require_none(codec.refusals())
    return codec


def _require_none(refused: list[str]) -> None:
    if refused:
        raise ValueError(f"values of some annotations cannot be sent as JSON: {'; '.join(refused)}")
