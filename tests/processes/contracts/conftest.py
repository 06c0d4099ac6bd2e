"""The back ends, each empty and with two processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from framework.engines.celery._redis import state
from framework.engines.celery._shared import lines, schedules
from tests.processes.contracts.implementations import KINDS, LONG, BackEnd, opened
from tests.tiers import back_ends


@pytest.fixture(params=back_ends(KINDS))
def back_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackEnd]:
    """A back end of each kind, without a process."""

    def url(kind: str) -> str:
        found: str = request.getfixturevalue(f"{kind}_url")
        return found

    # The signs of life in Redis expire in real time.
    for module in (lines, schedules, state):
        monkeypatch.setattr(module, "LIFE", str(round(LONG * 1_000)))
    with closing(opened(request.param, url)) as made:
        yield made
