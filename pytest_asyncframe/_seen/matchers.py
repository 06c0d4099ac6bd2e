"""Assertions about submitted tasks, their states, and how often functions started."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from framework.protocols import TaskRecord, TaskStatus
from pytest_asyncframe._seen.entries import Submission, Target, by_name, equal
from pytest_asyncframe._seen.recorder import Recorder

_NEAREST = 3
"""How many candidates a failing assertion shows."""

_FAILED = (TaskStatus.FAILED, TaskStatus.TIMEOUT)


def shown_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call as source code."""
    parts = [repr(arg) for arg in args]
    parts += [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The call that a test asks about; without arguments, any call of the function.

    Attributes:
        target: The function.
        args: The positional arguments given by the test.
        kwargs: The keyword arguments given by the test.
    """

    target: Target
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def check(self, matcher: str) -> None:
        """Check the arguments against the signature of the function.

        Raises:
            TypeError: If the function does not take them.
        """
        why = ""
        for callee in self.target.callees:
            try:
                self._by_name(callee)
            except TypeError as error:
                why = str(error)
            else:
                return
        if why and not self.any:
            raise TypeError(
                f"{matcher}() was given {self}, which does not fit {self.target.name}: {why}"
            )

    @property
    def any(self) -> bool:
        """Whether any call of the function matches."""
        return not self.args and not self.kwargs

    def fits(self, one: Submission) -> bool:
        """Whether a task made this call."""
        return self.any or not self.differences(one)

    def differences(self, one: Submission) -> list[str]:
        """Return how the arguments of a task differ from these, a line each."""
        try:
            wanted = self._by_name(one.call.fn if self.target.fn is None else self.target.fn)
        except TypeError as error:  # one of several functions with the same name
            return [str(error)]
        return _differences(one.arguments, wanted)

    def _by_name(self, callee: Callable[..., Any]) -> dict[str, Any]:
        target = self.target
        return by_name(callee, (*target.args, *self.args), {**target.kwargs, **self.kwargs})

    def __str__(self) -> str:
        return (
            self.target.name if self.any else shown_call(self.target.name, self.args, self.kwargs)
        )


def assert_submitted(recorder: Recorder, wanted: Wanted, times: int | None) -> None:
    """See `Probe.assert_submitted`."""
    __tracebackhide__ = True
    wanted.check("assert_submitted")
    found = [one for one in recorder.of(wanted.target) if wanted.fits(one)]
    if (found and times is None) or len(found) == times:
        return
    how_often = "at least once" if times is None else in_words(times)
    lines = [f"{wanted} was {_submitted(len(found))}, expected {how_often}"]
    others = [one for one in recorder.of(wanted.target) if one not in found]
    if found:
        lines += [f"  submitted at {_location(one)}" for one in found[:_NEAREST]]
    elif others:
        lines += ["nearest submissions:", *_nearest(others, wanted)]
    else:
        lines.append(_what_was(recorder))
    raise AssertionError("\n".join(lines))


def assert_not_submitted(recorder: Recorder, wanted: Wanted) -> None:
    """See `Probe.assert_not_submitted`."""
    __tracebackhide__ = True
    wanted.check("assert_not_submitted")
    found = [one for one in recorder.of(wanted.target) if wanted.fits(one)]
    if found:
        lines = [f"{wanted} was {_submitted(len(found))}, expected never:"]
        for one in found[:_NEAREST]:
            call = shown_call(one.record.name, one.call.args, one.call.kwargs)
            lines.append(f"  {call} at {_location(one)}")
        raise AssertionError("\n".join(lines))


def _location(one: Submission) -> str:
    """Return where a task was submitted, which the framework forgets once it has ended."""
    return str(one.record.origin or "a place no longer known")


@dataclass(frozen=True, slots=True)
class Rate:
    """When the body of a function started, in monotonic seconds of the test's clock.

    Attributes:
        starts: The times, earliest first.
    """

    starts: tuple[float, ...]

    def max_in(self, seconds: float) -> int:
        """Return the highest number of starts in any window of *seconds*, above 0.

        A window is half open: a start exactly *seconds* later is outside.

        Raises:
            TypeError: If *seconds* is not a number.
            ValueError: If *seconds* is not above 0.
        """
        _check_window(seconds)
        most = first = 0
        for last, start in enumerate(self.starts):
            while start - self.starts[first] >= seconds - 1e-9:
                first += 1
            most = max(most, last - first + 1)
        return most


def _check_window(seconds: Any) -> None:  # Any: what a test has passed
    takes = "max_in() takes a number of seconds above 0"
    if not isinstance(seconds, numbers.Real):
        raise TypeError(f"{takes}, such as 60 or delta.total_seconds(), not {seconds!r}")
    if not float(seconds) > 0:
        raise ValueError(f"{takes}, not {seconds!r}")


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many tasks of a function should fail, and with which error."""

    target: Target
    error: type[BaseException]
    times: int

    def fits(self, one: Submission) -> bool:
        """Whether a task failed as expected."""
        return one.is_of(self.target) and isinstance(one.record.error, self.error)

    def finding(self, recorder: Recorder) -> str | None:
        """Return the message if the expectation was not met, else None."""
        failed = [one for one in recorder.of(self.target) if one.record.status in _FAILED]
        count = sum(self.fits(one) for one in failed)
        if count == self.times:
            return None
        others = sorted({type(one.record.error).__name__ for one in failed if not self.fits(one)})
        did = f"did so {in_words(count)}" if count else "never did"
        rest = f"; others failed with {', '.join(others)}" if others else ""
        return (
            f"{self.target.name} was expected to fail with {self.error.__name__} "
            f"{in_words(self.times)}, but {did}{rest}"
        )


def unread_failures(recorder: Recorder, expectations: Sequence[Expectation]) -> list[Submission]:
    """Return the failed tasks whose failure nobody has read or expected."""
    return [
        one
        for one in recorder.submissions
        if one.record.status in _FAILED
        and not one.record.read
        and not any(expectation.fits(one) for expectation in expectations)
    ]


def described(record: TaskRecord) -> str:
    """Return a line with the task's name, status and the location of its submission."""
    location = f", submitted at {record.origin}" if record.origin is not None else ""
    return f"{record.name} ({record.task_id}) is {record.status.value}{location}"


def _nearest(others: list[Submission], wanted: Wanted) -> list[str]:
    """Return lines with the submissions that differ least from *wanted*."""
    lines = []
    ranked = sorted(((wanted.differences(one), one) for one in others), key=lambda it: len(it[0]))
    for differences, one in ranked[:_NEAREST]:
        lines.append(f"  {shown_call(one.record.name, one.call.args, one.call.kwargs)}")
        lines += [f"    {difference}" for difference in differences]
    return lines


def _differences(given: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    found = []
    for name in dict.fromkeys([*wanted, *given]):
        if name in given and name in wanted and equal(given[name], wanted[name]):
            continue
        shown = repr(given[name]) if name in given else "missing"
        expected = repr(wanted[name]) if name in wanted else "missing"
        alike = " (they look the same but are not equal)" if shown == expected else ""
        found.append(f"{name}: {shown}, expected {expected}{alike}")
    return found


def _what_was(recorder: Recorder) -> str:
    names = sorted({one.record.name for one in recorder.submissions})
    return f"submitted functions: {', '.join(names)}" if names else "nothing was submitted"


def _submitted(count: int) -> str:
    return "never submitted" if count == 0 else f"submitted {in_words(count)}"


def in_words(count: int) -> str:
    """Return how often, in words."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
