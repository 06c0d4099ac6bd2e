"""Checks a Celery configuration: ``python -m framework doctor module:celery_app``.

It checks the settings of the Celery app, Redis, and the workers and apps that are running.
It changes nothing.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import starmap
from typing import Any, Final, TextIO

from celery import Celery

from framework._records import checks
from framework._records.exports import as_module, imported
from framework.engines.celery import _settings
from framework.engines.celery._engine import CeleryEngine
from framework.engines.celery._publishing.recovery import stuck
from framework.engines.celery._redis.entries import all_entries, entries
from framework.engines.celery._tasks import TASK_NAME

__all__ = ["Finding", "examine", "main"]

GOOD: Final = 0
FINDINGS: Final = 1
USAGE: Final = 2

_SKEW: Final = 1.0
"""How many seconds a clock may be wrong before timestamps of tasks look wrong."""

_ANSWERS: Final = 1.0
"""Seconds for which Celery's workers may answer."""

_FRESH: Final = 35.0
"""Seconds after which a silent process counts as gone; it reports every 10 s."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem.

    Attributes:
        setting: Name of the setting, as in the configuration.
        problem: What is wrong with it, and the consequence.
        cure: How to fix it.
    """

    setting: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.setting}\n    {self.problem}\n    cure: {self.cure}"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an examination.

    Attributes:
        findings: The problems; empty if there are none.
        notes: What could not be checked, and why.
    """

    findings: list[Finding]
    notes: list[str]


def examine(engine: CeleryEngine) -> Report:
    """Check everything around an engine; blocks for some round trips to Redis.

    Args:
        engine: The `CeleryEngine`.
    """
    notes: list[str] = []
    return Report(list(_findings(engine, notes)), notes)


def _findings(engine: CeleryEngine, notes: list[str]) -> Iterator[Finding]:
    yield from _settings_of(engine)
    try:
        engine.state.client.ping()
    except engine.errors as error:
        notes.append("Redis, the workers and the apps were not checked")
        yield Finding(
            "broker",
            f"Redis does not answer: {error}",
            "start it, or fix broker_url and result_backend of the Celery app",
        )
        return
    yield from _redis(engine, notes)
    yield from _rabbitmq(engine)
    workers, apps = (entries(engine.state, kind, _FRESH) for kind in ("workers", "apps"))
    if not workers:
        notes.append(f"{_who_runs(engine)}, so the workers were not checked")
    yield from _several_on_memory(apps)
    yield from _queues(workers, engine)
    yield from _shared_queues(engine)
    yield from _lost(workers, engine, notes)
    for one in (*workers, *apps):
        yield from _process(one, engine)
    yield from _functions(workers, apps, engine)


# -- what the settings say


def _settings_of(engine: CeleryEngine) -> Iterator[Finding]:
    _settings.complete(engine.app, engine.admission.longest())
    yield from starmap(Finding, _settings.findings(engine.app, engine.admission.longest()))
    names = engine.admission.limitless()
    if names:
        yield Finding(
            "timeout",
            f"is missing for {', '.join(names)}: neither an app nor a worker starts",
            "set it in the decorator of each one, or for all of them with "
            "CeleryEngine(default_limit=...)",
        )
    for refusal in engine.admission.refusals():
        place, _, why = refusal.partition(": ")
        problem, _, cure = why.rpartition("; ")
        yield Finding(place, f"{problem}: neither an app nor a worker starts", cure)
    conf = engine.app.conf
    if not conf.result_expires:
        yield Finding(
            "result_expires",
            "is off: results of the app's other Celery tasks stay in Redis until it is full",
            "remove it (the default is a day), or set a number of seconds",
        )
    if conf.worker_pool not in ("prefork", "processes") and not engine.allow_soft_limits:
        yield Finding(
            "worker_pool",
            f"is {conf.worker_pool!r}: only prefork can stop blocking code at its time limit",
            "remove it, or accept that time limits are not enforced: "
            "CeleryEngine(allow_soft_limits=True)",
        )


# -- what Redis says


def _redis(engine: CeleryEngine, notes: list[str]) -> Iterator[Finding]:
    config_get = engine.state.client.config_get
    try:
        found = {
            name: config_get(name).get(name, "")
            for name in ("maxmemory-policy", "appendonly", "save")
        }
    except engine.errors as error:
        notes.append(f"the configuration of Redis was not checked: {error}")
        return
    policy = found["maxmemory-policy"]
    if policy and policy != "noeviction":
        yield Finding(
            "maxmemory-policy",
            f"is {policy!r} in Redis: when memory is full it deletes tasks and their states",
            "CONFIG SET maxmemory-policy noeviction",
        )
    if found["appendonly"] == "no" and not found["save"]:
        yield Finding(
            "appendonly",
            "is off in Redis, and so are its snapshots: a restart loses every task at the broker",
            "CONFIG SET appendonly yes",
        )


# -- what RabbitMQ says


def _rabbitmq(engine: CeleryEngine) -> Iterator[Finding]:
    if not _settings.is_rabbitmq(engine.app):
        return
    try:
        with engine.app.connection_for_write(connect_timeout=2.0) as connection:
            connection.connect()
    except engine.errors as error:
        yield Finding(
            "broker",
            f"RabbitMQ does not answer: {error}",
            "start it, or fix broker_url of the Celery app",
        )


# -- what the processes say


def _who_runs(engine: CeleryEngine) -> str:
    """Say who runs while no worker tells of itself: none, or Celery workers without the engine."""
    try:
        answers = engine.app.control.ping(timeout=_ANSWERS) or ()
    except engine.errors:
        answers = ()
    names = sorted(name for answer in answers for name in answer)
    if not names:
        return "no worker is running"
    return (
        f"no worker is running that has this CeleryEngine ({', '.join(names)} runs without it: "
        "if it is to run these tasks, start it with -A and the module that creates the engine)"
    )


def _several_on_memory(apps: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    alone = [app for app in apps if not app["shared"]]
    if len(alone) > 1:
        listed = ", ".join(sorted(_where(app) for app in alone))
        yield Finding(
            "store",
            f"is the memory of {len(alone)} processes ({listed}): each lists and counts only its "
            "own tasks, and forgets them when it exits",
            "use setup_async_framework(app, store=SQLStore(url), engine=...) with the same url in "
            "all processes",
        )


def _queues(workers: list[dict[str, Any]], engine: CeleryEngine) -> Iterator[Finding]:
    """Check that a worker consumes each queue that tasks are published to."""
    taken = {name for worker in workers for name in worker.get("taken", ())}
    for name in engine.where()["queues"]:
        if taken and name not in taken:
            yield Finding(
                "queue",
                f"is {name!r}, and no running worker consumes it: tasks would wait forever",
                f"start a worker without -Q, or with -Q {name}",
            )


def _shared_queues(engine: CeleryEngine) -> Iterator[Finding]:
    """Find other namespaces in this Redis that use the queue of this one."""
    own = engine.namespace
    users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    filled = set()
    for namespace, process in all_entries(engine.state, _FRESH):
        for name in process.get("queues", ()):
            filled.add((process["broker"], name))
        for name in (*process.get("queues", ()), *process.get("taken", ())):
            users[process["broker"], name].add(namespace)
    for broker, name in sorted(filled):
        namespaces = users[broker, name]
        if own in namespaces and len(namespaces) > 1:
            others = ", ".join(map(repr, sorted(namespaces - {own})))
            yield Finding(
                "queue",
                f"{name!r} of the namespace {own!r} is also the queue of {others}: their workers "
                "get each other's messages and have to return them",
                "give each app its own queue: remove task_default_queue and the route for "
                "asyncframe.run, or choose another queue with CeleryEngine(queue=...)",
            )


def _lost(
    workers: list[dict[str, Any]], engine: CeleryEngine, notes: list[str]
) -> Iterator[Finding]:
    """Find tasks that are not running and have no message at the broker."""
    try:
        found = stuck(engine.app, engine.state)
    except engine.errors as error:
        notes.append(f"lost messages were not looked for: {error}")
        return
    if found:
        listed = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
        yield Finding(
            "tasks",
            f"{len(found)} of them wait forever: the broker has lost their messages ({listed})",
            "check again in a minute: a running worker publishes them again"
            if workers
            else "start a worker: it publishes them again",
        )


_NAMED: Final = 5
"""How many tasks a finding lists."""


def _process(process: dict[str, Any], engine: CeleryEngine) -> Iterator[Finding]:
    """Check what one worker or app says of itself."""
    where, own = _where(process), version("asyncframe")
    if abs(process["skew"]) > _SKEW:
        yield Finding(
            "clock",
            f"of {where} differs from Redis by {process['skew']:+.1f} s: timestamps "
            "and durations of tasks will look wrong",
            "synchronise the clocks of all machines (NTP)",
        )
    if process.get("pool", "prefork") != "prefork" and not engine.allow_soft_limits:
        yield Finding(
            "--pool",
            f"of {where} is {process['pool']}: it cannot stop blocking code at its time limit",
            "start the worker without -P, or with -P prefork",
        )
    longest = engine.admission.longest()
    needed = longest + _settings.MARGIN
    if process.get("visibility", needed) < needed:
        yield Finding(
            "broker_transport_options['visibility_timeout']",
            f"of {where} is {process['visibility']:g} s, and tasks may run for "
            f"{longest:g} s here: the worker would treat a running task as lost",
            f"start the worker with the same code and settings; it needs {needed:g} s",
        )
    if process["version"] != own:
        yield Finding(
            "asyncframe",
            f"is {process['version']} in {where}, and {own} here",
            "install the same release everywhere",
        )


def _functions(
    workers: Iterable[dict[str, Any]], apps: Iterable[dict[str, Any]], engine: CeleryEngine
) -> Iterator[Finding]:
    """Compare the functions that processes have with those found here."""
    here = engine.functions.signatures()
    missing: defaultdict[str, list[str]] = defaultdict(list)
    other: defaultdict[str, list[str]] = defaultdict(list)
    for process in (*workers, *apps):
        for name in here.keys() & process["signatures"].keys():
            if process["signatures"][name] != here[name]:
                other[name].append(_where(process))
    # An app need not know what it does not submit.
    for worker in workers:
        for name in here.keys() - worker["signatures"].keys():
            missing[name].append(_where(worker))
    for name, places in sorted(other.items()):
        yield Finding(
            name,
            f"has other parameters or annotations in {', '.join(sorted(places))} than here: "
            "calls may be refused or misunderstood",
            "deploy the same code to apps and workers, workers first",
        )
    for name, places in sorted(missing.items()):
        yield Finding(
            name,
            f"is not known in {', '.join(sorted(places))}: its tasks would fail there",
            "import its module in the module that you start the worker with",
        )


def _where(process: dict[str, Any]) -> str:
    return f"{process['hostname']} (pid {process['pid']})"


# -- the command


def main(arguments: list[str], out: TextIO | None = None) -> int:
    """Examine a Celery app and print the findings.

    Args:
        arguments: One word, ``module:celery_app``; the current folder is searched too.
        out: Where to print; None for standard output.

    Returns:
        0 if there are no findings, 1 if there are some, 2 if the app was not found.
    """
    out = sys.stdout if out is None else out
    if len(arguments) != 1:
        print("usage: asyncframe doctor module:celery_app", file=out)
        return USAGE
    try:
        engine = _engine(arguments[0])
    except LookupError as error:
        print(f"doctor: {error}", file=out)
        return USAGE
    report = examine(engine)
    for finding in report.findings:
        print(finding, file=out)
    for note in report.notes:
        print(f"note: {note}", file=out)
    many = len(report.findings)
    print(f"{many} finding{'s' * (many > 1)}" if many else "no problems found", file=out)
    return FINDINGS if many else GOOD


def _engine(named: str) -> CeleryEngine:
    """Return the engine of the Celery app that ``module:attribute`` names.

    Raises:
        LookupError: If it names none.
    """
    module, _, attribute = named.partition(":")
    if meant := as_module(named):
        raise LookupError(f"{named!r} names a file: did you mean {meant!r}?")
    if not attribute:
        raise LookupError(f"{named!r} must be a module and its Celery app, as in {module}:app")
    app = imported(named)
    tasks = getattr(app, "tasks", None)
    if not callable(getattr(app, "connection_for_write", None)) or tasks is None:
        # Not isinstance: a proxy in a module may fail where it is asked for its class.
        places = vars(sys.modules[module]).items()
        there = [name for name, one in places if issubclass(type(one), Celery)]
        cure = f"use {module}:{there[0]}" if there else "it checks nothing but tasks on Celery"
        raise LookupError(f"{named!r} must be a Celery app, not {checks.show(app)}: {cure}")
    if TASK_NAME not in tasks:
        raise LookupError(
            f"{module!r} creates no CeleryEngine for {attribute!r}: add CeleryEngine({attribute}) "
            "to it, or use the module that does"
        )
    engine: CeleryEngine = tasks[TASK_NAME].asyncframe_engine
    return engine
