"""Process pools: time stands still until their calls have returned.

Guarantees: other actors get their turns meanwhile, since a process may take any time.
Relies on: `multiprocessing.pool` keeping a result in the cache of its pool until it has
arrived, and waking whoever waits for it before it is removed from there.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.clock._patched.pools import Submit, after_callbacks


class Results:
    """The results that pools of processes owe a test; its time stands still meanwhile.

    Args:
        sequencer: The test's.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._owed: set[Any] = set()

    def submit(
        self, real: Submit, pool: Executor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Submit a call to *pool*, whose own `submit` is *real*; count it until it has ended."""
        sequencer = self._sequencer
        if sequencer.here is None:
            return real(pool, fn, *args, **kwargs)
        sequencer.count_elsewhere(1)
        try:
            with sequencer.real():
                future = real(pool, fn, *args, **kwargs)
        except BaseException:  # raised again: nothing was submitted
            sequencer.count_elsewhere(-1)
            raise
        after_callbacks(future, lambda: sequencer.count_elsewhere(-1))
        return future

    # -- those of `multiprocessing`, each counted until it arrives

    def expect(self, real: Callable[..., None], result: Any, *args: Any, **options: Any) -> None:
        """Count a new result, whose own `__init__` is *real*."""
        if self._sequencer.here is not None:
            self._owed.add(result)
            self._sequencer.count_elsewhere(1)
        real(result, *args, **options)

    def take_out(self, real: Callable[..., None], cache: Any, job: int) -> None:
        """Stop counting a result that has arrived, and is removed from the cache of its pool."""
        result = cache[job]
        real(cache, job)
        self._come(result)

    def give_up(self, real: Callable[..., None], pool: Any) -> None:
        """Stop counting the results of a pool that is terminated, which never arrive."""
        try:
            real(pool)
        finally:
            for result in list(getattr(pool, "_cache", {}).values()):
                self._come(result)

    def _come(self, result: Any) -> None:
        if result in self._owed:
            self._owed.discard(result)
            self._sequencer.count_elsewhere(-1)
