"""The task timeline of a failed test: what happened, when and where, and what is unfinished.

Guarantees: it never raises, even if the ``repr()`` of a test's values does, and it consists
of text that can be sent to another process.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from framework import Task
from framework.protocols import TaskEvent, TaskRecord, TaskStatus
from pytest_asyncframe._locations import raised_at
from pytest_asyncframe._report import gates
from pytest_asyncframe._report.gates import Findings
from pytest_asyncframe._seen import entries
from pytest_asyncframe._seen.recorder import Recorder
from pytest_asyncframe._toolkit.toolkit import Toolkit
from pytest_asyncframe._values import error_text, plain, safely, shown

Section: TypeAlias = tuple[str, str]

_FIRST, _LAST = 40, 80
"""Number of lines of a long timeline to keep at its start and at its end."""

_LISTED = 20
"""Number of items that a list shows."""

_DIGITS = 8
"""Number of characters that are shown of an id."""

_DELAYED = {
    "retrying": "to try again",
    "throttled": "for its turn",
    "sleeping": "for the end of its sleep, or a message",
}


class Timeline:
    """Builds the sections for one failed test, before its parts end.

    Args:
        toolkit: The parts of the test.
        root: Folder that paths are shown relative to.
    """

    def __init__(self, toolkit: Toolkit, root: Path) -> None:
        self._toolkit = toolkit
        self._recorder = toolkit.recorder
        self._root = str(root) + os.sep
        self._shown = 0
        self._reported: set[str] = set()
        self._failed = False

    def at_failure(self, error: BaseException | None) -> Section | None:
        """Return the section for a failed setup or call; None if there is nothing to show.

        Args:
            error: The error of the test; None if unknown.
        """
        self._failed = True
        return self._section("task timeline", lambda: self._whole(error, self._lost_failures()))

    def at_end(self, findings: Findings) -> Section | None:
        """Return the section for the teardown; None if there is nothing more to show.

        Args:
            findings: The findings of the gates, with their severities.
        """
        if not self._failed:
            # The error of the teardown lists the findings itself.
            return self._section("task timeline", lambda: self._whole(None, ()))
        # After a failed call pytest shows sections of the teardown by their name.
        return self._section("task timeline, teardown", lambda: self._rest(findings))

    def _section(self, name: str, make: Callable[[], list[str]]) -> Section | None:
        try:
            text = "\n".join(make())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the report of the test must be made anyway
            text = f"no timeline could be made: {error_text(error)}"
        # xdist cannot send lone surrogates to its controller.
        return (name, text.encode("utf-8", "backslashreplace").decode()) if text else None

    def _lost_failures(self) -> list[str]:
        severity = self._toolkit.settings.lost_failures
        return [] if severity == "off" else gates.lost_failures(self._toolkit)

    def _whole(self, error: BaseException | None, findings: Iterable[str]) -> list[str]:
        recorder = self._recorder
        moments = tuple(recorder.moments)
        snapshot = (
            next((it for it in recorder.snapshots if it.error is error), None) if error else None
        )
        lines = _Formatter(recorder, self._root, error).lines(moments)
        found = self._news(findings)
        if not lines and not found:
            return []
        self._shown = len(moments)
        unit = "real time" if self._toolkit.clock is None else "virtual time"
        lines.insert(0, f"seconds of {unit} since the test began, mode {self._mode()}")
        lines += self._unfinished(snapshot or recorder.take_snapshot())
        return lines + _listed("planned faults:", self._faults()) + found

    def _mode(self) -> str:
        """Return the mode, with its seed if that may matter, and how to set it again."""
        mode, settings = self._toolkit.mode, self._toolkit.settings
        text = repr(mode)
        if mode == "seeded" or (settings.seed_is_option and mode != "threads"):
            text += f", seed {settings.seed}"
        if settings.seed_is_option and mode != "threads":
            text += f" (again with --asyncframe-seed={settings.seed})"
        return text

    def _rest(self, findings: Findings) -> list[str]:
        recorder = self._recorder
        later = tuple(recorder.moments)[self._shown :]
        lines = _Formatter(recorder, self._root).lines(later)
        return lines + self._news(
            text for severity, texts in findings if severity != "off" for text in texts
        )

    def _news(self, findings: Iterable[str]) -> list[str]:
        """Return the findings that were not shown before, with a heading."""
        news = [text for text in findings if text not in self._reported]
        self._reported.update(news)
        return _listed("findings:", [text.replace(self._root, "") for text in news])

    def _faults(self) -> list[str]:
        planned = () if self._recorder.injector is None else self._toolkit.faults.planned
        return [str(fault).replace(self._root, "") for fault in planned]

    def _unfinished(self, snapshot: entries.Snapshot) -> list[str]:
        recorder = self._recorder
        formatter = _Formatter(recorder, self._root)
        when = f"at {round(snapshot.at - recorder.begun, 3):.9g} s"
        if snapshot.error is not None:
            when = f"when the test failed, {when}"
        lines = _listed(
            f"unfinished {when}:",
            [formatter.unfinished(one, snapshot.at) for one in snapshot.tasks],
        )
        return lines + _listed(f"pending timers {when}:", _timers(snapshot))


class _Formatter:
    """Formats moments and unfinished tasks as lines.

    Args:
        recorder: Knows the tasks of the test, and when it started.
        root: Prefix that is removed from paths.
        failure: The error of the test; None if unknown.
    """

    def __init__(self, recorder: Recorder, root: str, failure: BaseException | None = None) -> None:
        self._root = root
        self._begun = recorder.begun
        self._failure = failure
        self._calls = {one.record: one for one in tuple(recorder.submissions)}
        self._labels = _labels(self._calls.values())

    def lines(self, moments: Iterable[entries.Moment]) -> list[str]:
        """Return a line for each moment, without the middle of a long list."""
        rows = []
        previous: dict[TaskRecord | None, entries.Moment] = {}
        for moment in moments:
            before = previous.get(moment.record)
            previous[moment.record] = moment
            if not _goes_without_saying(moment, before):
                rows.append((moment.at - self._begun, self._row(moment)))
        folded = [_fold(list(same)) for _, same in itertools.groupby(rows, lambda row: row[1])]
        left_out = len(folded) - _FIRST - _LAST
        if left_out > 1:
            del folded[_FIRST:-_LAST]
        lanes = max((len(lane) for _, (lane, _, _) in folded), default=0)
        labels = max((len(label) for _, (_, label, _) in folded), default=0)
        lines = [
            f"{at:>8.3f} s  {lane:<{lanes}}  {label:<{labels}}  {text}".rstrip()
            for at, (lane, label, text) in folded
        ]
        if left_out > 1:
            lines.insert(_FIRST, f"{'...':>8}    {left_out} lines left out")
        return lines

    def unfinished(self, one: entries.UnfinishedTask, now: float) -> str:
        """Return a line that shows where an unfinished task was at second *now*."""
        return f"{self._labels.get(one.record, '')}: {self._where(one, now)}"

    def _where(self, one: entries.UnfinishedTask, now: float) -> str:
        if one.status is TaskStatus.PENDING:
            reason = Task(one.record).reason if one.record.reason else ""
            return f"not started, {plain(reason)}" if reason else "not started"
        ended = f"{one.status.value}, but still running, " if one.status.is_final else ""
        parts = [f"on {one.lane}"]
        if one.location:
            parts.append(f"at {self._short(one.location)}")
        event = None if one.last is None else one.last.what
        if isinstance(event, TaskEvent) and event.kind in _DELAYED and event.delay is not None:
            until = event.at + event.delay
            # A throttled call that was not the next one goes on waiting without an event.
            when = f"until {round(until - self._begun, 3):.9g} s " if now < until < math.inf else ""
            parts.append(f"waits {when}{_DELAYED[event.kind]}")
        return ended + ", ".join(parts)

    def _row(self, moment: entries.Moment) -> tuple[str, str, str]:
        what = moment.what
        if moment.record is not None:
            label = self._labels.get(moment.record, _short_name(moment.record.name))
        else:
            label = _short_name(what.name) if isinstance(what, TaskEvent) else ""
        if isinstance(what, TaskEvent):
            text = self._event(what, moment.record)
        elif isinstance(what, entries.Failure):
            failed = what.error is self._failure
            text = "the test fails" if failed else f"{what.who} exits"
            text += f" with {error_text(what.error)}"
        elif isinstance(what, entries.Injected):
            planned = f" (planned at {self._short(what.location)})" if what.location else ""
            text = f"fault: {plain(what.text)}{planned}"
        else:
            text = f"attempt {what} started" if isinstance(what, int) else plain(what)
        location = f", at {self._short(moment.location)}" if moment.location else ""
        return plain(moment.lane), label, text + location

    def _event(self, event: TaskEvent, record: TaskRecord | None) -> str:
        match event.kind:
            case "submitted":
                origin = "" if event.origin is None else f" by {self._short(str(event.origin))}"
                return f"submitted{origin}{self._call(record)}"
            case "progress":
                message = f" {safely(str, event.message)}" if event.message else ""
                return f"progress {(event.progress or 0.0) * 100:.9g} %{message}"
            case "retrying":
                return f"retrying in {event.delay:.9g} s after {self._raised(event.error)}"
            case "throttled":
                return f"throttled, waits {event.delay:.9g} s"
            case "sleeping" if event.delay == math.inf:
                return "waits for a message"
            case "sleeping":
                return f"sleeps for {event.delay:.9g} s"
            case "completed":
                result = None if record is None else record.result
                return "completed" if result is None else f"completed with {shown(result)}"
            case "failed":
                return f"failed with {self._raised(event.error)}{_because(event)}"
            case "late_result":
                return "ended too late, so its outcome is dropped"
            case _:
                return f"{plain(event.kind.replace('_', ' '))}{_because(event)}"

    def _call(self, record: TaskRecord | None) -> str:
        one = None if record is None else self._calls.get(record)
        if one is None:
            return ""
        arguments = [shown(value) for value in one.call.args]
        arguments += [f"{plain(key)}={shown(value)}" for key, value in one.call.kwargs.items()]
        return ": " + plain(f"{_short_name(one.record.name)}({', '.join(arguments)})")

    def _raised(self, error: BaseException | None) -> str:
        if error is None:
            return "an error"
        location = raised_at(error.__traceback__)
        return f"{error_text(error)} at {self._short(location)}" if location else error_text(error)

    def _short(self, location: str) -> str:
        return location.removeprefix(self._root)


def _goes_without_saying(moment: entries.Moment, before: entries.Moment | None) -> bool:
    """Whether it is the attempt that the event ``started`` has shown already."""
    return (
        isinstance(moment.what, int)
        and before is not None
        and isinstance(before.what, TaskEvent)
        and before.what.kind == "started"
        and before.what.attempt == moment.what
    )


_Row: TypeAlias = tuple[float, tuple[str, str, str]]


def _fold(same: list[_Row]) -> _Row:
    """Return one row for consecutive rows with the same text."""
    at, (lane, label, text) = same[0]
    if len(same) > 1:
        text = f"{text}, {len(same)} times until {same[-1][0]:.3f} s"
    return at, (lane, label, text)


def _labels(submissions: Iterable[entries.Submission]) -> dict[TaskRecord, str]:
    """Return a unique label for each task."""
    records = [one.record for one in submissions]
    labels = {}
    for record in records:
        labels[record] = f"{_short_name(record.name)}#{plain(record.task_id[:_DIGITS])}"
    for record, _ in _ambiguous(labels):
        labels[record] = f"{_short_name(record.name)}#{plain(record.task_id)}"
    for record, count in _ambiguous(labels):
        labels[record] += f" ({count})"
    return labels


def _ambiguous(labels: dict[TaskRecord, str]) -> list[tuple[TaskRecord, int]]:
    """Return the tasks with the same label as others, each with its number among them."""
    total = Counter(labels.values())
    so_far: Counter[str] = Counter()
    found = []
    for record, label in labels.items():
        so_far[label] += 1
        if total[label] > 1:
            found.append((record, so_far[label]))
    return found


def _short_name(name: str) -> str:
    """Return the name of a function without its module and class."""
    whole = plain(name)
    return whole if " " in whole else whole.rpartition(".")[2] or whole


def _because(event: TaskEvent) -> str:
    return f": {plain(event.message)}" if event.message else ""


def _timers(snapshot: entries.Snapshot) -> list[str]:
    """Return the timers of a snapshot, without background ones."""
    lines = [plain(line) for line in snapshot.timers.splitlines() if line.startswith("t+")]
    return [line for line in lines if not line.endswith("in the background")]


def _listed(heading: str, things: Sequence[str]) -> list[str]:
    if not things:
        return []
    lines = [f"  {line}" for thing in things[:_LISTED] for line in thing.splitlines()]
    left_out = len(things) - _LISTED
    if left_out > 0:
        lines.append(f"  ... {left_out} more")
    return [heading, *lines]
