"""A real uvicorn that is stopped while it has two hundred unfinished tasks."""

from __future__ import annotations

import re
import signal
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.framework.apps.busy import EXPECTED
from tests.patience import PATIENCE
from tests.serving import READY, STOPPING, Server, serving

pytestmark = pytest.mark.extended("processes")

BUSY = "tests.framework.apps.busy:app"
LOADED = {"BUSY_LOAD": "1"}


def accepted(server: Server) -> list[str]:
    """Return every id that was given out, by any process."""
    lines = [line for line in server.lines if "INFO asyncframe accepted " in line]
    return [task_id for line in lines for task_id in line.split(" accepted ")[1].split()]


def final_states(server: Server) -> dict[str, str]:
    """Return the final state of every task; each is logged exactly once, at DEBUG."""
    found = re.findall(r"DEBUG asyncframe task (\w{32}) \(\S+\) (\w+)", server.log)
    assert Counter(task_id for task_id, _ in found).most_common(1)[0][1] == 1
    return dict(found)


def unfinished_lines(server: Server) -> list[str]:
    """Return what each WARNING about unfinished tasks says."""
    begin = "WARNING asyncframe unfinished at shutdown: "
    return [line.removeprefix(begin) for line in server.lines if line.startswith(begin)]


def lives(process: psutil.Process) -> bool:
    """Whether *process* is still running; a zombie is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_all_accounted_for(server: Server, *, loads: int = 1) -> None:
    """Assert that every id has a final state, and that the unfinished ones are named."""
    ids = accepted(server)
    states = final_states(server)
    assert len(set(ids)) == 200 * loads
    assert states.keys() == set(ids)
    assert Counter(states.values()) == {state: n * loads for state, n in EXPECTED.items()}
    unfinished = {task_id for task_id, state in states.items() if state != "completed"}
    lines = unfinished_lines(server)
    # Several processes may write their lines at once.
    heads = [line for line in lines if " tasks (" in line]
    assert [line.split(" tasks (")[0] for line in heads] == [str(len(unfinished) // loads)] * loads
    named = set(re.findall(r"\w{32}", " ".join(lines)))
    assert named
    assert named <= unfinished
    assert_stopped(server, loads)


def assert_stopped(server: Server, loads: int = 1) -> None:
    """Assert that every process has said that it stopped its framework.

    How long that took is no matter of a busy machine: tests on a virtual clock check the
    exact second, and a process that hangs does not end.
    """
    assert len(re.findall(r"stopped within [\d.]+ s", server.log)) == loads


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
def test_one_signal_ends_a_busy_server(number: int, status: int, loop: str) -> None:
    """SIGTERM and SIGINT end the process, and every id returned has a final state."""
    options = ("--timeout-graceful-shutdown", "2", "--loop", loop)
    with serving(BUSY, *options) as server:
        ids = httpx.post(f"{server.url}/load").json()
        server.send_signal(number)
        server.wait_for(STOPPING)
        assert server.wait(PATIENCE) == status
        assert accepted(server) == ids
        assert_all_accounted_for(server)


def test_workers_drain_each_their_own() -> None:
    """With two workers, both drain and neither outlives the parent."""
    with serving(BUSY, "--workers", "2", env=LOADED, processes=2) as server:
        family = [
            process
            for process in psutil.Process(server.process.pid).children(recursive=True)
            # The resource tracker ends once it sees its parent end, so a little later.
            if "resource_tracker" not in " ".join(process.cmdline())
        ]
        assert len(family) == 2
        server.send_signal(signal.SIGTERM)
        server.wait_for(STOPPING, 2)
        assert server.wait(PATIENCE) == 0
        assert not any(lives(process) for process in family)
        assert_all_accounted_for(server, loads=2)


def change_until_noticed(module: Path, server: Server) -> None:
    """Change a watched file until uvicorn notices; it may start watching after the app is ready."""
    for number in range(12):
        module.write_text(f"from tests.framework.apps.busy import app  # {number}\n")
        with suppress(AssertionError):
            server.wait_for("Reloading...", patience=5.0)
            return


def test_a_reload_drains_and_starts_anew(tmp_path: Path) -> None:
    """With --reload, a change drains the old process and a signal then drains the new one."""
    module = tmp_path / "reloaded.py"
    module.write_text("from tests.framework.apps.busy import app\n")
    options = ("--reload", "--reload-dir", str(tmp_path))
    with serving("reloaded:app", *options, env=LOADED, app_dir=tmp_path) as server:
        change_until_noticed(module, server)
        server.wait_for(READY, 2)
        server.send_signal(signal.SIGTERM)
        server.wait_for(STOPPING, 2)
        server.wait(PATIENCE)
        assert_all_accounted_for(server, loads=2)


def test_a_second_sigint_during_the_drain_loses_nothing() -> None:
    """A second Ctrl+C during the drain changes neither its limit nor what it reports."""
    with serving(BUSY, env=LOADED) as server:
        server.send_signal(signal.SIGINT)
        server.wait_for(STOPPING)
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE)
        assert_all_accounted_for(server)


def test_a_second_sigint_before_the_drain_loses_nothing() -> None:
    """A second Ctrl+C, which makes uvicorn skip the lifespan's end, still leaves no task out."""
    with serving(BUSY, env=LOADED) as server:
        address = httpx.URL(server.url)
        with socket.create_connection((address.host, address.port)) as client:
            client.sendall(b"GET /hang HTTP/1.1\r\nHost: here\r\n\r\n")
            server.wait_for("hanging")
            server.send_signal(signal.SIGINT)
            server.wait_for("Waiting for connections to close")
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)
        assert final_states(server).keys() == set(accepted(server))
        assert_stopped(server)


def test_a_signal_during_start_up_drains_what_was_started() -> None:
    """SIGTERM during start-up ends the app right after its start, with every task accounted for."""
    env = {**LOADED, "BUSY_HOLD": "1"}
    with serving(BUSY, env=env, until="starting up") as server:
        server.send_signal(signal.SIGTERM)
        assert server.process.stdin is not None
        server.process.stdin.write("go on\n")
        server.process.stdin.flush()
        server.wait_for(STOPPING)
        assert server.wait(PATIENCE) == -signal.SIGTERM
        assert_all_accounted_for(server)
