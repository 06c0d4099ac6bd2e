"""The `task_faults` fixture: faults that a test plans, and that are injected into its tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pytest_asyncframe._faults import checks
from pytest_asyncframe._faults.injector import Injector
from pytest_asyncframe._faults.planned import Chaos, Exc, Fault, Firing, InjectedError
from pytest_asyncframe._locations import called_at
from pytest_asyncframe._seen.entries import Target
from pytest_asyncframe._seen.names import Names
from pytest_asyncframe._seen.recorder import Recorder

__all__ = ["Fault", "FaultPlan", "Firing", "InjectedError"]


class FaultPlan:
    """Plans faults for the tasks of one test: each method plans one, and returns it.

    Faults are injected where the framework submits, delivers and calls a function, so they
    change neither the function nor what it calls. A fault that does not take place as planned
    fails the test at its end. All durations are in seconds. Call the methods on any thread.

    Args:
        recorder: Records the tasks of the test.
        injector: Injects the faults into them.
        names: Finds functions by their name.
        real_time: The mode of the test if its time is real; "" if it is virtual.
        seed: Seed of the test.
    """

    def __init__(
        self, recorder: Recorder, injector: Injector, names: Names, *, real_time: str, seed: int
    ) -> None:
        self._recorder = recorder
        self._names = names
        self._real_time = real_time
        self._seed = seed
        self._injector = injector

    @property
    def planned(self) -> tuple[Fault, ...]:
        """The planned faults, in order."""
        return tuple(self._injector.faults)

    @property
    def fired(self) -> tuple[Firing, ...]:
        """The times that a planned fault took place, in order."""
        return tuple(self._injector.fired)

    def __repr__(self) -> str:
        return "\n".join(["planned faults:", *(f"  {one}" for one in self.planned)])

    # -- planning

    def fail(
        self,
        fn: Callable[..., Any] | str,
        *,
        on: int | Iterable[int] | None = None,
        exc: Exc = InjectedError,
    ) -> Fault:
        """Make attempts of a function fail. The function is not called then.

        The error is like one that the function raises: `retry_task` may retry it, and a failed
        task has to be read or expected. A throttle has counted the call.

        Args:
            fn: A decorated function, or its name, as for the matchers of `asyncframe`.
            on: Which attempts of it in this test, from 1, whichever tasks make them; None for
                each one from now on.
            exc: The error: an instance, a class, or a function that returns or raises one.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            TypeError: If *on* or *exc* is of a wrong type.
            ValueError: If *on* has a number below 1, or one of an attempt that has started or
                is planned to fail already.
        """
        __tracebackhide__ = True
        target = self._names.target(fn)
        numbers = checks.numbers_of(on)
        checks.check_exc(exc)
        call = f"fail({checks.arguments(target.name, on=numbers, exc=exc)})"
        before = self._before(target, numbers)
        fault = Fault("fail", call, _here(), target, "attempt", numbers, before, exc)
        for other in self.planned:
            if other.hides(fault):
                raise ValueError(
                    f"{call} would not take place as planned: the attempts of "
                    f"{other.call}, planned at {other.place}, fail already"
                )
        return self._add(fault)

    def slow(
        self,
        fn: Callable[..., Any] | str,
        *,
        seconds: float,
        on: int | Iterable[int] | None = None,
    ) -> Fault:
        """Make attempts of a function take longer: they sleep before the function is called.

        A time limit counts it, and a sync function is still called after its limit has passed.

        Args:
            fn: A decorated function, or its name, as for the matchers of `asyncframe`.
            seconds: How much longer, in virtual time; above 0.
            on: Which attempts of it, as in `fail`.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            RuntimeError: If time is real in this test.
            TypeError: If *on* or *seconds* is of a wrong type.
            ValueError: If *seconds* is not above 0 and finite, or a number of *on* is wrong.
        """
        __tracebackhide__ = True
        target = self._names.target(fn)
        self._require_virtual_time("slow()")
        numbers = checks.numbers_of(on)
        checks.check_seconds(seconds)
        call = f"slow({checks.arguments(target.name, seconds=seconds, on=numbers)})"
        before = self._before(target, numbers)
        return self._add(
            Fault("slow", call, _here(), target, "attempt", numbers, before, seconds=seconds)
        )

    def crash_worker(
        self, *, after: str = "started", fn: Callable[..., Any] | str | None = None
    ) -> Fault:
        """Crash the worker of the task that next has a certain event.

        The task ends INTERRUPTED, and the pool replaces the thread. What follows in the task
        does not happen, except for ``finally`` blocks.

        Args:
            after: The event: ``started``, ``progress``, ``retrying`` or ``throttled``.
            fn: A decorated function, or its name; None for a task of any function.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            ValueError: If *after* is not one of these.
        """
        __tracebackhide__ = True
        checks.check_event(after)
        target = self._target(fn)
        call = f"crash_worker({checks.arguments(after=after, fn=target)})"
        counts = f"event {after!r}"
        return self._add(Fault("crash_worker", call, _here(), target, counts, frozenset({1})))

    def queue_full(
        self,
        *,
        next: int = 1,  # noqa: A002  # reads best at the call: queue_full(next=3)
        fn: Callable[..., Any] | str | None = None,
    ) -> Fault:
        """Refuse the next submissions with `QueueFullError`, as a full queue does.

        An ``async def`` function of `async_task` does not queue where it is awaited, so such a
        call is neither refused nor counted.

        Args:
            next: How many, 1 or more.
            fn: A decorated function, or its name; None for submissions of all functions.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            TypeError: If *next* is not a whole number.
            ValueError: If *next* is below 1.
        """
        __tracebackhide__ = True
        checks.check_number("next", next)
        target = self._target(fn)
        call = f"queue_full({checks.arguments(next=next, fn=target)})"
        numbers = frozenset(range(1, next + 1))
        return self._add(Fault("queue_full", call, _here(), target, "submission", numbers))

    def deliver_twice(self, fn: Callable[..., Any] | str) -> Fault:
        """Run the function of each task of *fn* twice, as a broker that delivers twice does.

        Both runs start before the task ends. It ends once, with the outcome of the run that
        ends first. ``settled()`` and ``run_until_idle()`` wait for both. The second run of a
        sync function is a call of the pool.

        Args:
            fn: A decorated function, or its name, as for the matchers of `asyncframe`.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
        """
        __tracebackhide__ = True
        target = self._names.target(fn)
        call = f"deliver_twice({target.name})"
        return self._add(Fault("deliver_twice", call, _here(), target))

    def chaos(
        self,
        p: float,
        seed: int | None = None,
        *,
        fn: Callable[..., Any] | str | None = None,
        kinds: Collection[str] | None = None,
        exc: Exc = InjectedError,
        seconds: float = 30.0,
    ) -> Fault:
        """Inject random faults: each submission, task and attempt meets one with probability *p*.

        A submission may meet a full queue, a task may be delivered twice or its worker may
        crash, an attempt may fail or be slow. Which ones do depends on the seed, the name of
        the function and the number among its own, from 1, but not on the order in which
        different functions run.

        Args:
            p: The probability, from 0 to 1.
            seed: The seed, a whole number; None for that of the test.
            fn: A decorated function, or its name; None for all functions.
            kinds: What may happen: names of the other methods. None for all, but for ``slow``
                where time is real.
            exc: The error of attempts that fail, as in `fail`.
            seconds: How much longer slow attempts take, above 0.

        Raises:
            LookupError: If *fn* is a name that no function has, or that is ambiguous.
            RuntimeError: If *kinds* has ``slow`` where time is real.
            TypeError: If an argument is of a wrong type.
            ValueError: If *p*, *kinds* or *seconds* is not one of the above.
        """
        __tracebackhide__ = True
        checks.check_probability(p)
        used = self._seed if seed is None else checks.whole("seed", seed)
        able = self._kinds(kinds)
        checks.check_exc(exc)
        checks.check_seconds(seconds)
        target = self._target(fn)
        call = f"chaos({checks.arguments(p, seed=used, fn=target, kinds=kinds, exc=exc)})"
        return self._add(
            Chaos(
                "chaos", call, _here(), target, exc=exc, seconds=seconds, p=p, seed=used, kinds=able
            )
        )

    # -- for the rest of the plugin

    def findings(self) -> list[str]:
        """Return what did not take place as planned, a line each."""
        found = [fault.finding() for fault in self.planned]
        return [text for text in found if text is not None]

    def _add(self, fault: Fault) -> Fault:
        self._injector.faults.append(fault)
        return fault

    def _target(self, fn: Callable[..., Any] | str | None) -> Target | None:
        __tracebackhide__ = True
        return None if fn is None else self._names.target(fn)

    def _before(self, target: Target, numbers: frozenset[int] | None) -> int:
        """Return how many attempts have started, none of which is to be one of *numbers*."""
        __tracebackhide__ = True
        starts = tuple(self._recorder.starts)
        before = sum(one.task is not None and one.task.is_of(target) for one in starts)
        if numbers is not None and min(numbers) <= before:
            raise ValueError(
                f"on={sorted(numbers)}: attempt {min(numbers)} of {target.name} has started "
                f"already, the next one is {before + 1}; plan faults before the task is submitted"
            )
        return before

    def _require_virtual_time(self, what: str) -> None:
        __tracebackhide__ = True
        if self._real_time:
            raise RuntimeError(
                f"{what} needs virtual time, but time is real in the mode {self._real_time!r}: "
                "use another mode of asyncframe, or request task_clock"
            )

    def _kinds(self, kinds: Collection[str] | None) -> list[str]:
        __tracebackhide__ = True
        if kinds is None:
            return [kind for kind in checks.KINDS if kind != "slow" or not self._real_time]
        checks.check_kinds(kinds)
        if "slow" in kinds:
            self._require_virtual_time("slow")
        # In one order, whatever collection it is, so that the same seed draws the same.
        return [kind for kind in checks.KINDS if kind in kinds]


def _here() -> str:
    """Return the line of the user's code that plans a fault."""
    return called_at(sys._getframe())


for _public in (Fault, Firing, InjectedError):
    # As users import it, and as it is shown to them.
    _public.__module__ = __name__
