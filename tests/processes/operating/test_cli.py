"""The command line, on a store that another process has written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from framework import background_task, get_task_manager, setup_async_framework
from framework._records.reasons import delayed
from framework._threads.clock import SystemClock
from framework.cli import _screen, _tasks, _workers, main
from framework.protocols import ProcessInfo
from framework.steps import step
from framework.stores.sql import SQLStore
from tests.children import python

WRITER = """
import asyncio, json, sys
from framework import get_task_manager, setup_async_framework
from tests.processes.apps import shop

async def main():
    async with setup_async_framework(None, store=shop.store):
        manager = get_task_manager()
        ids = [await manager.submit(shop.adds, (n,)) for n in (1, 2)]
        ids.append(await manager.submit(shop.fails, (3,)))
        manager._core.owners.own_by(lambda: "ann")
        ids.append(await manager.submit(shop.adds, (4,), task_id="invoice-7"))
        for task_id in ids:
            try:
                await manager.get_result(task_id)
            except LookupError:
                pass
        while not await manager.schedules.get_all():
            pass
        print(json.dumps(ids))

asyncio.run(main())
"""


class Written:
    """A store that a process has written, which has ended since.

    Attributes:
        url: The database.
        ids: Of two tasks that have added, of one that has failed, and ``invoice-7``.
    """

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'tasks.db'}"
        done = python("-c", WRITER, env={"STORE_URL": self.url})
        self.ids: list[str] = json.loads(done.stdout)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One store for all tests here, which only read it."""
    return Written(tmp_path_factory.mktemp("written"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that names a store."""
    monkeypatch.delenv("ASYNCFRAME_STORE", raising=False)
    monkeypatch.delenv("ASYNCFRAME_APP", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


class Said:
    """What a command has answered.

    Attributes:
        status: Its exit status.
        out: What it has printed.
        err: What it has printed on standard error.
    """

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def objects(self) -> list[Any]:
        """The lines of JSON that it has printed."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; into a pipe."""

    def command(*arguments: str) -> Said:
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        found = capsys.readouterr()
        return Said(status, found.out, found.err)

    return command


def test_the_script() -> None:
    """The distribution installs the program under its own name, too."""
    (script,) = metadata.entry_points(group="console_scripts", name="asyncframe")
    assert script.load() is main


# -- workers


def test_nobody_runs_tasks() -> None:
    """If tasks wait, and no process has a place, it says what to start."""
    web = ProcessInfo("web", "vm", 7, "app", 0.0, 0, {}, None, 0.0, False)
    told = "1 task waits for a process that has a place for it"
    cure = ": none that runs has any, so start one with 'asyncframe worker module:app'"
    assert _workers._told(1, [web]) == _workers._told(1, []) == f"{told}{cure}"
    assert _workers._told(1, [web, replace(web, places=2)]) == told
    assert _workers._told(0, [web]) == "0 tasks wait for a process that has a place for them"


# -- list


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.extended("processes")
def test_list_onto_a_full_disk(written: Written) -> None:
    """Output that has no room on its disk is told of in one line."""
    command = [sys.executable, "-P", "-m", "framework", "list", "--store", written.url]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    told = "asyncframe: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.extended("processes")
def test_list_is_json_in_a_pipe(run: Any, written: Written) -> None:
    """Into a pipe, a list has one JSON object for each task, the newest first."""
    said = run("list", "--store", written.url)

    assert (said.status, said.err) == (0, "")
    assert [task["task_id"] for task in said.objects] == written.ids[::-1]
    assert said.objects[0]["result"] == {"sum": 5}
    assert said.objects[0]["description"] == "Adds one"
    assert [task["owner"] for task in said.objects] == ["ann", None, None, None]
    assert said.objects[1]["error_message"] == "no [3]\n\x1b[31m"


@pytest.mark.extended("processes")
def test_list_of_some(run: Any, written: Written) -> None:
    """A list may be of some statuses, a name, an owner or a text, in either order."""
    cases: list[tuple[str, list[int]]] = [
        ("--status failed", [2]),
        ("--status running", []),
        ("--status failed --status timeout", [2]),
        ("--status failed --status completed --limit 2", [3, 2]),
        ("--owner ann", [3]),
        ("--owner bob", []),
        ("--search VOICE", [3]),
        ("--search 'adds ONE' --oldest-first", [0, 1, 3]),
        ("--search fails --owner ann", []),
        ("--name adds", [3, 1, 0]),
        ("--name dds", []),
        ("--limit 2", [3, 2]),
        ("--oldest-first --limit 1", [0]),
        ("--oldest-first --limit 3 --all", [0, 1, 2, 3]),
        ("--name adds --status completed --oldest-first", [0, 1, 3]),
    ]
    found = []
    for options, _ in cases:
        said = run("list", "--store", written.url, *shlex.split(options))
        found.append((options, [written.ids.index(task["task_id"]) for task in said.objects]))
    assert found == cases
    said = run("list", "--store", written.url, "--name", "add")
    assert said.err == (
        "asyncframe: --name must be that of a function or task, not 'add'; near are 'adds'\n"
    )


@pytest.mark.extended("processes")
def test_list_refused(run: Any, written: Written) -> None:
    """A limit or place that is none is refused by its name, with status 2."""
    cases = {
        ("--limit", "0"): "limit must be a whole number from 1 to 1000, not 0",
        ("--after", "x"): "after must be the 'next' of a page, not 'x': omit it for the first page",
        ("--owner", ""): (
            "owner must be a string of 1 to 255 printable characters, or None for nobody, not ''"
        ),
    }
    said = {options: run("list", "--store", written.url, *options) for options in cases}
    assert {options: (one.status, one.out, one.err) for options, one in said.items()} == {
        options: (2, "", f"asyncframe: --{message}\n") for options, message in cases.items()
    }


@pytest.mark.extended("processes")
@pytest.mark.parametrize("with_rich", [True, False], ids=["rich", "plain"])
def test_a_table_in_a_pipe(
    run: Any, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_rich: bool
) -> None:
    """A table may be asked for in a pipe, too, and is not cut there unless COLUMNS says where."""
    if not with_rich:
        monkeypatch.setattr(_screen, "find_spec", {}.get)
    file, reason = copied(written, tmp_path), "its reason is long: " * 20 + "this is all of it"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "UPDATE asyncframe_tasks SET reason = ? WHERE task_id = 'invoice-7'", (reason,)
        )
    command = "list", "--table", "--limit", "2", "--store", f"sqlite:///{file}"
    head, invoice, failed, more = run(*command).out.splitlines()

    assert head.split() == ["ID", "NAME", "STATUS", "SUBMITTED", "RAN", "NOTE"]
    assert invoice.split()[:3] == ["invoice-7", "adds", "completed"]
    assert invoice.endswith(f"  {reason}")
    assert failed.split()[:3] == [written.ids[2][:12], "fails", "failed"]
    assert failed.rstrip().endswith("LookupError: no [3]\\n\\x1b[31m")
    place = more.removeprefix("more: --all, or --after ")
    page = run("list", "--limit", "2", "--after", place, "--store", written.url)
    assert [task["task_id"] for task in page.objects] == [written.ids[1], written.ids[0]]
    assert "more" not in run("list", "--table", "--limit", "4", "--store", written.url).out

    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        narrow = run(*command).out.splitlines()[:3]
        assert max(map(len, narrow)) == width
        starts = [line.split()[0] for line in narrow]
        assert starts == ["ID", "invoice-7", written.ids[2][:12]]
    assert [line.split()[2] for line in narrow] == ["STATUS", "completed", "failed"]


# -- show and wait


@pytest.mark.extended("processes")
def test_one_task(run: Any, written: Written) -> None:
    """A task is found by its id, or by the beginning of it; times are shown with their zone."""
    for command in ("show", "wait"):
        for start in (written.ids[0], written.ids[0][:12]):
            said = run(command, start, "--store", written.url)
            assert said.status == 0
            assert said.objects[0]["task_id"] == written.ids[0]
        found = run(command, "invoice", "--store", written.url).objects[0]["task_id"]
        assert found == "invoice-7"
    shown = run("show", "invoice", "--store", written.url, "--table").out
    assert re.search(r"^submitted +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", shown, re.MULTILINE)


@pytest.mark.extended("processes")
def test_waiting_for_a_failed_task(run: Any, written: Written) -> None:
    """The status of a wait is 1 if the task has not COMPLETED, and that of a look 0."""
    assert run("wait", written.ids[2], "--store", written.url).status == 1
    assert run("show", written.ids[2], "--store", written.url).status == 0


@pytest.mark.extended("processes")
def test_unknown(run: Any, written: Written) -> None:
    """An unknown id is named, with the store, and the status is 1; so is an ambiguous one."""
    for start in ("nobody", "%", "\ud800"):
        said = run("show", start, "--store", written.url)
        assert (said.status, said.out) == (1, "")
        assert said.err == f"asyncframe: there is no task {start!r} in {written.url}\n"
    said = run("show", "", "--store", written.url)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("asyncframe: several ids begin with '': ")


@pytest.mark.extended("processes")
def test_cancel_of_what_has_ended(run: Any, written: Written) -> None:
    """Tasks that have ended cannot be cancelled; each is named."""
    said = run("cancel", written.ids[0], "nobody", "--store", written.url)

    assert said.status == 1
    assert said.err.splitlines() == [
        f"asyncframe: task {written.ids[0]} has already ended: completed",
        f"asyncframe: there is no task 'nobody' in {written.url}",
    ]


def copied(written: Written, folder: Path) -> Path:
    """Return a copy of the store, which a test may change."""
    return Path(shutil.copy(written.url.removeprefix("sqlite:///"), folder))


def set_running(file: Path, task_id: str) -> None:
    """Change a store as if a task had not ended."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "UPDATE asyncframe_tasks SET status = 'running', ended_at = NULL WHERE task_id = ?",
            (task_id,),
        )


@pytest.mark.extended("processes")
def test_a_store_that_goes_away(
    run: Any, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails during a wait is one line, and no traceback."""
    file, task_id = copied(written, tmp_path), written.ids[0]
    set_running(file, task_id)

    class Clock(SystemClock):
        def __init__(self) -> None:
            super().__init__()
            self.sleep = lambda _: file.unlink()

    monkeypatch.setattr(_tasks, "SystemClock", Clock)
    said = run("wait", task_id, "--store", f"sqlite:///{file}")

    assert (said.status, said.out) == (1, "")
    assert said.err == (
        f"asyncframe: sqlite:///{file} cannot be read: the file {file} was removed or replaced "
        "while in use: put it back, or restart all processes of this app to create a new one\n"
    )


@pytest.mark.extended("processes")
def test_a_task_that_a_dead_process_has_delayed(run: Any, written: Written, tmp_path: Path) -> None:
    """How long it waits is counted by the wall clock, and a cancellation waits for nobody's end."""
    file = copied(written, tmp_path)
    set_running(file, written.ids[0])
    with closing(sqlite3.connect(file)) as connection, connection:
        columns = "process_id, host, pid, started_at, beat"
        connection.execute(
            f"INSERT INTO asyncframe_processes ({columns}) VALUES ('dead', 'here', 1, 0, 0)"
        )
        values = ("pending", "dead", delayed(SystemClock().time() + 10_000.0), written.ids[0])
        change = "UPDATE asyncframe_tasks SET status = ?, process = ?, reason = ? WHERE task_id = ?"
        connection.execute(change, values)
    store = "--store", f"sqlite:///{file}"
    (shown,) = run("list", "--status", "pending", *store).objects
    assert re.search(r"in 2 h 4[456] min$", shown["reason"]), shown["reason"]
    said = run("cancel", written.ids[0], "--timeout", "0.01", *store)
    assert said.status == 1
    assert said.err == (
        f"asyncframe: task {written.ids[0]} is asked to stop, and still pending: its process has "
        "not answered; if it has died, the next one of the app cancels the task\n"
    )


@pytest.mark.extended("processes")
def test_cancel_without_a_process(run: Any, written: Written, tmp_path: Path) -> None:
    """There is nobody to cancel a task whose process has ended, and the answer says so."""
    file, task_id = copied(written, tmp_path), written.ids[0]
    set_running(file, task_id)
    said = run("cancel", task_id, "--timeout", "0", "--store", f"sqlite:///{file}")

    assert said.status == 1
    assert said.objects[0]["status"] == "running"
    assert said.objects[0]["cancel_requested"] is True
    assert said.err == (
        f"asyncframe: task {task_id} is asked to stop, but no process has it now: the next one of "
        "the app ends it\n"
    )


@pytest.mark.extended("processes")
def test_run_again_without_a_process(run: Any, written: Written, tmp_path: Path) -> None:
    """A failed task is run again when its app starts next, and the answer says so."""
    store = "--store", f"sqlite:///{copied(written, tmp_path)}"
    said = run("run-again", written.ids[2], *store)
    (task,) = said.objects

    assert (said.status, task["name"], task["status"]) == (0, "fails", "pending")
    assert task["run_again_of"] == written.ids[2]
    assert said.err == (
        f"asyncframe: no process runs now: the next one of the app runs task {task['task_id']}\n"
    )


@pytest.mark.extended("processes")
def test_a_long_result(run: Any, written: Written, tmp_path: Path) -> None:
    """A long result is cut where people read it, and whole as JSON."""
    file, task_id = copied(written, tmp_path), written.ids[0]
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "UPDATE asyncframe_tasks SET result = ?, name = 'x' WHERE task_id = ?",
            (json.dumps("a" * 5_000), task_id),
        )
    store = "--store", f"sqlite:///{file}"
    shown = run("show", task_id, "--table", *store).out.splitlines()[-1]

    assert shown.split(maxsplit=1) == [
        "result",
        f'"{"a" * 1_999}… (5,002 characters; --json prints all)',
    ]
    assert run("show", task_id, *store).objects[0]["result"] == "a" * 5_000


@step
def weigh(item: str) -> int:
    """Fail for what is no item."""
    if not item:
        raise LookupError("no item")
    return len(item)


@background_task(on_restart="resume", name="tests.weighs")
def weighs() -> int:
    """Weigh something, and nothing."""
    return weigh("bike") + weigh("")


@pytest.mark.extended("time")
async def test_the_steps_of_a_task(run: Any, tmp_path: Path) -> None:
    """Below a task its steps are listed, and its JSON has them."""
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    async with setup_async_framework(None, store=SQLStore(url, durable=True)):
        task_id = await get_task_manager().submit(weighs)
        with pytest.raises(LookupError, match=r"^no item$"):
            await get_task_manager().get_result(task_id)
    steps = run("show", task_id, "--store", url).objects[0]["steps"]
    table = run("show", task_id, "--store", url, "--table").out.splitlines()[-3:]

    name = f"{__name__}.weigh"
    assert [(one["name"], one["state"], one["error_type"]) for one in steps] == [
        (name, "completed", None),
        (name, "failed", "LookupError"),
    ]
    assert table[0].split() == ["STEP", "STATE", "TOOK", "ERROR"]
    assert table[1].split()[:2] == [name, "completed"]
    assert table[2].split()[:2] == [name, "failed"]
    assert table[2].endswith("LookupError: no item")


# -- schedules


@pytest.mark.extended("processes")
def test_schedules(run: Any, written: Written, tmp_path: Path) -> None:
    """Schedules are listed, paused and resumed for all processes."""
    store = "--store", f"sqlite:///{copied(written, tmp_path)}"

    (listed,) = run("schedules", *store).objects
    assert (listed["name"], listed["timing"]) == ("tidies", "every 86400 s")
    assert listed["paused"] is False
    assert run("schedules", "pause", "tidies", *store).objects[0]["paused"] is True
    assert run("schedules", "list", *store).objects[0]["paused"] is True
    assert run("schedules", "resume", "tidies", *store).objects[0]["paused"] is False


@pytest.mark.extended("processes")
def test_nobody_runs(run: Any, written: Written, tmp_path: Path) -> None:
    """A run that no process is there for is told, and so is one that is already waiting."""
    store = "--store", f"sqlite:///{copied(written, tmp_path)}"
    said = run("schedules", "trigger", "tidies", *store)
    (task,) = said.objects

    assert (said.status, task["name"], task["status"]) == (0, "tidies", "pending")
    assert task["reason"] == (
        "it was submitted from outside, and waits for a process that knows its function"
    )
    assert said.err == (
        f"asyncframe: no process runs now: the next one of the app runs task {task['task_id']}\n"
    )
    assert run("schedules", "trigger", "tidies", *store).err == (
        "asyncframe: schedule 'tidies' cannot be run now: its last run has not ended\n"
    )


@pytest.mark.extended("processes")
def test_schedules_refused(run: Any, written: Written) -> None:
    """A missing name and an unknown one are said in plain words."""
    cases = {
        ("pause",): (2, "schedules pause needs the name of a schedule"),
        ("list", "tidies"): (2, "schedules list takes no name"),
        ("trigger", "tidi"): (1, "there is no schedule 'tidi'; there are: 'tidies'"),
        ("resume", "tidi"): (1, "there is no schedule 'tidi'; there are: 'tidies'"),
    }
    said = {words: run("schedules", *words, "--store", written.url) for words in cases}
    assert {words: (one.status, one.out, one.err) for words, one in said.items()} == {
        words: (status, "", f"asyncframe: {message}\n")
        for words, (status, message) in cases.items()
    }


# -- where the tasks are


def test_nothing_is_named(run: Any) -> None:
    """Without a store and an app, both options and variables are named; the status is 2."""
    said = run("list")

    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "asyncframe: where are the tasks? Name the store, --store sqlite:///tasks.db, or the app, "
        "--app module:app; or set ASYNCFRAME_STORE or ASYNCFRAME_APP\n"
    )


@pytest.mark.extended("processes")
def test_by_environment(run: Any, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the store if no option does."""
    monkeypatch.setenv("ASYNCFRAME_STORE", written.url)

    assert len(run("list").objects) == 4


def test_no_file_is_made(run: Any, tmp_path: Path) -> None:
    """A file that is not there is named, and not made."""
    file = tmp_path / "typo.db"
    said = run("list", "--store", f"sqlite:///{file}")

    assert (said.status, said.err) == (1, f"asyncframe: there is no file {file}\n")
    assert not file.exists()


def test_a_file_without_tasks(run: Any, tmp_path: Path) -> None:
    """A database that no app has used is said to be one, and gets no tables."""
    file = tmp_path / "empty.db"
    file.touch()
    said = run("list", "--store", f"sqlite:///{file}")

    assert said.status == 1
    assert said.err == (
        f"asyncframe: sqlite:///{file} has no tasks: no app has used this database as its store "
        "yet\n"
    )
    assert file.stat().st_size == 0 or b"asyncframe" not in file.read_bytes()


def test_what_is_no_database(run: Any, tmp_path: Path) -> None:
    """A file that is no database is one line, and no traceback."""
    file = tmp_path / "shop.py"
    file.write_text("print('hello, this is no database at all')\n" * 100)
    said = run("list", "--store", f"sqlite:///{file}")

    assert said.status == 1
    assert said.err == (f"asyncframe: sqlite:///{file} cannot be read: file is not a database\n")


def test_another_kind_of_database(run: Any) -> None:
    """A URL of an unsupported database is refused by the option's name."""
    said = run("list", "--store", "mysql://host/name")

    assert said.status == 2
    assert said.err.startswith("asyncframe: --store must start with one of sqlite, ")


APPS = {
    "memory": "import framework\napp = framework.setup_async_framework()\n",
    "broken": "import nowhere_to_be_found\n",
    "on_celery": (
        "from celery import Celery\nfrom framework.engines.celery import CeleryEngine\n"
        "app = CeleryEngine(Celery('shop', broker='redis://127.0.0.1:1/0'), default_limit=9.0)\n"
    ),
    "two": (
        "from framework.stores.sql import SQLStore\n"
        "app, one, two = 1, SQLStore('sqlite:///1.db'), SQLStore('sqlite:///2.db')\n"
    ),
    "inside": (
        "from framework.stores.sql import SQLStore\n"
        "def make():\n    return lambda store=SQLStore({url!r}): store\n"
        "class Nested:\n    app = make()\n"
    ),
}


RUNNER = """
import contextlib, io, json
from framework import background_task, get_task_manager, setup_async_framework
from framework._records.reasons import delayed
from framework._threads.clock import SystemClock
from framework.cli import _screen, _tasks, _workers, main
from framework.protocols import ProcessInfo
from framework.steps import step
from framework.stores.sql import SQLStore
said = []
for arguments in {commands!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    said.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


def in_folder(folder: Path, *apps: str) -> dict[str, Said]:
    """List the tasks of some apps in a process of its own; return what is said of each.

    An app is imported into the process, so those with stores need one each.
    """
    commands = [["list", "--app", app] for app in apps]
    done = python("-c", RUNNER.format(commands=commands), cwd=folder)
    said = [Said(*one) for one in json.loads(done.stdout)]
    return dict(zip(apps, said, strict=True))


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory, written: Written) -> Path:
    """A folder with some apps, and a folder that has the name of the package."""
    folder = tmp_path_factory.mktemp("apps")
    for name, text in APPS.items():
        (folder / f"{name}.py").write_text(text.replace("{url!r}", repr(written.url)))
    return folder


@pytest.mark.extended("processes")
def test_the_store_of_an_app(apps: Path) -> None:
    """An app is found in the current folder, and in it the store that its lifespan has."""
    said = in_folder(apps, "inside:Nested.app")["inside:Nested.app"]

    assert (said.status, said.err) == (0, "")
    assert len(said.objects) == 4


IN_MEMORY = """\
memory:app has no store that other processes can read: its tasks are in its own memory.
Give it one, setup_async_framework(app, store=SQLStore("sqlite:///tasks.db")), or look at its
tasks over HTTP. If it makes its store only when it starts, name the store: --store URL"""
NO_MODULE = "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
TWO = "SQLStore('sqlite+pysqlite:///1.db'), SQLStore('sqlite+pysqlite:///2.db')"


IN_REDIS = """\
on_celery:app leaves its tasks to its engine, which has no list of them.
Give it a store as well, setup_async_framework(app, engine=engine, store=SQLStore("sqlite:///tasks.db"))"""

REFUSED = {
    "memory:app": (1, IN_MEMORY),
    "on_celery:app": (1, IN_REDIS),
    "broken:app": (2, f"'broken' cannot be imported: {NO_MODULE} ({{apps}}/broken.py, line 1)"),
    "memory:nothing": (2, "'memory' has no 'nothing', nor another app"),
    "memory:": (2, "an app must be like module:app, as for uvicorn, not 'memory:'"),
    "two:app": (2, f"two:app has several stores, {TWO}: choose one with --store"),
}


@pytest.mark.extended("processes")
def test_apps_without_one_store(apps: Path) -> None:
    """What keeps an app's tasks from being found is said in plain words."""
    said = in_folder(apps, *REFUSED)

    assert {app: (one.status, one.out, one.err) for app, one in said.items()} == {
        app: (status, "", f"asyncframe: {message.replace('{apps}', str(apps))}\n")
        for app, (status, message) in REFUSED.items()
    }


def test_a_folder_with_our_name(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own folder that has the package's name is hinted at, if an app is not found."""
    (tmp_path / "framework").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    said = run("list", "--app", "nowhere_to_be_found:app")

    assert said.status == 2
    assert said.err == (
        f"asyncframe: 'nowhere_to_be_found' cannot be imported: {NO_MODULE}\n"
        f"hint: {tmp_path / 'framework'} has the name of asyncframe's package, and only one of "
        "them can be imported: give yours another name\n"
    )
