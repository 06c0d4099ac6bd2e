"""Workers and web processes that share a database, killed and suspended while they work.

Its server is restarted, and wall clocks are set: no task is lost, none is begun twice, and what is
said of each is true.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.servers import PostgresServer
from tests.processes.work.campaigns import Judgement, campaign
from tests.tiers import back_ends

SHARES = (0.5, 0.9, 0.99, 0.999)
"""Of which shares of all tasks it is told by how many others they were overtaken."""

SOON = 5.0
"""Seconds from the end of an outage to the next start."""

AGAIN = 2.0
"""Seconds until a process that was killed goes on, from the moment when it is ready again."""

STILL = 3.0
"""Seconds for which a process stands still that the others do not give up."""

LATE = 50
"""How many younger tasks of its priority begin before one of a hundred at most."""


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
        made.start()
        made.run(tasks, disturbances)
        judgement = Judgement(made)
    over = judgement.overtaken
    record_property("disturbances", dict(made.done))
    record_property("statuses", dict(judgement.statuses))
    record_property("found", dict(judgement.found))
    record_property("odd", judgement.odd)
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
    assert judgement.overtaken[int(0.99 * len(judgement.overtaken))] < LATE


@pytest.mark.soak
@pytest.mark.extended("processes")
def test_a_lone_process_goes_on(
    tmp_path: Path,
    database: tuple[str, PostgresServer | None],
    record_property: Callable[[str, object], None],
) -> None:
    """One that was killed with a backlog, and that no other process survives, goes on at once."""
    with campaign(tmp_path, *database, seed=7) as made:
        made.start(webs=("2",), workers=0)
        (web,) = made.webs
        made.submit(web, 400)
        made.know()
        pid = web.pid
        web.end(signal.SIGKILL)
        made.tell("dead", pid)
        began = time.monotonic_ns()
        web.begin()
        made.back.append(time.monotonic_ns())
        judgement = Judgement(made)
    first = min(one.at for one in judgement.effects if one.at > began)
    record_property("since its start", (first - began) / 1e9)
    record_property("since it was ready", (first - made.back[0]) / 1e9)
    assert dict(judgement.found) == {}
    assert first < made.back[0] + AGAIN * 1e9


@pytest.mark.extended("processes")
def test_who_stood_still_keeps_to_the_rate(
    tmp_path: Path, database: tuple[str, PostgresServer | None]
) -> None:
    """Calls that were due while their process was suspended do not all begin when it goes on."""
    with campaign(tmp_path, *database, seed=7) as made:
        made.start(webs=("8", "8"), workers=0)
        for web in made.webs:
            made.submit(web, 20, ["throttled"])
        made.know()
        made.hold(made.webs[0], STILL)
        judgement = Judgement(made)
    assert dict(judgement.found) == {}


@pytest.mark.extended("processes")
def test_killed_amid_turns(tmp_path: Path, database: tuple[str, PostgresServer | None]) -> None:
    """Calls that wait for their turns are made elsewhere if their process is killed, each once."""
    with campaign(tmp_path, *database, seed=7) as made:
        made.start(webs=("8", "1"), workers=0)
        web, _ = made.webs
        made.submit(web, 40, ["throttled"])
        made.know()
        made.rest()
        pid = web.pid
        web.end(signal.SIGKILL)
        made.tell("dead", pid)
        web.begin()
        judgement = Judgement(made)
    # One whose turn had just come may have started.
    assert (dict(judgement.found), judgement.odd[1:]) == ({}, [])
