"""Tasks that a transaction of their caller brings: they are there if it commits.

Such a task never enters the ledger here. Its store inserts it in the caller's transaction, as one
that any process may take. So it starts as those of `requeued` do: after a commit of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, NoReturn

from framework._manager.submitting.ids import is_held, note_pledge
from framework._manager.submitting.partner import Partner
from framework._manager.submitting.tested import AppRules
from framework._records.ids import ChildId, PledgedId
from framework._records.reasons import delayed
from framework._records.records import OFFERED, Restart
from framework._running.ledger import Ledger
from framework._tasks import registry
from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._tasks.wire import codec_of
from framework.exceptions import FrameworkNotStartedError
from framework.protocols import TransactionalStore

_NO_STORE: Final = (
    "this app keeps its tasks where no transaction reaches them: use store=SQLStore(url) with the "
    "database of the session"
)
_ON_WORKERS: Final = (
    "the engine hands tasks to a broker, which knows nothing of the transaction: submit after the "
    "commit, without session"
)


class Transacted(Partner):
    """Hands tasks to the transactions of their callers.

    Args:
        ledger: Says whether the framework takes tasks, and has the store.
        is_remote: Whether tasks run on the workers of an engine.
        rules: Those of the apps, in a test that replaces their stores; otherwise None.
        accept: Submits a task of a test whose transaction has committed.
    """

    options: ClassVar[tuple[str, ...]] = ("session",)

    def __init__(
        self,
        ledger: Ledger,
        rules: AppRules | None,
        accept: Callable[[LiveTask], object],
        *,
        is_remote: bool,
    ) -> None:
        self._ledger = ledger
        self._is_remote = is_remote
        self._rules = rules
        self._accept = accept

    def enter(self, task: LiveTask, patient: bool) -> Existing:
        """Store a task in its caller's transaction, and return what stands for it here.

        Raises:
            FrameworkNotStartedError: If the framework takes no tasks.
            TypeError: If the arguments have no JSON, or *session* cannot be used.
            ValueError: If the options or the session do not allow it.
        """
        if self._ledger.state != "running":
            raise FrameworkNotStartedError(self._ledger.state)
        spec, store = task.spec, self._store(task)
        known = _known(spec)
        codec = codec_of(spec.fn)
        args, kwargs = task.args or (), task.kwargs or {}
        codec.require_same(args, kwargs)
        codec.require_secrets(args, kwargs)
        call = codec.encode(args, kwargs, spec.changed_from(known))
        session = spec.options["session"]
        note_pledge(task.task_id)
        if self._rules is not None:
            task.spec = spec.replace({"session": None})
            store.follow(session, partial(self._submit, task))
            return Existing(PledgedId(task.task_id))
        due = task.created_at + spec.delay if spec.delay else None
        # Fresh: whoever takes it over gives it its options, and publishes that it was submitted.
        task.restart = Restart(
            call,
            due=due,
            limit=task.limit,
            priority=spec.priority,
            idempotent=spec.idempotent,
            fresh=True,
            offered=True,
            carried=self._ledger.carried_by(task),
        )
        task.reason = OFFERED if due is None else delayed(due)
        store.submit_in(session, task)
        return Existing(PledgedId(task.task_id))

    def _store(self, task: LiveTask) -> TransactionalStore:
        rules, features = self._rules, self._ledger.features
        if self._is_remote or (rules is not None and rules.has_workers(task.home)):
            _refuse(task.spec, _ON_WORKERS)
        if rules is not None:
            features = rules.store_of(task.home) or features
        store = features.transactional
        if store is None:
            _refuse(task.spec, _NO_STORE)
        return store

    def _submit(self, task: LiveTask) -> None:
        """Submit a task of a test, whose wait for a start begins now."""
        task.queued = self._ledger.clock.monotonic()
        self._accept(task)


def _known(spec: TaskSpec) -> TaskSpec:
    """Return what other processes know of a function, if they can run such a task.

    Raises:
        ValueError: If they cannot.
    """
    known = registry.find_spec(spec.name)
    if known is None or known.fn is not spec.fn or "<" in spec.name:
        _refuse(
            spec,
            "another process cannot find this function by its name: decorate one in a module with "
            "@background_task, or give it a name=... of its own",
        )
    if spec.hooks != known.hooks:
        _refuse(
            spec,
            "it has hooks of its own, which another process cannot call: give on_error to "
            "@background_task, and leave on_complete out",
        )
    given = spec.options
    for option, why in _EXCLUDED.items():
        value = given[option]  # type: ignore[literal-required]  # its keys are options
        # By an idempotency key, whose next request finds the task if this one has committed.
        if value and not (option == "task_id" and _is_made(value)):
            _refuse(spec, f"it cannot have the option {option!r}: {why}")
    spec.require_kept()
    return known


_EXCLUDED: Final = {
    "unique": "whether there is another one is only known when the transaction has committed",
    "after": "whether those have ended is only known when the transaction has committed",
    "task_id": "whether it is in use is only known when the transaction has committed",
}
"""Options that need an answer about other tasks, which a transaction would not keep true."""


def _is_made(task_id: str) -> bool:
    """Return whether an id was made for a submission, which finds the task if it is repeated."""
    return is_held(task_id) or isinstance(task_id, ChildId)


def _refuse(spec: TaskSpec, why: str) -> NoReturn:
    raise ValueError(f"{spec.name} cannot be submitted with session: {why}")
