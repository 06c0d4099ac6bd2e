"""The session that a process keeps with PostgreSQL tells of its death, and of commits."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from framework._threads.watch import processes
from framework.stores.sql._dialects.session import DEAF, Heard, Session, key_of
from framework.stores.sql._reading.roster import Roster
from framework.stores.sql._shared.membership import MISSED
from framework.stores.sql._tables.schema import PROCESSES
from tests.patience import PATIENCE
from tests.processes.servers import PostgresServer
from tests.processes.sql.siblings import Peer, TestClock, peers

SESSIONS = """
SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND datname = current_database()
"""


READ = (0, 0)
"""Up to where a process has read, which does not matter to one that hears."""


def session_of(peer: Peer) -> Session:
    """Return the session of a process on PostgreSQL."""
    assert isinstance(peer.link, Session)
    return peer.link


def begin(peer: Peer) -> None:
    """Let a process have its session, and say so in its row."""
    peer.backlog._wake.clear()
    peer.link.start(peer.process_id)
    assert peer.backlog._wake.wait(PATIENCE)
    peer.tick()


def end_session(peer: Peer) -> None:
    """End the session of a process, and wait until the server has freed its lock."""
    before = len(sessions(peer))
    peer.link.close()
    while len(sessions(peer)) >= before:
        continue


def look(peer: Peer, often: int = 1) -> set[str]:
    """Beat and look at the others, and return who has a row then."""
    for _ in range(often):
        peer.tick()
    with peer.database.reading() as connection:
        return set(connection.execute(sa.select(PROCESSES.c.process_id)).scalars())


def test_a_free_lock_counts_three_times(postgres_url: str) -> None:
    """A process that stands still is given up after two beats if its lock is free, else six."""
    with peers(postgres_url, 3) as (killed, hung, alive):
        begin(killed)
        begin(hung)
        end_session(killed)
        everybody = {one.process_id for one in (killed, hung, alive)}
        assert look(alive, 2) == everybody
        assert look(alive) == everybody - {killed.process_id}
        assert look(alive, MISSED - 3) == everybody - {killed.process_id}
        assert look(alive) == {alive.process_id}


def test_a_free_lock_is_seen_at_once(postgres_url: str) -> None:
    """Whoever lists the processes sees that one is gone whose lock is free, at the first look."""
    with peers(postgres_url) as (killed, alive):
        begin(killed)
        begin(alive)
        end_session(killed)
        found = Roster(alive.database).processes(0.0)
        assert {one.process_id for one in found if one.is_gone} == {killed.process_id}


def test_it_says_at_once_that_it_has_its_lock(postgres_url: str) -> None:
    """As soon as a process has its lock its row says so, not only when its next beat is due."""
    with peers(postgres_url, 1) as (peer,):
        pulse = peer.writer.batches.pulse
        pulse.given()
        assert not pulse.is_due()
        peer.backlog._wake.clear()
        peer.link.start(peer.process_id)
        assert peer.backlog._wake.wait(PATIENCE)
        assert pulse.is_due()
        with pulse.beating():
            pass
        assert not pulse.is_due()


def test_without_its_lock_a_process_that_beats_lives(postgres_url: str) -> None:
    """A process that has lost its session is not given up while it beats."""
    with peers(postgres_url) as (one, two):
        begin(one)
        end_session(one)
        for _ in range(MISSED):
            one.tick()
            assert len(look(two)) == 2


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
def test_ended_here(postgres_url: str, monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    """A process that was killed on this machine is dead at the first look, if its lock is free.

    A copy of a running machine has the same processes, whose locks those of the first one hold.
    """
    monkeypatch.setattr(processes, "has_ended", lambda *_: True)
    with peers(postgres_url) as (one, two):
        begin(one)
        if not held:
            end_session(one)

        assert look(two) == ({one.process_id, two.process_id} if held else {two.process_id})


@pytest.mark.parametrize("how", ["restarted", "crashed"])
def test_all_locks_are_free_after_a_restart(postgres_server: PostgresServer, how: str) -> None:
    """When the server goes on without any session, no free lock shortens a verdict."""
    with postgres_server.database() as name, peers(postgres_server.url(name)) as (one, two):
        begin(one)
        one.link.close()
        assert len(look(two, 2)) == 2
        if how == "restarted":
            postgres_server.stop()
            postgres_server.start()
        else:
            crash(postgres_server, name)

        assert len(look(two, MISSED - 4)) == 2, "it has missed three beats for one, and some more"


def crash(server: PostgresServer, name: str) -> None:
    """Kill one of a server's processes, after which it ends all sessions and goes on."""
    address = f"postgresql://postgres@127.0.0.1:{server.port}/{name}"
    with psycopg.connect(address) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError, match=r"^"):
            connection.execute("SELECT 1")
    while True:
        try:
            with psycopg.connect(address):
                return
        except psycopg.OperationalError:
            continue


@pytest.mark.extended("time")
def test_a_lost_session_is_made_anew(postgres_url: str) -> None:
    """When the server ends the session, the process gets another one with its lock."""
    with peers(postgres_url, 1) as (peer,):
        begin(peer)
        first = sessions(peer)
        peer.backlog._wake.clear()
        with peer.database.writing() as connection:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend({first[0]})")
        assert peer.backlog._wake.wait(PATIENCE)

        assert session_of(peer).has_news, "what was committed meanwhile is read"
        assert len(sessions(peer)) == 1
        assert sessions(peer) != first
        assert peer.link.presence is not None


def sessions(peer: Peer) -> list[int]:
    """Return the server's processes that hold a lock."""
    with peer.database.reading() as connection:
        return list(connection.exec_driver_sql(SESSIONS).scalars())


def test_no_session_behind_a_pooler(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each transaction may have another session, none is kept and the counters decide."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 0)
    with peers(postgres_url) as (one, two):
        one.link.start(one.process_id)
        session = session_of(one)
        thread = session._thread
        assert thread is not None
        thread.join(PATIENCE)

        assert (thread.is_alive(), session.presence, session.hears) == (False, None, False)
        assert len(look(two, MISSED)) == 2
        assert len(look(two)) == 1


# -- hearing


def test_an_idle_process_asks_once_a_second(postgres_url: str) -> None:
    """With nothing to do, a process makes a transaction a second; asked, it reads at once."""
    with peers(postgres_url) as (idle, busy):
        begin(idle)
        assert idle.writer.attempt()
        begun = 0

        def count(_: object) -> None:
            nonlocal begun
            begun += 1

        sa.event.listen(idle.database._engine, "begin", count)
        for tenth in range(100):
            idle.clock.pass_time(0.1)
            if tenth % 10 == 0:
                busy.tick()
            assert idle.writer.attempt()
        assert begun <= 11
        idle.backlog._wake.clear()
        idle.link.follow(True)
        assert idle.backlog._wake.wait(PATIENCE)
        assert idle.writer.attempt()
        idle.backlog._wake.clear()
        task = busy.end(busy.accept())
        busy.writer.batches.write()
        assert idle.backlog._wake.wait(PATIENCE)
        idle.clock.pass_time(0.1)
        assert idle.writer.attempt()

        assert idle.mirror.get(task.task_id) is not None


class FakeSession:
    """A session of no server; what is written into its socket is heard."""

    server = "a run"

    def __init__(self) -> None:
        self.says, self._hears = socket.socketpair()
        self._hears.setblocking(False)
        self.held = queue.SimpleQueue[int]()
        self.heard = queue.SimpleQueue[set[str]]()

    def fileno(self) -> int:
        """Return what the test writes to."""
        return self._hears.fileno()

    def hold(self, key: int) -> bool:
        """Hold it."""
        self.held.put(key)
        return True

    def follow(self, closely: bool) -> bool:
        """Agree."""
        return True

    def hear(self) -> Heard:
        """Return what the test has written: a process, or how many were called before."""
        try:
            found = self._hears.recv(100).decode()
        except BlockingIOError:
            return Heard((), None)
        self.heard.put({found})
        return Heard((), int(found)) if found.isdecimal() else Heard({found}, None)

    def close(self) -> None:
        """Close both ends."""
        self.says.close()
        self._hears.close()


@contextmanager
def fake() -> Iterator[tuple[Session, FakeSession, TestClock, threading.Event]]:
    """Keep such a session; the event is set when there is news."""
    clock, told = TestClock(), threading.Event()
    made = FakeSession()
    session = Session(lambda: made, (OSError,), clock, told.set)
    session.follow(True)
    session.start("own")
    assert told.wait(PATIENCE)
    told.clear()
    session.looks()
    try:
        yield session, made, clock, told
    finally:
        session.close()
        clock.close()


def test_a_session_that_hears_nothing() -> None:
    """A session that has not heard of a commit within a beat is not believed for a minute."""
    with fake() as (session, _, clock, _):
        session.check(True, READ)
        session.check(False, READ)
        believed = [session.hears]
        clock.pass_time(DEAF)
        believed.append(session.hears)
        session.check(False, READ)
        session.check(False, READ)
        assert [*believed, session.hears] == [False, True, True], "there was nothing to hear"


def test_a_session_that_hears_late() -> None:
    """A session that hears of a commit a moment after it was found is believed."""
    with fake() as (session, made, _, told):
        session.check(True, READ)
        made.says.send(b"another")
        assert told.wait(PATIENCE)
        session.check(False, READ)

        assert session.hears


def test_a_new_id_has_a_lock_of_its_own() -> None:
    """A process that comes back under another id says that it is there once it has that lock."""
    with fake() as (session, made, _, _):
        assert session.presence == "a run"
        assert made.held.get(timeout=PATIENCE) == key_of("own")
        session.belong("another")

        assert made.held.get(timeout=PATIENCE) == key_of("another")


def test_own_commits_are_no_news() -> None:
    """A process that hears of its own commit need not look, but knows that it hears."""
    with fake() as (session, made, _, told):
        for _ in range(2):
            made.says.send(b"own")
            assert made.heard.get(timeout=PATIENCE) == {"own"}
        assert not told.is_set(), "the first one is dealt with by now"
        session.check(True, READ)
        session.check(False, READ)

        assert session.hears
