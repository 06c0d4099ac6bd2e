"""What one test runs on: which parts its framework has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import pytest

from framework.protocols import TaskStore
from pytest_asyncframe._backends.names import Backend


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of the framework of one test that its back end brings.

    Attributes:
        store: Where its tasks are kept; None for memory.
    """

    store: TaskStore | None = None


class BackEnd:
    """What one test runs on; this one is memory."""

    name: ClassVar[Backend] = "memory"
    """What it is called in the marker."""

    @contextmanager
    def opened(self) -> Iterator[Parts]:
        """Bring its parts, which are new, empty and nobody else's; called once."""
        yield Parts()


def require_modules(extra: str, *names: str) -> None:
    """Skip the test if a module is not installed, which an extra of asyncframe brings."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: install the extra '{extra}' of asyncframe")
