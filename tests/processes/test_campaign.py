"""Workers and web processes that share a database, killed and suspended while they work.

Its server is restarted, and wall clocks are set: no task is lost, none is begun twice, and what is
said of each is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.campaigns import Judgement, campaign
from tests.processes.servers import PostgresServer
from tests.tiers import back_ends

SHARES = (0.5, 0.9, 0.99, 0.999)
"""Of which shares of all tasks it is told by how many others they were overtaken."""

SOON = 5.0
"""Seconds from the end of an outage to the next start."""


@pytest.fixture(params=back_ends(["sqlite", "postgres"]))
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str, PostgresServer | None]]:
    """A database, and its server if it is one of the test's own."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url"), None
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.database() as name:
            yield server.url(name), server


def run(
    folder: Path,
    database: tuple[str, PostgresServer | None],
    tasks: int,
    disturbances: int,
    record_property: Callable[[str, object], None],
) -> Judgement:
    """Run a campaign, and judge it."""
    with campaign(folder, *database, seed=7) as made:
        made.run(tasks, disturbances)
        judgement = Judgement(made)
    over = judgement.overtaken
    record_property("disturbances", dict(made.done))
    record_property("statuses", dict(judgement.statuses))
    record_property("found", dict(judgement.found))
    record_property("first starts", [round(one, 2) for one in judgement.first_starts])
    record_property("overtaken", {share: over[int(share * len(over))] for share in SHARES})
    return judgement


@pytest.mark.extended("processes")
def test_a_short_campaign(
    tmp_path: Path,
    database: tuple[str, PostgresServer | None],
    record_property: Callable[[str, object], None],
) -> None:
    """Of some hundred tasks none is lost, doubled or lied about, whatever is hurt meanwhile."""
    judgement = run(tmp_path, database, 600, 8, record_property)
    assert dict(judgement.found) == {}


@pytest.mark.soak
@pytest.mark.extended("processes")
def test_a_campaign(
    tmp_path: Path,
    database: tuple[str, PostgresServer | None],
    record_property: Callable[[str, object], None],
) -> None:
    """The same with 20,000 tasks and 60 disturbances, and tasks start soon after each outage."""
    judgement = run(tmp_path, database, 20_000, 60, record_property)
    assert dict(judgement.found) == {}
    assert len(judgement.first_starts) > 8
    assert max(judgement.first_starts) < SOON
