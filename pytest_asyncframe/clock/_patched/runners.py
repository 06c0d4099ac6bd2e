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

from pytest_asyncframe.clock._patched.present import Present, Replaced


def on_the_clock() -> Iterator[Replaced]:
    """Yield the replacements that let other plugins run the test on loops of its clock."""
    for module, name, make in (
        ("pytest_asyncio.plugin", "Runner", _runner),
        ("anyio.pytest_plugin", "get_runner", _get_runner),
    ):
        owner = sys.modules.get(module)
        if hasattr(owner, name):
            yield owner, name, make


def _runner(present: Present, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real, updated=())
    def runner(*, loop_factory: Any = None, **options: Any) -> Any:
        clock = present.clock
        if clock.sequencer.here is not None:
            loop_factory = clock.new_event_loop
        return real(loop_factory=loop_factory, **options)

    return runner


_GetRunner = Callable[..., AbstractContextManager[Any]]


def _get_runner(present: Present, real: _GetRunner) -> _GetRunner:
    @functools.wraps(real)
    def get_runner(name: str, options: dict[str, Any]) -> AbstractContextManager[Any]:
        clock = present.clock
        if clock.sequencer.here is None:
            return real(name, options)
        if name != "asyncio":
            pytest.fail(
                "the virtual clock needs an asyncio event loop, but anyio_backend is "
                f"{name!r}: make it 'asyncio' for this test, or remove asyncframe's fixtures",
                pytrace=False,
            )
        kept = {key: value for key, value in options.items() if key != "use_uvloop"}
        return real(name, kept | {"loop_factory": clock.new_event_loop})

    return get_runner


class AnyioRunner:
    """The two runners of anyio's plugin: the test's own, and the one that tests share."""

    def __init__(self) -> None:
        self._anyio: Any = sys.modules.get("anyio.pytest_plugin")
        # The one that is not in use, in the variables of the plugin.
        self._aside: dict[str, Any] = {
            "_current_runner": None,
            "_runner_stack": None,
            "_runner_leases": 0,
        }

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Let anyio use its other runner inside the block."""
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
