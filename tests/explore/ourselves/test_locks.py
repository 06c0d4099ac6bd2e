"""Each lock of the framework is needed: without it, a scenario fails."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import framework
from tests.explore.ourselves import (
    couriers,
    ends,
    metrics,
    places,
    pool,
    remote,
    schedules,
    stores,
    tasks,
    throttles,
    timers,
)
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.run import Scenario

NEEDED: dict[str, Scenario] = {
    "Backlog._lock": stores.note_or_end,
    "Calls._lock": tasks.keep_the_latest,
    "CleanUp._lock": timers.start_clean_up_twice,
    "Courier._condition": couriers.hand_in_or_close,
    "Crew.lock": pool.put_or_close,
    "Deadlines._lock": timers.deadline_or_close,
    "Delays._lock": timers.delay_held_up,
    "OtherProcesses._lock": stores.ask_or_close,
    "Events.lock": tasks.cancel_twice,
    "Gate._lock": throttles.first_calls,
    "Gates._lock": throttles.purge,
    "Inbox._lock": tasks.receive_twice,
    "Lines._lock": places.give_back_or_join,
    "Mailbox._dropping": ends.post_to_a_closed_loop,
    "Mailboxes._lock": ends.mailboxes_of_loops,
    "MemoryStore._lock": stores.remove_twice,
    "Mirror._keeping": stores.mirror_counts,
    "Mirror._lock": stores.forget_or_read,
    "OpenTelemetrySink._lock": tasks.attach_tracer_twice,
    "Outbox.publishing": tasks.limit_or_fail,
    "OwnBook._lock": schedules.claim_a_run_twice,
    "Places.lock": places.launch_or_wait,
    "Process.lock": remote.enter_twice,
    "Process.sending": remote.send_twice,
    "Promise._lock": ends.use_promised,
    "Published._lock": metrics.write_twice,
    "Publisher._lock": remote.publish_or_withdraw,
    "Removal._lock": remote.remove_or_write,
    "Reports._lock": remote.read_reports_twice,
    "Schedules._lock": timers.schedule_or_leave,
    "Series._lock": metrics.attach_twice,
    "SystemClock._changed": timers.set_or_fire,
    "ThreadWaiter._condition": stores.ask_at_once,
    "Unique._admitting": places.submit_unique_twice,
    "WaitGraph._lock": pool.wait_in_a_circle,
    "_series._LOCK": metrics.make_twice,
    "frameworks._LOCK": ends.apps_come,
    "registry._LOCK": ends.list_or_register,
}
"""A scenario that fails without the lock of that name."""

_SAME = {"Ledger.lock": "Events.lock"}
"""Locks that a forked child makes anew in another class."""

_NEEDLESS = ("Nothing fails without it while there is a global lock: ", "A signal and not a lock: ")
"""What a comment says at a lock without which no scenario can fail."""

_HOW = {
    "Calls._lock": ("line", "delays"),
    "Delays._lock": ("line", "pct:3"),
    "Gate._lock": ("opcode", "delays"),
    "Mailbox._dropping": ("line", "delays"),
    "Mirror._lock": ("opcode", "delays"),
    "Removal._lock": ("opcode", "mixed"),
    "Schedules._lock": ("opcode", "delays"),
    "ThreadWaiter._condition": ("locks", "delays"),
    "Unique._admitting": ("line", "pct:3"),
    "frameworks._LOCK": ("line", "delays"),
}
"""The levels and policies that find the failure in few runs, where lines and ``mixed`` do not."""

_RUNS = 100
"""Runs of one seed within which it should fail; most need ten."""

_SEEDS = 10
"""How many seeds may be tried.

One in thirty schedules of the rarest failures fails, and what a process has imported and cached
before changes which ones a seed gives: 100 runs miss such a failure once in thirty times.
"""


# It guards the listing of names while one is added, for which weak dictionaries are copied there.
_copies_weak_dictionaries = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="from Python 3.14 on, nothing fails without the lock"
)

_MARKS = {"registry._LOCK": [_copies_weak_dictionaries]}


@pytest.mark.parametrize(
    "lock", [pytest.param(lock, marks=_MARKS.get(lock, [])) for lock in NEEDED]
)
def test_a_scenario_fails_without_the_lock(lock: str) -> None:
    """If the lock keeps nobody out, one of few schedules fails."""
    level, policy = _HOW.get(lock, ("line", "mixed"))
    explorer = Explorer(NEEDED[lock], level, without=lock)
    assert any(explorer.explore(policy, _RUNS, seed)[1] for seed in range(_SEEDS))


def test_each_lock_has_a_scenario_or_a_reason() -> None:
    """Each lock in the source has a scenario that fails without it, or says why none can."""
    unknown, needless = set[str](), set[str]()
    for name, comment in locks():
        if any(reason in comment for reason in _NEEDLESS):
            needless.add(name)
        elif _SAME.get(name, name) not in NEEDED:
            unknown.add(name)
    assert unknown == set()
    assert len(needless) == 7


def locks() -> Iterator[tuple[str, str]]:
    """Yield the name of each lock of the framework, and the comment above its line."""
    root = Path(framework.__file__).parent
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        lines = text.splitlines()
        for target, line in assigned(ast.parse(text), ""):
            name = target if "." in target else f"{path.stem}.{target}"
            above = lines[: line - 1]
            comment: list[str] = []
            while above and above[-1].lstrip().startswith("#"):
                comment.insert(0, above.pop().strip(" #"))
            yield name, " ".join(comment)


def assigned(node: ast.AST, owner: str) -> Iterator[tuple[str, int]]:
    """Yield what new locks are assigned to, with the class around it, and the line."""
    for child in ast.iter_child_nodes(node):
        yield from assigned(child, child.name if isinstance(child, ast.ClassDef) else owner)
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if any(makes_a_lock(inner) for inner in ast.walk(node.value)):
            text = ast.unparse(target).replace("self", owner)
            yield text, node.lineno


def makes_a_lock(node: ast.AST) -> bool:
    """Return whether an expression makes a lock."""
    made = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return made in ("threading.Lock", "threading.RLock")
