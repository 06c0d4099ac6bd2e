"""Partners: all that takes part in a submission, besides the ledger and the engine.

A submission is a spec, a list of partners and an engine. Each ability of a task, such as its owner,
its delay or its key, is one partner; `Core` has the list. A partner is asked
at these moments, in the order of the list. It goes on by returning None, False or nothing, and
refuses the submission by raising an error, which reaches the caller.

======== ============================================= ===========================================
moment   when                                          what it may answer
======== ============================================= ===========================================
`check`  there is no task yet; see `Joined`            another spec
`make`   the task is made, and nobody knows it         nothing; it sets fields of the task
`enter`  the ledger takes it next                      a `Reply` to wait for, then it is asked
                                                       again; or another task to use instead
`settle` the ledger has it, or never will              nothing
`secure` the ledger has it, or it is another one's     each `Reply` to wait for
`hold`   it is to be launched                          True, if it launches it later
`resume` it was taken over from another process        nothing
======== ============================================= ===========================================

What becomes of a task that a partner holds, such as its end, is told to `Ends`.

Guarantees: each partner that has answered `enter` is settled once, in reverse order, whether a
later one refuses, waits in vain, or the ledger takes the task. Nobody waits at `enter` with a
lock of a partner held: one that locks comes after those that wait.
Lock order: a partner's lock that is held from `enter` to `settle`, then those of later partners,
then the ledger's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

from framework._tasks.live import LiveTask
from framework._tasks.places import Existing
from framework._tasks.specs import TaskSpec
from framework._threads.waiters import Reply, Steps

Awaited: TypeAlias = Literal[False, "submitted", "called"]
"""Whether the caller waits for the end of the task: by `submit(wait=True)`, or an `async_task`."""

Check: TypeAlias = Callable[[TaskSpec, tuple[Any, ...], dict[str, Any], Awaited], TaskSpec]
"""Refuses a call by raising an error, or returns the spec to use."""

GoOn: TypeAlias = Callable[[LiveTask], object]
"""Goes on with the launch of a task."""


class Partner:
    """Takes part in submissions; each method does nothing unless it is overridden.

    Attributes:
        options: The options of a spec that ask for it. It takes part in all submissions if it
            has joined them.
        waits: Whether it may answer `enter` with a `Reply`.
        locks: Whether it holds a lock from its last answer to `enter` until `settle`.
        in_place: Whether it also takes part if the call runs where it is awaited. It is only
            asked to `make`, `enter` and `settle` then.
    """

    options: ClassVar[tuple[str, ...]] = ()
    waits: bool = False
    locks: ClassVar[bool] = False
    in_place: ClassVar[bool] = False

    def make(self, task: LiveTask) -> None:
        """Set what the task needs."""

    def enter(self, task: LiveTask, patient: bool) -> Reply[Any] | LiveTask | Existing | None:
        """Let the ledger take the task.

        Args:
            task: The task.
            patient: Whether the caller can wait. Whoever makes it wait has called
                `Ledger.require_room` before, since a full queue refuses the task no more.
        """
        return None

    def settle(self, task: LiveTask, added: bool) -> None:
        """Called once after `enter`, with whether the ledger has the task."""

    def secure(self, task: LiveTask | Existing, own: bool) -> Steps[None]:
        """Wait for what must be true before the caller gets the id of a task.

        Args:
            task: The task.
            own: Whether it was made for this submission.
        """
        yield from ()

    def hold(self, task: LiveTask, go_on: GoOn) -> bool:
        """Return whether to keep a task from being launched, until *go_on* is called with it."""
        return False

    def resume(self, task: LiveTask) -> None:
        """Take part in the rest of a submission that another process began."""


class Joined:
    """The partners that take part in every submission, and not only if its spec asks for them.

    They join when they are first needed, and stay: until then, no submission pays for them.

    Args:
        first: One that takes part from the beginning; None for none.

    Attributes:
        checks: Asked before there is a task; each returns the spec to use.
        partners: Those that are asked at the later moments.
    """

    def __init__(self, first: Partner | None = None) -> None:
        self.checks: list[Check] = []
        self.partners: list[Partner] = [] if first is None else [first]
        self._told: list[Callable[[], object]] = []

    def check_by(self, check: Check) -> None:
        """Call *check* before each submission from now on; may be called twice."""
        if check not in self.checks:
            self.checks.append(check)

    def join(self, partner: Partner) -> None:
        """Let a partner take part from now on; may be called twice."""
        if partner not in self.partners:
            # In this order: what is told looks at the partners.
            self.partners.append(partner)
            for told in self._told:
                told()

    def when_joined(self, told: Callable[[], object]) -> None:
        """Call *told* whenever a partner has joined."""
        self._told.append(told)


class Moments:
    """What to call at each moment of a submission, of the partners that take part in it.

    Args:
        partners: These, in their order.
        launch: Launches a task that none of them holds any more.
        special: The options of the spec that need more than the ledger and the engine.

    Attributes:
        make: Lets all set what a new task needs.
        entering: Those that are asked to `enter`, and settled.
        securing: The `secure` of each that has one.
        resuming: The `resume` of each that has one.
        launch: Launches a task, at once or when none of them holds it any more.
        may_wait: Whether a caller that can wait may have to.
        only_make: Whether a task that was made needs only the ledger and the engine, as one
            without partners does.

    Raises:
        ValueError: If one of them may wait after one that holds a lock.
    """

    def __init__(
        self, partners: Sequence[Partner], launch: GoOn, special: tuple[str, ...] = ()
    ) -> None:
        # Only those that do something at a moment: a submission pays for no other.
        making: list[GoOn] = [one.make for one in partners if _does(one, "make")]
        if "on_complete" in special:
            making.append(_take_hooks)
        self.make = making[0] if len(making) == 1 else partial(_call_each, making)
        self.entering = [one for one in partners if _does(one, "enter")]
        self.securing = [one.secure for one in partners if _does(one, "secure")]
        self.resuming = [one.resume for one in partners if _does(one, "resume")]
        holding = [one.hold for one in partners if _does(one, "hold")]
        self.launch = launch
        for hold in reversed(holding):
            self.launch = _unless_held(hold, self.launch)
        self.may_wait = bool(self.securing) or any(one.waits for one in self.entering)
        # The engine must hear of the first task with a priority.
        self.only_make = not (self.entering or self.securing or holding or "priority" in special)
        locking: Partner | None = None
        for partner in self.entering:
            if locking is not None and partner.waits:
                raise ValueError(
                    f"{type(partner).__name__} must come before {type(locking).__name__} among "
                    "the partners of a submission: it may wait, and the other one holds a lock then"
                )
            if partner.locks:
                locking = partner


class KnownMoments(dict[tuple[str, ...], Moments]):
    """The moments of the submissions so far, by the `special` of their specs.

    Args:
        find: Returns those of other specs.
    """

    def __init__(self, find: Callable[[tuple[str, ...]], Moments]) -> None:
        self._find = find

    def __missing__(self, special: tuple[str, ...]) -> Moments:
        moments = self[special] = self._find(special)
        return moments


def _take_hooks(task: LiveTask) -> None:
    task.hooks = task.spec.hooks


def _call_each(calls: Sequence[GoOn], task: LiveTask) -> None:
    for call in calls:
        call(task)


def _unless_held(hold: Callable[[LiveTask, GoOn], bool], go_on: GoOn) -> GoOn:
    """Return what goes on with a task, unless it is held; then it goes on later."""

    def launch(task: LiveTask) -> None:
        if not hold(task, go_on):
            go_on(task)

    return launch


def _does(partner: Partner, moment: str) -> bool:
    """Return whether a partner does anything at a moment."""
    return getattr(type(partner), moment) is not getattr(Partner, moment)
