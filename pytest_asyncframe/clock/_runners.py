"""The event loops of other pytest plugins: a test with a virtual clock gets its own loop.

Guarantees: fixtures of a wider scope keep the loop and runner that they would have without
this plugin. That loop does not run during the test.
Relies on: pytest-asyncio creating its loops with ``Runner``, and anyio's plugin having one
runner at a time, created by ``get_runner``. Where these are not found nothing is patched.
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
    """Patches the runners of other plugins for one test with a virtual clock.

    Args:
        clock: The test's clock.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._asyncio: Any = sys.modules.get("pytest_asyncio.plugin")
        self._anyio: Any = sys.modules.get("anyio.pytest_plugin")
        # The one of anyio's two runners that is not in use, in the variables of its plugin.
        self._aside: dict[str, Any] = {
            "_current_runner": None,
            "_runner_stack": None,
            "_runner_leases": 0,
        }

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let other plugins run the test on loops of its clock inside the block."""
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
        """Let anyio use its other runner inside the block: the test's own, or the shared one."""
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
                    "the virtual clock needs an asyncio event loop, but anyio_backend is "
                    f"{name!r}: make it 'asyncio' for this test, or remove asyncframe's fixtures",
                    pytrace=False,
                )
            kept = {key: value for key, value in options.items() if key != "use_uvloop"}
            return real(name, kept | {"loop_factory": self._clock.new_event_loop})

        return get_runner
