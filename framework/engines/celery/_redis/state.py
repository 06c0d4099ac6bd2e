"""The states of remote tasks in Redis, which are changed only by scripts.

Guarantees: each change is atomic in Redis, and is reported in the stream in the order of the
changes; a final status never changes.
Thread rule: every method blocks for a round trip, and may be called from any thread but a
loop's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from framework._tasks.places import PlaceRequest
from framework.engines.celery._messages import Message
from framework.engines.celery._redis import scripts
from framework.engines.celery._redis.functions import KEPT_LIVE, REPORTS_KEPT

LEASE: Final = 5.0
"""Seconds until a lease expires; it is renewed every second."""

SILENT: Final = 10.0
"""Seconds of silence after which others consider a process dead that submits tasks."""

LIFE: Final = str(round(SILENT * 1_000))
"""The same in milliseconds, as scripts take it."""

ASKED: Final = "asked"
"""What `State.cancel` answers about a task that runs."""

MAX_LOST: Final = 10
"""How many workers may die while running a task before it is INTERRUPTED."""

_HEARD_KEPT: Final = 10

_PART: Final = 500
"""How many tasks to look at in one step: Redis does nothing else meanwhile."""

_TIMEOUT: Final = 5.0
"""Timeout of connections and answers; Redis answers in a fraction of a millisecond."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a worker must do with a delivery.

    Attributes:
        kind: ``run``, ``over`` (final: drop), ``stale`` (a later delivery exists: drop),
            ``again`` (it was never published: publish it), ``busy`` (another process
            has the lease: look again later).
        attempts: Attempts so far, this one included, with ``run``.
        message: The later delivery, with ``again``; the final status, with ``over``, or "" if
            Redis does not know it any more.
        holder: Who has the lease, with ``busy``.
        left: Seconds until its lease runs out, with ``busy``.
    """

    kind: str
    attempts: int = 0
    message: str = ""
    holder: str = ""
    left: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for before it is published.

    Attributes:
        seconds: Until it is due, 0.0 or more.
        requests: The places that it needs.
        reason: Why it waits, for people.
    """

    seconds: float
    requests: tuple[PlaceRequest, ...]
    reason: str

    def as_arguments(self) -> list[str]:
        """Return it as the arguments of a script."""
        places = [
            {"key": one.key, "limit": one.limit, "waits": one.waits, "rank": one.rank}
            for one in self.requests
        ]
        return [repr(self.seconds), json.dumps(places), self.reason]


@contextmanager
def answering(kind: type[Exception]) -> Iterator[None]:
    """Have errors of Redis raised as another kind, which says that it does not answer."""
    try:
        yield
    except redis.RedisError as error:
        raise kind(f"Redis does not answer: {error}") from error


class State:
    """Remote tasks of one namespace.

    Args:
        url: Of Redis.
        namespace: Keeps apps that share a Redis apart.
        result_ttl: Seconds that a final task is kept, above 0.

    Attributes:
        prefix: Of all keys.
        client: The client.
        script: Returns the object that runs a script.
        reports: Key of the stream of reports.
        counter: Key of the latest report's number.
        messages: Key of the messages of live tasks.
    """

    def __init__(self, url: str, namespace: str, result_ttl: float) -> None:
        self.prefix: str = f"asyncframe:{namespace}:"
        self._ttl = max(1, round(result_ttl))
        self.client: Any = redis.Redis.from_url(  # Any: the client's types mix sync and async
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            # Once, for a connection that was closed while idle: a script may run twice.
            retry=Retry(NoBackoff(), 1),
            client_name="asyncframe",
        )
        self.reports: str = f"{self.prefix}reports"
        self.counter: str = f"{self.prefix}reports:n"
        self._live = f"{self.prefix}live"
        self.messages: str = f"{self.prefix}messages"
        self._common = [self.reports, self.counter, self._live, self.messages]
        # One object for each script, which knows its hash.
        self.script: Callable[[str], Any] = functools.cache(self.client.register_script)

    def processes(self, kind: str) -> str:
        """Return the key of the hash with the entries of a kind of process."""
        return f"{self.prefix}{kind}"

    def keys(self, task_id: str) -> list[str]:
        """Return the keys that the scripts about a task take."""
        return [f"{self.prefix}task:{task_id}", *self._common]

    def change(self, script: str, task_id: str, *given: Any) -> Any:
        """Run a script about a task, with further arguments, and return its answer."""
        return self.script(script)(self.keys(task_id), [task_id, *given])

    def change_all(self, script: str, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a script for each of some tasks in one round trip; each call begins with its id."""
        pipe = self.client.pipeline(transaction=False)
        for call in calls:
            self.script(script)(self.keys(call[0]), call, client=pipe)
        answers: list[Any] = pipe.execute()
        return answers

    # -- the moves

    def publish(
        self, messages: Sequence[Message], keeper: str, placed: Container[str] = ()
    ) -> dict[str, str]:
        """Add tasks that are about to be sent, in one round trip; see `recovery`.

        Args:
            messages: Their messages.
            keeper: This process; see `processes.holder_here`.
            placed: The ids of the tasks that need places.

        Returns:
            Those whose messages are not to be sent, by id: ``sent`` if they were, or the tasks
            have ended; ``unplaced`` if they have lost their places; ``dropped`` if they were
            cancelled while they waited for them.
        """
        calls = [
            [one.task_id, keeper, LIFE, int(one.task_id in placed), *self.facts_to_add(one)]
            for one in messages
        ]
        told = zip(messages, self.change_all(scripts.PUBLISH, calls), strict=True)
        return {message.task_id: answer for message, answer in told if answer != "send"}

    def keep(self, waiting: Sequence[tuple[Message, Wait]], keeper: str) -> list[str]:
        """Add tasks that wait before they are published, in one round trip; see `recovery`.

        Args:
            waiting: Their messages, and what they wait for.
            keeper: This process; see `processes.holder_here`.

        Returns:
            Those that were not added, since they were cancelled before.
        """
        calls = [
            [one.task_id, keeper, LIFE, *wait.as_arguments(), *self.facts_to_add(one)]
            for one, wait in waiting
        ]
        told = zip(waiting, self.change_all(scripts.KEEP_TASK, calls), strict=True)
        return [message.task_id for (message, _), answer in told if answer == "dropped"]

    def retire(self, message: Message, status: str, error: str, reason: str) -> None:
        """Make a task final whose message was not sent; ask its worker to stop if it was.

        Args:
            message: Its message.
            status: The final status.
            error: As JSON; "" for none.
            reason: For people.
        """
        given = [status, error, reason, self._ttl, *self.facts_to_add(message)]
        if not self.change(scripts.RETIRE, message.task_id, *given):
            self.cancel(message.task_id, reason)

    def left(self, most: int, pause: float) -> list[tuple[str, str, str]]:
        """Return tasks of dead keepers to be sent: each with its keeper, and its message as JSON.

        Until a task is marked as `published` it is returned again, after *pause* seconds.

        Args:
            most: How many tasks of each keeper to look at.
            pause: Seconds until others look at one again that still waits.
        """
        told = self.change(scripts.LEFT, "", most)
        found = list(zip(told[1::2], told[::2], strict=True))
        calls = [(*one, repr(pause), self._ttl) for one in found]
        texts = self.change_all(scripts.RELEASE, calls)
        return [(*one, text) for one, text in zip(found, texts, strict=True) if text]

    def facts_to_add(self, message: Message) -> list[str]:
        """Return the arguments with which scripts add a task."""
        return [_text(message), *_facts(message)]

    def published(self, keeper: str, task_ids: Collection[str]) -> None:
        """Mark the first messages of tasks of a keeper as sent, in one round trip."""
        if task_ids:
            self.change(scripts.SENT, "", keeper, *task_ids)

    def repeated(self, task_ids: Collection[str]) -> None:
        """Mark messages of tasks as possibly sent twice, so that the second finds the end."""
        self.change_all(scripts.REPEATED, [(task_id,) for task_id in task_ids])

    def now(self) -> float:
        """Return the wall clock of Redis, in seconds since the epoch."""
        seconds, micros = self.client.time()
        return float(seconds) + float(micros) / 1e6

    def start(self, message: Message, holder: str, dead: str = "", worker: str = "") -> Verdict:
        """Take the lease of a delivered task.

        Args:
            message: What was delivered.
            holder: This process; see `processes.holder_here`.
            dead: A holder that is known to be dead.
            worker: The worker that it belongs to, if that shows a sign; see `unheld`.
        """
        ttls, waited = (KEPT_LIVE, self._ttl), int(message.waited)
        given = [holder, LEASE, message.seq, dead, MAX_LOST, *ttls, waited, worker]
        given += _facts(message)
        kind, text, left = self.change(scripts.START, message.task_id, *given)
        if kind == "run":
            return Verdict(kind, attempts=int(text))
        if kind == "busy":
            return Verdict(kind, holder=text, left=float(left))
        return Verdict(kind, message=text)

    def renew(self, task_id: str, holder: str) -> bool | None:
        """Renew a lease; return whether cancellation was requested, None if it is lost."""
        answer = self.change(scripts.RENEW, task_id, holder, LEASE)
        return None if answer < 0 else bool(answer)

    def progress(self, task_id: str, holder: str, share: float, message: str) -> None:
        """Set a task's progress."""
        self.change(scripts.PROGRESS, task_id, holder, repr(share), message)

    def again(
        self, message: Message, holder: str, kind: str, delay: float, error: str, reason: str
    ) -> bool | None:
        """Release the lease until *message*, the next delivery.

        Returns:
            True on success, False if cancellation was requested, None if the lease is lost.
        """
        given = [holder, _text(message), kind, repr(delay), error, reason]
        answer = self.change(scripts.AGAIN, message.task_id, *given)
        return None if not answer else answer > 0

    def sent(self, message: Message) -> None:
        """Mark the next delivery as sent."""
        self.client.hdel(self.keys(message.task_id)[0], "next")

    def end(
        self,
        task_id: str,
        status: str,
        *,
        holder: str = "",
        seq: int = 0,
        result: str = "",
        error: str = "",
        reason: str = "",
        share: float | None = None,
        message: str = "",
    ) -> bool:
        """Make a task final; False if it is final already, or another process has it.

        Args:
            task_id: The task.
            status: The final status.
            holder: This process, if it has the lease; "" for whoever had delivery *seq*.
            seq: Number of the delivery, without a *holder*.
            result: As JSON.
            error: As JSON.
            reason: For people.
            share: Its progress, if any was reported.
            message: The text of the progress.
        """
        progress = "" if share is None else repr(share), message
        given = [holder, seq, status, result, error, reason, self._ttl, *progress]
        return bool(self.change(scripts.END, task_id, *given))

    def cancel(self, task_id: str, reason: str) -> str:
        """Cancel a task, or ask its worker to.

        Args:
            task_id: The task.
            reason: Why it is CANCELLED if it has not started.

        Returns:
            The reason if it is CANCELLED; `ASKED` if its worker is informed; "" if it is unknown
            or final.
        """
        wake = f"{self.prefix}wake:"
        answer: str = self.change(scripts.CANCEL, task_id, self._ttl, reason, wake)
        return answer

    def heard(self, task_id: str) -> None:
        """Confirm that the task's worker has received its cancellation."""
        key = f"{self.prefix}heard:{task_id}"
        pipe = self.client.pipeline(transaction=True)
        pipe.delete(key)
        pipe.rpush(key, "1")
        pipe.expire(key, _HEARD_KEPT)
        pipe.execute()

    def await_heard(self, task_id: str, seconds: float) -> None:
        """Block until the task's worker confirms the cancellation, or *seconds* pass."""
        key = f"{self.prefix}heard:{task_id}"
        # Put back, for others that wait for it at the same time.
        self.client.blmove(key, key, seconds)

    def awaken(self, holder: str, seconds: float) -> bool:
        """Block until this process is asked to check its task, or *seconds* pass."""
        return self.client.blpop([f"{self.prefix}wake:{holder}"], timeout=seconds) is not None

    def fetch(self, task_ids: Collection[str]) -> dict[str, dict[str, str]]:
        """Return the hashes of the tasks that exist, by id."""
        ids = list(task_ids)
        pipe = self.client.pipeline(transaction=False)
        for task_id in ids:
            pipe.hgetall(self.keys(task_id)[0])
        found = pipe.execute()
        return {task_id: facts for task_id, facts in zip(ids, found, strict=True) if facts}

    def kept_call(self, task_id: str) -> str | None:
        """Return the kept call of a task as JSON, with its limit; None if it was not kept."""
        call, limit = self.client.hmget(self.keys(task_id)[0], "call", "limit")
        options = {"timeout": float(limit)} if limit else {}
        return None if call is None else json.dumps([*json.loads(call), options])

    def forget(self, task_ids: Collection[str]) -> None:
        """Drop the tasks that are final."""
        self.change_all(scripts.FORGET, [(task_id,) for task_id in task_ids])

    # -- messages that were lost

    def note_queue(self, name: str) -> None:
        """Note a queue of the broker that messages are sent to."""
        self.client.sadd(f"{self.prefix}queues", name)

    def queues(self) -> list[str]:
        """Return the names of all queues that messages were ever sent to."""
        return sorted(self.client.smembers(f"{self.prefix}queues"))

    def overdue(self, age: float) -> list[str]:
        """Return live tasks whose latest change is older than *age* seconds, oldest first."""
        found: list[str] = self.client.zrangebyscore(self._live, "-inf", self.now() - age)
        return found

    def unrun(self, age: float, *, waiting: bool) -> Iterator[tuple[str, str, str]]:
        """Yield tasks whose latest change is older than *age* seconds and that no process runs.

        Args:
            age: Seconds.
            waiting: Whether to yield those without a holder that were sent, too.

        Yields:
            Their ids, the holders whose leases have run out, and the workers of these, oldest
            first; "" for none.
        """
        first = 0
        while True:
            many, *found = self.change(scripts.UNRUN, "", repr(age), first, _PART, int(waiting))
            yield from zip(found[::3], found[1::3], found[2::3], strict=True)
            if many < _PART:
                return
            # Those that move meanwhile leave the list or go to its end: the next search finds
            # whom this one has passed over.
            first += many

    def show_sign(self, worker: str) -> None:
        """Note that a worker shows a sign; see `unheld`."""
        self.client.set(f"{self.prefix}sign:{worker}", "1", ex=KEPT_LIVE)

    def has_sign(self, worker: str) -> bool:
        """Return whether a worker shows a sign, or has done so in the last days."""
        return bool(worker and self.client.exists(f"{self.prefix}sign:{worker}"))

    def recover(
        self, task_id: str, wait: float, pauses: tuple[float, float], holder: str | None = None
    ) -> str:
        """Return the message of a task, as JSON, if the broker has lost it.

        Args:
            task_id: The task.
            wait: Seconds for which its message must have been missing.
            pauses: Seconds until it is searched for again, after the first copy and at most;
                they double with each copy.
            holder: Who had its lease when that was found out, "" for nobody; None if any may.

        Returns:
            "" if a process runs it, it is final, or its message has not been missing that long.
        """
        whose = ["0", ""] if holder is None else ["1", holder]
        given = [repr(wait), self._ttl, *map(repr, pauses), *whose]
        text: str = self.change(scripts.RECOVER, task_id, *given)
        return text

    def lead(self, holder: str, seconds: float) -> bool:
        """Return whether this process, and no other, may search for lost messages now."""
        return bool(self.client.set(f"{self.prefix}lead", holder, nx=True, px=_ms(seconds)))

    def rest(self, seconds: float) -> None:
        """Let no process search for lost messages for some seconds."""
        self.client.pexpire(f"{self.prefix}lead", _ms(seconds))

    # -- reports

    def latest(self) -> tuple[str, int]:
        """Return the stream's latest entry and the number of the latest report."""
        pipe = self.client.pipeline(transaction=True)
        pipe.xrevrange(self.reports, count=1)
        pipe.get(self.counter)
        entries, number = pipe.execute()
        return (entries[0][0] if entries else "0-0"), int(number or 0)

    def poke(self) -> None:
        """Wake every reader of the reports, without a report."""
        self.client.xadd(self.reports, {"k": "poke"}, maxlen=REPORTS_KEPT)

    def read(self, after: str, seconds: float) -> list[tuple[str, dict[str, str]]]:
        """Block until there are reports after an entry, for at most *seconds*."""
        found = self.client.xread({self.reports: after}, count=500, block=round(seconds * 1000))
        if not found:
            return []
        # One stream: a list of pairs by the older protocol, a dict by the newer one.
        batches: Iterable[Any] = found.values() if isinstance(found, dict) else found[0][1:]
        return [entry for batch in batches for entry in _flat(batch)]


def _flat(batch: Any) -> Iterable[tuple[str, dict[str, str]]]:  # Any: differs by protocol
    for entry in batch:
        if isinstance(entry, list):
            yield from _flat(entry)
        else:
            yield entry


def _text(message: Message) -> str:
    return json.dumps(message.as_json())


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _facts(message: Message) -> list[str]:
    return [
        "name",
        message.name,
        "fn",
        message.fn,
        "about",
        message.about,
        "created",
        repr(message.created),
        "limit",
        "" if message.limit is None else repr(message.limit),
        *(("run_again_of", message.run_again_of) if message.run_again_of else ()),
        *(("owner", message.owner) if message.owner else ()),
        *(("label", message.label) if message.label else ()),
        *(("meta", message.meta) if message.meta else ()),
        *(("shown", message.shown) if message.shown else ()),
    ]
