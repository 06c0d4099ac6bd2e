"""A campaign: web processes and workers that share a database, and are hurt while they work.

What the functions have written decides what is true; see `hearing`. The database is read without
the framework, but for the answers of the web processes that are compared with it.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import sqlalchemy as sa

from tests.patience import PATIENCE
from tests.processes.servers import PostgresServer
from tests.processes.telling.hearing import ENDS, lies
from tests.processes.work.working import worker
from tests.serving import Server, serving

APP = "tests.processes.apps.campaign:app"
NEVER = threading.Event()

WORKERS = 4
PLACES = 4
"""How many threads each worker has."""

WEBS = ("0", "2")
"""The same of each web process: one only submits, the other one runs tasks as well."""

LONG, SHORT = 9.0, 0.5
"""Seconds for which a process stands still: the others give it up, or do not."""

LOOKS = 0.05
"""Seconds between two looks at what runs."""

OUTAGE = 2.0
"""Seconds for which nobody can write to a database without a server."""

SETTLED = 300
"""Seconds within which some tasks have ended after the last disturbance."""

RATE = 4
"""How many throttled calls there may be in each second."""

JITTER = 0.2
"""Seconds by which a call may be written later than it was counted, on a busy machine."""

STEP = 20.0
"""Seconds by which the wall clock of a process is set."""

MIX = (
    *("requeued",) * 6,
    *("high", "low", "on_loop") * 2,
    *("again", "limited", "returned", "throttled", "failing", "retried", "delayed"),
)
"""The kinds of tasks, each as often as it is submitted."""

KEYS = 5
SOME = 500
"""How many ids a request has at most."""

IN_LINE = {"high": 0, "requeued": 1, "low": 2}
"""The kinds whose order is looked at, with their priorities."""


class Member:
    """A process, in the place of which another one is started when it has ended.

    Args:
        start: Starts one.

    Attributes:
        ahead: Whether its wall clock was set forward.
        gone: How many had ended by themselves when they were to be ended.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._stack = ExitStack()
        self.ahead = False
        self.gone = 0
        self.begin()

    def begin(self) -> None:
        """Start the process, and return when it is ready."""
        self.ahead = False
        self.server: Server = self._stack.enter_context(self._start())

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.server.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.server.send_signal(number)

    def end(self, how: signal.Signals) -> None:
        """End it by a signal."""
        self.gone += self.server.process.poll() is not None
        self.send(how)
        self.server.wait(PATIENCE)
        self._stack.close()

    def close(self) -> None:
        """Kill it."""
        self._stack.close()


class Row(NamedTuple):
    """What the database has of a task."""

    status: str
    process: str
    level: int
    created_at: float


@dataclass
class Campaign:
    """The processes of one test.

    Attributes:
        folder: Where its files are.
        url: The database.
        postgres: Its server; None for SQLite.
        seed: Of all that is drawn.
        kinds: The kind of each task that was accepted, by id.
        perhaps: The same of those whose submission has not returned, or was refused.
        refused: How many of each kind were refused.
        waits: When each was accepted, in nanoseconds.
        done: How often there was which disturbance.
        back: When the server took connections again, in nanoseconds.
        pids: The number of each process, by its name in the database.
    """

    folder: Path
    url: str
    postgres: PostgresServer | None
    seed: int
    kinds: dict[str, str] = field(default_factory=dict)
    perhaps: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    waits: dict[str, int] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    back: list[int] = field(default_factory=list)
    pids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.file = self.folder / "effects"
        self.file.touch()
        self.engine = sa.create_engine(self.url)
        self.workers: list[Member] = []
        self.webs: list[Member] = []

    @property
    def members(self) -> list[Member]:
        """All processes."""
        return [*self.workers, *self.webs]

    def start(self, webs: Sequence[str] = WEBS, workers: int = WORKERS) -> None:
        """Start the processes.

        Args:
            webs: How many threads each web process has.
            workers: How many workers there are.
        """
        shared = {
            "CAMPAIGN_STORE": self.url,
            "CAMPAIGN_FILE": str(self.file),
            "CAMPAIGN_RATE": str(RATE),
            "CAMPAIGN_STEP": str(STEP),
        }
        for places in webs:
            given = {**shared, "CAMPAIGN_PLACES": places}
            self.webs.append(Member(partial(serving, APP, env=given)))
        own, options = {**shared, "CAMPAIGN_PLACES": "0"}, ("--max-workers", str(PLACES))
        for _ in range(workers):
            self.workers.append(Member(partial(worker, own, *options, app=APP)))

    def close(self) -> None:
        """End all of it."""
        for one in self.members:
            one.close()
        self.engine.dispose()

    def tell(self, word: str, pid: int) -> None:
        """Write down what was done to a process."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{word} {pid}\n")

    # -- submitting

    def post(self, web: Member, path: str, body: Any, patience: float = PATIENCE) -> Any:
        """Send a request."""
        answer = httpx.post(f"{web.server.url}{path}", json=body, timeout=patience)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, web: Member, count: int, kinds: Sequence[str] = MIX) -> None:
        """Let a web process accept tasks."""
        wanted = [
            (uuid4().hex, self.rng.choice(kinds), self.rng.randrange(KEYS)) for _ in range(count)
        ]
        for at in range(0, count, SOME):
            self._submit(web, wanted[at : at + SOME])

    def _submit(self, web: Member, wanted: Sequence[tuple[str, str, int]]) -> None:
        self.perhaps |= {task_id: kind for task_id, kind, _ in wanted}
        try:
            given = self.post(web, "/submit", wanted)
        except httpx.TransportError:  # it was ended meanwhile
            return
        now = time.monotonic_ns()
        for (asked, kind, _), task_id in zip(wanted, given, strict=True):
            if task_id is None:
                self.refused[kind] += 1
            else:
                self.perhaps.pop(asked, None)
                # One that is the only one of its key may have been accepted before.
                self.kinds[task_id] = kind
                self.waits.setdefault(task_id, now)

    # -- disturbances

    def disturb(self, what: str) -> None:
        """Hurt a process or the database."""
        self.done[what] += 1
        who, how = what.split(" ")
        if who == "server":
            self._restart(how)
            return
        if who == "file":
            self._lock()
            return
        one = self.rng.choice(self.workers if who == "worker" else self.webs)
        if how == "stepped":
            one.send(signal.SIGUSR2 if one.ahead else signal.SIGUSR1)
            one.ahead = not one.ahead
        elif how in ("paused", "suspended"):
            self.hold(one, SHORT if how == "paused" else LONG)
        else:
            pid = one.pid
            one.end(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            self.tell("dead", pid)
            one.begin()

    def hold(self, one: Member, seconds: float) -> None:
        """Let a process stand still, and go on."""
        self.tell("held", one.pid)
        one.send(signal.SIGSTOP)
        NEVER.wait(seconds)
        one.send(signal.SIGCONT)
        NEVER.wait(SHORT)
        self.tell("awake", one.pid)

    def _restart(self, how: str) -> None:
        assert self.postgres is not None
        if how == "crashed":
            self.postgres.kill()
        else:
            self.postgres.stop()
        self.postgres.start()
        self.back.append(time.monotonic_ns())
        self.engine.dispose()

    def _lock(self) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            NEVER.wait(OUTAGE)
        self.back.append(time.monotonic_ns())

    def run(self, tasks: int, disturbances: int) -> None:
        """Submit tasks at both web processes, and disturb meanwhile."""
        own = ["server crashed", "server stopped"] if self.postgres else ["file locked"] * 2
        ways = [*own, *WAYS]
        chosen = [ways[at % len(ways)] for at in range(disturbances)]
        self.rng.shuffle(chosen)
        with ThreadPoolExecutor(len(WEBS)) as pool:
            for what in chosen:
                self.know()
                count = -(-tasks // (disturbances * len(WEBS)))
                told: list[Future[None]] = [
                    pool.submit(self.submit, web, count) for web in self.webs
                ]
                NEVER.wait(self.rng.uniform(0.0, 0.5))
                self.disturb(what)
                for one in told:
                    one.result()
        self.know()

    def know(self) -> None:
        """Note which process has which number."""
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT process_id, pid FROM asyncframe_processes")
            self.pids |= {process: str(pid) for process, pid in found}

    # -- what has come of it

    def rows(self) -> dict[str, Row]:
        """Return what the database has."""
        query = "SELECT task_id, status, process, level, created_at FROM asyncframe_tasks"
        with self.engine.connect() as connection:
            return {row[0]: Row(*row[1:]) for row in connection.exec_driver_sql(query)}

    def settle(self) -> None:
        """Wait until all tasks have ended."""
        found = self.rows()
        # What came of those whose answer nobody has heard is seen now.
        self.kinds |= {one: kind for one, kind in self.perhaps.items() if one in found}
        ids = list(self.kinds)
        for at in range(0, len(ids), SOME):
            some = ids[at : at + SOME]
            self.post(self.webs[0], f"/settle/{SETTLED}", some, SETTLED + PATIENCE)

    def rest(self) -> None:
        """Wait until nothing runs."""
        while any(row.status == "running" for row in self.rows().values()):
            NEVER.wait(LOOKS)

    def ended(self) -> dict[str, Row]:
        """End all processes in order, which write what they know, and return the rows."""
        for one in self.members:
            one.end(signal.SIGTERM)
        return self.rows()

    def look(self) -> list[dict[str, Any]]:
        """Return what each web process says of all tasks."""
        ids, said = list(self.kinds), []
        for web in self.webs:
            answers: dict[str, Any] = dict.fromkeys(ids)
            for at in range(0, len(ids), SOME):
                answers |= self.post(web, "/look", ids[at : at + SOME])
            said.append(answers)
        return said


WAYS = (
    "worker killed", "worker ended", "worker suspended", "web killed", "web stepped",
    "worker paused", "worker stepped", "web ended", "web suspended", "worker killed",
)  # fmt: skip
"""What is done on either database."""


class Effect(NamedTuple):
    """A line of what the functions have written.

    Attributes:
        word: ``begin``, ``end`` or ``stop``.
        task_id: The task.
        process: The pid of the process that runs it.
        kind: Which function it is.
        at: The nanosecond of the machine's clock.
    """

    word: str
    task_id: str
    process: str
    kind: str
    at: int


class Judgement:
    """What is found wrong in a campaign that has settled.

    Args:
        campaign: The campaign.

    Attributes:
        found: How many there are of each thing that must not be.
        overtaken: How many tasks of a priority that were submitted later began while each waited,
            in order; of those whose processes were not hurt.
        first_starts: The seconds from each moment when the database was back to the next start.
        odd: What is known of each task that has not ended as its kind does.
    """

    def __init__(self, campaign: Campaign) -> None:
        campaign.settle()
        said = campaign.look()
        rows = campaign.ended()
        text = campaign.file.read_text("utf-8")
        plain = "\n".join(
            line if len(line.split()) == 2 else line.rsplit(" ", 1)[0] for line in text.splitlines()
        )
        words = [line.split() for line in text.splitlines()]
        self.hurt = {one[1] for one in words if one[0] in ("dead", "held")}
        self.effects = [
            Effect(word, task_id, process, kind, int(at))
            for word, task_id, process, kind, _, at in (one for one in words if len(one) == 6)
        ]
        accepted = {
            task_id: (kind, campaign.pids.get(rows[task_id].process, "") if task_id in rows else "")
            for task_id, kind in campaign.kinds.items()
        }
        self.found = lies(accepted, said, plain, kept=False, refused=campaign.refused)
        for task_id, kind in campaign.kinds.items():
            row, answer = rows.get(task_id), said[0].get(task_id)
            self.found[f"not in the database: {kind}"] += row is None
            if row is not None and answer is not None and row.status != answer[0]:
                self.found[f"the database says otherwise: {kind}"] += 1
        known = campaign.kinds.keys() | campaign.perhaps.keys()
        self.found["run and never accepted"] += len({one.task_id for one in self.effects} - known)
        self.found["ended by itself"] += sum(one.gone for one in campaign.members)
        self.found["run and not kept"] += len({one.task_id for one in self.effects} - rows.keys())
        self.found["too many in a window"] += self._too_many()
        self.found = +self.found
        self.statuses = Counter(row.status for row in rows.values())
        self.odd = list(self._odd(campaign, rows, said))
        self.overtaken = self._overtaken(campaign, rows)
        begun = sorted(one.at for one in self.effects if one.word == "begin")
        after = [bisect_left(begun, at) for at in campaign.back]
        self.first_starts = [
            (begun[at] - back) / 1e9
            for at, back in zip(after, campaign.back, strict=True)
            if at < len(begun)
        ]

    def _odd(
        self, campaign: Campaign, rows: dict[str, Row], said: Sequence[dict[str, Any]]
    ) -> Iterator[str]:
        for task_id, kind in campaign.kinds.items():
            row = rows.get(task_id)
            if row is None or row.status != ENDS.get(kind, "completed"):
                done = [
                    (one.word, one.process, one.at)
                    for one in self.effects
                    if one.task_id == task_id
                ]
                yield f"{kind} {task_id}: {row}, said {[one[task_id] for one in said]}, did {done}"

    def _too_many(self) -> int:
        """Return how many throttled calls there were that the window had no place for."""
        calls = sorted(
            one.at for one in self.effects if (one.word, one.kind) == ("begin", "throttled")
        )
        apart = (1.0 - JITTER) * 1e9
        return sum(later - first < apart for first, later in zip(calls, calls[RATE:], strict=False))

    def _overtaken(self, campaign: Campaign, rows: dict[str, Row]) -> list[int]:
        begun = {one.task_id: one for one in reversed(self.effects) if one.word == "begin"}
        found = list[int]()
        for kind in IN_LINE:
            ours = [
                (one.at, rows[task_id].created_at, campaign.waits[task_id])
                for task_id, one in begun.items()
                if campaign.kinds.get(task_id) == kind
                and task_id in campaign.waits
                and one.process not in self.hurt
            ]
            ours.sort()
            for at, (_, created, since) in enumerate(ours):
                count = 0
                for begins, others, _ in reversed(ours[:at]):
                    if begins < since:
                        break
                    count += others > created
                found.append(count)
        return sorted(found)


@contextmanager
def campaign(
    folder: Path, url: str, postgres: PostgresServer | None, seed: int
) -> Iterator[Campaign]:
    """Prepare a campaign, and end it."""
    with closing(Campaign(folder, url, postgres, seed)) as made:
        yield made
