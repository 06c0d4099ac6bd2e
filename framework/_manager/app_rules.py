"""App rules: what an app's own engine and store require, kept in a test that replaces both.

Guarantees: a call or a result that the app's engine or store would refuse is refused; bodies
get their arguments, and callers the results, as they would be after a conversion to JSON.
Relies on: engines and stores whose rules can be used while they are not open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from framework._tasks.live import Home, live
from framework.protocols import Features, Interceptor, TaskRecord, TaskRules
from framework.protocols._features import features_of

Settle: TypeAlias = Callable[[TaskRecord, Any], Any]


class AppRules(Interceptor):
    """Applies to each task the rules of the app that it belongs to.

    Args:
        inner: Another interceptor, which is called first; None for none.
        settle: Converts a result as the framework's own store would; None for no conversion.
    """

    def __init__(self, inner: Interceptor | None, settle: Settle | None) -> None:
        self._inner = _Passive() if inner is None else inner
        self._settle = settle
        self._engines: dict[Home, TaskRules] = {}
        self._stores: dict[Home, Features] = {}

    def add(self, home: Home, engine: object, store: object) -> None:
        """Apply the rules of an app's *engine* and *store* to the tasks of *home*."""
        rules = features_of(engine).rules
        if rules is not None:
            self._engines[home] = rules
        features = features_of(store)
        if features.shared is not None:
            self._stores[home] = features

    def store_of(self, home: Home) -> Features | None:
        """Return what the store of the app of *home* can do; None if it would not be shared."""
        return self._stores.get(home)

    def settle(self, record: TaskRecord, result: Any) -> Any:
        """Return a result as a caller of `get_result` would get it.

        Raises:
            Exception: If the engine or the store would refuse it.
        """
        task = live(record)
        engine, store = self._engines.get(task.home), self._stores.get(task.home)
        if engine is not None:
            result = engine.settle(task, result)
        if store is not None and store.shared is not None:
            result = store.shared.settle(record, result)
        return result if self._settle is None else self._settle(record, result)

    # -- protocols.Interceptor

    def before_accept(self, record: TaskRecord) -> None:
        """Refuse a task that the app's engine would refuse; convert its arguments as it would."""
        self._inner.before_accept(record)
        task = live(record)
        engine = self._engines.get(task.home)
        if engine is not None:
            engine.admit(task)
            task.args, kwargs = engine.received(task)
            task.kwargs = kwargs or None

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Run an attempt; see `protocols.Interceptor`."""
        return self._inner.around_attempt(record, attempt, call)

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Start a task; see `protocols.Interceptor`."""
        return self._inner.around_delivery(record, deliver)

    def after_throttle(self, name: str, record: TaskRecord | None, at: float) -> None:
        """Called when a throttle has allowed a call; see `protocols.Interceptor`."""
        self._inner.after_throttle(name, record, at)

    def after_event(self, record: TaskRecord, kind: str) -> None:
        """Called in a task after an event; see `protocols.Interceptor`."""
        self._inner.after_event(record, kind)


class _Passive(Interceptor):
    """Does nothing."""
