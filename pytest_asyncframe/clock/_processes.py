"""Process pools: time stands still until their calls have returned.

Guarantees: other actors get their turns meanwhile, since a process may take any time.
Relies on: `multiprocessing.pool` keeping a result in the cache of its pool until it has
arrived, and waking whoever waits for it before it is removed from there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._pools import Submit, after_callbacks


def counted(sequencer: Sequencer) -> Iterator[tuple[Any, str, Any]]:
    """Yield the patches that count calls of process pools.

    Yields:
        An owner, the name of its attribute, and the new value.
    """
    # Imported anew for each test: where `sys.modules` was restored meanwhile, the test has
    # loaded a second copy of the module and uses that.
    try:
        pool = importlib.import_module("concurrent.futures.process").ProcessPoolExecutor
    except ImportError:  # pragma: no cover  # some systems lack the semaphores for it
        pass
    else:
        yield pool, "submit", _submit(sequencer, pool.submit)
    results = _Results(sequencer)
    module: Any = importlib.import_module("multiprocessing.pool")
    for kind in (module.ApplyResult, module.IMapIterator):
        yield kind, "__init__", results.counting(kind.__init__)
    cache = module._PoolCache
    yield cache, "__delitem__", results.taking_out(cache.__delitem__)
    yield module.Pool, "terminate", results.giving_up(module.Pool.terminate)


def _submit(sequencer: Sequencer, real: Submit) -> Submit:
    """Return a `submit` for process pools that counts their calls until they have ended."""

    @functools.wraps(real)
    def submit(self: Executor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if sequencer.here is None:
            return real(self, fn, *args, **kwargs)
        sequencer.count_elsewhere(1)
        try:
            with sequencer.real():
                future = real(self, fn, *args, **kwargs)
        except BaseException:
            sequencer.count_elsewhere(-1)
            raise
        after_callbacks(future, lambda: sequencer.count_elsewhere(-1))
        return future

    return submit


class _Results:
    """The results that pools of `multiprocessing` owe, each counted until it arrives."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._owed: set[Any] = set()

    def counting(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return an ``__init__`` for results that counts them."""

        @functools.wraps(real)
        def init(result: Any, *args: Any, **options: Any) -> None:
            if self._sequencer.here is not None:
                self._owed.add(result)
                self._sequencer.count_elsewhere(1)
            real(result, *args, **options)

        return init

    def taking_out(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return a ``__delitem__`` for the cache of results that stops counting them."""

        @functools.wraps(real)
        def delete(cache: Any, job: int) -> None:
            result = cache[job]
            real(cache, job)
            self._come(result)

        return delete

    def giving_up(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return a ``terminate`` for pools that stops counting the results they still owe."""

        @functools.wraps(real)
        def terminate(pool: Any) -> None:
            try:
                real(pool)
            finally:
                for result in list(pool._cache.values()):
                    self._come(result)

        return terminate

    def _come(self, result: Any) -> None:
        if result in self._owed:
            self._owed.discard(result)
            self._sequencer.count_elsewhere(-1)
