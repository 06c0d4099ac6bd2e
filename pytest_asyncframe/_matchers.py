"""Assertions about what tasks were submitted, how they went, and how often they began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from framework.protocols import TaskRecord, TaskStatus
from pytest_asyncframe._seen import Recorder, Submission, full_name

Function = Callable[..., Any] | str

_NEAREST = 3
"""How many candidates a failing assertion shows."""

_DELAYED = ("retrying", "throttled")
_FAILED = (TaskStatus.FAILED, TaskStatus.TIMEOUT)


def name_of(fn: Function) -> str:
    """Return what *fn* is called in messages."""
    return fn if isinstance(fn, str) else str(getattr(fn, "__name__", fn))


def shown_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call as it would be written."""
    parts = [repr(arg) for arg in args]
    parts += [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def assert_submitted(
    seen: Recorder,
    fn: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    times: int | None,
) -> None:
    """See `Probe.assert_submitted`."""
    __tracebackhide__ = True
    found = [one for one in seen.of(fn) if one.called_with(args, kwargs)]
    if (found and times is None) or len(found) == times:
        return
    wanted = shown_call(name_of(fn), args, kwargs)
    how_often = "at least once" if times is None else _times(times)
    lines = [f"{wanted} was submitted {_times(len(found))}, expected {how_often}"]
    others = [one for one in seen.of(fn) if one not in found]
    if found:
        lines += [f"  submitted at {one.record.origin}" for one in found[:_NEAREST]]
    elif others:
        others.sort(key=lambda one: _distance(one, args, kwargs))
        lines.append("nearest submissions:")
        for one in others[:_NEAREST]:
            call = one.call
            lines.append(f"  {shown_call(one.record.name, call.args, call.kwargs)}")
            lines += [f"    {difference}" for difference in _differences(one, args, kwargs)]
    else:
        lines.append(_what_was(seen))
    raise AssertionError("\n".join(lines))


def assert_not_submitted(seen: Recorder, fn: Function) -> None:
    """See `Probe.assert_not_submitted`."""
    __tracebackhide__ = True
    found = seen.of(fn)
    if found:
        lines = [f"{name_of(fn)} was submitted {_times(len(found))}, expected never:"]
        for one in found[:_NEAREST]:
            call = shown_call(one.record.name, one.call.args, one.call.kwargs)
            lines.append(f"  {call} at {one.record.origin or 'a place no longer known'}")
        raise AssertionError("\n".join(lines))


def assert_idle(seen: Recorder) -> None:
    """See `Probe.assert_idle`."""
    __tracebackhide__ = True
    if seen.living:
        lines = [f"{_counted(len(seen.living), 'task')} not ended:"]
        lines += [f"  {described(one.record)}" for one in seen.living]
        raise AssertionError("\n".join(lines))


def assert_transitions(seen: Recorder, task_id: str, expected: str) -> None:
    """See `Probe.assert_transitions`."""
    __tracebackhide__ = True
    went = ["pending"] if seen.record(task_id) is not None else []
    for event in seen.events:
        if event.task_id != task_id or event.status is None:
            continue
        if event.status.value != went[-1]:
            went.append(event.status.value)
    if ">".join(went) != expected.replace(" ", ""):
        raise AssertionError(
            f"task {task_id} went through {'>'.join(went) or 'nothing'}, expected {expected}"
        )


def delays(seen: Recorder, fn: Function) -> list[float]:
    """See `Probe.delays`."""
    ids = {one.record.task_id for one in seen.of(fn)}
    name = full_name(fn)
    return [
        event.delay
        for event in seen.events
        if event.kind in _DELAYED
        and event.delay is not None
        and (event.task_id in ids or event.name == name)
    ]


@dataclass(frozen=True, slots=True)
class Rate:
    """When a function's body began, in monotonic seconds of the test's clock."""

    starts: tuple[float, ...]

    def max_in(self, seconds: float) -> int:
        """Return how many began in the fullest window of *seconds*, above 0.

        A window is half open: what began exactly *seconds* later is not in it.
        """
        most = first = 0
        for last, start in enumerate(self.starts):
            while start - self.starts[first] >= seconds - 1e-9:
                first += 1
            most = max(most, last - first + 1)
        return most


def rate(seen: Recorder, fn: Function) -> Rate:
    """See `Probe.rate`."""
    return Rate(tuple(sorted(one.at for one in tuple(seen.starts) if one.is_of(fn))))


@dataclass(frozen=True, slots=True)
class Expectation:
    """So many tasks of a function are to fail with an error."""

    fn: Function
    error: type[BaseException]
    times: int

    def fits(self, one: Submission) -> bool:
        """Whether a task failed as expected."""
        return one.is_of(self.fn) and isinstance(one.record.error, self.error)

    def finding(self, seen: Recorder) -> str | None:
        """Return what is said if it was not met, or None."""
        failed = [one for one in seen.of(self.fn) if one.record.status in _FAILED]
        count = sum(self.fits(one) for one in failed)
        if count == self.times:
            return None
        others = sorted({type(one.record.error).__name__ for one in failed if not self.fits(one)})
        rest = f"; others failed with {', '.join(others)}" if others else ""
        return (
            f"{name_of(self.fn)} was expected to fail with {self.error.__name__} "
            f"{_times(self.times)}, and did so {_times(count)}{rest}"
        )


def unread_failures(seen: Recorder, expectations: Sequence[Expectation]) -> list[Submission]:
    """Return the tasks that failed, and whose failure nobody has read or expected."""
    return [
        one
        for one in seen.submissions
        if one.record.status in _FAILED
        and not one.record.read
        and not any(expectation.fits(one) for expectation in expectations)
    ]


def described(record: TaskRecord) -> str:
    """Return a line that says which task it is, and who submitted it."""
    place = f", submitted at {record.origin}" if record.origin is not None else ""
    return f"{record.name} ({record.task_id}) is {record.status.value}{place}"


def _distance(one: Submission, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return len(_differences(one, args, kwargs))


def _differences(one: Submission, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    found = []
    for at in range(max(len(args), len(one.call.args))):
        given = repr(one.call.args[at]) if at < len(one.call.args) else "missing"
        wanted = repr(args[at]) if at < len(args) else "missing"
        if given != wanted:
            found.append(f"argument {at + 1}: {given}, expected {wanted}")
    for key in dict.fromkeys([*kwargs, *one.call.kwargs]):
        given = repr(one.call.kwargs[key]) if key in one.call.kwargs else "missing"
        wanted = repr(kwargs[key]) if key in kwargs else "missing"
        if given != wanted:
            found.append(f"{key}: {given}, expected {wanted}")
    return found


def _what_was(seen: Recorder) -> str:
    names = sorted({one.record.name for one in seen.submissions})
    return f"what was submitted: {', '.join(names)}" if names else "nothing was submitted"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _counted(count: int, noun: str) -> str:
    return f"1 {noun} has" if count == 1 else f"{count} {noun}s have"
