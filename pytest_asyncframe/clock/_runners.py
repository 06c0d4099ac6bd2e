"""The event loops that other plugins make: a test with a virtual clock has its own.

Guarantees: fixtures of a wider scope keep the loop and the runner that they would have
without this plugin, which rests while the test runs.
Relies on: pytest-asyncio making its loops by ``Runner``, and anyio's plugin having one runner
at a time, which it takes from ``get_runner``; where these are not found nothing is replaced.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from pytest_asyncframe.clock._clock import VirtualClock


class Runners:
    """The runners of other plugins, while one test with a virtual clock runs.

    Args:
        clock: The test's clock.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._asyncio: Any = sys.modules.get("pytest_asyncio.plugin")
        self._anyio: Any = sys.modules.get("anyio.pytest_plugin")
        # Of the two runners of anyio's the one that is not in use, as its plugin keeps it.
        self._aside: dict[str, Any] = {
            "_current_runner": None,
            "_runner_stack": None,
            "_runner_leases": 0,
        }

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let other plugins run the test on loops of its clock, inside."""
        with pytest.MonkeyPatch.context() as patch, self.exchanged():
            for owner, name, make in (
                (self._asyncio, "Runner", self._runner),
                (self._anyio, "get_runner", self._get_runner),
            ):
                if hasattr(owner, name):
                    patch.setattr(owner, name, make(getattr(owner, name)))
            yield

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Have anyio use its other runner inside: the test's own, or the shared one."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        names = vars(self._anyio) if self._anyio is not None else {}
        if self._aside.keys() <= names.keys():
            found = {name: names[name] for name in self._aside}
            names.update(self._aside)
            self._aside = found

    def _runner(self, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real, updated=())
        def runner(*, loop_factory: Any = None, **options: Any) -> Any:
            if self._clock.sequencer.here is not None:
                loop_factory = self._clock.new_event_loop
            return real(loop_factory=loop_factory, **options)

        return runner

    def _get_runner(
        self, real: Callable[..., AbstractContextManager[Any]]
    ) -> Callable[..., AbstractContextManager[Any]]:
        @functools.wraps(real)
        def get_runner(name: str, options: dict[str, Any]) -> AbstractContextManager[Any]:
            if self._clock.sequencer.here is None:
                return real(name, options)
            if name != "asyncio":
                pytest.fail(
                    f"the clock drives event loops of asyncio, and anyio_backend is {name!r}: let "
                    "it be 'asyncio' for this test, or leave out the fixtures of asyncframe",
                    pytrace=False,
                )
            kept = {key: value for key, value in options.items() if key != "use_uvloop"}
            return real(name, kept | {"loop_factory": self._clock.new_event_loop})

        return get_runner
