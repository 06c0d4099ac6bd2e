"""The Celery tasks of an app: one for each function, by its name, and one for all others.

All have one implementation. Messages name the general task, so that workers of any release can
run them, and the function as the name to show, in Celery's ``shadow`` header. A worker then runs
a message as the task of its function; see `framework.worker`.

Guarantees: what a task's function raises never leaves the process that ran it. Celery would
unpickle it in the worker's main process, and end the worker if that fails.
"""

from __future__ import annotations

from typing import Any, Final

from celery import states
from celery.backends.base import DisabledBackend

from framework._records.jsonsafe import safe_repr
from framework._tasks.options import SILENT
from framework._threads.loggers import SafeLogger
from framework.engines.celery import _worker_side

_LOGGER = SafeLogger("asyncframe")

TASK_NAME: Final = "asyncframe.run"
"""The name of the general task, in messages and routes."""


class ShownError(Exception):
    """Stands for an error outside the process where it was raised, and looks like it.

    Its only argument is the ``repr`` of the error.
    """

    def __repr__(self) -> str:
        return str(self.args[0])


class _Hooks:
    """What Celery calls when a task of ours has failed."""

    request: Any
    backend: Any

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Remember what Celery is about to send to the main process."""
        # Celery also calls this in the main process, about a process that it has killed.
        if self.request.id == task_id:
            self.request.asyncframe_failure = einfo
        super().on_failure(exc, task_id, args, kwargs, einfo)  # type: ignore[misc]  # Celery's

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Keep a failure in the app's result backend, and send only its text.

        This is after Celery has logged it: a backend that is away must not delay that.
        """
        # First: the app's own class may raise an error below.
        failure = getattr(self.request, "asyncframe_failure", None)
        if failure is not None:
            keep_end(self, task_id, failure.exception, states.FAILURE, failure.traceback)
            failure.exception = ShownError(safe_repr(failure.exception))
            failure.type = ShownError
        super().after_return(status, retval, task_id, args, kwargs, einfo)  # type: ignore[misc]  # as above


def keep_end(
    task: Any, task_id: str, error: BaseException, status: str, text: str | None = None
) -> None:
    """Store an end in the app's result backend, if it has one; blocks while that is away.

    Args:
        task: The Celery task.
        task_id: The id.
        error: Why it failed, or was cancelled.
        status: FAILURE or REVOKED, as Celery names them.
        text: The traceback.
    """
    backend = task.backend
    # Nobody reads the queue to which rpc:// would send it, and it would stay there.
    if isinstance(backend, DisabledBackend) or backend.as_uri().startswith("rpc"):
        return
    try:
        backend.store_result(task_id, error, status, traceback=text, request=task.request)
    except Exception as raised:  # the task's own state is in Redis; this is a copy of it
        _LOGGER.warning("the result backend does not know the end of task %s: %r", task_id, raised)


class CeleryTasks:
    """The Celery tasks of an engine.

    Args:
        engine: The engine whose functions they run.

    Attributes:
        general: The task of functions without one of their own.

    Raises:
        ValueError: If the Celery app has an engine with another namespace already.
    """

    def __init__(self, engine: Any) -> None:  # Any: its module imports this one
        # The app has one such task, which belongs to the first engine.
        known = vars(engine.app).setdefault("asyncframe_namespace", engine.namespace)
        if known != engine.namespace:
            raise ValueError(
                f"namespace must be {known!r}, which another CeleryEngine uses for this Celery "
                f"app, not {engine.namespace!r}: use one Celery app for each namespace"
            )
        self._engine = engine
        self.general: Any = self._register(TASK_NAME, Strategy=_worker_side.STRATEGY)

    def register_all(self) -> None:
        """Register a task for each known function, unless the app has one by its name."""
        for name, spec in self._engine.functions.specs().items():
            if name not in self._engine.app.tasks:
                # Celery logs what a task is known to throw at INFO, and without a traceback.
                silent = spec.options["on_error"] is SILENT
                self._register(name, throws=(Exception,) if silent else ())

    def is_ours(self, name: str | None) -> bool:
        """Return whether a Celery task runs a function of ours, or is the general one."""
        return hasattr(self._engine.app.tasks.get(name), "asyncframe_engine")

    def _register(self, name: str, **options: Any) -> Any:
        engine = self._engine

        def run(task: Any, message: object) -> Any:  # Any: Celery has no types
            return _worker_side.deliver(engine, task, message)

        task = engine.app.task(
            run,
            name=name,
            bind=True,
            base=type("FunctionTask", (_Hooks, engine.app.Task), {"abstract": True}),
            shared=False,  # or every other Celery app of the process would have it as well
            serializer="json",
            ignore_result=True,
            acks_late=True,
            reject_on_worker_lost=True,
            acks_on_failure=True,
            acks_on_timeout=True,
            typing=False,
            Request=_worker_side.REQUEST,
            **options,
        )
        task.asyncframe_engine = engine
        return task
