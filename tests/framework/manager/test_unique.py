"""Unique tasks: one for each key is pending or running."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from framework import (
    DuplicateTaskError,
    TaskCancelledError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    async_task,
    background_task,
    get_task_manager,
)
from framework._running.waits.lines import Lines
from framework._tasks.live import LiveTask
from framework.exceptions import DeadlockError
from pytest_asyncframe.probe import Probe
from tests.framework.faults.refusals import said
from tests.framework.running.messages import DEADLOCK

pytestmark = pytest.mark.usefixtures("asyncframe")


async def pause(seconds: float) -> None:
    """Sleep on the framework's clock."""
    await get_task_manager().clock.asleep(seconds)


async def cancel_all() -> None:
    """Cancel what a test has not needed."""
    manager = get_task_manager()
    for task_id in manager.get_active_tasks():
        await manager.cancel_task(task_id)


@background_task(unique=True)
async def report(month: int, *, user: str = "ada") -> str:
    """Take a minute."""
    await pause(60)
    return f"{month} for {user}"


async def test_the_same_arguments_give_the_same_task(task_manager: TaskManager) -> None:
    """Calls with equal bound arguments share a task, however the arguments are written."""
    first = report(3)

    assert [report(3), report(month=3), report(3, user="ada")] == [first] * 3
    assert report(4) != first
    assert report(3, user="bob") != first
    assert task_manager.get_stats()["submitted"] == 3
    await cancel_all()


async def test_a_task_that_has_ended_is_not_in_the_way(task_manager: TaskManager) -> None:
    """Who has its result can submit it again at once."""
    first = report(3)
    await task_manager.get_result(first)
    second = report(3)

    assert second != first
    assert await task_manager.get_result(second) == "3 for ada"


async def test_submissions_of_all_ways_share_a_task(task_manager: TaskManager) -> None:
    """A call, `submit` and `submit_nowait` give the same id; with wait all get its result."""
    first = report(3)

    assert await task_manager.submit(report, (3,)) == first
    assert task_manager.submit_nowait(report, kwargs={"month": 3}) == first
    assert await task_manager.submit(report, (3,), wait=True) == "3 for ada"


async def test_awaited_tasks_share_a_run(task_manager: TaskManager) -> None:
    """Two coroutines that await the same call get the one result of one run."""
    runs = []

    @async_task(unique=True)
    async def load(number: int) -> object:
        runs.append(number)
        await pause(1)
        return object()

    one, two = await asyncio.gather(load(1), load(1))
    assert one is two
    assert runs == [1]


async def test_a_duplicate_can_be_refused(task_manager: TaskManager) -> None:
    """With "raise" the second call raises an error that names the first task."""
    first = report(3)

    with pytest.raises(DuplicateTaskError) as caught:
        report.options(on_duplicate="raise")(3)
    error = caught.value
    assert (error.name, error.task_id, error.status_code) == (report_name(), first, 409)
    assert task_manager.get_stats()["submitted"] == 1
    await cancel_all()


def report_name() -> str:
    """Return the name of the tasks of `report`."""
    return f"{__name__}.report"


async def test_a_running_task_is_replaced(task_manager: TaskManager, asyncframe: Probe) -> None:
    """With "replace" the old task is cancelled, and the new one starts when it has ended."""
    old = report(3)
    await asyncframe.clock.run_for(10)
    new = report.options(on_duplicate="replace")(3)
    waiting = await task_manager.get_task(new)
    assert waiting is not None
    assert waiting.reason == f"waits for task {old} to end, which it replaces"

    assert await task_manager.get_result(new) == "3 for ada"
    replaced = await task_manager.get_task(old)
    assert replaced is not None
    assert replaced.status is TaskStatus.CANCELLED
    assert replaced.reason == f"it was replaced by task {new}"


async def test_a_pending_task_is_replaced(
    task_manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that has not started never starts when it is replaced, even by one that ends first."""
    core = task_manager._core
    add = core.ledger.add

    def add_and_cancel(task: LiveTask, *how: Any) -> None:
        add(task, *how)
        core.runner.cancel_pending(task, "cancelled at once")

    for month in (3, 4):
        old = report.options(delay=10)(month)
        with monkeypatch.context() as patch:
            if month == 4:
                patch.setattr(core.ledger, "add", add_and_cancel)
            new = report.options(on_duplicate="replace")(month)

        if month == 3:
            assert await task_manager.get_result(new) == "3 for ada"
        replaced = await task_manager.get_task(old)
        assert replaced is not None
        assert (replaced.status, replaced.started_at) == (TaskStatus.CANCELLED, None)
        assert replaced.reason == f"it was replaced by task {new}"
    assert not task_manager.get_active_tasks()


async def test_a_thread_that_cannot_be_stopped_is_waited_for(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """A sync task that is replaced runs to its end, and the new one starts only then."""
    clock, starts = task_manager.clock, []

    @background_task(unique=lambda _: "all", on_duplicate="replace")
    def work(number: int) -> int:
        starts.append(clock.monotonic())
        clock.sleep(30)
        return number

    work(1)
    await asyncframe.clock.run_for(10)
    second = work(2)
    third = work(3)

    assert await task_manager.get_result(third) == 3
    assert starts == [0, 30]
    dropped = await task_manager.get_task(second)
    assert dropped is not None
    assert dropped.reason == f"it was replaced by task {third}"


async def test_a_task_past_its_limit_is_in_the_way_while_its_thread_runs(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """TIMEOUT does not stop a thread, so the next task waits until its function has returned."""
    clock = task_manager.clock

    @background_task(unique=lambda _: "all", timeout=10)
    def work(number: int) -> None:
        clock.sleep(30)

    first = work(1)
    await asyncframe.clock.run_for(20)
    assert work(2) == first
    late = await task_manager.get_task(first)
    assert late is not None
    assert (late.status, late.still_running) == (TaskStatus.TIMEOUT, True)
    await asyncframe.clock.run_for(20)
    assert work(2) != first
    assert late.error is not None
    await cancel_all()


async def test_a_chosen_id_in_use_takes_no_place_away(task_manager: TaskManager) -> None:
    """A submission that is refused since its id is in use leaves the other task's key alone."""
    first = report.options(task_id="chosen")(3)
    for month in (3, 4):
        with pytest.raises(
            ValueError,
            match=r"^task_id must be one that no task has, not 'chosen': choose another, "
            r"or leave it out for a random one$",
        ):
            report.options(task_id="chosen")(month)

    assert report(3) == first
    await cancel_all()


async def test_a_task_that_waits_for_its_replacement_is_told(task_manager: TaskManager) -> None:
    """A task that replaces itself, and waits for the new one, would wait for ever."""

    @background_task(unique=True, on_duplicate="replace")
    def again(number: int) -> None:
        task_manager.wait_result(again(number))

    with pytest.raises(DeadlockError, match=DEADLOCK):
        await task_manager.get_result(again(1))
    await cancel_all()


# -- keys


def twice(number: int, text: str = "a") -> None:
    """Do nothing."""


class Shop:
    """An object with a method that is a task."""

    def __init__(self, name: str) -> None:
        self.name = name

    @background_task(unique=True)
    async def open(self) -> None:
        """Do nothing."""

    @background_task(unique=lambda self, number: (self.name, number))
    async def sell(self, number: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (((1,), {}), ((1,), {"text": "a"}), True),
        (((1,), {}), ((2,), {}), False),
        (((1, "a"), {}), ((1, "b"), {}), False),
    ],
    ids=["default", "number", "text"],
)
async def test_bound_arguments_are_the_key(
    task_manager: TaskManager, first: Any, second: Any, same: bool
) -> None:
    """The arguments are compared as the function gets them, with its defaults."""
    loose: Callable[..., None] = twice
    ids = [
        await task_manager.submit(loose, *call, unique=True, delay=1) for call in (first, second)
    ]
    assert (ids[0] == ids[1]) is same
    await cancel_all()


async def test_arguments_of_a_partial_are_part_of_the_key(task_manager: TaskManager) -> None:
    """Two partials of one function are different calls if their arguments differ."""
    one, two = (functools.partial(twice, number) for number in (1, 2))
    first = await task_manager.submit(one, unique=True, delay=1)

    assert await task_manager.submit(two, unique=True, delay=1) != first
    assert await task_manager.submit(twice, (1,), unique=True, delay=1) == first
    await cancel_all()


async def test_an_argument_without_json_is_refused(task_manager: TaskManager) -> None:
    """A method's object has no text that all processes share, so the call is refused."""
    shop = Shop("books")
    with pytest.raises(TypeError) as caught:
        shop.open()
    assert str(caught.value).startswith(f"{__name__}.Shop.open is unique by its arguments")

    assert shop.sell(1) == Shop("books").sell(1)
    assert shop.sell(1) != Shop("toys").sell(1)
    await cancel_all()


@pytest.mark.parametrize("value", [{"a", "b"}, [{"a": frozenset({1, 2})}]])
async def test_a_set_is_refused(task_manager: TaskManager, value: object) -> None:
    """Processes give the elements of a set in different orders, so a set is no key."""

    def work(value: object) -> None:
        """Do nothing."""

    with pytest.raises(
        TypeError,
        match=r"^\S+work is unique by its arguments, which must all have a JSON form: "
        r"a set has no order that all processes share; or give a function of "
        r"the arguments, as in unique=lambda order, \*\*_: order\.id$",
    ):
        await task_manager.submit(work, (value,), unique=True)


@pytest.mark.parametrize(
    ("key", "shown"),
    [(object(), r"<object object at 0x[0-9a-f]+>"), ([{"a", "b"}], r"\[{'[ab]', '[ab]'}\]")],
)
async def test_a_key_without_a_text_is_refused(
    task_manager: TaskManager, key: object, shown: str
) -> None:
    """A key function must not return an object that has only its address, nor a set."""
    work = background_task(unique=lambda _: key)(twice)
    with pytest.raises(
        TypeError,
        match=rf"^the unique function of {__name__}\.twice must return a value whose repr is the "
        r"same in every process, such as a string, a number or a sorted tuple of them, not "
        rf"{shown}$",
    ):
        work(1)


NO_DUPLICATES = (
    "'on_duplicate' has no effect without 'unique': add unique=True, or a function that makes a "
    "key of the arguments"
)
PLAIN = "unique must be a plain function of the call's arguments"
USELESS = (
    "'key' has no effect without 'max_running', the number of tasks that may run for each key; "
    "for one task of each key that may exist, use unique=<function>"
)


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"unique": 1},
        "TypeError: unique must be True, False or a function of the call's arguments, not 1",
    ),
    (
        {"on_duplicate": "skip"},
        "ValueError: on_duplicate must be 'return' or 'raise' or 'replace', not 'skip'",
    ),
    ({"on_duplicate": "raise"}, f"TypeError: {__name__}.twice: {NO_DUPLICATES}"),
    ({"unique": cancel_all}, f"TypeError: {PLAIN}, not the async {cancel_all!r}"),
    ({"max_running": 0}, "ValueError: max_running must be a whole number of at least 1, not 0"),
    ({"key": str}, f"TypeError: {__name__}.twice: {USELESS}"),
]


def test_bad_options_are_refused() -> None:
    """An option that makes no sense is refused at decoration."""

    def decorate(options: dict[str, Any]) -> object:
        return background_task(**options)(twice)

    found = [(options, said(partial(decorate, options))) for options, _ in BAD_OPTIONS]

    assert found == BAD_OPTIONS


# -- nothing is left behind


async def test_nothing_is_left_of_tasks_that_have_ended(
    task_manager: TaskManager, asyncframe: Probe
) -> None:
    """When all tasks have ended, however they ended, nothing is kept of their keys."""

    @background_task(unique=True, timeout=5)
    async def end(how: str) -> None:
        if how == "fail":
            raise ValueError
        await pause(10 if how == "late" else 1)

    ids = [end(how) for how in ("well", "fail", "late", "cancel")]
    await task_manager.cancel_task(ids[-1])
    await task_manager.get_result(ids[0])
    for task_id in ids[1:]:
        with pytest.raises((ValueError, TaskTimeoutError, TaskCancelledError)):  # steady: any end
            await task_manager.get_result(task_id)
    # The function of the late one is still being cancelled.
    await asyncframe.clock.run_for(1)
    places = task_manager._core.places
    lines = places.lines
    assert isinstance(lines, Lines)
    assert (places._tasks, lines._table.lines, lines._table._keys) == ({}, {}, {})
