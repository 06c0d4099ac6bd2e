"""Metrics of several processes: when each writes its own, and what the dead leave behind.

Real processes are in `tests/processes/operating/test_metrics.py`. Here the values are in memory,
so that a test sees when they are written.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, values

from framework import QueueFullError, TaskManager
from framework.telemetry import _series
from framework.telemetry._processes import forget_dead_processes
from framework.telemetry.prometheus import PrometheusSink
from pytest_asyncframe.clock import VirtualClock


@pytest.fixture(autouse=True)
def several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write gauges as if there were other processes; return the folder."""
    monkeypatch.setattr(_series, "are_several", lambda: True)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of the test's own."""
    return CollectorRegistry()


async def test_gauges_are_written_at_intervals(
    registry: CollectorRegistry, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """They are written when it is attached, every five seconds, and when it is detached."""
    detach = PrometheusSink(registry).attach(task_manager)
    task_id = await task_manager.submit(int, delay=60.0)
    seen = [registry.get_sample_value("asyncframe_tasks_pending")]
    for seconds in (4.0, 2.0):
        await task_clock.run_for(seconds)
        seen.append(registry.get_sample_value("asyncframe_tasks_pending"))
    assert await task_manager.cancel_task(task_id)
    detach()
    seen.append(registry.get_sample_value("asyncframe_tasks_pending"))
    await task_manager.submit(int, delay=3.0)
    await task_clock.run_for(2.0)
    seen.append(registry.get_sample_value("asyncframe_tasks_pending"))
    assert seen == [0.0, 0.0, 1.0, 0.0, 0.0]
    await task_clock.run_for(5.0)


async def test_what_grows_is_added_once(
    registry: CollectorRegistry, task_manager: TaskManager, task_clock: VirtualClock
) -> None:
    """A counter gets what has come since the last time, also over a detachment."""
    task_manager._core.ledger.queue_size = 1
    await task_manager.submit(int, delay=100.0)
    for _ in range(2):
        detach = PrometheusSink(registry, refresh_interval=1.0).attach(task_manager)
        with pytest.raises(
            QueueFullError,
            match=r"^the task queue is full: 1 tasks are waiting; try again in \d s, or increase ",
        ):
            await task_manager.submit(int)
        await task_clock.run_for(3.0)
        detach()
    assert registry.get_sample_value("asyncframe_tasks_rejected_total") == 2.0
    await task_clock.run_for(200.0)


async def test_a_failure_to_write(
    registry: CollectorRegistry,
    task_manager: TaskManager,
    task_clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged once and tried again, and said again if it fails anew."""
    detach = PrometheusSink(registry, refresh_interval=1.0).attach(task_manager)

    def fail() -> None:
        raise OSError("no space left")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(_series, "forget_dead_processes", fail)
            await task_clock.run_for(3.5)
        await task_clock.run_for(1.0)
    detach()
    said = [message for message in caplog.messages if "metrics" in message]
    assert said == ["metrics could not be written; this is tried again"] * 2


@pytest.mark.parametrize("folder", ["", "/nowhere/metrics"])
def test_a_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Without the folder for the files, a sink is refused, and not each of its events."""
    monkeypatch.undo()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", folder)
    monkeypatch.setattr(values, "ValueClass", SimpleNamespace(_multiprocess=True))
    message = (
        f"PROMETHEUS_MULTIPROC_DIR must name a folder that exists, not {folder!r}: create it "
        "before the server starts, and empty it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PrometheusSink(CollectorRegistry())


@pytest.mark.extended("processes")
def test_what_dead_processes_leave(several: Path) -> None:
    """Gauges of a process that has died are removed, and those of living ones and counters stay."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pass
    alive, dead = os.getpid(), process.pid
    names = [f"gauge_livesum_{alive}.db", f"gauge_livemax_{alive}.db", f"counter_{dead}.db"]
    for name in (*names, f"gauge_livesum_{dead}.db", f"gauge_livemax_{dead}.db", "gauge_live_x.db"):
        (several / name).touch()
    forget_dead_processes()
    assert sorted(path.name for path in several.iterdir()) == sorted([*names, "gauge_live_x.db"])
    forget_dead_processes()


def test_a_process_of_another_user(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be sent signals lives, and keeps its gauges."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    (several / "gauge_livesum_1.db").touch()
    forget_dead_processes()
    assert (several / "gauge_livesum_1.db").exists()


@pytest.mark.extended("processes")
def test_two_processes_that_clean_up(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process removes at the same moment is no error."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pass
    file = several / f"gauge_livesum_{process.pid}.db"
    file.touch()
    real = os.remove
    monkeypatch.setattr(os, "remove", lambda path: (real(path), real(path)))
    forget_dead_processes()
    assert not file.exists()
