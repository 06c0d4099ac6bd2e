"""Metrics of real servers, with one process and with several that share a folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.patience import PATIENCE
from tests.processes.operating.connections import PATIENT, WORKERS, workers
from tests.serving import READY, Server, serving

pytestmark = pytest.mark.extended("processes")

APP = "tests.processes.apps.watched:app"


def scraped(server: Server) -> dict[str, float]:
    """Return the series of the framework that Prometheus reads from whichever process answers."""
    with urlopen(f"{server.url}/metrics/", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("asyncframe_"))
    return {series: float(value) for series, value in pairs if "_created" not in series}


def ended(name: str, status: str) -> str:
    """Return the series of the ends of some tasks."""
    return f'asyncframe_tasks_ended_total{{name="{name}",status="{status}"}}'


def until(server: Server, series: str, value: float) -> dict[str, float]:
    """Read the metrics until a series has a value, as a server's timer writes it soon."""
    for _ in range(5_000):
        found = scraped(server)
        if found.get(series) == value:
            return found
    raise AssertionError(f"{series} is {found.get(series)}, not {value}\n{server.log}")


def test_one_process(tmp_path: Path) -> None:
    """A scrape has exactly what the requests before it have run, and the gauges of its moment."""
    env = {"STORE_URL": f"sqlite:///{tmp_path / 'tasks.db'}"}
    with serving(APP, env=env) as server:
        for _ in range(3):
            urlopen(f"{server.url}/tasks/20/5", data=b"", timeout=PATIENCE).close()
        urlopen(f"{server.url}/endless", data=b"", timeout=PATIENCE).close()
        found = until(server, "asyncframe_tasks_running", 1.0)
    assert found[ended("good", "completed")] == 60.0
    assert found[ended("bad", "failed")] == 15.0
    assert found['asyncframe_task_run_seconds_count{name="good"}'] == 60.0
    assert found['asyncframe_tasks_submitted_total{name="endless"}'] == 1.0
    assert found["asyncframe_pool_threads_busy"] == 1.0
    assert found["asyncframe_pool_threads_limit"] == 2.0
    assert found["asyncframe_store_failing"] == 0.0
    assert found["asyncframe_store_errors_total"] == 0.0
    assert found["asyncframe_tasks_pending"] == 0.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An app in four workers, whose metrics are in one folder."""
    folder = tmp_path_factory.mktemp("metrics")
    options = ("--workers", str(WORKERS), *PATIENT)
    env = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with serving(APP, *options, env=env, processes=WORKERS) as running:
        yield running


def test_several_processes(server: Server) -> None:
    """Whichever process answers, counters and most gauges are the sums of all.

    What all have alike, such as schedules, is the largest. A process that is killed leaves its
    counts, and its gauges go with it.
    """
    with workers(server) as every:
        for number, worker in enumerate(every, 1):
            assert worker.ask("POST", f"/tasks/{10 * number}/{number}")[0] == 200
            assert worker.ask("POST", "/endless")[0] == 200
        found = until(server, "asyncframe_tasks_running", 4.0)
        assert found[ended("good", "completed")] == 100.0
        assert found[ended("bad", "failed")] == 10.0
        assert found['asyncframe_tasks_submitted_total{name="endless"}'] == 4.0
        assert found['asyncframe_task_run_seconds_count{name="good"}'] == 100.0
        assert found['asyncframe_task_run_seconds_bucket{le="+Inf",name="good"}'] == 100.0
        assert found["asyncframe_pool_threads_limit"] == 8.0
        assert found["asyncframe_pool_degraded"] == 0.0
        assert found["asyncframe_schedules"] == 1.0
        assert found['asyncframe_schedule_paused{name="daily"}'] == 0.0
        assert found['asyncframe_schedule_next_run_timestamp_seconds{name="daily"}'] > 0.0
        assert "asyncframe_store_failing" not in found
        victim = every[0].pid
    os.kill(victim, signal.SIGKILL)
    server.wait_for(READY, WORKERS + 1)
    found = until(server, "asyncframe_tasks_running", 3.0)
    assert found["asyncframe_pool_threads_limit"] == 8.0
    assert found[ended("good", "completed")] == 100.0
