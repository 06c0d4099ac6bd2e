"""Opens what one test runs on, which is new, empty and nobody else's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from framework.protocols import TaskStore
from pytest_asyncframe._backends.names import Backend

_MODULES: Final[dict[Backend, tuple[str, str]]] = {"sqlite": ("sqlalchemy", "sql")}
"""What must be installed for each of them, and the extra of asyncframe that brings it."""


def require(backend: Backend) -> None:
    """Skip the test if this machine does not have what it is to run on."""
    module, extra = _MODULES.get(backend, ("", ""))
    if module and find_spec(module) is None:
        pytest.skip(f"{module} is not installed: install the extra '{extra}'")


def opened(backend: Backend) -> AbstractContextManager[TaskStore | None]:
    """Return a context in which there is the store of a test; None is memory."""
    return _OPENED[backend]()


@contextmanager
def _memory() -> Iterator[None]:
    yield None


@contextmanager
def _sqlite() -> Iterator[TaskStore]:
    from framework.stores.sql import SQLStore  # only if it is used

    with tempfile.TemporaryDirectory(prefix="asyncframe-") as folder:
        yield SQLStore(f"sqlite:///{Path(folder, 'tasks.db')}")


_OPENED: Final[dict[Backend, Callable[[], AbstractContextManager[TaskStore | None]]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
}
