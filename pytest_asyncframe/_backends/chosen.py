"""Back ends by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from pytest_asyncframe._backends.back_end import BackEnd
from pytest_asyncframe._backends.celery import OnCelery
from pytest_asyncframe._backends.names import Backend
from pytest_asyncframe._backends.session import Servers, servers_of
from pytest_asyncframe._backends.stores import OnPostgreSQL, OnSQLite
from pytest_asyncframe._backends.workers import OnWorkers

_KINDS: Final[dict[Backend, Callable[[Servers], BackEnd]]] = {
    "sqlite": OnSQLite,
    "postgresql": OnPostgreSQL,
    "workers": OnWorkers,
    "celery": OnCelery,
}


def back_end(name: Backend, config: pytest.Config) -> BackEnd:
    """Return what a test is to run on; the test is skipped if this machine lacks what it needs."""
    kind = _KINDS.get(name)
    return BackEnd() if kind is None else kind(servers_of(config))
