"""The plugin's executor as CPython's suite makes one: what is submitted begins at once.

The suite blocks threads on semaphores and locks until others have begun, so it is run with
a sequencer that lets everything begin as soon as there is room for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.executor import DeterministicExecutor


class FreeRunningExecutor(DeterministicExecutor):
    """A `DeterministicExecutor` with the parameters of `ThreadPoolExecutor`."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(
            Sequencer(hold=False),
            max_workers,
            thread_name_prefix=thread_name_prefix,
            initializer=initializer,
            initargs=initargs,
        )
