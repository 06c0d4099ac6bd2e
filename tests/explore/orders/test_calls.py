"""Points at calls of files, databases, sockets and processes, at the default level."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from framework import background_task
from pytest_asyncframe._explore.points.calls import Calls
from pytest_asyncframe._explore.points.follower import Followed
from pytest_asyncframe._explore.schedule import Default
from pytest_asyncframe._turns.sequencer import Sequencer
from pytest_asyncframe.probe import Probe
from tests.explore.modules import Names, module
from tests.explore.one_run import one_run
from tests.explore.sessions import INI, PLAIN

pytestmark = [pytest.mark.extended("time"), pytest.mark.usefixtures("untraced")]

MONITORED = sys.version_info >= (3, 12)
monitored = pytest.mark.skipif(not MONITORED, reason="sys.monitoring is new in Python 3.12")
traced = pytest.mark.skipif(MONITORED, reason="only Python 3.11 needs sys.setprofile")


def calls(root: Path, work: str | Names, *, on_loop: bool = False) -> list[str]:
    """Return where others may run in the function ``work`` of a module in *root*.

    Args:
        root: The folder.
        work: The module or its text.
        on_loop: Whether it is called on the thread of an event loop.
    """
    function = (module(root, work) if isinstance(work, str) else work)["work"]

    @background_task
    async def on_a_loop() -> None:
        function(root)

    @background_task
    def on_a_thread() -> None:
        function(root)

    async def main(probe: Probe) -> None:
        on_a_loop()
        on_a_thread()
        await probe.settled()

    def body(probe: Probe) -> None:
        if on_loop:
            asyncio.run(main(probe))
            return
        # The second one is who might run instead.
        on_a_thread()
        on_a_thread()
        probe.run_until_idle()

    watch = Calls(Followed(root, [body.__code__]))
    with watch.claimed():
        steps = one_run(body, Default(), calls=watch)
    assert sys.getprofile() is None
    return [step.what for step in steps if step.kind == "call"]


FILES = """
    import os
    from os import replace as move

    def work(root):
        with open(root / "a", "w") as file:
            file.write("text")
        move(root / "a", root / "b")
        (root / "b").read_text()
        text = "a".replace("a", "b")
        os.unlink(root / "b")
"""


def test_files(tmp_path: Path) -> None:
    """Files have points where they are opened, read, written, closed and renamed."""
    assert calls(tmp_path, FILES) == [
        "open() at app.py:6",
        "write() at app.py:7",
        "close() at app.py:6",
        "os.replace() at app.py:8",
        "open() at app.py:9",
        "read() at app.py:9",
        "close() at app.py:9",
        "os.unlink() at app.py:11",
    ]


def test_outside_of_files(tmp_path: Path) -> None:
    """Sockets and processes have points too, and what a library does for the user's code."""
    found = calls(
        tmp_path,
        """
        import json
        import socket
        import subprocess
        import sys

        def work(root):
            one, other = socket.socketpair()
            with one, other:
                one.sendall(b"x")
                other.recv(1)
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
            with open(root / "a", "w") as file:
                json.dump(1, file)
        """,
    )
    assert found == [
        "sendall() at app.py:10",
        "recv() at app.py:11",
        "subprocess.run() at app.py:12",
        "open() at app.py:13",
        "write() at app.py:14",
        "close() at app.py:13",
    ]


def test_a_database(tmp_path: Path) -> None:
    """A connection that was made before has points, but for those where it has locked the file."""
    connection = sqlite3.connect(tmp_path / "db", check_same_thread=False)
    names = module(
        tmp_path,
        """
        def work(root):
            n = connection.execute("select 1").fetchone()
            connection.execute("create table if not exists t (n)")
            connection.execute("insert into t values (1)")
            connection.execute("update t set n = 2")
            connection.commit()
            connection.commit()
        """,
    )
    names["connection"] = connection

    found = calls(tmp_path, names)
    connection.close()

    assert found == [*(f"execute() at app.py:{line}" for line in (3, 4, 5)), "commit() at app.py:8"]


DRIVER = """
    class Connection:
        def commit(self):
            pass

        def cursor(self):
            return Cursor(self)

    class Cursor:
        def __init__(self, connection):
            self.connection = connection

        def execute(self, text):
            open("/dev/null").close()

        def fetchall(self):
            return []
"""


def test_another_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any driver after PEP 249 has points, until a statement of a transaction returns no rows."""
    driver = ModuleType("driver")
    driver.apilevel, driver.paramstyle = "2.0", "qmark"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "driver", driver)
    exec(compile(dedent(DRIVER), str(Path(dedent.__code__.co_filename)), "exec"), vars(driver))
    names = module(
        tmp_path,
        """
        def work(root):
            connection = Connection()
            cursor = connection.cursor()
            cursor.execute("select")
            cursor.fetchall()
            cursor.execute("select")
            cursor.fetchall()
            cursor.execute("update")
            cursor.execute("select")
            cursor.fetchall()
            connection.commit()
            cursor.execute("select")
        """,
    )
    names["Connection"] = driver.Connection

    found = calls(tmp_path, names)

    assert found == [f"execute() at app.py:{line}" for line in (5, 7, 9, 13)]


HIDDEN = {
    "an import": """
        import sys

        def work(root):
            (root / "imported.py").write_text("open(__file__).close()")
            sys.path.insert(0, str(root))
            import imported
            sys.path.remove(str(root))
    """,
    "logging": """
        import logging

        class Handler(logging.FileHandler):
            def emit(self, record):
                open(self.baseFilename).close()
                super().emit(record)

        def work(root):
            (root / "imported.py").write_text("")
            log = logging.Logger("own")
            log.addHandler(Handler(root / "log", delay=True))
            log.warning("text")
    """,
    "the end of an object": """
        class File:
            def __del__(self):
                open(__file__).close()

        def work(root):
            (root / "imported.py").write_text("")
            File()
    """,
}


@pytest.mark.parametrize("source", HIDDEN.values(), ids=HIDDEN)
def test_where_locks_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """What imports, logging and the ends of objects call is no point: these may have locks."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    names = module(tmp_path, source)
    names["__file__"] = str(tmp_path / "imported.py")
    found = calls(tmp_path, names)
    sys.modules.pop("imported", None)

    assert [what.partition("(")[0] for what in found] == ["open", "write", "close"]


def test_on_a_loop(tmp_path: Path) -> None:
    """On the thread of an event loop such a call is no point."""
    assert calls(tmp_path, FILES, on_loop=True) == []


@traced
def test_a_profiler_of_a_thread(tmp_path: Path) -> None:
    """On Python 3.11 a thread that another tool profiles has no points, and that tool is named."""
    watch = Calls(Followed(tmp_path, ()))
    others: list[str] = []

    def profile(*_: object) -> None:
        pass

    profile.__module__ = "yappi.core"
    sys.setprofile(profile)
    with watch.claimed(), watch.calling(Sequencer(moves=True), others.append):
        watch.begin_thread()
    kept = sys.getprofile()
    sys.setprofile(None)

    assert (kept, others) == (profile, ["yappi"])


@monitored
def test_no_number_for_calls(tmp_path: Path) -> None:
    """With all numbers taken, those who have them are named."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    taken = [one for one in (3, 4, 5) if monitoring.get_tool(one) is None]
    for one in taken:
        monitoring.use_tool_id(one, f"tool {one}")
    try:
        with (
            pytest.raises(
                pytest.UsageError,
                match=r"^an explored test needs a free tool number of sys\.monitoring, 3, 4 or 5, "
                r"which 'tool 3', 'tool 4' and 'tool 5' use: run the test without one of them$",
            ),
            Calls(Followed(tmp_path, ())).claimed(),
        ):
            pass
    finally:
        for one in taken:
            monitoring.free_tool_id(one)


RACES = """
import asyncio
import threading
from contextlib import nullcontext
from os import replace

import pytest
from fastapi import FastAPI
from framework import background_task, setup_async_framework
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase):
    pass

class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    left: Mapped[int]

async def database(asyncframe, tmp_path, lock):
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Stock(id=1, left=2))
        session.commit()
    app = FastAPI(lifespan=setup_async_framework)

    @app.post("/buy")
    def buy() -> None:
        with lock, Session(engine) as session:
            row = session.get(Stock, 1)
            row.left -= 1
            session.commit()

    async with asyncframe.client(app) as client:
        await asyncio.gather(client.post("/buy"), client.post("/buy"))
    with Session(engine) as session:
        left = session.get(Stock, 1).left
    engine.dispose()
    assert left == 0

async def file(asyncframe, tmp_path, lock):
    @background_task
    def save(text):
        with lock:
            (tmp_path / "new").write_text(text)
            replace(tmp_path / "new", tmp_path / "state")

    save("a")
    save("b")
    await asyncframe.settled()

@pytest.mark.interleave
@pytest.mark.parametrize("subject", [database, file])
async def test_racy(asyncframe, tmp_path, subject):
    await subject(asyncframe, tmp_path, nullcontext())

@pytest.mark.interleave
@pytest.mark.parametrize("subject", [database, file])
async def test_correct(asyncframe, tmp_path, subject):
    await subject(asyncframe, tmp_path, threading.Lock())
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run the races."""
    pytester.makeini(f"[pytest]\n{INI}")
    pytester.makepyfile(RACES)
    return pytester.runpytest_inprocess(*PLAIN, "-v", *options)


@pytest.mark.parametrize("seed", [0, 4])
def test_races_between_calls(pytester: pytest.Pytester, seed: int) -> None:
    """Two routes lose an update in a database, and two tasks write one file, whatever the seed."""
    result = run(pytester, "-k", "racy", f"--asyncframe-seed={seed}")

    result.assert_outcomes(failed=2)
    found = re.findall(
        r"^run (\d+) of at most 200 fails: policy delays, level framework,",
        result.stdout.str(),
        re.MULTILINE,
    )
    assert sorted(map(int, found)) == [4, 8]
    result.stdout.fnmatch_lines("replay: pytest * --asyncframe-replay=AF*")


def test_cured_races_between_calls(pytester: pytest.Pytester) -> None:
    """With a lock both pass, are fully controlled, and run the same way again."""
    result = run(
        pytester, "-k", "correct", "--asyncframe-seeds=15", "--asyncframe-check-determinism"
    )

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*partially controlled*")
    result.stdout.no_fnmatch_line("*not deterministic*")
