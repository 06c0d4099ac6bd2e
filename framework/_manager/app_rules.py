"""What an app's own engine and store ask of tasks, kept in a test that replaces both.

Guarantees: a call or a result that the app's engine or store would refuse is refused, and
a body, and whoever asks for its result, gets what would have come back from JSON.
Relies on: engines and stores whose rules hold whether or not they are open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from framework._tasks.live import Home, live
from framework.protocols import Interceptor, SharedStore, TaskRecord, TaskRules

Settle: TypeAlias = Callable[[TaskRecord, Any], Any]


class AppRules(Interceptor):
    """Holds each task to the rules of the app that it belongs to.

    Args:
        inner: Another interceptor, which comes first; None for nobody.
        settle: What the framework itself makes of a result; None for nothing.
    """

    def __init__(self, inner: Interceptor | None, settle: Settle | None) -> None:
        self._inner = _Passive() if inner is None else inner
        self._settle = settle
        self._engines: dict[Home, TaskRules] = {}
        self._stores: dict[Home, SharedStore] = {}

    def add(self, home: Home, engine: object, store: object) -> None:
        """Hold the tasks of *home* to the rules of its app's *engine* and *store*."""
        if isinstance(engine, TaskRules):
            self._engines[home] = engine
        if isinstance(store, SharedStore):
            self._stores[home] = store

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result as whoever asks for it would get it; raises if it cannot be kept."""
        task = live(record)
        engine, store = self._engines.get(task.home), self._stores.get(task.home)
        if engine is not None:
            result = engine.settle(task, result)
        if store is not None:
            result = store.settle(record, result)
        return result if self._settle is None else self._settle(record, result)

    # -- protocols.Interceptor

    def before_accept(self, record: TaskRecord) -> None:
        """Refuse what the app's engine would refuse; let the body get what would arrive."""
        self._inner.before_accept(record)
        task = live(record)
        engine = self._engines.get(task.home)
        if engine is not None:
            engine.admit(task)
            task.args, kwargs = engine.received(task)
            task.kwargs = kwargs or None

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Make an attempt; see `protocols.Interceptor`."""
        return self._inner.around_attempt(record, attempt, call)

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Let a worker begin on a task; see `protocols.Interceptor`."""
        return self._inner.around_delivery(record, deliver)

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Hear of a call that a throttle lets pass; see `protocols.Interceptor`."""
        self._inner.after_throttle(name, record, at)


class _Passive(Interceptor):
    """Takes no part."""
