"""What single calls cost that start no task: rate checks, retries not needed, ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from time import perf_counter
from typing import Any, TypeAlias, TypeVar, cast
from uuid import uuid4

from benchmarks import rates
from benchmarks._measure import OURS, Case
from benchmarks._rows import Goal, Row
from benchmarks.coroutines import (
    ANSWER,
    CALLS,
    MICROSECONDS,
    AsyncFunction,
    FrameworkLoop,
    Function,
    function,
    plain,
    require,
    take_turns,
    time_calls,
    time_sync_calls,
)
from framework import get_task_manager, retry_task

F = TypeVar("F", bound=Callable[..., Any])

TRY_LOOP = "try/except loop"
BACKOFF = "backoff"
TENACITY = "tenacity"
ATTEMPTS = 3

UUID4 = "str(uuid4())"
UUID_UTILS = "uuid_utils.uuid4"


def rows(rounds: int, *, peers: bool) -> Iterator[Row]:
    """Measure rate checks, retries around functions and coroutines, and ids."""
    yield from rates.rows(rounds, peers=peers)
    with FrameworkLoop() as loop:
        yield _retry_row(loop, rounds, peers)
        yield _loop_retry_row(loop, rounds, peers)
        yield _id_row(loop, rounds, peers)


# -- retries

Retry: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Decorates a function so that it gets up to `ATTEMPTS` attempts."""


def try_loop(fn: Function) -> Function:
    """Return *fn* with its attempts in a loop, and no delay between them."""

    def call(*args: Any, **kwargs: Any) -> int:
        for attempt in range(ATTEMPTS):
            try:
                return fn(*args, **kwargs)
            except ValueError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("never reached")

    return call


def try_loop_on_loop(fn: AsyncFunction) -> AsyncFunction:
    """Return a coroutine function with its attempts in a loop, as `try_loop`."""

    async def call(*args: Any, **kwargs: Any) -> int:
        for attempt in range(ATTEMPTS):
            try:
                return await fn(*args, **kwargs)
            except ValueError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("never reached")

    return call


def retried(fn: F) -> F:
    """Return *fn* as retried by us."""
    retry: Any = retry_task(max_retries=ATTEMPTS - 1, retry_delay=0, exceptions=ValueError)
    return cast("F", retry(fn))


def _peer_retries() -> dict[str, Retry]:
    backoff: Any = import_module("backoff")
    stamina: Any = import_module("stamina")
    tenacity: Any = import_module("tenacity")

    # Its first retry would be told on stderr.
    stamina.instrumentation.set_on_retry_hooks([])
    return {
        BACKOFF: backoff.on_exception(
            backoff.constant, ValueError, max_tries=ATTEMPTS, interval=0, jitter=None
        ),
        "stamina": stamina.retry(
            on=ValueError, attempts=ATTEMPTS, wait_initial=0, wait_max=0, wait_jitter=0
        ),
        TENACITY: tenacity.retry(
            retry=tenacity.retry_if_exception_type(ValueError),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_none(),
        ),
    }


def _retry_row(loop: FrameworkLoop, rounds: int, peers: bool) -> Row:
    def case(retry: Retry) -> Case:
        loop.call(lambda: require(retry(_FailsOnce().function)(), ANSWER))
        call = retry(function)
        return lambda: loop.call(lambda: time_sync_calls(call, CALLS))

    retries: dict[str, Retry] = {TRY_LOOP: try_loop, OURS: retried}
    retries |= _peer_retries() if peers else {}
    return Row(
        key="retry_sync",
        title="function with retries that does not fail",
        unit=MICROSECONDS,
        floor=TRY_LOOP,
        samples=take_turns(
            {name: case(retry) for name, retry in retries.items()}, TRY_LOOP, rounds
        ),
        goals=(Goal(TRY_LOOP, 0.72), Goal(BACKOFF, 0.06), Goal(TENACITY, 0.012)),
    )


def _loop_retry_row(loop: FrameworkLoop, rounds: int, peers: bool) -> Row:
    def case(retry: Retry) -> Case:
        async def check() -> None:
            require(await retry(_FailsOnce().coroutine)(), ANSWER)

        loop.run(check())
        call = retry(plain)
        return lambda: loop.run(time_calls(call, CALLS))

    retries: dict[str, Retry] = {TRY_LOOP: try_loop_on_loop, OURS: retried}
    retries |= _peer_retries() if peers else {}
    return Row(
        key="retry_async",
        title="coroutine with retries that does not fail",
        unit=MICROSECONDS,
        floor=TRY_LOOP,
        samples=take_turns(
            {name: case(retry) for name, retry in retries.items()}, TRY_LOOP, rounds
        ),
        goals=(Goal(TRY_LOOP, 0.85), Goal(BACKOFF, 0.11), Goal(TENACITY, 0.012)),
    )


class _FailsOnce:
    """Functions of which the first call fails, to see that a retry is one."""

    def __init__(self) -> None:
        self._failed = False

    def function(self) -> int:
        """Raise ``ValueError`` the first time, and then return `ANSWER`."""
        if not self._failed:
            self._failed = True
            raise ValueError
        return ANSWER

    async def coroutine(self) -> int:
        """Do as `function`."""
        return self.function()


# -- ids


def uuid4_text() -> str:
    """Return a new id as it is usually made."""
    return str(uuid4())


def _id_row(loop: FrameworkLoop, rounds: int, peers: bool) -> Row:
    makers = {UUID4: uuid4_text, OURS: loop.call(get_task_manager).new_id}
    if peers:
        compiled: Any = import_module("uuid_utils")
        makers[UUID_UTILS] = lambda: str(compiled.uuid4())

    def case(make: Callable[[], str]) -> Case:
        require(len({make() for _ in range(CALLS)}), CALLS)
        return lambda: _time_ids(make)

    return Row(
        key="new_id",
        title="id of a new task",
        unit=MICROSECONDS,
        floor=UUID4,
        samples=take_turns({name: case(make) for name, make in makers.items()}, UUID4, rounds),
        goals=(Goal(UUID4, 0.12), Goal(UUID_UTILS, 1.2)),
        note="uuid_utils is a compiled extension.",
    )


def _time_ids(make: Callable[[], str]) -> float:
    begin = perf_counter()
    for _ in range(CALLS):
        made = make()
    spent = perf_counter() - begin
    if len(made) < 32 or made == make():
        raise RuntimeError(f"{made!r} is no id, or not a new one")
    return spent / CALLS * 1e6
