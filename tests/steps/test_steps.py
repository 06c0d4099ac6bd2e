"""Steps in tasks of this process: what is recorded is not run again by a later attempt."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends
from pydantic import ValidationError

from framework import background_task, get_task_manager, retry_task, setup_async_framework
from framework.exceptions import (
    MessageRefusedError,
    RunAgainError,
    StepMismatchError,
    TaskNotFoundError,
)
from framework.steps import Message, sleep, sleep_sync, sleep_until, sleep_until_sync, step
from pytest_asyncframe.probe import Probe


class Effects(list[str]):
    """What bodies of steps have done, and how often the next ones fail."""

    fails: int = 0


EFFECTS = Effects()


@pytest.fixture(autouse=True)
def effects() -> Effects:
    """What the steps of this test do."""
    EFFECTS.clear()
    EFFECTS.fails = 0
    return EFFECTS


@step
async def charge(order: int) -> str:
    """Note that it runs."""
    EFFECTS.append(f"charge {order}")
    return f"payment {order}"


@step
async def ship(order: int) -> str:
    """Fail as often as it is to."""
    EFFECTS.append(f"ship {order}")
    if EFFECTS.fails:
        EFFECTS.fails -= 1
        raise ConnectionError("no carrier")
    return f"parcel {order}"


@step
async def refund(payment: str) -> None:
    """Note that it runs."""
    EFFECTS.append(f"refund {payment}")


@step
def print_label(order: int) -> str:
    """Note that it runs, on a thread."""
    EFFECTS.append(f"label {order}")
    return f"label {order}"


@background_task(on_restart="resume", name="tests.fulfil")
@retry_task(max_retries=3, retry_delay=1, exceptions=(ConnectionError, ValueError))
async def fulfil(order: int) -> list[str]:
    """Charge and ship."""
    return [await charge(order), await ship(order)]


async def test_a_retry_runs_only_what_is_not_recorded(asyncframe: Probe, effects: Effects) -> None:
    """A step whose error ended an attempt is run again by the next one, and no other step is."""
    effects.fails = 2
    result = await asyncframe.manager.get_result(fulfil(1))

    assert result == ["payment 1", "parcel 1"]
    assert effects == ["charge 1", "ship 1", "ship 1", "ship 1"]


@background_task(on_restart="resume", name="tests.saga")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def saga(order: int) -> str:
    """Make up for a step that fails, and fail itself once."""
    payment = await charge(order)
    try:
        await ship(order)
    except ConnectionError:
        await refund(payment)
    EFFECTS.append("the code between")
    if EFFECTS.count("the code between") < 2:
        raise ValueError
    return "refunded"


async def test_an_error_that_was_caught_is_kept(asyncframe: Probe, effects: Effects) -> None:
    """A step whose error the task has caught fails again in the next attempt, and is not run."""
    effects.fails = 1
    assert await asyncframe.manager.get_result(saga(1)) == "refunded"

    assert [one for one in effects if one != "the code between"] == [
        "charge 1",
        "ship 1",
        "refund payment 1",
    ]


@step(key=lambda order, _token: order)
async def pay_for(order: int, token: object) -> str:
    """Note that it runs, with what is no JSON."""
    EFFECTS.append(f"pay {order}")
    return f"payment {order}"


@step(timeout=30)
async def ask_slowly() -> None:
    """Take too long."""
    EFFECTS.append("ask")
    await asyncio.Event().wait()


@background_task(on_restart="resume", name="tests.left_over")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def left_over() -> list[str]:
    """Pay what is left to pay, with tokens made anew, and fail once after the first."""
    found = []
    for order in (2, 1) if "late" in EFFECTS else (1, 2):
        found.append(await pay_for(order, object()))
        if "late" not in EFFECTS:
            with contextlib.suppress(TimeoutError):
                await ask_slowly()
            EFFECTS.append("late")
            raise ValueError
    return found


async def test_a_key_says_what_the_work_is(asyncframe: Probe, effects: Effects) -> None:
    """Calls with a key go in another order, with other arguments, and none is run again."""
    began = asyncframe.clock.monotonic()
    result = await asyncframe.manager.get_result(left_over())

    assert result == ["payment 2", "payment 1"]
    assert effects == ["pay 1", "ask", "late", "pay 2"]
    assert asyncframe.clock.monotonic() - began == pytest.approx(31, abs=0.1)


@background_task(on_restart="resume", name="tests.drowsy", timeout=60)
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def drowsy() -> tuple[float, float]:
    """Sleep for two hours and, beside that, for a minute; fail once after that."""
    clock = asyncio.get_running_loop()
    before = clock.time()

    async def beside() -> float:
        await sleep(60)
        await charge(1)
        return clock.time() - before

    async with asyncio.TaskGroup() as group:
        other = group.create_task(beside())
        await sleep(7_200)
    EFFECTS.append("awake")
    if EFFECTS.count("awake") < 2:
        raise ValueError
    await sleep_until(datetime.fromtimestamp(0, UTC))
    return other.result(), clock.time() - before


async def test_a_sleep_ends_once(asyncframe: Probe, effects: Effects) -> None:
    """A sleep that has ended takes no time in the next attempt, and none counts for the limit."""
    began = asyncframe.clock.monotonic()
    task_id = drowsy()
    task = await asyncframe.manager.get_task(task_id)
    found = list[str]()
    for seconds in (30, 30, 6_000):
        await asyncframe.clock.run_for(seconds)
        task = await asyncframe.manager.get_task(task_id)
        assert task is not None
        found.append(task.explain().partition(" UTC")[2])
    beside, in_all = await asyncframe.manager.get_result(task_id)

    assert found == [", in 30 s", ", in 1 h 59 min", ", in 19 min"]
    assert effects == ["charge 1", "awake", "awake"]
    assert (round(beside), round(in_all)) == (0, 0)
    assert asyncframe.clock.monotonic() - began == pytest.approx(7_201, abs=1)


@background_task(on_restart="resume", name="tests.drowsy_thread")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
def drowsy_thread() -> None:
    """Sleep on a thread, and fail once."""
    sleep_sync(3_600)
    sleep_until_sync(datetime.now(UTC) + timedelta(hours=1))
    EFFECTS.append("awake")
    if EFFECTS.count("awake") < 2:
        raise ValueError


async def test_a_thread_sleeps_once(asyncframe: Probe, effects: Effects) -> None:
    """The same on a thread, also until a time that the code finds anew."""
    began = asyncframe.clock.monotonic()
    await asyncframe.manager.get_result(drowsy_thread())

    assert effects == ["awake", "awake"]
    assert asyncframe.clock.monotonic() - began == pytest.approx(7_201, abs=1)


@background_task(on_restart="resume", name="tests.races")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def races() -> str:
    """Let a step run for no longer than a sleep, and fail once."""
    asking = asyncio.create_task(ask_slowly())
    sleeping = asyncio.create_task(sleep(10))
    await asyncio.wait([asking, sleeping], return_when=asyncio.FIRST_COMPLETED)
    first = "asked" if asking.done() else "slept"
    asking.cancel()
    await charge(1)
    # What was cancelled is stored with the next step.
    await charge(2)
    EFFECTS.append(first)
    if EFFECTS.count(first) < 2:
        raise ValueError
    return first


async def test_a_race_with_a_sleep(asyncframe: Probe, effects: Effects) -> None:
    """What came first in a race with a sleep comes first in the next attempt, at once."""
    began = asyncframe.clock.monotonic()

    assert await asyncframe.manager.get_result(races()) == "slept"
    assert effects == ["ask", "charge 1", "charge 2", "slept", "slept"]
    assert asyncframe.clock.monotonic() - began == pytest.approx(11, abs=0.1)


@background_task(on_restart="resume", name="tests.sleeps_for_a_day")
async def sleeps_for_a_day() -> None:
    """Refund on the way out."""
    try:
        await sleep(86_400)
    finally:
        await refund("payment 1")


@background_task(on_restart="resume", name="tests.sleeps_for_a_day_on_a_thread")
def sleeps_on_a_thread() -> None:
    """Sleep for longer than any shutdown waits."""
    sleep_sync(86_400)


@pytest.mark.parametrize("function", [sleeps_for_a_day, sleeps_on_a_thread])
async def test_no_shutdown_waits_for_a_day(effects: Effects, function: Any) -> None:
    """A task that sleeps for long, and that nobody can go on with, ends when its app stops."""
    waits = asyncio.Event()
    async with setup_async_framework(None, graceful_shutdown_timeout=math.inf):
        manager, loop = get_task_manager(), asyncio.get_running_loop()
        manager.subscribe(
            lambda event: event.kind == "sleeping" and loop.call_soon_threadsafe(waits.set)
        )
        task_id = function()
        await waits.wait()
    task = await manager.get_task(task_id)

    assert task is not None
    assert task.status.value in {"cancelled", "failed"}
    assert effects == (["refund payment 1"] if function is sleeps_for_a_day else [])


async def test_a_sleep_beside_tasks(asyncframe: Probe) -> None:
    """Outside of a task a sleep is a plain one, and refuses what is no time."""
    began = asyncframe.clock.monotonic()
    await sleep(5)
    await sleep(timedelta(minutes=1))
    await sleep_until(datetime.fromtimestamp(asyncframe.clock.time() + 5, UTC))
    assert asyncframe.clock.monotonic() - began == pytest.approx(70)

    with pytest.raises(
        ValueError, match=r"^seconds must be a number at least 0 or a timedelta, not -1$"
    ):
        await sleep(-1)
    with pytest.raises(ValueError, match=r"^when must have a time zone, such as "):
        sleep_until_sync(datetime(2030, 1, 1))  # noqa: DTZ001  # that is the mistake
    with pytest.raises(TypeError, match=r"^when must be a datetime, not 5$"):
        await sleep_until(5)  # type: ignore[arg-type]  # that is the mistake


APPROVAL = Message("approval", bool)
NOTE = Message("note", str)


@background_task(on_restart="resume", name="tests.asks_people")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def asks_people() -> list[object]:
    """Wait for two messages beside each other, and for one that does not come; fail once."""
    first, second = await asyncio.gather(APPROVAL.receive(), APPROVAL.receive(timeout=100))
    third = await APPROVAL.receive(timeout=3_600)
    found: list[object] = [first, second, third, await NOTE.receive()]
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return found


async def test_a_message_is_received_once(asyncframe: Probe, effects: Effects) -> None:
    """Each message is received by one wait, in order, and is the same in the next attempt."""
    began = asyncframe.clock.monotonic()
    task_id = asks_people()
    await NOTE.send(task_id, "early")
    await APPROVAL.send(task_id, True, key="a")
    await APPROVAL.send(task_id, True, key="a")
    await asyncframe.clock.run_for(10)
    task = await asyncframe.manager.get_task(task_id)
    assert task is not None
    told = task.explain()
    await APPROVAL.send(task_id, False)
    result = await asyncframe.manager.get_result(task_id)

    steps = await asyncframe.manager.get_steps(task_id)
    assert [(one.name.rpartition(".")[2], one.state, one.branch) for one in steps] == [
        ("receive approval", "completed", (0,)),
        ("receive approval", "completed", (1,)),
        ("receive approval", "completed", ()),
        ("receive note", "completed", ()),
    ]
    assert [round(one.duration or 0) for one in steps] == [0, 10, 3_600, 0]
    assert told.startswith("waits for message 'approval' until ")
    assert told.endswith(", in 1 min 30 s")
    assert result == [True, False, None, "early"]
    assert effects == ["end", "end"]
    assert asyncframe.clock.monotonic() - began == pytest.approx(3_611, abs=0.1)
    with pytest.raises(MessageRefusedError, match=r"^message 'note' to task .* the task has ended"):
        await NOTE.send(task_id, "late")
    with pytest.raises(MessageRefusedError, match=r"^message .* key 'a' was used for another val"):
        await APPROVAL.send(task_id, False, key="a")
    await APPROVAL.send(task_id, True, key="a")


@background_task(on_restart="resume", name="tests.asks_people_on_a_thread")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
def asks_on_a_thread() -> list[object]:
    """The same on a thread."""
    first, second = APPROVAL.receive_sync(), NOTE.receive_sync(timeout=5)
    found: list[object] = [first, second, APPROVAL.receive_sync()]
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return found


async def test_a_message_to_a_thread(asyncframe: Probe, effects: Effects) -> None:
    """A sync task receives messages too, also one that was sent before it began."""
    task_id = asks_on_a_thread()
    await APPROVAL.send(task_id, False)
    await asyncframe.clock.run_for(10)
    await APPROVAL.send(task_id, True)

    assert await asyncframe.manager.get_result(task_id) == [False, None, True]
    assert effects == ["end", "end"]


@background_task(name="tests.deaf")
async def deaf() -> None:
    """Receive nothing."""


async def test_messages_that_are_no_messages(asyncframe: Probe) -> None:
    """What cannot be received, or is no message, is refused where it is sent or made."""
    with pytest.raises(TaskNotFoundError, match=r"^task .unknown. is unknown: "):
        await NOTE.send("unknown", "hello")
    with pytest.raises(ValidationError, match=r"^1 validation error for bool"):
        await APPROVAL.send("any", "perhaps")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(RuntimeError, match=r"^message 'note' can only be received in a task"):
        await NOTE.receive()
    task_id = deaf()
    with pytest.raises(
        MessageRefusedError,
        match=r"^message .note. to task .*: a task without on_restart=.resume. receives",
    ):
        await NOTE.send(task_id, "hello")
    await asyncframe.completed(task_id)
    with pytest.raises(ValueError, match=r"^name must be 1 to 100 letters, digits, "):
        Message("a/b", str)
    with pytest.raises(TypeError, match=r"^message 'lock' needs a type that pydantic reads"):
        Message("lock", asyncio.Lock)


@background_task(on_restart="resume", name="tests.labels")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
def labels(many: int) -> list[str]:
    """Call steps on a thread, and fail once."""
    found = [print_label(number) for number in range(many)]
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return found


async def test_steps_on_a_thread(asyncframe: Probe, effects: Effects) -> None:
    """A sync task goes on from its sync steps in the same way."""
    assert await asyncframe.manager.get_result(labels(2)) == ["label 0", "label 1"]

    assert effects == ["label 0", "label 1", "end", "end"]


@step
async def quote(shop: str, seconds: float) -> str:
    """Take some seconds of virtual time."""
    await asyncio.sleep(seconds if "quote" not in str(EFFECTS) else 1.0 - seconds)  # noqa: TID251 -- in virtual time
    EFFECTS.append(f"quote {shop}")
    return shop


@background_task(on_restart="resume", name="tests.race")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def race(numbers: list[str]) -> str:
    """Take the quote that comes first."""
    asked = [asyncio.ensure_future(quote(one, 0.1 + 0.1 * at)) for at, one in enumerate(numbers)]
    done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*others)
    (first,) = done
    EFFECTS.append(f"first {first.result()}")
    if len(EFFECTS) < 5:
        raise ValueError
    return first.result()


async def test_a_race_goes_the_same_way_again(asyncframe: Probe, effects: Effects) -> None:
    """Results are given in the order in which the steps ended, so the same one comes first."""
    winner = await asyncframe.manager.get_result(race(["a", "b", "c"]))

    assert winner == "a"
    assert effects == ["quote a", "quote b", "quote c", "first a", "first a"]


@background_task(on_restart="resume", name="tests.fan_out")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def fan_out(orders: list[int]) -> list[str]:
    """Charge in an order that differs from attempt to attempt, beside each other."""
    order = orders if "charge 1" not in EFFECTS else orders[::-1]

    async def one(number: int) -> str:
        return await charge(number)

    async with asyncio.TaskGroup() as group:
        started = [group.create_task(one(number)) for number in order]
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return [task.result() for task in started]


async def test_branches_in_another_order(asyncframe: Probe, effects: Effects) -> None:
    """Branches that are started in another order find their own records."""
    found = await asyncframe.manager.get_result(fan_out([1, 2, 3]))

    assert found == ["payment 3", "payment 2", "payment 1"]
    assert effects == ["charge 1", "charge 2", "charge 3", "end", "end"]


@step
async def send(text: str) -> int:
    """Return how many were sent."""
    EFFECTS.append(f"send {text}")
    return EFFECTS.count(f"send {text}")


@step
async def log(branch: int, sent: int) -> None:
    """Note which branch has got which number."""
    EFFECTS.append(f"log {branch} {sent}")


@background_task(on_restart="resume", name="tests.twins")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def twins() -> None:
    """Make the same call in two branches, which come to it in another order the second time."""
    is_second = bool(EFFECTS)

    async def branch(number: int) -> None:
        await asyncio.sleep(1 - number if is_second else number)  # noqa: TID251 -- in virtual time
        await log(number, await send("hi"))

    await asyncio.gather(branch(0), branch(1))
    if not is_second:
        raise ValueError


async def test_the_same_call_in_two_branches(asyncframe: Probe, effects: Effects) -> None:
    """Each branch gets its own result again, whichever comes first."""
    await asyncframe.manager.get_result(twins())

    assert effects == ["send hi", "log 0 1", "send hi", "log 1 2"]


@step
async def pay(key: str) -> str:
    """Note that it runs."""
    EFFECTS.append("pay")
    return key


@background_task(on_restart="resume", name="tests.made_anew")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def made_anew() -> str:
    """Pay with a key that each attempt makes anew, and fail once."""
    key = await pay(uuid.uuid4().hex)
    if EFFECTS == ["pay"]:
        EFFECTS.append("end")
        raise ValueError
    return key


async def test_an_argument_made_anew_is_refused(asyncframe: Probe, effects: Effects) -> None:
    """A step that is recorded with another argument is not run, and the error says what to do."""
    with pytest.raises(
        StepMismatchError,
        match=r"^step .*pay of task .* make what is new, .* or say with key= of .*$",
    ):
        await asyncframe.manager.get_result(made_anew())

    assert effects.count("pay") == 1


async def charge_below(depth: int) -> None:
    """Charge in a branch of a branch, and so on."""
    if depth:
        await asyncio.gather(charge_below(depth - 1))
    else:
        await charge(1)


@background_task(on_restart="resume", name="tests.deep_race")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def deep_race(depth: int) -> None:
    """Let a race be won deep below, cancel the other one, and fail once."""
    tasks = [asyncio.create_task(charge_below(depth)), asyncio.create_task(ask_slowly())]
    _, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in rest:
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await refund("payment")
    if "end" not in EFFECTS:
        EFFECTS.append("end")
        raise ValueError


async def test_what_a_race_has_cancelled_is_not_run_again(
    asyncframe: Probe, effects: Effects
) -> None:
    """A step that its race has cancelled waits for that, however deep the winner's step was."""
    for depth in range(8):
        effects.clear()
        await asyncframe.manager.get_result(deep_race(depth))
        assert (depth, sorted(effects)) == (depth, ["ask", "charge 1", "end", "refund payment"])


@step
async def outer(order: int) -> str:
    """Call another step."""
    return await charge(order)


async def test_outside_of_a_task_a_step_is_a_plain_call(effects: Effects) -> None:
    """Elsewhere, and inside another step, nothing is recorded."""
    assert [await charge(1), await charge(1), await outer(2)] == [
        "payment 1",
        "payment 1",
        "payment 2",
    ]
    assert effects == ["charge 1", "charge 1", "charge 2"]


@background_task(on_restart="resume", name="tests.on_bare_threads")
async def on_bare_threads() -> None:
    """Call a sync step by an executor, which does not know the task, and outside of any."""
    await asyncio.get_running_loop().run_in_executor(None, print_label, 1)


@pytest.mark.asyncframe(replay_steps="off")
async def test_a_step_that_has_lost_its_task_is_told(asyncframe: Probe, effects: Effects) -> None:
    """A step that is called on a thread without context runs, and warns, but only beside a task."""
    with pytest.warns(RuntimeWarning, match=r"^step .*print_label .*copy_context\(\)\.run\(\)"):
        await asyncframe.manager.get_result(on_bare_threads())
    await asyncio.get_running_loop().run_in_executor(None, print_label, 2)

    assert effects == ["label 1", "label 2"]


def connected() -> Iterator[str]:
    """Note that it is opened and closed."""
    EFFECTS.append("open")
    yield "connection"
    EFFECTS.append("close")


@step
async def store(order: int, connection: Annotated[str, Depends(connected)]) -> str:
    """Store an order by a connection of its own."""
    EFFECTS.append(f"store {order}")
    return connection


@background_task(on_restart="resume", name="tests.depends")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def depends() -> str:
    """Call a step that has a dependency, and fail once."""
    found = await store(1)  # type: ignore[call-arg]  # callers leave it out
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return found


async def test_dependencies_are_opened_when_a_body_runs(
    asyncframe: Probe, effects: Effects
) -> None:
    """A step opens its dependencies and closes them, and not when its record answers."""
    assert await asyncframe.manager.get_result(depends()) == "connection"

    assert effects == ["open", "store 1", "close", "end", "end"]


@step
@retry_task(max_retries=2, retry_delay=1, exceptions=ConnectionError)
async def ask(order: int) -> int:
    """Fail as often as it is to, and return how often it was called."""
    EFFECTS.append("ask")
    if EFFECTS.fails:
        EFFECTS.fails -= 1
        raise ConnectionError
    return len(EFFECTS)


@background_task(on_restart="resume", name="tests.patient")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def patient() -> int:
    """Call a step that is retried, and fail once."""
    found = await ask(1)
    EFFECTS.append("end")
    if EFFECTS.count("end") < 2:
        raise ValueError
    return found


async def test_a_step_has_retries_of_its_own(asyncframe: Probe, effects: Effects) -> None:
    """A step may be retried by itself; what is recorded is how its last attempt has ended."""
    effects.fails = 2
    assert await asyncframe.manager.get_result(patient()) == 3

    assert effects == ["ask", "ask", "ask", "end", "end"]


@background_task(name="tests.child")
async def child(order: int) -> str:
    """Call a step in a task that does not go on."""
    return await charge(order)


@background_task(on_restart="resume", name="tests.parent")
@retry_task(max_retries=1, retry_delay=1, exceptions=ValueError)
async def parent(order: int) -> None:
    """Submit another task, make the call that it makes as well, and fail once."""
    child(order)
    await asyncio.sleep(1)  # noqa: TID251 -- in virtual time
    await asyncio.gather(charge(order))
    if EFFECTS.count("end") < 1:
        EFFECTS.append("end")
        raise ValueError


async def test_a_task_that_is_submitted_is_no_branch(asyncframe: Probe, effects: Effects) -> None:
    """A task inherits the context of the one that submits it, and not its steps; there is one."""
    await asyncframe.manager.get_result(parent(1))

    assert effects == ["charge 1", "charge 1", "end"]


@background_task(on_restart="resume", name="tests.of_the_other_kind")
async def of_the_other_kind() -> str:
    """Call a sync step in a coroutine."""
    return print_label(1)


@background_task(on_restart="resume", name="tests.of_the_other_kind_on_a_thread")
def of_the_other_kind_on_a_thread(call: str) -> str:
    """Call what only a coroutine can await."""
    calls: dict[str, Callable[[], object]] = {
        "charge": lambda: charge(1),
        "sleep": lambda: sleep(1),
        "receive": APPROVAL.receive,
    }
    return repr(calls[call]())


async def test_a_step_is_of_the_kind_of_its_task(asyncframe: Probe, effects: Effects) -> None:
    """A step of the other kind is refused where it is called, and the error says what to do."""
    told = r"^step .*print_label is def, and the task .*of_the_other_kind that calls it is async "
    with pytest.raises(TypeError, match=told + "def: make the step async def, or the task def; "):
        await asyncframe.manager.get_result(of_the_other_kind())
    assert inspect.iscoroutinefunction(charge)
    assert inspect.iscoroutinefunction(APPROVAL.receive)
    for name, cure in {
        "charge": "make the step def, or the task async def; an async",
        "sleep": r"call sleep_sync\(\) instead, or make the task async def$",
        "receive": r"call receive_sync\(\) instead, or make the task async def$",
    }.items():
        told = rf"^step .*{name} is async def, and the task .*_on_a_thread that calls it is def: "
        with pytest.raises(TypeError, match=told + cure):
            await asyncframe.manager.get_result(of_the_other_kind_on_a_thread(name))
    assert not effects


def test_what_is_no_function() -> None:
    """Only a function can be a step."""
    others: list[Any] = [1, iter(()), object(), staticmethod(abs), classmethod(repr)]
    for what in others:
        told = r"^@?step .*(a function or another|must stand below @)"
        with pytest.raises(TypeError, match=told):
            step(what)


@background_task(on_restart="resume", on_error="silent", name="tests.goes_on")
async def goes_on(order: int) -> str:
    """Charge, ask a person, and let a group fail of which a sibling waits."""
    payment = await charge(order)
    with contextlib.suppress(ConnectionError):
        await ship(order)
    is_approved = await APPROVAL.receive()
    try:
        await in_a_group(order + 1)
    except* ConnectionError:
        await refund("nothing")
        raise
    return f"{payment} {is_approved} {await NOTE.receive()}"


async def in_a_group(order: int) -> None:
    """Ship, and be away meanwhile."""
    async with asyncio.TaskGroup() as group:
        group.create_task(ship(order))
        group.create_task(stay_away())


@step
async def stay_away() -> None:
    """Wait to be cancelled, as long as something fails."""
    EFFECTS.append("away")
    if EFFECTS.fails or EFFECTS.count("away") < 2:
        await asyncio.Event().wait()


async def test_run_again_goes_on(asyncframe: Probe, effects: Effects) -> None:
    """The next task has all that is recorded, and runs what has ended the first one, or was cut."""
    manager, effects.fails = asyncframe.manager, 2
    first = goes_on(1)
    await APPROVAL.send(first, True)
    await NOTE.send(first, "kept")
    await asyncframe.completed(first, check=False)
    before = list(effects)
    again = await asyncio.gather(manager.run_again(first), manager.run_again(first))
    task = await asyncframe.completed(again[0])

    assert before == ["charge 1", "ship 1", "ship 2", "away", "refund nothing"]
    assert again[0] == again[1]
    assert task.result == "payment 1 True kept"
    assert effects[len(before) :] == ["ship 2", "away"]
    with pytest.raises(RunAgainError, match=rf"has gone on as task {task.task_id}, which compl"):
        await manager.run_again(first)


@background_task(on_restart="resume", name="tests.regroups")
@retry_task(max_retries=2, retry_delay=1)
async def regroups() -> None:
    """Let a group fail of which a sibling waits, and fail after it."""
    await in_a_group(1)
    EFFECTS.append("after")
    if EFFECTS.count("after") < 2:
        raise ValueError


async def test_a_step_that_a_sibling_has_cancelled(asyncframe: Probe, effects: Effects) -> None:
    """It is run again by the next attempt, and not by the one after that."""
    effects.fails = 1
    await asyncframe.manager.get_result(regroups())

    assert effects == ["ship 1", "away", "ship 1", "away", "after", "after"]
