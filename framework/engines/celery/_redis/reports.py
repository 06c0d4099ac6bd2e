"""Reads the reports of workers, on one thread in each process that submits.

Guarantees: reports are handed on in their order; after a gap (the stream was trimmed, Redis was
unavailable) every live task is looked up instead, so that nothing is missed for good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

from framework._records.jsonsafe import safe_str
from framework._records.records import TaskRecord
from framework._records.statuses import TaskStatus
from framework._tasks import registry
from framework._tasks.errors.kept import decode_error
from framework._tasks.facts import load_record
from framework._tasks.wire import decode_result
from framework._threads.clock import SystemClock
from framework._threads.courier import Courier
from framework._threads.loggers import SafeLogger
from framework.engines.celery._redis.state import State
from framework.protocols import Clock, EngineHost

_LOGGER = SafeLogger("asyncframe")

_BLOCK: Final = 1.0

_FEW: Final = 8
"""How many tasks may be live here so that each of their reports is read at once."""

_PAUSE: Final = 0.005
"""Seconds between two reads otherwise, so that one of them has many reports."""

_ENDED: Final = {
    "status": "s",
    "ended": "at",
    "result": "r",
    "error": "e",
    "reason": "w",
    "attempts": "a",
    "fn": "f",
}
"""The fields of a report of an end, by those of the task's hash."""

LOST: Final = "Redis does not know it any more: its data was lost or evicted"


class Reports:
    """Reads the stream and reports to the host.

    Args:
        state: Redis.
        host: Receives the reports about its tasks.
        placed: Called with a task and its line when it has a place there.
        missed: Called when reports of places may have been missed.

    Attributes:
        fault: Why Redis cannot be read; "" while it can.
        told: Called with the ids of all tasks that were reported on; see
            `protocols.NewsDirectory`. None for nobody.
    """

    told: Callable[[Collection[str] | None], object] | None = None

    def __init__(
        self,
        state: State,
        host: EngineHost,
        placed: Callable[[str, str], None],
        missed: Callable[[], None],
    ) -> None:
        self._state = state
        self._host = host
        self._placed = placed
        self._missed = missed
        self.fault: str = ""
        self._clock = SystemClock()
        self._after = ""
        self._number = 0
        # Whether reports may have been missed.
        self._gap = False
        self._lock = threading.Lock()
        self._courier = Courier("asyncframe-reports", self._turn, failed=self._away)

    def find_place(self) -> None:
        """Find the end of the stream, so that all later reports are read; blocks.

        Raises:
            Exception: What Redis raises if it cannot be reached.
        """
        with self._lock:
            if not self._after:
                self._after, self._number = self._state.latest()

    def start(self) -> None:
        """Start reading; harmless to call twice."""
        self._courier.wake()

    def close(self) -> None:
        """End the thread; blocks for a moment."""
        self._courier.stop()
        if self._courier.is_running:
            try:
                self._state.poke()
            except Exception:  # then the thread is not waiting for Redis, but for its next try
                _LOGGER.debug("Redis is away at the end", exc_info=True)
        self._courier.close(2 * _BLOCK)

    # -- the thread

    def _turn(self) -> float:
        self.find_place()
        if self._gap:
            self._catch_up()
            self._gap = False
        # Before the next line, which waits for a report.
        if self.fault:
            self.fault = ""
            _LOGGER.info("the reports of workers can be read again")
        self._gap = self._take(self._state.read(self._after, _BLOCK))
        return 0.0 if 0 < self._host.live_count() <= _FEW else _PAUSE

    def _away(self, error: Exception) -> None:
        """Note that Redis is unavailable; *error* is whatever its client has raised."""
        self.fault = f"cannot read the reports of workers: {safe_str(error)}"
        if not self._gap:
            _LOGGER.warning("%s", self.fault)
        self._gap, self._after = True, ""

    def _take(self, entries: list[tuple[str, dict[str, str]]]) -> bool:
        """Hand on some reports; return whether some before or between them are missing."""
        gap = False
        for entry, fields in entries:
            self._after = entry
            if "n" in fields:
                number = int(fields["n"])
                gap |= number != self._number + 1
                self._number = number
                try:
                    self._tell(fields)
                except Exception:  # one bad report must not stop the others
                    _LOGGER.exception("invalid report of a worker: %r", fields)
        told = self.told
        if told is not None:
            told({fields["i"] for _, fields in entries if "i" in fields})
        return gap

    def _tell(self, fields: Mapping[str, str]) -> None:
        host, task_id, kind = self._host, fields["i"], fields["k"]
        if kind == "started":
            slept = float(fields.get("sl") or 0.0)
            host.started(task_id, float(fields["at"]), int(fields["a"]), slept)
        elif kind == "placed":
            self._placed(task_id, fields["l"])
        elif kind == "dropped":
            now = self._clock.time()
            host.ended(task_id, TaskStatus.CANCELLED, now, reason=fields["w"], attempts=0)
        elif kind == "asked":
            host.asked_to_cancel(task_id)
        elif kind == "progress":
            host.progress(task_id, float(fields["p"]), fields["m"])
        elif kind == "again":
            error = decode_error(fields["e"]) if fields["e"] else None
            host.waiting(task_id, fields["w"])
            host.announce(task_id, fields["o"], float(fields["d"]), error)
        elif kind == "ended" and fields["b"] == "1":
            self._tell_state(task_id, self._state.fetch([task_id]).get(task_id))
        elif kind == "ended":
            self._tell_end(task_id, {name: fields[short] for name, short in _ENDED.items()})

    def _tell_end(self, task_id: str, facts: Mapping[str, str]) -> None:
        result, error = facts["result"], facts["error"]
        function = registry.find_function(facts.get("fn", ""))
        self._host.ended(
            task_id,
            TaskStatus(facts["status"]),
            float(facts["ended"]),
            result=decode_result(function, result) if result else None,
            error=decode_error(error) if error else None,
            reason=facts["reason"],
            attempts=int(facts["attempts"] or 0),
        )

    def _catch_up(self) -> None:
        """Look up every live task that Redis should have; see `CeleryEngine.admit`."""
        notes = {str(one.task_id): one.engine_note for one in self._host.live()}
        ids = [task_id for task_id, note in notes.items() if note is None or note.kept]
        for begin in range(0, len(ids), 1_000):
            some = ids[begin : begin + 1_000]
            found = self._state.fetch(some)
            for task_id in some:
                # What only waits is not lost with Redis: this process publishes it.
                if task_id in found or notes[task_id] is None:
                    self._tell_state(task_id, found.get(task_id))
        self._missed()
        if self.told is not None:
            self.told(None)

    def _tell_state(self, task_id: str, facts: Mapping[str, str] | None) -> None:
        if facts is None:
            self._host.ended(task_id, TaskStatus.INTERRUPTED, self._clock.time(), reason=LOST)
            return
        if facts.get("started"):
            slept = _slept(facts, self._clock)
            self._host.started(task_id, float(facts["started"]), int(facts["attempts"]), slept)
        if facts.get("share"):
            self._host.progress(task_id, float(facts["share"]), facts.get("message", ""))
        if TaskStatus(facts["status"]).is_final:
            self._tell_end(task_id, facts)
            return
        self._host.waiting(task_id, facts.get("reason", ""))
        if facts.get("cancel") == "1":
            self._host.asked_to_cancel(task_id)


def record_of(task_id: str, facts: Mapping[str, str], clock: Clock) -> TaskRecord:
    """Return the record of a task's hash in Redis, with result and error decoded."""
    record = load_record(
        {
            "task_id": task_id,
            "name": facts.get("name", ""),
            "description": facts.get("about"),
            "status": facts["status"],
            "created_at": facts.get("created") or 0.0,
            "started_at": _number(facts, "started"),
            "ended_at": _number(facts, "ended"),
            "slept": _slept(facts, clock),
            "attempts": int(facts.get("attempts") or 0),
            "error": facts.get("error"),
            "reason": facts.get("reason"),
            "progress": _number(facts, "share"),
            "progress_message": facts.get("message"),
            "cancel_requested": facts.get("cancel") == "1",
            "remote": True,
            "run_again_of": facts.get("run_again_of"),
            "owner": facts.get("owner"),
            "label": facts.get("label"),
            "meta": facts.get("meta"),
            "arguments": facts.get("shown"),
        },
        clock,
    )
    # By the function and not by the name: `.options(name=...)` may have given it another one.
    if facts.get("result"):
        function = registry.find_function(facts.get("fn", ""))
        record.result = decode_result(function, facts["result"])
    return record


def _slept(facts: Mapping[str, str], clock: Clock) -> float:
    """Return for how many seconds a task has waited since its start, until now."""
    since = _number(facts, "asleep")
    now = 0.0 if since is None else max(0.0, clock.time() - since)
    return (_number(facts, "slept") or 0.0) + now


def _number(facts: Mapping[str, str], field: str) -> float | None:
    return float(facts[field]) if facts.get(field) else None
