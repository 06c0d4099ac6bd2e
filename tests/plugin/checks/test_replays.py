"""Tasks that are replayed from their steps at the end of a test, and what is found by that."""

from __future__ import annotations

import pytest

from tests.plugin.endings import LOOPS, PLAIN

APP = """
import asyncio
import os
import random
import time
import uuid
from datetime import date, datetime

import pytest

from framework import background_task, get_task_manager, retry_task
from framework.steps import Message, sleep, step

approval = Message("approval", bool)
left = {}


@step
async def pay(key: str) -> str:
    return key


@step
def pay_here(key: str) -> str:
    return key


@background_task(on_restart="resume")
async def by_id():
    await pay(uuid.uuid4().hex)


@background_task(on_restart="resume")
async def by_chance():
    await pay(str(random.random()))


@background_task(on_restart="resume")
async def by_the_day():
    await pay(date.today().isoformat())


@background_task(on_restart="resume")
def by_the_second():
    pay_here(str(time.time()))


@background_task(on_restart="resume")
async def by_the_hour_beside_others():
    async with asyncio.TaskGroup() as group:
        group.create_task(pay("always"))
        group.create_task(pay(f"{datetime.now():%d %H}"))


@background_task(on_restart="resume")
async def by_what_is_left():
    for key in list(left):
        await pay(key)
        del left[key]


@background_task(on_restart="resume")
async def by_the_environment():
    await pay("first")
    if "SECOND" in os.environ:
        await pay("second")
    os.environ["SECOND"] = "yes"


@background_task(on_restart="resume")
async def by_what_is_gone():
    await pay(left.pop("a"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    left.clear()
    left.update(a="1", b="2")
    monkeypatch.setenv("SECOND", "")
    monkeypatch.delenv("SECOND")
"""

BAD = """
@pytest.mark.parametrize(
    "fn",
    [
        by_id,
        by_chance,
        by_the_day,
        by_the_second,
        by_the_hour_beside_others,
        by_what_is_left,
        by_the_environment,
        by_what_is_gone,
    ],
    ids=lambda fn: fn.__name__,
)
async def test_it(asyncframe, fn):
    await asyncframe.completed(fn())


@pytest.mark.asyncframe(mode="threads")
async def test_in_real_time(asyncframe):
    await asyncframe.completed(by_id())


@pytest.mark.interleave(seeds=1)
async def test_in_several_orders(asyncframe):
    await asyncframe.completed(by_chance())
"""

GOOD = """
@step
async def draw() -> float:
    return random.random()


@step
async def fail() -> None:
    raise ValueError


@background_task(on_restart="resume")
async def child() -> str:
    return "done"


@background_task(on_restart="resume")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def parent(orders: list[int]):
    left["runs"] = left.get("runs", 0) + 1
    await pay(str(await draw()))
    await sleep(86_400)
    await asyncio.sleep(3_600)
    await asyncio.to_thread(time.sleep, 1)
    await approval.receive(timeout=60)
    if left["runs"] == 1:
        raise ValueError
    task_id = await get_task_manager().submit(child)
    await get_task_manager().get_result(task_id)
    await pay(f"{orders} {task_id}")


@background_task(on_restart="resume")
async def changes(orders: list[int]):
    orders.append(1)
    await pay(str(orders))


@background_task(on_restart="resume", timeout=5)
async def waits_for_ever():
    await pay("1")
    await asyncio.Event().wait()


@background_task(on_restart="resume")
async def fails():
    await pay("1")
    await fail()


@pytest.mark.parametrize("mode", [
    pytest.param(one, marks=pytest.mark.asyncframe(mode=one))
    for one in ("auto", "virtual", "seeded")
])
async def test_it(asyncframe, mode):
    await asyncframe.completed(parent([]))
    asyncframe.expect_failure(fails, ValueError)
    fails()
    asyncframe.expect_failure(waits_for_ever, TimeoutError)
    waits_for_ever()
    await asyncframe.completed(changes([]))
    await asyncframe.settled()


@pytest.mark.interleave(seeds=1)
async def test_in_several_orders(asyncframe):
    await asyncframe.completed(parent([]))


@pytest.mark.asyncframe(replay_steps="off")
async def test_off(asyncframe):
    await asyncframe.completed(by_id())


@pytest.mark.asyncframe(replay_steps="warn")
async def test_warn(asyncframe):
    await asyncframe.completed(by_id())
"""


def test_what_goes_another_way_fails(pytester: pytest.Pytester) -> None:
    """A task that depends on chance, time or what is left fails its test, and not without this."""
    pytester.makepyfile(APP + BAD)
    off = pytester.runpytest_inprocess(*PLAIN, *LOOPS, "-o", "asyncframe_replay_steps=off")
    off.assert_outcomes(passed=10)
    told = pytester.runpytest_inprocess(*PLAIN, *LOOPS)
    told.assert_outcomes(failed=10)
    told.stdout.fnmatch_lines(
        [
            "another way from its steps: *.by_id (*) is completed*",
            "    replayed, it calls *.pay('*') at *.py:* in by_id, and *.pay is recorded with *",
            "    it would end with StepMismatchError: make what is new in each run, *",
            "    replayed, it calls *.pay('*') in branch 1, and *.pay is recorded with other*",
            "    replayed, it does not call what is recorded: *.pay",
            "    the code between the steps must take the same way each time: *",
            "    replayed, it calls *.pay('second') at *, of which there is no record",
            "    replayed, it raises KeyError: 'a' at *.py:* in by_what_is_gone",
        ]
    )


def test_what_goes_the_same_way_passes(pytester: pytest.Pytester) -> None:
    """Sleeps, messages, children, retries and chance in a step are the same; it can be off."""
    pytester.makepyfile(APP + GOOD)
    told = pytester.runpytest_inprocess(*PLAIN, *LOOPS, "-W", "default")
    told.assert_outcomes(passed=6, warnings=1)
    told.stdout.fnmatch_lines(["*AsyncframeWarning: another way from its steps: *.by_id (*"])
