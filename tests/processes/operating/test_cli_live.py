"""The command line beside a running app, and on a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import pytest
import sqlalchemy as sa

from framework.cli import _screen, main
from framework.stores.sql._reading.observer import Observer
from framework.stores.sql._tables.schema import PROCESSES
from tests.children import python
from tests.patience import PATIENCE
from tests.serving import ROOT, Server, serving

pytestmark = pytest.mark.extended("processes")

PROGRAM = [sys.executable, "-m", "framework"]


class Said:
    """What a command has answered.

    Attributes:
        status: Its exit status.
        out: What it has printed.
        err: What it has printed on standard error, if that is not a terminal.
    """

    def __init__(self, status: int, out: str, err: str = "") -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of JSON that it has printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def task(self) -> dict[str, Any]:
        """The task that it has printed as JSON."""
        found: dict[str, Any] = json.loads(self.out)
        return found


class Shop:
    """A running app, and the store that it shares.

    Attributes:
        url: The database.
        server: The app.
    """

    def __init__(self, url: str, server: Server) -> None:
        self.url = url
        self.server = server
        self._address = server.url

    def post(self, path: str) -> Any:
        """Send a request, and return what the answer says."""
        request = urllib.request.Request(f"{self._address}{path}", method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def started(self, path: str) -> Any:
        """Send a request that submits a task, and wait until the store says that it runs."""
        task_id = self.post(path)
        with closing(Observer(self.url)) as observer:
            while True:
                # Each look is an answer from the database.
                sight = observer.look(task_id)
                if sight is None or sight.record.status != "running":
                    continue
                if path != "/hangs" or sight.record.progress is not None:
                    return task_id

    def run(self, *arguments: str) -> Said:
        """Run a command in this process, into a pipe."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main([*arguments, "--store", self.url])
        return Said(status, out.getvalue(), err.getvalue())

    def on_terminal(self, *arguments: str) -> Said:
        """Run a command in this process, on a terminal that shows both outputs."""
        pty = pytest.importorskip("pty", reason="Windows has no such terminals")
        ours, theirs = pty.openpty()
        shown: list[bytes] = []
        reader = threading.Thread(target=_read, args=(ours, shown))
        reader.start()
        with (
            os.fdopen(theirs, "w", encoding="utf-8") as terminal,
            redirect_stdout(terminal),
            redirect_stderr(terminal),
        ):
            status = main([*arguments, "--store", self.url])
        reader.join(PATIENCE)
        os.close(ours)
        return Said(status, b"".join(shown).decode().replace("\r\n", "\n"))


def _read(descriptor: int, shown: list[bytes]) -> None:
    # A terminal whose other side is closed is an error to read from.
    with suppress(OSError):
        while part := os.read(descriptor, 65_536):
            shown.append(part)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a terminal with colours and 100 columns."""
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One running app for all tests here."""
    url = f"sqlite:///{tmp_path_factory.mktemp('watched') / 'tasks.db'}"
    with serving("tests.processes.apps.shop:app", env={"STORE_URL": url}) as server:
        yield Shop(url, server)


@contextmanager
def changing(url: str) -> Iterator[sa.Connection]:
    """Open a transaction in a database."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def processes(url: str) -> list[tuple[Any, ...]]:
    """Return the rows of the processes that share a database, without their counters."""
    with changing(url) as connection:
        query = sa.select(PROCESSES.c.process_id, PROCESSES.c.pid)
        return [tuple(row) for row in connection.execute(query)]


def test_cancel_reaches_a_running_task(shop: Shop) -> None:
    """A coroutine that runs in the app is cancelled by a command in a process of its own."""
    task_id = shop.started("/hangs")
    limit = "--timeout", str(PATIENCE)
    done = python("-m", "framework", "cancel", task_id, "--store", shop.url, *limit)

    assert done.stderr == ""
    assert json.loads(done.stdout)["status"] == "cancelled"
    assert shop.run("show", task_id).task["status"] == "cancelled"


def test_cancel_of_a_thread(shop: Shop) -> None:
    """A function on a thread is asked to stop, and the answer says that it still runs."""
    task_id = shop.started("/blocks")
    said = shop.on_terminal("cancel", task_id, "--timeout", "0.5")
    shop.post("/stop")

    assert said.status == 1
    assert said.out == (
        f"asyncframe: task {task_id} is asked to stop, and still running after 0.5 s: a coroutine "
        "ends once its cleanup has, a function on a thread where it calls check_cancelled(); "
        "asyncframe wait tells when\n"
    )
    assert shop.run("wait", task_id).task["cancel_requested"] is True


def test_waiting(shop: Shop) -> None:
    """A wait ends with the task; one that is too long says so, with status 1."""
    hanging = shop.started("/hangs")
    said = shop.run("wait", hanging, "--timeout", "0.5")
    assert (said.status, said.err) == (1, "asyncframe: it has not ended after 0.5 s\n")
    assert said.task["progress"] == 0.4
    shop.run("cancel", hanging)

    said = shop.run("wait", shop.post("/adds"))
    assert (said.status, said.task["result"]) == (0, {"sum": 2})


def test_run_again(shop: Shop) -> None:
    """The call of a failed task is run again by the app, as a new task with its options."""
    failed = shop.started("/pays")
    shop.post("/stop")
    assert shop.run("wait", failed).task["error_message"] == "the bank is away"

    said = shop.run("run-again", failed)
    assert (said.status, said.err) == (0, "")
    again = said.task["task_id"]
    assert again != failed
    task = shop.run("wait", again).task
    assert (task["result"], task["description"]) == ("paid 3.5", "Pays a bill")
    shown = [line.split() for line in shop.on_terminal("show", again).out.splitlines()]
    assert ["repeats", failed] in shown

    said = shop.on_terminal("run-again", again, failed)
    assert said.status == 1
    refused, told = said.out.splitlines()
    assert refused == (
        f"asyncframe: task {again} cannot be run again: it completed, and the arguments of such "
        "tasks are not kept"
    )
    assert told.endswith(f" repeats {failed}")


def test_trigger(shop: Shop) -> None:
    """A schedule is run by the app when somebody says so, also while it is paused."""
    shop.run("schedules", "pause", "tidies")
    said = shop.run("schedules", "trigger", "tidies")
    assert (said.status, said.err) == (0, "")
    assert shop.run("wait", said.task["task_id"]).task["result"] == "tidy"
    (schedule,) = [one for one in shop.run("schedules").objects if one["name"] == "tidies"]

    assert (schedule["task_id"], schedule["paused"]) == (said.task["task_id"], True)
    shop.run("schedules", "resume", "tidies")


def test_an_observer_is_no_process_of_the_app(shop: Shop) -> None:
    """Commands add no process to those of the app, and interrupt none of its tasks."""
    task_id = shop.started("/hangs")
    before = processes(shop.url)
    for arguments in (["list"], ["show", task_id], ["wait", task_id, "--timeout", "0.3"]):
        assert "interrupted" not in shop.run(*arguments).out

    assert processes(shop.url) == before
    assert shop.run("show", task_id).task["status"] == "running"
    assert "WARNING" not in shop.server.log
    shop.run("cancel", task_id)


def test_a_list_on_a_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a list is a table in colours, with short ids, as wide as the terminal."""
    earlier, task_id = shop.started("/hangs"), shop.started("/hangs")
    command = "list", "--name", "hangs", "--limit", "1"
    said = shop.on_terminal(*command)
    assert said.status == 0
    head, row, more = said.out.splitlines()
    assert head.startswith("\x1b[1mID ")
    assert row.startswith(f"{task_id[:12]}  hangs  \x1b[36mrunning\x1b[0m  ")
    assert "40% parsing" in row
    assert more.startswith("more: --all, or --after ")

    assert shop.on_terminal(*command, "--json").task["task_id"] == task_id
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in shop.on_terminal(*command).out
    shop.run("cancel", earlier, task_id)


def test_a_list_without_rich(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Rich a list is a table without colours, cut at the end of the line."""
    task_id = shop.post("/adds")
    shop.run("wait", task_id)
    monkeypatch.setattr(_screen, "find_spec", {}.get)
    monkeypatch.setenv("COLUMNS", "30")
    shown = shop.on_terminal("list", "--name", "adds", "--limit", "1").out
    head, row, *_ = shown.splitlines()

    assert (head, row) == ("ID            NAME  STATUS   …", f"{task_id[:12]}  adds  completed…")


def test_one_task_on_a_terminal(shop: Shop) -> None:
    """On a terminal a task is a list of what there is to say about it."""
    task_id = shop.started("/hangs")
    shown = shop.on_terminal("show", task_id).out
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    shop.run("cancel", task_id)

    assert (lines["id"], lines["name"], lines["status"]) == (task_id, "hangs", "running")
    assert lines["progress"] == "40% parsing"
    assert lines["process"].startswith(f"{shop.server.process.pid} on ")


def test_a_wait_on_a_terminal(shop: Shop) -> None:
    """On a terminal a wait shows the progress, and then the task in place of it."""
    task_id = shop.started("/hangs")
    said = shop.on_terminal("wait", task_id, "--timeout", "0.5")
    shop.run("cancel", task_id)

    assert said.status == 1
    assert "hangs parsing" in said.out
    assert f"id         {task_id}\n" in said.out
    assert said.out.endswith("asyncframe: it has not ended after 0.5 s\n")


def test_a_reader_that_has_enough(shop: Shop) -> None:
    """A pipe that is closed early, as head does, is no error."""
    shop.post("/adds")
    process = subprocess.Popen(
        [*PROGRAM, "list", "--store", shop.url],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.stderr.read() == ""
    assert process.wait(PATIENCE) == 0
    process.stderr.close()
