"""What the doctor finds, each with its cure, on a real Redis."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from framework import background_task, setup_async_framework
from framework.doctor import Finding, examine, main
from framework.engines.celery import CeleryEngine
from framework.engines.celery._redis.entries import entries
from framework.engines.celery.doctor import FINDINGS, GOOD, USAGE
from tests.children import python
from tests.patience import PATIENCE
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import RedisServer

CONFIGURED = ("appendonly", "maxmemory-policy", "save")
"""Settings of Redis that the doctor looks at."""


@background_task(timeout=60)
def kept(text: str) -> str:
    """Be a function whose signature processes tell of."""
    return text


@background_task
def limitless(text: str) -> str:
    """Be a function that has no limit."""
    return text


@pytest.fixture(scope="module")
def configured() -> Iterator[RedisServer]:
    """A Redis of these tests' own, which they may configure."""
    with closing(RedisServer()) as server:
        server.start()
        yield server


@pytest.fixture
def url(configured: RedisServer) -> Iterator[str]:
    """That Redis, empty and as it was started."""
    with redis.Redis.from_url(configured.url) as client:
        before = {name: client.config_get(name)[name] for name in CONFIGURED}
        client.flushall()
        yield configured.url
        for name, value in before.items():
            client.config_set(name, value)


def engine_on(url: str, settings: dict[str, Any] | None = None, **options: Any) -> CeleryEngine:
    """Make a Celery app with these settings, and an engine with these options."""
    app = Celery("doctor", broker=url, set_as_current=False)
    app.conf.update(settings or {})
    return CeleryEngine(app, **({"default_limit": 60.0, "max_limit": 600.0} | options))


def entry(engine: CeleryEngine, kind: str, *, host: str = "web-1", **facts: Any) -> None:
    """Write what a process of another machine would tell of itself now."""
    seconds, _ = engine.state.client.time()
    where = engine.where()
    told = {
        **where,
        "taken": ["celery", *where["queues"]],
        "hostname": host,
        "pid": 7,
        "version": version("asyncframe"),
        "told": seconds,
        "skew": 0.0,
        "signatures": engine.functions.signatures(),
        "pool": "prefork",
        "visibility": 630.0,
        "shared": True,
    }
    engine.state.client.hset(engine.state.processes(kind), host, json.dumps(told | facts))


def only(engine: CeleryEngine) -> Finding:
    """Return the one thing that is wrong."""
    findings = examine(engine).findings
    assert len(findings) == 1, "\n".join(map(str, findings))
    return findings[0]


@pytest.mark.extended("servers")
def test_all_good(url: str) -> None:
    """With default settings there are no findings."""
    engine = engine_on(url)
    entry(engine, "workers")
    report = examine(engine)
    assert (report.findings, report.notes) == ([], [])


def test_running_worker(celery_engine: CeleryEngine) -> None:
    """The doctor understands what a real worker reports, and finds nothing wrong."""
    report = examine(celery_engine)
    # The functions of other tests are none of the worker's, whose Redis keeps nothing.
    found = [one.setting for one in report.findings if "is not known in" not in one.problem]
    assert (found, report.notes) == (["appendonly"], [])


async def test_running_app(celery_engine: CeleryEngine) -> None:
    """An app that runs is listed until it ends, with where it keeps its tasks."""
    listed = []
    async with setup_async_framework(None, engine=celery_engine):
        assert celery_engine.session is not None
        entry = celery_engine.session.entry
        assert entry is not None
        await asyncio.to_thread(entry.tell)
        listed += await asyncio.to_thread(entries, celery_engine.state, "apps", 30.0)
    # It may write the entry once more, and removes it then.
    await asyncio.to_thread(entry._courier.close, PATIENCE)
    listed += await asyncio.to_thread(entries, celery_engine.state, "apps", 30.0)
    assert [(one["pid"], one["shared"]) for one in listed] == [(os.getpid(), False)]


@pytest.mark.extended("servers")
def test_no_worker(url: str) -> None:
    """The doctor reports that no worker runs, but not as a problem."""
    report = examine(engine_on(url))
    assert report.findings == []
    assert report.notes == ["no worker is running, so the workers were not checked"]


@pytest.mark.extended("servers")
def test_worker_without_the_engine(url: str) -> None:
    """The doctor tells of a worker that was started with a module that creates no engine."""
    bare = "tests.processes.celery.bare:app"
    with closing(CeleryWorker(bare, url, "--pool", "solo", "-n", "bare@web-2")) as worker:
        worker.begin()
        worker.saw("bare@web-2 ready")
        report = examine(engine_on(url))
    assert report.findings == []
    (note,) = report.notes
    assert note == (
        "no worker is running that has this CeleryEngine (bare@web-2 runs without it: if it is "
        "to run these tasks, start it with -A and the module that creates the engine), so the "
        "workers were not checked"
    )


@pytest.mark.extended("servers")
def test_setting(url: str) -> None:
    """A setting that loses tasks, or their limits, is named with what comes of it."""
    cases: list[tuple[dict[str, Any], str, str, str]] = [
        (
            {"broker_transport_options": {"visibility_timeout": 60}},
            "broker_transport_options['visibility_timeout']",
            "is 60 s, and tasks may run for 600 s",
            "set it to 630 or more, or remove it",
        ),
        ({"task_acks_late": False}, "task_acks_late", "is off: a worker's death", "remove it"),
        (
            {"task_reject_on_worker_lost": False},
            "task_reject_on_worker_lost",
            "is off: a worker's death",
            "remove it",
        ),
        ({"worker_pool": "threads"}, "worker_pool", "is 'threads': only prefork", "remove it"),
        ({"result_expires": None}, "result_expires", "is off: results of the app's", "is a day"),
        (
            {"accept_content": ["json", "pickle"]},
            "accept_content",
            "has pickle: a message of that kind could run any code",
            "set it to ['json']",
        ),
        ({"task_always_eager": True}, "task_always_eager", "is on: tasks would run", "remove it"),
    ]
    wrong = []
    for settings, setting, problem, cure in cases:
        engine = engine_on(url, settings)
        entry(engine, "workers")
        found = examine(engine).findings
        if not (
            [one.setting for one in found] == [setting]
            and problem in found[0].problem
            and cure in found[0].cure
        ):
            wrong.append((setting, found))
    assert wrong == []


@pytest.mark.extended("servers")
def test_functions_without_a_limit(url: str) -> None:
    """Functions without a limit are named, since nothing would start with them."""
    engine = engine_on(url, default_limit=None)
    entry(engine, "workers")
    found = only(engine)
    assert found.setting == "timeout"
    assert (
        f"is missing for {', '.join(engine.admission.limitless())}: neither an app" in found.problem
    )
    assert f"{__name__}.limitless" in engine.admission.limitless()
    assert f"{__name__}.kept" not in engine.admission.limitless()
    assert found.cure.endswith("CeleryEngine(default_limit=...)")


@pytest.mark.extended("servers")
def test_soft_limits_allowed(url: str) -> None:
    """A pool that cannot keep limits is good for whoever says so."""
    engine = engine_on(url, {"worker_pool": "threads"}, allow_soft_limits=True)
    entry(engine, "workers", pool="thread")
    assert examine(engine).findings == []


@pytest.mark.extended("servers")
def test_queue_of_no_worker(url: str) -> None:
    """A queue from which none of the running workers takes is found."""
    engine = engine_on(url)
    entry(engine, "workers", taken=["mail"])
    found = only(engine)
    assert found.setting == "queue"
    assert "is 'asyncframe.doctor', and no running worker consumes it" in found.problem
    assert found.cure.endswith("with -Q asyncframe.doctor")
    entry(engine, "workers", host="web-2", taken=["celery", "asyncframe.doctor"])
    assert examine(engine).findings == []


@pytest.mark.extended("servers")
@pytest.mark.parametrize("kind", ["apps", "workers"])
def test_shared_queue(url: str, kind: str) -> None:
    """Two namespaces on one queue of one broker are found, from either side."""
    one, two = (engine_on(url, namespace=name, queue="jobs") for name in ("one", "two"))
    entry(one, "workers")
    assert examine(one).findings == []
    entry(two, kind)
    for engine, own, other in ((one, "one", "two"), (two, "two", "one")):
        (found,) = examine(engine).findings
        assert found.setting == "queue"
        assert f"'jobs' of the namespace '{own}' is also the queue of '{other}'" in found.problem


@pytest.mark.extended("servers")
def test_queues_that_are_apart(url: str) -> None:
    """Namespaces whose workers only share Celery's default queue, or a name, are good."""
    one, two, far = (engine_on(url, namespace=name) for name in ("one", "two", "far"))
    for engine in (one, two):
        entry(engine, "workers")
    entry(far, "workers", broker="amqp://elsewhere//", queues=one.where()["queues"])
    assert examine(one).findings == []


@pytest.mark.extended("servers")
def test_eviction(url: str) -> None:
    """A Redis that throws keys away when memory is short is found."""
    engine = engine_on(url)
    entry(engine, "workers")
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    found = only(engine)
    assert (found.setting, found.cure) == (
        "maxmemory-policy",
        "CONFIG SET maxmemory-policy noeviction",
    )
    assert "is 'allkeys-lru' in Redis: when memory is full it deletes" in found.problem


@pytest.mark.extended("servers")
def test_nothing_saved(url: str) -> None:
    """A Redis that saves nothing is found."""
    engine = engine_on(url)
    entry(engine, "workers")
    with redis.Redis.from_url(url) as client:
        client.config_set("appendonly", "no")
        client.config_set("save", "")
    assert "a restart loses every task at the broker" in only(engine).problem


def test_redis_away(redis_server: RedisServer) -> None:
    """A Redis that does not answer is one finding, with what was not looked at."""
    engine = engine_on(redis_server.url)
    redis_server.stop()
    report = examine(engine)
    assert [found.setting for found in report.findings] == ["broker"]
    assert report.notes == ["Redis, the workers and the apps were not checked"]


@pytest.mark.extended("servers")
def test_several_on_memory(url: str) -> None:
    """Apps that each keep tasks in their own memory are found, one alone is not."""
    engine = engine_on(url)
    entry(engine, "workers")
    entry(engine, "apps", host="web-1", shared=False)
    assert examine(engine).findings == []
    entry(engine, "apps", host="web-2", shared=False)
    found = only(engine)
    assert found.setting == "store"
    assert "the memory of 2 processes (web-1 (pid 7), web-2 (pid 7))" in found.problem
    assert "store=SQLStore(url)" in found.cure


@pytest.mark.extended("servers")
def test_gone_processes(url: str) -> None:
    """A process that has told nothing for a while is gone, and has no part in anything."""
    engine = engine_on(url)
    entry(engine, "workers")
    for host in ("web-1", "web-2"):
        entry(engine, "apps", host=host, shared=False, told=1.0, skew=90.0)
    assert examine(engine).findings == []


@pytest.mark.extended("servers")
async def test_entries_of_the_dead(url: str) -> None:
    """The entry of a killed process is dropped after a day."""
    engine = engine_on(url)
    seconds = engine.state.now()
    entry(engine, "apps", host="web-1", told=seconds - 86_500)
    entry(engine, "apps", host="web-2", told=seconds - 86_000)
    async with setup_async_framework(None, engine=engine):
        session = engine.session
        assert session is not None
        assert session.entry is not None
        await asyncio.to_thread(session.entry._drop_old)
        assert "web-1" not in engine.state.client.hkeys(engine.state.processes("apps"))
        assert "web-2" in engine.state.client.hkeys(engine.state.processes("apps"))


@pytest.mark.extended("servers")
def test_clock(url: str) -> None:
    """A machine whose clock is off is found, with by how much."""
    engine = engine_on(url)
    for skew in (2.5, -2.5):
        entry(engine, "workers", host="far", skew=skew)
        found = only(engine)
        assert found.setting == "clock"
        assert found.problem.startswith(f"of far (pid 7) differs from Redis by {skew:+.1f} s")


@pytest.mark.extended("servers")
def test_pool_of_a_worker(url: str) -> None:
    """A running worker with a pool that cannot keep limits is found."""
    engine = engine_on(url)
    entry(engine, "workers", pool="thread")
    assert (only(engine).setting, "start the worker without -P" in only(engine).cure) == (
        "--pool",
        True,
    )


@pytest.mark.extended("servers")
def test_visibility_of_a_worker(url: str) -> None:
    """A worker that was started with shorter limits is found."""
    engine = engine_on(url)
    entry(engine, "workers", visibility=90.0)
    assert "of web-1 (pid 7) is 90 s, and tasks may run for 600 s here" in only(engine).problem


@pytest.mark.extended("servers")
def test_other_signature(url: str) -> None:
    """A function that has other parameters elsewhere is found, by name and place."""
    engine = engine_on(url)
    name = f"{__name__}.kept"
    signatures = engine.functions.signatures() | {name: "0" * 16}
    entry(engine, "workers", host="old", signatures=signatures)
    found = only(engine)
    assert found.setting == name
    assert "other parameters or annotations in old (pid 7) than here" in found.problem


@pytest.mark.extended("servers")
def test_unknown_function(url: str) -> None:
    """A function that a worker does not know is found."""
    engine = engine_on(url)
    name = f"{__name__}.kept"
    signatures = {key: one for key, one in engine.functions.signatures().items() if key != name}
    entry(engine, "workers", signatures=signatures)
    assert (only(engine).setting, only(engine).cure) == (
        name,
        "import its module in the module that you start the worker with",
    )


@pytest.mark.extended("servers")
def test_function_of_no_app(url: str) -> None:
    """A function that an app does not know is nothing wrong: it does not submit it."""
    engine = engine_on(url)
    entry(engine, "workers")
    entry(engine, "apps", signatures={})
    assert examine(engine).findings == []


@pytest.mark.extended("servers")
def test_other_release(url: str) -> None:
    """Another release of this library is found."""
    engine = engine_on(url)
    entry(engine, "workers", version="0.0.1")
    assert only(engine).problem == f"is 0.0.1 in web-1 (pid 7), and {version('asyncframe')} here"


# -- the command


RUNNER = """
import contextlib, io, json, sys
from framework.cli import main
said = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = ended.code or 0
    said.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


@dataclass
class Said:
    """What a command has answered: its status, and what it has printed."""

    status: int
    out: str
    err: str


def run(folder: Path, *commands: list[str]) -> list[Said]:
    """Run commands in a folder, one after the other in one process; return what each has said.

    What an app does when it is imported would stay in this process.
    """
    said = json.loads(python("-c", RUNNER, json.dumps(commands), cwd=folder).stdout)
    return [Said(*one) for one in said]


@pytest.fixture
def shop(tmp_path: Path, url: str) -> Path:
    """A folder with a module that makes a Celery app and an engine."""
    text = f"""
from celery import Celery
from framework import background_task, setup_async_framework
from framework.engines.celery._redis.entries import entries
from framework.engines.celery import CeleryEngine

celery_app = Celery("shop", broker={url!r})

@background_task(timeout=600)
def export(day: str) -> str:
    return day

engine = CeleryEngine(celery_app)
bare = Celery("bare", broker={url!r})
"""
    (tmp_path / "shop.py").write_text(text, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    return tmp_path


@pytest.mark.extended("servers")
def test_command_on_a_good_app(shop: Path) -> None:
    """The program says that all is good and exits with 0."""
    done = python("-m", "framework", "doctor", "shop:celery_app", cwd=shop, status=GOOD)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "no problems found"


@pytest.mark.extended("servers")
def test_command_with_findings(shop: Path) -> None:
    """The command prints each finding with its cure, and exits with 1."""
    path = shop / "shop.py"
    text = path.read_text("utf-8").replace(
        "engine =", "celery_app.conf.task_acks_late = False\nengine ="
    )
    path.write_text(text, encoding="utf-8")
    (said,) = run(shop, ["doctor", "shop:celery_app"])
    assert said.status == FINDINGS
    assert said.out.splitlines() == [
        "task_acks_late",
        "    is off: a worker's death would lose its tasks",
        "    cure: remove it",
        "note: no worker is running, so the workers were not checked",
        "1 finding",
    ]


@pytest.mark.extended("servers")
def test_command_used_wrongly(shop: Path) -> None:
    """A command that names nothing to look at says so, and exits with 2."""
    cases = {
        "shop": "doctor: 'shop' must be a module and its Celery app, as in shop:app",
        "./shop.py:app": "doctor: './shop.py:app' names a file: did you mean 'shop:app'?",
        "nowhere:app": "doctor: 'nowhere' cannot be imported: ModuleNotFoundError",
        "broken:app": "doctor: 'broken' cannot be imported: ModuleNotFoundError",
        "shop:app": "doctor: 'shop' has no 'app'",
        "shop:engine": "doctor: 'shop:engine' must be a Celery app, not <framework.engines",
        "shop:bare": "doctor: 'shop' creates no CeleryEngine for 'bare': add CeleryEngine(bare)",
    }
    said = dict(zip(cases, run(shop, *(["doctor", name] for name in cases)), strict=True))
    assert {name: one.status for name, one in said.items()} == dict.fromkeys(cases, USAGE)
    assert said["shop:engine"].out.endswith(": use shop:celery_app\n")
    assert {
        name: one.out for name, one in said.items() if not one.out.startswith(cases[name])
    } == {}


@pytest.mark.extended("servers")
def test_other_words(tmp_path: Path) -> None:
    """Without a command, and with an unknown or incomplete one, it says what there is."""
    nothing, unknown, incomplete = run(tmp_path, [], ["nurse"], ["doctor"])
    assert nothing.status == 0
    assert (unknown.status, incomplete.status) == (USAGE, USAGE)
    assert "invalid choice: 'nurse' (choose from " in unknown.err
    assert incomplete.err.endswith("arguments are required: module:celery_app\n")


def test_printed_elsewhere() -> None:
    """A program can have the words printed where it likes."""
    out = io.StringIO()
    assert main([], out) == USAGE
    assert out.getvalue().startswith("usage:")
