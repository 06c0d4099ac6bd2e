"""Pools of processes: what is handed to them holds time until it has come back.

Guarantees: turns are taken meanwhile, since nobody knows when a process answers.
Relies on: results of `multiprocessing.pool` standing in their pool's cache until they have
come, and waking who waits before they are taken out.
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
    """Yield what is to be replaced so that work of processes is counted.

    Yields:
        An owner, the name of its attribute, and the new value.
    """
    # Asked for anew in each test: a test runner that puts `sys.modules` back has modules loaded
    # a second time, and the test uses the second one.
    try:
        pool = importlib.import_module("concurrent.futures.process").ProcessPoolExecutor
    except ImportError:  # pragma: no cover  # there are no semaphores for it on some systems
        pass
    else:
        yield pool, "submit", _submit(sequencer, pool.submit)
    results = _Results(sequencer)
    module: Any = importlib.import_module("multiprocessing.pool")
    for kind in (module.ApplyResult, module.IMapIterator):
        yield kind, "__init__", results.noting(kind.__init__)
    cache = module._PoolCache
    yield cache, "__delitem__", results.taking_out(cache.__delitem__)
    yield module.Pool, "terminate", results.giving_up(module.Pool.terminate)


def _submit(sequencer: Sequencer, real: Submit) -> Submit:
    """Return a process pool's `submit`, whose calls are counted from then to their end."""

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
    """The results that pools of `multiprocessing` owe, each counted until it has come."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._owed: set[Any] = set()

    def noting(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return what makes a result, and counts it."""

        @functools.wraps(real)
        def init(result: Any, *args: Any, **options: Any) -> None:
            if self._sequencer.here is not None:
                self._owed.add(result)
                self._sequencer.count_elsewhere(1)
            real(result, *args, **options)

        return init

    def taking_out(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return what takes a result out of its pool's cache."""

        @functools.wraps(real)
        def delete(cache: Any, job: int) -> None:
            result = cache[job]
            real(cache, job)
            self._come(result)

        return delete

    def giving_up(self, real: Callable[..., None]) -> Callable[..., None]:
        """Return what terminates a pool, whose results will not come."""

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
