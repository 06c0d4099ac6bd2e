"""What the page about deployment shows is valid, and its times fit together."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from fastapi.testclient import TestClient
from uvicorn.main import main

from framework._manager.frameworks import _LAST_WORDS
from framework.stores.sql._shared.opening import UPGRADE_PATIENCE
from tests.docs.test_examples import imported

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "howto" / "deployment.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@cache
def dockerfile() -> dict[str, list[str]]:
    """Return the arguments of each kind of instruction."""
    (text,) = blocks("dockerfile")
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, arguments = line.partition(" ")
        found.setdefault(instruction, []).append(arguments)
    return found


def units() -> list[ConfigParser]:
    """Return the units of systemd, of the app and of a Celery worker."""
    found = []
    for text in blocks("ini"):
        unit = ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # as its docs say
        unit.read_string(text)
        found.append(unit)
    return found


def server_options(command: list[str]) -> dict[str, Any]:
    """Return what uvicorn understands of its command line."""
    assert command[0].endswith("uvicorn")
    context = main.make_context("uvicorn", command[1:])
    assert context.params["app"] == "main:app"
    return context.params


def commands() -> list[list[str]]:
    """Return how the app is served in each of the ways."""
    (docker,) = dockerfile()["CMD"]
    return [json.loads(docker), shlex.split(units()[0]["Service"]["ExecStart"])]


def grace() -> float:
    """Return the seconds that the app gives its tasks."""
    source = (DOCS / "examples" / "deployed.py").read_text("utf-8")
    (seconds,) = re.findall(r"graceful_shutdown_timeout=setting\(\"TASK_GRACE\", (\d+)\)", source)
    return float(seconds)


@cache
def yamls() -> list[Any]:
    """Return what is written in YAML: for Docker Compose and for Kubernetes."""
    return [yaml.safe_load(text) for text in blocks("yaml")]


def pod() -> Any:
    """Return the specification of the pod."""
    return yamls()[1]["spec"]["template"]["spec"]


def kills() -> dict[str, tuple[float, float]]:
    """Return after how many seconds each way sends SIGKILL, and how many precede SIGTERM's work."""
    web = yamls()[0]["services"]["web"]
    (container,) = pod()["containers"]
    return {
        "docker": (
            float(web["stop_grace_period"].removesuffix("s")),
            float(web["environment"]["SHUTDOWN_DELAY"]),
        ),
        "kubernetes": (
            pod()["terminationGracePeriodSeconds"],
            container["lifecycle"]["preStop"]["sleep"]["seconds"],
        ),
        "systemd": (float(units()[0]["Service"]["TimeoutStopSec"]), 0.0),
    }


# -- times


def test_the_times_of_a_shutdown_fit_together() -> None:
    """In each way SIGKILL comes after all steps of a shutdown, each of which has its time."""
    requests = max(server_options(one)["timeout_graceful_shutdown"] for one in commands())
    assert {
        way: (killed, delay)
        for way, (killed, delay) in kills().items()
        if delay + requests + grace() + _LAST_WORDS >= killed
    } == {}


def test_the_table_of_times() -> None:
    """The table has the seconds that the other blocks of the page have."""
    seconds = [int(one) for one in re.findall(r"^\| [^|]+ \| (\d+) \|", PAGE, re.MULTILINE)]
    (requests,) = {server_options(one)["timeout_graceful_shutdown"] for one in commands()}
    (killed,) = {killed for killed, _ in kills().values()}
    delay = kills()["kubernetes"][1]
    assert seconds == [delay, requests, grace(), _LAST_WORDS, killed]


def test_a_celery_worker_may_finish_its_tasks() -> None:
    """A worker is killed after the limit that the page assumes."""
    (limit,) = re.findall(r"If that is (\d+) seconds", PAGE)
    unit = units()[1]["Service"]
    assert float(unit["TimeoutStopSec"]) > float(limit)
    assert f"terminationGracePeriodSeconds: {unit['TimeoutStopSec']}`" in PAGE
    assert shlex.split(unit["ExecStart"])[1:] == shlex.split(
        "-A main:celery_app worker --concurrency 4"
    )


def test_signals() -> None:
    """Systemd sends SIGTERM to the main process alone, which tells the others."""
    for unit in units():
        service = unit["Service"]
        assert (service["KillMode"], service["KillSignal"]) == ("mixed", "SIGTERM")
        assert service["Restart"] == "always"


# -- what it refers to


def test_the_image() -> None:
    """The image has what the app needs, and starts the server without a shell."""
    (requirements,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    extras, server = requirements.splitlines()
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    names = re.fullmatch(r"\./((\w+)-[\d.]+-py3-none-any\.whl)\[([\w,]+)\]", extras)
    assert names is not None
    assert dockerfile()["COPY"][0] == f"requirements.txt {names[1]} ./"
    assert names[2] == project["name"]
    assert set(names[3].split(",")) <= project["optional-dependencies"].keys()
    assert server == "uvicorn"
    version = re.fullmatch(r"python:(3\.\d+)-slim", dockerfile()["FROM"][0])
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


def test_the_probes() -> None:
    """Each probe asks a path that the app has, on the port that it is served on."""
    (container,) = pod()["containers"]
    port = container["ports"][0]["containerPort"]
    assert server_options(commands()[0])["port"] == port
    kinds = ("readiness", "liveness", "startup")
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in kinds}
    assert {one["port"] for one in asked.values()} == {port}
    with imported(DOCS / "examples" / "deployed.py") as module, TestClient(module.app) as client:
        for kind in kinds:
            path = asked[kind]["path"]
            assert path == ("/health/ready" if kind == "readiness" else "/health/live")
            assert client.get(path).status_code == 200


def test_an_upgrade_of_the_tables_has_its_time() -> None:
    """A pod is not restarted while it upgrades the tables of a large database."""
    probe = pod()["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= UPGRADE_PATIENCE


def test_settings_of_the_app() -> None:
    """Each setting that a block passes to the app is one that the app reads."""
    source = (DOCS / "examples" / "deployed.py").read_text("utf-8")
    passed = set(yamls()[0]["services"]["web"]["environment"])
    passed |= {one["name"] for one in pod()["containers"][0]["env"]}
    environment = shlex.split(units()[0]["Service"]["Environment"])
    passed |= {one.partition("=")[0] for one in environment}
    assert [name for name in passed if f'"{name}"' not in source] == []


def test_folders_of_the_unit() -> None:
    """The files are in the folders that systemd makes for the service."""
    service = units()[0]["Service"]
    values = dict(one.split("=", 1) for one in shlex.split(service["Environment"]))
    assert values["PROMETHEUS_MULTIPROC_DIR"] == f"/run/{service['RuntimeDirectory']}"
    assert values["DATABASE_URL"] == f"sqlite:////var/lib/{service['StateDirectory']}/tasks.db"
