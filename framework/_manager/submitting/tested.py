"""What a test adds to submissions: its interceptor, and the rules of the parts that it replaces.

The rules are what an app's own engine and store require.

Guarantees: a call or a result that the app's engine or store would refuse is refused; bodies
get their arguments, and callers the results, as they would be after a conversion to JSON.
Relies on: engines and stores whose rules can be used while they are not open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from framework._manager.submitting.partner import Joined, Partner
from framework._tasks.live import Home, LiveTask, live
from framework.protocols import Features, Interceptor, TaskRecord, TaskRules
from framework.protocols._features import features_of

Settle: TypeAlias = Callable[[TaskRecord, Any], Any]


class AppRules(Partner):
    """Applies to each task the rules of the app that it belongs to.

    Args:
        settle: Converts a result as the framework's own store would; None for no conversion.
    """

    in_place = True

    def __init__(self, settle: Settle | None) -> None:
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

    def has_workers(self, home: Home) -> bool:
        """Return whether the tasks of an app would run on the workers of its engine."""
        return home in self._engines

    def store_of(self, home: Home) -> Features | None:
        """Return what the store of the app of *home* can do; None if it would not be shared."""
        return self._stores.get(home)

    def convert(self, record: TaskRecord, result: Any) -> Any:
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

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Refuse a task that the app's engine would refuse; convert its arguments as it would."""
        engine = self._engines.get(task.home)
        if engine is not None:
            engine.admit(task)
            task.args, kwargs = engine.received(task)
            task.kwargs = kwargs or None


class Intercepted(Partner):
    """Shows tasks to an interceptor.

    Args:
        joined: The partners of all submissions.
        interceptor: Sees them, and may refuse them.
    """

    in_place = True

    def __init__(self, joined: Joined, interceptor: Interceptor) -> None:
        self._interceptor = interceptor
        joined.join(self)

    def enter(self, task: LiveTask, patient: bool) -> None:
        """Show a task; what the interceptor raises reaches the caller."""
        self._interceptor.before_accept(task)
