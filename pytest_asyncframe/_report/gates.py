"""The checks at the end of a test: leaks, lost failures, expectations that were not met."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from typing import TypeAlias

import pytest

from framework import RateLimitExceededError
from framework.testing import was_cut_short
from pytest_asyncframe._locations import users_part
from pytest_asyncframe._seen.entries import Injected
from pytest_asyncframe._seen.matchers import described, unread_failures
from pytest_asyncframe._toolkit.last_work import GRACE, finish_running_work
from pytest_asyncframe._toolkit.options import Severity
from pytest_asyncframe._toolkit.toolkit import Toolkit

Findings: TypeAlias = Sequence[tuple[Severity, list[str]]]
"""Texts, each list of them with how to report it."""


class AsyncframeWarning(UserWarning):
    """A finding about a test that is reported as a warning."""


def findings(toolkit: Toolkit) -> Findings:
    """Return what every gate has found, each with its severity, before the parts end."""
    settings = toolkit.settings
    return [
        (settings.leaks, leaks(toolkit)),
        (settings.lost_failures, lost_failures(toolkit)),
        ("error", toolkit.unfired_faults()),
        ("error", toolkit.broken_rules()),
        (settings.blocked_loop, toolkit.blocked.findings()),
        ("warn", [] if toolkit.reads is None else toolkit.reads.findings()),
    ]


def leaks(toolkit: Toolkit) -> list[str]:
    """Return what the test has left behind, each with a line or more."""
    finish_running_work(toolkit)
    if toolkit.searches_faults and toolkit.recorder.running_again:
        # The test does not know of the second run, and waits for the first one alone.
        return []
    found = []
    for one in toolkit.recorder.submissions:
        record = one.record
        if toolkit.recorder.is_poller(one):
            continue
        if not record.status.is_final:
            found.append(f"leaked task: {described(record)}")
        elif was_cut_short(record):
            found.append(f"task cut short by the app's shutdown: {described(record)}")
    found += [f"leaked call of the pool: {line}" for line in toolkit.unfinished_calls(GRACE)]
    clients = [client for client in toolkit.clients if client.running]
    found += [f"leaked client: {client} is still open" for client in clients]
    if not clients:
        # An open client has threads, which would only repeat the finding.
        found += [f"leaked thread: {line}" for line in toolkit.threads.left(GRACE)]
    if toolkit.clock is not None:
        found += [f"leaked timer: {line}" for line in toolkit.clock.left()]
    return found + [f"never awaited: {line}" for line in toolkit.not_awaited]


def lost_failures(toolkit: Toolkit) -> list[str]:
    """Return the failures that nobody has read, and the expectations that were not met."""
    found = []
    for one in unread_failures(toolkit.recorder, toolkit.expectations):
        error = one.record.error
        assert error is not None
        # From the user's code on, since the frames before it are the same for every task.
        began = users_part(one.record.traceback)
        text = "".join(traceback.format_exception(type(error), error, began))
        hint = _hint(error, toolkit.recorder.fault_behind(one.record))
        found.append(
            f"lost failure: {described(one.record)}, and nobody has read its error{hint}:\n"
            + "\n".join(f"    {line}" for line in text.rstrip().splitlines())
        )
    for expectation in toolkit.expectations:
        finding = expectation.finding(toolkit.recorder)
        if finding is not None:
            found.append(f"expectation not met: {finding}")
    return found


def _hint(error: BaseException, fault: Injected | None) -> str:
    """Return a hint for errors with a special cure or cause."""
    if fault is not None:
        return f" (injected by the fault planned at {fault.location})"
    if isinstance(error, RateLimitExceededError):
        return " (with when_limited='wait' a task waits for its turn)"
    return ""


def report(found: Findings, *, failed: bool) -> None:
    """Fail the test or warn, by the severity of each finding; not if it failed or was skipped."""
    errors = [text for severity, texts in found if severity == "error" for text in texts]
    warned = [text for severity, texts in found if severity == "warn" for text in texts]
    if failed:
        return
    for text in warned:
        warnings.warn(text, AsyncframeWarning, stacklevel=1)
    if errors:
        pytest.fail("\n".join(errors), pytrace=False)
