"""Processes of an app, its workers and servers, that are hurt while tasks are submitted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from tests.patience import PATIENCE
from tests.processes.celery.workers import CeleryWorker
from tests.processes.servers import RedisServer
from tests.processes.telling.hearing import lies

ROOT = Path(__file__).resolve().parents[3]
NEVER = threading.Event()

DEAD_AFTER = 14.0
"""Seconds after which every process that stands still counts as dead."""

MOMENT = 1.0
"""Seconds within which a process that goes on has begun what it had been about to begin."""

OUTAGE = 8.0
"""Seconds for which Redis is stopped."""

SETTLED = 100.0
"""Seconds within which all tasks have ended, however their processes ended."""

SHORT = {
    "ASYNCFRAME_TEST_MAX_LIMIT": "8",
    "ASYNCFRAME_TEST_MARGIN": "4",
    "ASYNCFRAME_TEST_HOLD": "2",
    "ASYNCFRAME_TEST_EVERY": "2",
}
"""Settings of workers whose messages the broker gives out again after 12 s."""

NEAR = ("plain", "requeued", "on_loop", "again", "limited", "failing", "retried", "delayed",
        "returned", "raised", "replaced", "late")  # fmt: skip
"""The kinds of tasks of a process that runs them itself."""

FAR = NEAR[:-1]
"""The kinds for workers, whose processes end with a task that runs past its limit."""


class App:
    """One of the processes, which takes orders.

    Args:
        environment: What it uses.
        log: Where its errors go.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._made = subprocess.Popen(
                [sys.executable, "-m", "tests.processes.apps.crowded"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log
        self.pid = self._made.pid

    def ready(self) -> None:
        """Wait until it takes orders."""
        assert self._read() == "ready"

    def order(self, *order: Any) -> None:
        """Give an order, and do not wait for the answer."""
        assert self._made.stdin is not None
        self._made.stdin.write(json.dumps(order) + "\n")
        self._made.stdin.flush()

    def answer(self) -> Any:
        """Return the next answer."""
        return json.loads(self._read())

    def ask(self, *order: Any) -> Any:
        """Give an order, and return the answer."""
        self.order(*order)
        return self.answer()

    def _read(self) -> str:
        assert self._made.stdout is not None
        line = self._made.stdout.readline().strip()
        assert line, f"it has ended:\n{self._log.read_text('utf-8', 'replace')[-4_000:]}"
        return line

    def end(self, how: signal.Signals | None = None) -> None:
        """End it by a signal, or in order, as a server does."""
        assert self._made.stdin is not None
        assert self._made.stdout is not None
        if how is not None:
            self._made.send_signal(how)
        self._made.stdin.close()
        self._made.stdout.read()
        self._made.wait()
        self._made.stdout.close()


@dataclass
class Crowd:
    """The processes of one test.

    Attributes:
        folder: Where its files are.
        store: The database; "" for none.
        servers: The environment of what runs on workers; empty if the apps run their tasks.
        redis: What keeps the states of those.
        apps: The processes that accept tasks.
        workers: The workers.
        accepted: The kind of each id that was accepted, and the process that did so.
        asked: What came of cancellations.
        refused: How many submissions of each kind were refused.
        found: What must not be, of earlier ids.
        ids: How many there were.
    """

    folder: Path
    store: str = ""
    servers: Mapping[str, str] = field(default_factory=dict)
    redis: RedisServer | None = None
    apps: list[App] = field(default_factory=list)
    workers: list[CeleryWorker] = field(default_factory=list)
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    ids: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def file(self) -> Path:
        """Where the functions write."""
        return self.folder / "effects"

    @property
    def kinds(self) -> list[str]:
        """The kinds of tasks that are submitted."""
        return list(FAR if self.servers else NEAR)

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        shared = {"CROWD_FILE": str(self.file), "CROWD_STORE": self.store}
        return {**shared, **({**SHORT, **self.servers} if self.servers else {})}

    def start(self, apps: int, workers: int) -> None:
        """Start the processes."""
        self.file.touch()
        for _ in range(workers):
            self.add_worker()
        for number in range(apps):
            self.add_app(number)
        for app in self.apps:
            app.ready()

    def add_app(self, number: int) -> App:
        """Start an app in the place of another."""
        app = App(self.environment, self.folder / "log")
        self.apps[number : number + 1] = [app]
        return app

    def add_worker(self, number: int | None = None) -> None:
        """Start a worker; None is one more."""
        queue = self.servers["ASYNCFRAME_TEST_QUEUE"]
        worker = CeleryWorker(
            "tests.processes.apps.crowded:celery_app",
            self.servers["ASYNCFRAME_TEST_REDIS"],
            "--concurrency", "4", "-Q", queue, "-n", f"w@{uuid4().hex[:8]}",
            environment=self.environment,
        )  # fmt: skip
        number = len(self.workers) if number is None else number
        self.workers[number : number + 1] = [worker]
        worker.start()

    def close(self) -> None:
        """End all of it."""
        for app in self.apps:
            app.end(signal.SIGKILL)
        for worker in self.workers:
            worker.close()

    def tell(self, word: str, pid: int) -> None:
        """Write down what was done to a process."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{word} {pid}\n")

    def take(self, app: App, answer: tuple[Mapping[str, str], list[str]]) -> None:
        """Note what an app has accepted, and what it has refused."""
        kinds, refused = answer
        self.refused.update(refused)
        for task_id, kind in kinds.items():
            self.accepted.setdefault(task_id, (kind, str(app.pid)))

    def revive(self) -> None:
        """Start the workers again that have ended by themselves, as a supervisor does.

        Celery's sometimes end when Redis goes away: kombu raises an error of its own while it
        closes the connection.
        """
        for number, worker in enumerate(self.workers):
            if worker.has_ended:
                worker.close()
                lines = self.file.read_text("utf-8").splitlines()
                for pid in {int(line.split()[2]) for line in lines if line.startswith("begin ")}:
                    if not psutil.pid_exists(pid):
                        self.tell("dead", pid)
                self.add_worker(number)

    def submit(self, many: int, *without: App) -> None:
        """Let all apps accept tasks at a time."""
        self.revive()
        apps = [one for one in self.apps if one not in without]
        for app in apps:
            app.order("submit", many, self.kinds)
        for app in apps:
            self.take(app, app.answer())

    def look(self) -> list[Any]:
        """Wait until all tasks have ended, and return what each app says of them."""
        ids = list(self.accepted)
        for _ in range(10):
            self.revive()
            if all(self._ask_all("settle", ids, SETTLED / 10)):
                break
        return self._ask_all("look", ids)

    def _ask_all(self, *order: Any) -> list[Any]:
        for app in self.apps:
            app.order(*order)
        return [app.answer() for app in self.apps]

    def judge(self, said: list[Any]) -> None:
        """Compare what is said of all ids with what was done, and forget them."""
        text = self.file.read_text("utf-8")
        found = lies(
            self.accepted,
            said,
            text,
            far=bool(self.servers),
            kept=bool(self.store),
            asked=self.asked,
            refused=self.refused,
        )
        (self.folder / "said.json").write_text(
            json.dumps([self.accepted, said, self.asked]), encoding="utf-8"
        )
        self.ids += len(self.accepted)
        self.found.update(found)
        self.ends.update(one[0] if one else "unknown" for one in said[0].values())
        self.accepted.clear()
        self.asked.clear()
        self.refused.clear()
        self.file.replace(self.folder / "judged")
        self.file.touch()

    # -- faults

    def end_app(self, how: signal.Signals | None = None) -> None:
        """End an app while it accepts tasks or after it, and start another."""
        number = self.rng.randrange(len(self.apps))
        app = self.apps[number]
        if self.rng.random() < 0.5:
            app.order("submit", 1, self.kinds)
        app.end(how)
        self.tell("dead", app.pid)
        self.add_app(number).ready()

    def suspend_app(self) -> None:
        """Let an app stand still while the others accept tasks."""
        app = self.rng.choice(self.apps)
        self.tell("held", app.pid)
        os.kill(app.pid, signal.SIGSTOP)
        self.submit(1, app)
        NEVER.wait(DEAD_AFTER)
        os.kill(app.pid, signal.SIGCONT)
        # With a store, this is accepted when all that came before it is written, or refused.
        self.take(app, app.ask("submit", 1, ["requeued"]))
        self.tell("awake", app.pid)

    def cancel(self) -> None:
        """Ask apps to cancel some of what others have accepted."""
        ids = list(self.accepted)[-60:]
        for app in self.apps:
            app.order("cancel", self.rng.sample(ids, min(len(ids), 10)))
        for app in self.apps:
            for task_id, outcome in app.answer().items():
                if outcome == "cancelled" or task_id not in self.asked:
                    self.asked[task_id] = outcome

    def drain(self) -> None:
        """Let an app leave the framework, and judge what it says then."""
        (app,) = self.apps
        self.take(app, app.ask("map", 20))
        self.submit(5)
        said = app.ask("drain", list(self.accepted))
        app.end()
        self.tell("dead", app.pid)
        self.judge([said])
        self.add_app(0).ready()

    def end_worker(self, how: signal.Signals) -> None:
        """End a worker, with its pool or alone, and start another."""
        number = self.rng.randrange(len(self.workers))
        worker = self.workers[number]
        pool = psutil.Process(worker.pid).children(recursive=True)
        os.kill(worker.pid, how)
        if how is signal.SIGKILL and self.rng.random() < 0.5:
            for one in pool:
                one.kill()
        _, left = psutil.wait_procs(pool, PATIENCE)
        assert not left
        worker.wait()
        for one in pool:
            self.tell("dead", one.pid)
        worker.close()
        self.add_worker(number)

    def suspend_worker(self) -> None:
        """Let a worker and its pool stand still while apps accept tasks."""
        main = psutil.Process(self.rng.choice(self.workers).pid)
        stopped = [main, *main.children(recursive=True)]
        for one in stopped:
            self.tell("held", one.pid)
            one.suspend()
        self.submit(1)
        NEVER.wait(DEAD_AFTER)
        for one in stopped:
            one.resume()
        NEVER.wait(MOMENT)
        for one in stopped:
            self.tell("awake", one.pid)

    def kill_child(self) -> None:
        """Kill a process of a worker's pool."""
        worker = self.rng.choice(self.workers)
        # The worker starts another one for each; for a moment there may be none.
        while not (pool := psutil.Process(worker.pid).children(recursive=True)):
            NEVER.wait(MOMENT)
        child = self.rng.choice(pool)
        child.kill()
        self.tell("dead", child.pid)

    def stop_redis(self) -> None:
        """Stop Redis for a while in which apps are asked to accept tasks."""
        assert self.redis is not None
        self.redis.stop()
        for app in self.apps:
            app.order("submit", 1, self.kinds)
        NEVER.wait(OUTAGE)
        self.redis.start()
        for app in self.apps:
            self.take(app, app.answer())


@dataclass(frozen=True)
class Fault:
    """Something that is done again and again while tasks are submitted.

    Attributes:
        do: Does it.
        times: How often.
        many: How many tasks of each kind each app accepts before each.
    """

    do: Callable[[Crowd], None]
    times: int
    many: int


FAULTS = {
    "apps killed": Fault(lambda crowd: crowd.end_app(signal.SIGKILL), 11, 2),
    "apps ended": Fault(Crowd.end_app, 11, 2),
    "apps suspended": Fault(Crowd.suspend_app, 5, 4),
    "tasks cancelled": Fault(Crowd.cancel, 11, 2),
    "apps drained": Fault(Crowd.drain, 11, 2),
    "workers killed": Fault(lambda crowd: crowd.end_worker(signal.SIGKILL), 11, 2),
    "workers ended": Fault(lambda crowd: crowd.end_worker(signal.SIGTERM), 11, 2),
    "workers suspended": Fault(Crowd.suspend_worker, 5, 4),
    "pool processes killed": Fault(Crowd.kill_child, 22, 1),
    "redis stopped": Fault(Crowd.stop_redis, 7, 3),
}
"""What is done."""


@contextmanager
def crowd(
    folder: Path, store: str, broker: str, redis: RedisServer | None, apps: int
) -> Iterator[Crowd]:
    """Start a crowd, and end it.

    Args:
        folder: An empty folder.
        store: The database; "" for none.
        broker: What workers take their tasks from; "" if there are none.
        redis: What keeps the states of those.
        apps: How many accept tasks.
    """
    servers = {}
    if redis is not None:
        servers = {
            "ASYNCFRAME_TEST_REDIS": redis.url,
            "ASYNCFRAME_TEST_BROKER": broker,
            "ASYNCFRAME_TEST_QUEUE": uuid4().hex,
        }
    made = Crowd(folder, store, servers, redis)
    try:
        made.start(apps, 2 if servers else 0)
        yield made
    finally:
        made.close()
