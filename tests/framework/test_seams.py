"""The example app on parts of a test's own: each seam implemented in a few lines."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from framework import get_task_manager, retry_task, setup_async_framework
from framework.protocols import (
    EngineTask,
    Interceptor,
    Kind,
    Run,
    TaskEvent,
    TaskRecord,
    TaskStatus,
)
from framework.testing import call_of, override_framework
from tests.framework.clients import TestClient
from tests.patience import PATIENCE
from tests.words import timeless


class StillClock:
    """A `Clock` in a few lines: it stands still until it is moved."""

    def __init__(self) -> None:
        self._now = 0.0
        self._changed = threading.Condition()
        self._timers: list[_Timer] = []

    def time(self) -> float:
        """Count from the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Return the second at which it stands."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Block until it has been moved on."""
        woken = threading.Event()
        self.call_at(self._now + seconds, woken.set)
        woken.wait()

    async def asleep(self, seconds: float) -> None:
        """Suspend until it has been moved on."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self.call_at(self._now + seconds, lambda: loop.call_soon_threadsafe(woken.set))
        await woken.wait()

    def call_at(self, when: float, fn: Callable[[], object], *, background: bool = False) -> _Timer:
        """Set a timer."""
        timer = _Timer(when, fn, background)
        with self._changed:
            passed = when <= self._now
            if not passed:
                self._timers.append(timer)
                self._changed.notify_all()
        if passed:
            # Not here, since whoever sets it may hold locks.
            threading.Thread(target=timer.fire).start()
        return timer

    def wait(self, condition: threading.Condition, timeout: float | None = None) -> bool:
        """Wait until notified, or until it has been moved on."""
        expired = threading.Event()

        def expire() -> None:
            with condition:
                expired.set()
                condition.notify_all()

        timer = None if timeout is None else self.call_at(self._now + timeout, expire)
        condition.wait()
        if timer is not None:
            timer.cancel()
        return not expired.is_set()

    def hold(self) -> None:
        """Stand still in any case."""

    def release(self) -> None:
        """Stand still in any case."""

    def advance(self, seconds: float) -> None:
        """Move on, and fire what falls due."""
        with self._changed:
            self._now += seconds
            due = [timer for timer in self._timers if timer.when <= self._now]
            self._timers = [timer for timer in self._timers if timer.when > self._now]
        for timer in sorted(due, key=lambda timer: timer.when):
            timer.fire()

    def wait_for_timer(self) -> None:
        """Block until somebody waits for a time, who is not in the background."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(one.fn and not one.background for one in self._timers), PATIENCE
            )


class _Timer:
    """A `TimerHandle` of `StillClock`."""

    def __init__(self, when: float, fn: Callable[[], object], background: bool) -> None:
        self.when = when
        self.fn: Callable[[], object] | None = fn
        self.background = background

    def cancel(self) -> None:
        """Keep it from firing."""
        self.fn = None

    def fire(self) -> None:
        """Fire, once."""
        fn, self.fn = self.fn, None
        if fn is not None:
            fn()


class HoldingEngine:
    """An engine that runs nothing until it is told to: a `TaskEngine` in a few lines."""

    def __init__(self) -> None:
        self.held: deque[tuple[EngineTask, Kind, Run]] = deque()

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Hold a task back."""
        self.held.append((task, kind, run))

    def withdraw(self, task: EngineTask) -> None:
        """Forget a task that was cancelled."""
        self.held = deque(entry for entry in self.held if entry[0] is not task)

    def abandon(self, task: EngineTask) -> None:
        """Have no thread to give up."""

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing on the caller's thread."""
        return False

    def run_next(self) -> str:
        """Run the task that was held back first, here, and return its id."""
        task, _, run = self.held.popleft()
        run(task)
        return task.task_id


class ListStore:
    """A `TaskStore` in a few lines: a list."""

    def __init__(self) -> None:
        self.records: list[TaskRecord] = []

    def put(self, record: TaskRecord) -> None:
        """Keep a record."""
        self.records.append(record)

    def get(self, task_id: str) -> TaskRecord | None:
        """Look through all of them."""
        return next((one for one in self.records if one.task_id == task_id), None)

    def list(self, status: TaskStatus | None = None) -> Iterable[TaskRecord]:
        """Return a copy."""
        return [one for one in self.records if status in {None, one.status}]

    def remove(
        self,
        *,
        ended_before: float | None = None,
        keep: int | None = None,
        completed: bool = True,
    ) -> tuple[int, Iterable[TaskRecord]]:
        """Remove the oldest."""
        removed: list[TaskRecord] = []
        while self.records:
            oldest = self.records[0]
            too_many = keep is not None and len(self.records) > keep
            too_old = ended_before is not None and (oldest.ended or 0.0) <= ended_before
            if not (too_many or too_old):
                break
            removed.append(self.records.pop(0))
        return len(removed), removed


class FailingFirst(Interceptor):
    """An `Interceptor` in a few lines: every first attempt fails."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.delivered: list[str] = []

    def before_accept(self, record: TaskRecord) -> None:
        """Note who is accepted."""
        self.accepted.append(record.name)

    def around_attempt(self, record: TaskRecord, attempt: int, call: Callable[[], Any]) -> Any:
        """Fail a first attempt, and make the others."""
        if attempt == 1:
            raise ConnectionResetError("injected")
        return call()

    def around_delivery(self, record: TaskRecord, deliver: Callable[[], bool]) -> bool:
        """Note who is delivered."""
        self.delivered.append(record.name)
        return deliver()


def test_a_clock_of_the_tests_moves_the_example(example: ModuleType) -> None:
    """On a test's clock the example's delays, limits and schedule pass when it is moved."""
    clock = StillClock()
    parameters = {"arg1": 1, "arg2": 2, "delay": 3_600}
    with override_framework(clock=clock) as manager, TestClient(example.app) as client:
        task_id = client.post("/custom-task", json=parameters).json()["task_id"]
        before = client.get(f"/tasks/{task_id}").json()
        clock.advance(3_600)
        result = manager.wait_result(task_id)
        after = client.get(f"/tasks/{task_id}").json()
        for _ in range(5):
            assert client.get("/limited").status_code == 200
        limited = client.get("/limited")
        clock.advance(60)
        free = client.get("/limited")
    assert (before["status"], timeless(before["reason"])) == ("pending", "delayed until T, in 1 h")
    assert (after["status"], after["queue_time"], after["result"]) == (
        "completed",
        3_600,
        result.model_dump(),
    )
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
    assert free.status_code == 200


def test_example_refuses_an_age(example: ModuleType) -> None:
    """The example answers 422 to an age that no task can have."""
    ages = ("-1.1", "-inf", "nan", "old")
    with override_framework(), TestClient(example.app) as client:
        answers = [client.post("/cleanup", params={"max_age": age}) for age in ages]
    assert [answer.status_code for answer in answers] == [422] * len(ages)


def test_an_engine_that_holds_tasks_back_decides_when_they_run(example: ModuleType) -> None:
    """With an engine of the test's the example's tasks wait, and run when the test says so."""
    engine = HoldingEngine()
    with override_framework(engine=engine), TestClient(example.app) as client:
        heartbeat = engine.run_next()
        first, second = (
            client.post("/process", params={"data_id": number}).json()["task_id"]
            for number in (1, 2)
        )
        held = [record.task_id for record, _, _ in engine.held]
        kinds = [kind for _, kind, _ in engine.held]
        states = [client.get(f"/tasks/{one}").json()["status"] for one in held]
        cancelled = client.delete(f"/tasks/{first}", headers={"X-Requested-With": "x"}).json()
        ran = engine.run_next()
        shown = client.get(f"/tasks/{second}").json()
        assert client.get(f"/tasks/{heartbeat}").json()["result"] == "alive"
    assert (held, kinds, states) == ([first, second], ["thread"] * 2, ["pending"] * 2)
    assert (cancelled["cancelled"], cancelled["status"]) == (True, "cancelled")
    assert ran == second
    assert shown["result"] == {"status": "completed", "data_id": "2"}


async def test_an_engine_decides_about_tasks_of_the_loop_as_well(example: ModuleType) -> None:
    """Tasks for the loop come to the same door, and run on the loop once they are let in."""
    engine = HoldingEngine()
    with override_framework(engine=engine) as manager:
        async with example.app.router.lifespan_context(example.app):
            engine.run_next()  # the heartbeat
            transport = httpx.ASGITransport(app=example.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                response = await client.post("/reports", params={"title": "a"})
            task_id = response.json()
            ((_, kind, _),) = engine.held
            assert kind == "loop"
            engine.run_next()
            result = await manager.get_result(task_id)
    assert result == {"title": "a", "report": "..."}


def test_a_store_of_the_tests_keeps_what_has_ended(example: ModuleType) -> None:
    """The example's finished tasks are put into the given store, read and removed there."""
    store = ListStore()
    with override_framework(store=store) as manager, TestClient(example.app) as client:
        task_id = client.post("/process", params={"data_id": 7}).json()["task_id"]
        result = manager.wait_result(task_id)
        shown = client.get(f"/tasks/{task_id}").json()
        kept = {record.task_id for record in store.records}
        listed = {task["task_id"] for task in client.get("/tasks").json()["tasks"]}
        removed = client.post("/cleanup", params={"max_age": 0}).json()["removed"]
    assert shown["result"] == result.model_dump()
    assert task_id in kept
    assert kept == listed
    assert (removed, store.records) == (len(kept), [])


def test_a_sink_hears_every_event_of_the_example(example: ModuleType) -> None:
    """A subscribed function gets a task's events in order, until it is unsubscribed."""
    events: list[TaskEvent] = []
    with override_framework() as manager, TestClient(example.app) as client:
        unsubscribe = manager.subscribe(events.append)
        task_id = client.post("/process", params={"data_id": 7}).json()["task_id"]
        manager.wait_result(task_id)
        unsubscribe()
        manager.wait_result(client.post("/process", params={"data_id": 8}).json()["task_id"])
    heard = [event for event in events if event.name.endswith("process_large_data")]
    assert {event.task_id for event in heard} == {task_id}
    assert [event.kind for event in heard] == [
        "submitted", "started", *["progress"] * 4, "completed",
    ]  # fmt: skip
    assert [event.progress for event in heard if event.kind == "progress"] == [0.25, 0.5, 0.75, 1]


def test_an_interceptor_of_the_tests_injects_faults(example: ModuleType) -> None:
    """An interceptor that fails each first attempt breaks a plain task and costs one retry."""
    faults, clock = FailingFirst(), StillClock()
    with (
        override_framework(interceptor=faults, clock=clock) as manager,
        TestClient(example.app) as client,
    ):
        plain = client.post("/process", params={"data_id": 7}).json()["task_id"]
        with pytest.raises(ConnectionResetError, match=r"^injected$"):
            manager.wait_result(plain)
        retried = client.post("/unreliable").json()["task_id"]
        for _ in range(2):
            clock.wait_for_timer()
            clock.advance(0.1)
        result = manager.wait_result(retried)
    names = [name.rpartition(".")[2] for name in faults.accepted]
    assert names == ["heartbeat", "process_large_data", "unreliable_operation"]
    assert sorted(faults.delivered) == sorted(faults.accepted)
    assert (result.status, result.attempts) == ("success", 3)


class Retried:
    """Has a method that is retried."""

    @retry_task(max_retries=0)
    def echo(self, word: str) -> str:
        """Return what it was given."""
        return word


def test_a_bound_method_is_called_with_its_object() -> None:
    """Each attempt of a bound method gets the object, also with an interceptor around it."""
    silent = type("Silent", (Interceptor,), {})()
    with override_framework(interceptor=silent) as manager:
        task_id = manager.submit_nowait(Retried().echo, ("hello",))
        assert manager.wait_result(task_id) == "hello"


def test_what_an_interceptor_raises_before_the_accept_refuses_the_task() -> None:
    """A refused submission raises in the caller, and its id is unknown."""

    class Closed(Interceptor):
        def before_accept(self, record: TaskRecord) -> None:
            raise PermissionError("closed")

    with override_framework(interceptor=Closed()) as manager:
        with pytest.raises(PermissionError, match=r"^closed$"):
            manager.submit_nowait(int)
        assert manager.get_stats()["submitted"] == 0


def test_ids_of_the_tests_are_used(example: ModuleType) -> None:
    """With new_id= the example's tasks have the ids that the test makes."""
    numbers = iter(range(1, 100))
    with (
        override_framework(new_id=lambda: f"task-{next(numbers)}") as manager,
        TestClient(example.app) as client,
    ):
        task_id = client.post("/process", params={"data_id": 7}).json()["task_id"]
        manager.wait_result(task_id)
    assert task_id == "task-2"  # the heartbeat was the first


def test_two_apps_share_one_override() -> None:
    """Two apps in one test have the test's manager, and one that stops drains its own tasks."""
    started, release = threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        release.wait()

    def make() -> FastAPI:
        app = FastAPI(lifespan=setup_async_framework)

        @app.post("/block")
        async def block() -> str:
            return await get_task_manager().submit(body)

        return app

    one, two = make(), make()
    with override_framework() as manager, TestClient(one) as first:
        waiting = first.post("/block").json()
        assert started.wait(PATIENCE)
        with TestClient(two) as second:
            assert one.state.task_manager is two.state.task_manager is manager
            assert second.get("/").status_code == 404
        # Its lifespan has ended although the other app's task goes on.
        states = {key: task["status"] for key, task in manager.get_active_tasks().items()}
        release.set()
        manager.wait_result(waiting)
    assert states == {waiting: "running"}


async def test_an_app_that_stops_under_an_override_ends_its_own_tasks_alone() -> None:
    """Under a shared override the other app's tasks are neither waited for nor ended."""
    started, release = asyncio.Event(), asyncio.Event()
    one, two = FastAPI(), FastAPI()

    async def wait() -> None:
        started.set()
        await release.wait()

    with override_framework() as manager:
        async with setup_async_framework(one):
            kept = await manager.submit(wait)
            await started.wait()
            async with setup_async_framework(two, graceful_shutdown_timeout=0):
                dropped = await manager.submit(asyncio.Event().wait)
            states = {key: task["status"] for key, task in manager.get_all_tasks().items()}
            release.set()
            await manager.get_result(kept)
    assert states == {kept: "running", dropped: "cancelled"}


async def test_apps_that_ask_for_differing_limits_cannot_share_an_override() -> None:
    """The second app of a test must use the settings of the first; an error names the others."""
    text = (
        r"^apps in one test share its framework and must use the same settings; they "
        r"differ in max_workers, result_ttl$"
    )
    with override_framework():
        async with setup_async_framework(None, max_workers=2):
            with pytest.raises(ValueError, match=text):
                await setup_async_framework(None, max_workers=3, result_ttl=1).__aenter__()


async def test_limits_of_an_app_apply_to_the_override() -> None:
    """The test's manager has the workers and the limit that the app asks for."""
    with override_framework() as manager:
        async with setup_async_framework(None, max_workers=3, task_timeout=7):
            task_id = await manager.submit(asyncio.Event().wait)
            assert manager.pool.get_stats()["max_workers"] == 3
            assert await manager.cancel_task(task_id)


def test_a_nested_override_is_an_error() -> None:
    """One test has one framework: a second override inside is refused with the cure."""
    text = (
        r"^override_framework\(\) is already active, and a test has one framework: leave the "
        r"first override before the next one, or replace it with "
        r"override_framework\(nested=True\)$"
    )
    with override_framework() as outer:
        with pytest.raises(RuntimeError, match=text), override_framework():
            pass
        assert get_task_manager() is outer


# -- the rules of an app's own parts


class Strict:
    """An engine that takes whole numbers, and tells their text."""

    def __init__(self) -> None:
        self.settled: list[Any] = []

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Run nothing: in these tests another engine takes its place."""
        raise AssertionError("it must have been replaced")

    def withdraw(self, task: EngineTask) -> None:
        """Forget nothing."""

    def abandon(self, task: EngineTask) -> None:
        """Give up nothing."""

    def run_inline(self, task: EngineTask) -> bool:
        """Run nothing here."""
        return False

    def admit(self, task: EngineTask) -> None:
        """Take whole numbers only."""
        if not all(isinstance(arg, int) for arg in task.args or ()):
            raise TypeError("whole numbers, please")

    def received(self, task: EngineTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hand on the double of each."""
        return tuple(2 * arg for arg in task.args or ()), {}

    def settle(self, task: EngineTask, result: Any) -> Any:
        """Make a text of it."""
        self.settled.append(result)
        return f"{result} of {task.name.rpartition('.')[2]}"


@pytest.mark.parametrize("app_rules", [True, False])
async def test_an_apps_own_engine_keeps_its_rules(app_rules: bool) -> None:
    """An engine that is replaced still decides over calls and values, if that is asked for."""
    heard: list[tuple[Any, ...]] = []

    class Hears(Interceptor):
        def before_accept(self, record: TaskRecord) -> None:
            heard.append(call_of(record).args)

    def add(left: int, right: int) -> int:
        return left + right

    with override_framework(app_rules=app_rules, interceptor=Hears()) as manager:
        engine = Strict()
        async with setup_async_framework(None, engine=engine):
            told = await manager.submit(add, (1, 2), wait=True)
            if app_rules:
                with pytest.raises(TypeError, match=r"^whole numbers, please$"):
                    await manager.submit(add, (1, "2"))
        # Once the app has gone nobody's rules are left.
        answer: Any = await manager.submit(add, ("a", "b"), wait=True)
        assert answer == "ab"

    assert (told, engine.settled) == (("6 of add", [6]) if app_rules else (3, []))
    assert heard[0] == (1, 2)
