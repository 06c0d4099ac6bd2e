"""Scenarios of chains: tasks that wait for others which end, or are cancelled, at that moment."""

from __future__ import annotations

from collections.abc import Callable

from framework.exceptions import TaskCancelledError
from tests.explore.ourselves.run import Gate, Run
from tests.explore.ourselves.tasks import cancel, outcome


def submit_as_others_end(run: Run) -> None:
    """Two tasks end as one that waits for both is submitted: it runs once, and after them."""
    manager, gates = run.manager(3), (Gate(), Gate())
    log: list[str] = []

    def first(gate: Gate) -> None:
        gate.wait()
        log.append("first")

    parents = [manager.submit_nowait(first, (gate,)) for gate in gates]
    made: list[str] = []

    def submit() -> None:
        made.append(manager.submit_nowait(log.append, ("last",), after=parents))

    run.together(submit, gates[0].open, gates[1].open)
    assert outcome(manager, made[0]) is None
    assert log == ["first", "first", "last"]


def fail_or_cancel(run: Run) -> None:
    """A task fails as one that waits for it is cancelled by hand: all that wait end, one runs."""
    manager, met, log = run.manager(2), Gate(), list[str]()

    def fail() -> None:
        met.wait()
        raise ValueError

    first = manager.submit_nowait(fail, on_error="silent")
    chain = [manager.submit_nowait(log.append, ("never",), after=first, task_id="second")]
    chain.append(manager.submit_nowait(log.append, ("never",), after=chain[-1]))
    last = manager.submit_nowait(log.append, ("last",), after=chain, after_failure="run")

    def stop() -> None:
        cancel(manager, "second")

    run.together(met.open, stop)
    assert [outcome(manager, one) for one in (first, *chain, last)] == [
        ValueError,
        TaskCancelledError,
        TaskCancelledError,
        None,
    ]
    assert log == ["last"]
    assert manager.get_stats()["pending"] == 0


SCENARIOS: list[Callable[[Run], None]] = [submit_as_others_end, fail_or_cancel]
