"""``asyncframe worker``: processes that take what a web process submits, killed or drained."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import setup_async_framework
from framework.cli import main
from framework.http import task_router
from framework.stores.sql import SQLStore
from tests.patience import PATIENCE
from tests.processes.work.working import APP, READY, web, worker
from tests.programs import program
from tests.serving import ROOT, Server

MADE = "tests.processes.apps.made"


@pytest.fixture
def environment(sql_url: str, tmp_path: Path) -> dict[str, str]:
    """What the processes of the app find in their environment."""
    return {"TASKS_URL": sql_url, "RUNS": str(tmp_path / "runs")}


def listed_in(environment: dict[str, str]) -> list[dict[str, Any]]:
    """Return what `asyncframe workers` says of each process."""
    lines = subprocess.run(
        [sys.executable, "-m", "framework", "workers", "--store", environment["TASKS_URL"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.extended("processes")
def test_one_that_was_killed_is_gone(sqlite_url: str, tmp_path: Path) -> None:
    """A process that was killed while no other lived is listed as gone, until one comes."""
    environment = {"TASKS_URL": sqlite_url, "RUNS": str(tmp_path / "runs")}
    with worker(environment) as killed:
        killed.process.kill()
        killed.wait(PATIENCE)
    (gone,) = listed_in(environment)
    assert (gone["pid"], gone["gone"]) == (killed.process.pid, True)


@pytest.mark.extended("processes")
def test_two_workers_share_the_work(environment: dict[str, str]) -> None:
    """Two workers run all that a web process submits, each task once, and it keeps nothing."""
    with (
        web(environment) as app,
        worker(environment, "--max-workers", "2") as one,
        worker(environment, "--max-workers", "2") as two,
    ):
        task_ids = app.post("/many/60")
        assert isinstance(task_ids, list)
        results = app.post("/results", task_ids)
        assert results == [f"open {number}" for number in range(60) for _ in range(2)]
        assert app.get("/left") == 0
        runs = app.runs()
        assert Counter(task_id for _, task_id in runs) == Counter(task_ids)
        listed = {facts["pid"]: facts for facts in listed_in(environment)}
        assert not any(facts["gone"] for facts in listed.values())
        pids = {one.process.pid, two.process.pid}
        assert {pid: listed[pid]["places"] for pid in pids} == dict.fromkeys(pids, 2)
        assert {pid: facts["kind"] for pid, facts in listed.items()} == {
            pid: "worker" if pid in pids else "submits" for pid in listed
        }
        assert [facts["places"] for pid, facts in listed.items() if pid not in pids] == [0]
        share = Counter(pid for pid, _ in runs)
        assert set(share) == {str(one.process.pid), str(two.process.pid)}
        assert min(share.values()) > 10
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            said = process.wait_for("has stopped")
            assert re.search(r"app has stopped: \d+ completed$", said)


@pytest.mark.extended("processes")
def test_an_app_that_a_function_returns(environment: dict[str, str]) -> None:
    """A worker runs an app that a function returns, or that a module has as ``app``."""
    made = worker(environment, "--factory", "--only", "work.loop", app=f"{MADE}:make_app")
    with web(environment) as app, made, worker(environment, app=APP.removesuffix(":app")) as whole:
        task_ids = app.post("/many/4")
        assert app.post("/results", task_ids) == [f"open {at}" for at in range(4) for _ in range(2)]
        assert str(whole.process.pid) in {pid for pid, _ in app.runs()}


@pytest.mark.extended("processes")
def test_a_worker_is_killed(environment: dict[str, str]) -> None:
    """What a killed worker had not started runs in the other one, once; none is lost."""
    with (
        web(environment) as app,
        worker(environment, "--max-workers", "3") as one,
        worker(environment, "--max-workers", "3") as two,
    ):
        task_ids = app.post("/many/100")
        assert isinstance(task_ids, list)
        one.process.kill()
        ended = Counter[str]()
        for task_id in task_ids:
            with suppress(AssertionError):
                app.post("/results", [task_id])
                ended["completed"] += 1
        begun, done = app.runs(), app.runs("end")
        assert max(Counter(task_id for _, task_id in begun).values()) == 1
        assert len(task_ids) - ended["completed"] <= 6, "only what it was running"
        assert ended["completed"] <= len({task_id for _, task_id in done}) <= len(task_ids)
        assert str(two.process.pid) in {pid for pid, _ in begun}


@pytest.mark.extended("processes")
def test_a_worker_is_drained(environment: dict[str, str]) -> None:
    """At SIGTERM a worker ends what it runs, and takes nothing more; the rest waits for another."""
    with web(environment) as app:
        with worker(environment, "--max-workers", "1") as one:
            first = app.post("/long/1.5")
            one.wait_for("it has begun")
            one.send_signal(signal.SIGTERM)
            one.wait_for("is stopping, 1 task is running")
            second = app.post("/long/0")
            assert one.wait(PATIENCE) == 0
            assert one.wait_for("has stopped").endswith("has stopped: 1 completed")
            assert [task_id for _, task_id in app.runs("end")] == [first]
        with worker(environment):
            assert app.post("/results", [first, second]) == ["done", "done"]
            assert [task_id for _, task_id in app.runs()] == [first, second]


@pytest.mark.extended("processes")
def test_the_second_signal(environment: dict[str, str]) -> None:
    """A second signal ends a worker at once, whatever it runs; another one runs it again."""
    with web(environment) as app:
        with worker(environment, "--max-workers", "1") as one:
            first = app.post("/long/1.5")
            one.wait_for("it has begun")
            one.send_signal(signal.SIGINT)
            one.wait_for("is stopping")
            one.send_signal(signal.SIGTERM)
            assert one.wait(PATIENCE) == -signal.SIGTERM
        with worker(environment, "--only", "work.long"):
            assert app.post("/results", [first]) == ["done"]
            assert [task_id for _, task_id in app.runs()] == [first, first]


@pytest.mark.extended("processes")
def test_signals_to_the_first_process_of_a_container(environment: dict[str, str]) -> None:
    """A signal ends a worker that imports its app, and a second one another, also as process 1."""
    within = [program("unshare"), "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*within, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make namespaces of processes")
    ended = 128 + signal.SIGTERM

    def send(one: Server) -> None:
        (first,) = psutil.Process(one.process.pid).children()
        first.send_signal(signal.SIGTERM)

    asking = worker(environment, "--factory", app=f"{MADE}:asks", within=within, until="asking")
    with asking as one:
        send(one)
        assert one.wait(PATIENCE) == ended
    with web(environment) as app, worker(environment, within=within) as one:
        app.post("/long/1.5")
        one.wait_for("it has begun")
        send(one)
        one.wait_for("is stopping")
        send(one)
        assert one.wait(PATIENCE) == ended


@pytest.mark.extended("processes")
def test_an_app_that_ends_by_itself(environment: dict[str, str]) -> None:
    """A worker whose lifespan fails while it runs ends, and says why."""
    with worker(environment, app=f"{MADE}:listens") as one:
        assert one.process.stdin is not None
        one.process.stdin.close()
        assert one.wait(PATIENCE) == 1
        one.wait_for(f"asyncframe: the shutdown of {MADE}:listens has failed: ")
        one.wait_for("EOFError: EOF when reading a line")


@pytest.mark.extended("processes")
@pytest.mark.parametrize("out", [">/dev/full", ">&-", ">&- 2>&-"])
def test_output_that_nobody_reads(environment: dict[str, str], out: str) -> None:
    """A worker goes on whose output is closed, or on a disk that is full."""
    command = f"{sys.executable} -m framework worker {APP} {out} & echo ready $!; wait $!; echo $?"
    with (
        web(environment) as app,
        worker(environment, within=["sh", "-c", command], until="ready ") as one,
    ):
        task_ids = app.post("/many/1")
        assert app.post("/results", task_ids) == ["open 0"] * 2
        os.kill(int(one.lines[0].split()[1]), signal.SIGTERM)
        assert one.wait(PATIENCE) == 0
        assert one.lines[-1] == "0"


@pytest.mark.extended("processes")
def test_only_some_functions(environment: dict[str, str]) -> None:
    """A worker that is to run some functions leaves the others alone."""
    with web(environment) as app, worker(environment, "--only", "work.loop") as some:
        task_ids = app.post("/many/3")
        assert isinstance(task_ids, list)
        assert app.post("/results", task_ids[1::2]) == [f"open {number}" for number in range(3)]
        assert {task_id for _, task_id in app.runs()} == set(task_ids[1::2])
        with worker(environment) as rest:
            assert app.post("/results", task_ids[::2]) == [f"open {number}" for number in range(3)]
            assert dict(app.runs())[str(rest.process.pid)] in task_ids[::2]
        assert "work.loop from SQLStore(" in some.wait_for(READY)


@pytest.mark.extended("time")
def test_who_sees_the_processes(sqlite_url: str) -> None:
    """Whoever sees all tasks sees the processes of the store, and an owner sees none."""
    app = FastAPI(lifespan=setup_async_framework(max_workers=3, store=SQLStore(sqlite_url)))
    app.include_router(task_router(owner=lambda request: request.headers.get("x-user")))
    app.include_router(task_router(prefix="/all"))
    with TestClient(app) as client:
        own = client.get("/tasks/dashboard/facts", headers={"X-User": "ann"}).json()
        (one,) = client.get("/all/dashboard/facts").json()["processes"]
    assert "processes" not in own
    assert (one["host"], one["pid"]) == (socket.gethostname(), os.getpid())
    assert (one["kind"], one["places"], one["busy"], one["names"]) == ("app", 3, 0, [])
    assert (one["since"], one["seen"]) == (None, None)


@pytest.mark.extended("processes")
def test_health(environment: dict[str, str]) -> None:
    """A worker answers probes: it is ready while it takes tasks, and not while it stops."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def probe(path: str, method: str = "GET") -> tuple[int, str]:
        found = httpx.request(method, f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)
        return found.status_code, found.text

    options = "--max-workers", "1", "--health-port", str(port)
    with web(environment) as app, worker(environment, *options) as one:
        paths = "/health/live", "/health/ready", "/tasks"
        assert [probe(path) for path in paths] == [(200, "ok"), (200, "ok"), (404, "not found")]
        assert probe("/health/ready", "HEAD") == (200, "")
        assert probe("/health/live", "POST") == (404, "not found")
        app.post("/long/1.5")
        one.wait_for("it has begun")
        one.send_signal(signal.SIGTERM)
        one.wait_for("is stopping")
        assert [probe(path) for path in paths[:2]] == [(200, "ok"), (503, "stopping")]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as silent:
            assert one.wait(PATIENCE) == 0
            assert silent.recv(10) == b""


WRONG = {
    "": "which app? Name it as for uvicorn, asyncframe worker module:app, or set ASYNCFRAME_APP",
    "shop": "'shop' cannot be imported: ModuleNotFoundError: No module named 'shop'",
    "shop:": "an app must be like module:app, as for uvicorn, not 'shop:'",
    "tests.processes.apps.shared_work:nothing": "'tests.processes.apps.shared_work' has no "
    "'nothing'",
    "tests.processes.apps.shared_work:NEVER": "tests.processes.apps.shared_work:NEVER is no app, "
    "but Event",
    "tests.processes.apps.shared_work:bare": "tests.processes.apps.shared_work:bare has started, "
    "but runs no framework: add it to the app, "
    "FastAPI(lifespan=setup_async_framework(store=SQLStore(url)))",
    "tests.processes.apps.shared_work:memory": "tests.processes.apps.shared_work:memory has no "
    "store that other processes share, so there is nothing to take: "
    "setup_async_framework(app, store=SQLStore(url))",
    f"{APP} --only work.lop": "the app has no function 'work.lop'; it has ..; did you mean "
    "'work.loop'?",
    f"{APP} --store tasks.db": "--store must be like 'sqlite:///tasks.db'",
    "tests.processes.apps.shared_work:note": "tests.processes.apps.shared_work:note did not "
    "answer to its startup: TypeError: note() takes 1 positional argument but 3 were given",
}


def test_what_cannot_work(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that could never take a task says why, and what to do."""
    monkeypatch.setenv("TASKS_URL", sqlite_url)
    monkeypatch.delenv("ASYNCFRAME_APP", raising=False)
    for given, why in WRONG.items():
        assert main(["worker", *given.split()]) in (1, 2), given
        begin, _, end = why.partition("..")
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"asyncframe: {begin}"), given
        assert line.endswith(end), given


UNSET = ROOT / "tests/processes/apps/unset.py"
HABITS = {
    f"{MADE}:make_app": f"{MADE}:make_app takes no arguments, so it is no app: if it returns one, "
    "add --factory",
    "tests.processes.apps.unmade": "'tests.processes.apps.unmade' has no 'app'; "
    "tests.processes.apps.unmade:make_app may return one: a worker takes that with --factory",
    MADE: f"{MADE!r} has no 'app'; it has {MADE}:closed, {MADE}:exits, {MADE}:listens",
    f"{MADE}:make_app()": f"{MADE!r} has no 'make_app()'; leave out the brackets and add "
    f"--factory: {MADE}:make_app --factory",
    "tests/processes/apps/made.py:app": "an app must be like module:app, as for uvicorn, not "
    "'tests/processes/apps/made.py:app'; did you mean 'tests.processes.apps.made:app'?",
    "tests.processes.apps.unset": "'tests.processes.apps.unset' cannot be imported: "
    f"KeyError: 'NOWHERE' ({UNSET}, line 5)",
    "tests.processes.apps:app": "'tests.processes.apps' has no 'app', nor another app",
    "tests.processes.apps.shared_work:ap": "'tests.processes.apps.shared_work' has no 'ap'; it has "
    "tests.processes.apps.shared_work:app, tests.processes.apps.shared_work:memory, "
    "tests.processes.apps.shared_work:bare",
    f"{APP} --factory": f"{APP} cannot be called without arguments, as --factory says: name a "
    "function that needs none and returns the app; leave --factory out if it is the app itself",
    f"{MADE}:wants --factory": f"{MADE}:wants cannot be called without arguments, as --factory "
    "says: name a function that needs none and returns the app; leave --factory out if it is the "
    "app itself",
    f"{MADE}:fails --factory": f"{MADE}:fails() has failed: KeyError: 'NOWHERE' "
    f"({UNSET.with_name('made.py')}, line 69)",
    f"{MADE}:later --factory": f"{MADE}:later is async, but --factory needs a plain function",
    f"{MADE}:nothing --factory": f"{MADE}:nothing() has returned None, which is no app",
}


def test_apps_that_are_named_otherwise(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An app that is named as other programs want it is found, or what there is instead is said."""
    monkeypatch.setenv("TASKS_URL", sqlite_url)
    monkeypatch.delenv("NOWHERE", raising=False)

    def said(given: str) -> tuple[int, str]:
        return main(["worker", *given.split()]), capsys.readouterr().err

    found = {given: said(given) for given in HABITS}
    assert found == {given: (2, f"asyncframe: {text}\n") for given, text in HABITS.items()}


def test_a_startup_that_fails(
    sqlite_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An app that cannot start is told of once, with what it has raised; a store in one line."""
    monkeypatch.setenv("TASKS_URL", sqlite_url)
    assert main(["worker", f"{MADE}:closed"]) == 1
    gc.collect()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"asyncframe: the startup of {MADE}:closed has failed: Traceback")
    assert said[-1] == "RuntimeError: the database does not answer"
    with pytest.raises(SystemExit, match=r"^7$"):
        main(["worker", f"{MADE}:exits"])
    gc.collect()
    assert caplog.records == []
    assert main(["worker", APP, "--store", "sqlite:////nowhere/tasks.db"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"asyncframe: the startup of {APP} has failed: SQLStore('sqlite+pysqlite:////nowhere/"
        "tasks.db') cannot be used: there is no folder /nowhere"
    )
