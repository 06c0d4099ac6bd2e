"""Races of timeouts that pass on a slow machine, each beside its cure."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoResultError
from contextlib import nullcontext
from typing import Any

import pytest
from fastapi import FastAPI

from framework import (
    Task,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from pytest_asyncframe.probe import Probe

cures = pytest.mark.parametrize("cured", [False, True], ids=["racy", "cured"])


def guard(cured: bool) -> Any:
    """Return a lock, or nothing that guards."""
    return threading.Lock() if cured else nullcontext()


@cures
@pytest.mark.interleave
def test_worker_gives_up(asyncframe: Probe, cured: bool) -> None:
    """An idle worker ends just as a job is put, which nobody does then."""
    jobs, done, lock = queue.Queue[str](), list[str](), guard(cured)
    state = {"works": False}

    @background_task
    def work() -> None:
        while True:
            try:
                done.append(jobs.get(timeout=30))
            except queue.Empty:
                with lock:
                    if not cured or jobs.empty():
                        state["works"] = False
                        return

    def put(job: str) -> None:
        with lock:
            jobs.put(job)
            starts = not state["works"]
            state["works"] = True
        if starts:
            work()

    @background_task
    def produce() -> None:
        put("a")
        time.sleep(1)
        put("b")

    asyncframe.run_until_complete(produce())
    asyncframe.run_until_idle()
    assert done == ["a", "b"]


@cures
@pytest.mark.interleave
def test_late_grant(asyncframe: Probe, cured: bool) -> None:
    """A seat is granted to somebody who has just given up, and nobody gives it back."""
    free, waiting, lock = list[str](), list[tuple[threading.Event, list[str]]](), guard(cured)

    @background_task
    def take() -> bool:
        told, seats = asked = threading.Event(), list[str]()
        waiting.append(asked)
        if told.wait(timeout=30):
            free.append(seats.pop())
            return True
        with lock:
            if asked in waiting:
                waiting.remove(asked)
            elif cured:
                free.append(seats.pop())
        return False

    @background_task
    def leave() -> None:
        with lock:
            if not waiting:
                free.append("seat")
                return
            told, seats = waiting.pop()
            seats.append("seat")
        told.set()

    first, second = take(), leave()
    asyncframe.run_until_complete(first)
    asyncframe.run_until_complete(second)
    assert free == ["seat"]


@cures
@pytest.mark.interleave
def test_fallback_beside_the_answer(asyncframe: Probe, cured: bool) -> None:
    """A price is computed for want of an answer, and the late answer replaces it."""
    prices, lock = dict[str, int](), guard(cured)
    answer = Future[int]()

    @background_task
    def ask() -> None:
        with lock:
            if "fish" not in prices:
                prices["fish"] = 5
        answer.set_result(prices["fish"])

    @background_task
    def offer() -> int:
        try:
            return answer.result(timeout=3)
        except NoResultError:
            with lock:
                return prices.setdefault("fish", 4)

    first, second = offer(), ask()
    offered = asyncframe.run_until_complete(first).result
    asyncframe.run_until_complete(second)
    assert offered == prices["fish"]


@cures
@pytest.mark.interleave
def test_refund_beside_the_charge(asyncframe: Probe, cured: bool) -> None:
    """A task that has run too long is refunded before it charges, and charges then."""
    account, lock = {"paid": 0, "ended": False}, guard(cured)
    ended, refunded = threading.Event(), threading.Event()

    def refund(task: Task) -> None:
        with lock:
            account["ended"] = True
            account["paid"] = 0
        refunded.set()

    @background_task(timeout=30, on_error=refund)
    def charge() -> None:
        time.sleep(1)
        with lock:
            if not account["ended"]:
                account["paid"] += 10
        ended.set()

    paid = asyncframe.run_until_complete(charge(), check=False).status == "completed"
    ended.wait()
    assert paid or refunded.wait()
    assert account["paid"] == (10 if paid else 0)


@cures
@pytest.mark.interleave
def test_told_too_late(asyncframe: Probe, cured: bool) -> None:
    """A reader trusts what a wait returns, and not what is there."""
    mail, there = list[str](), threading.Condition()
    state = {"reads": False}

    @background_task
    def read() -> str:
        with there:
            state["reads"] = True
            in_time = bool(mail) or there.wait(timeout=30)
            state["reads"] = False
            if mail and (in_time or cured):
                return mail.pop()
        return ""

    @background_task
    def deliver() -> bool:
        with there:
            if not state["reads"]:
                return False
            mail.append("letter")
            there.notify()
        return True

    first, second = read(), deliver()
    letter = asyncframe.run_until_complete(first).result
    delivered = asyncframe.run_until_complete(second).result
    assert (letter == "letter") == delivered


@cures
@pytest.mark.interleave
async def test_half_a_report(asyncframe: Probe, cured: bool) -> None:
    """A route joins a thread for a while, and shows what that has written so far."""
    app, written = FastAPI(lifespan=setup_async_framework), threading.Event()

    @app.get("/report")
    def report() -> dict[str, int]:
        found = dict[str, int]()

        def write() -> None:
            time.sleep(1)
            found["income"] = 3
            found["costs"] = 2
            written.set()

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(timeout=5)
        return {} if cured and thread.is_alive() else dict(found)

    async with asyncframe.client(app) as client:
        shown = (await client.get("/report")).json()
        await asyncio.to_thread(written.wait)
    assert shown in ({}, {"income": 3, "costs": 2})


@cures
@pytest.mark.interleave
async def test_neither_shown_nor_sent(asyncframe: Probe, cured: bool) -> None:
    """A route waits for a while and then asks for mail, which the task has just not sent."""
    app, sent, lock = FastAPI(lifespan=setup_async_framework), list[str](), guard(cured)
    wants_mail, written = threading.Event(), threading.Event()

    @background_task
    def write() -> str:
        with lock:
            if wants_mail.is_set():
                sent.append("report")
            written.set()
        return "report"

    @app.get("/report")
    async def report() -> str:
        task_id = write()
        try:
            return await get_task_manager().get_result(task_id, timeout=5)
        except TimeoutError:
            with lock:
                if cured and written.is_set():
                    return "report"
                wants_mail.set()
        return "you will get mail"

    async with asyncframe.client(app) as client:
        answer = (await client.get("/report")).json()
        asyncframe.run_until_idle()
    assert [answer, *sent].count("report") == 1


@cures
@pytest.mark.interleave
def test_permit_for_nobody(asyncframe: Probe, cured: bool) -> None:
    """A handover counts on a waiter who has just turned away with no permit."""
    room, lock = threading.Semaphore(0), guard(cured)
    state = {"waiting": 0, "free": 0}

    @background_task
    def enter() -> bool:
        with lock:
            state["waiting"] += 1
        entered = room.acquire(timeout=30)
        with lock:
            if not entered and cured and not state["waiting"]:
                # The permit is on its way.
                entered = room.acquire()
            elif not entered:
                state["waiting"] = 0
        return entered

    @background_task
    def leave() -> None:
        with lock:
            handed_over = state["waiting"] > 0
            state["waiting"] = 0
            state["free"] += not handed_over
            if handed_over:
                room.release()

    first, second = enter(), leave()
    entered = asyncframe.run_until_complete(first).result
    asyncframe.run_until_complete(second)
    assert entered + state["free"] == 1


@cures
@pytest.mark.interleave
async def test_late_reservation(asyncframe: Probe, cured: bool) -> None:
    """A request that has waited too long is given up, while its thread reserves all the same."""
    app, seats, lock = FastAPI(lifespan=setup_async_framework), list[str](), guard(cured)
    ended = threading.Event()

    @app.post("/seats")
    async def reserve() -> bool:
        given_up = threading.Event()

        def take() -> bool:
            with lock:
                if not given_up.is_set():
                    seats.append("seat")
            ended.set()
            return bool(seats)

        try:
            async with asyncio.timeout(10):
                return await asyncio.to_thread(take)
        except TimeoutError:
            with lock:
                given_up.set()
                seats.clear()
            return False

    async with asyncframe.client(app) as client:
        reserved = (await client.post("/seats")).json()
        await asyncio.to_thread(ended.wait)
    assert reserved == bool(seats)


@cures
@pytest.mark.interleave
def test_progress_after_the_limit(asyncframe: Probe, cured: bool) -> None:
    """A task copies in two steps, and its limit passes between them."""
    copy, ended = list[str](), threading.Event()

    @background_task(timeout=30)
    def replicate() -> None:
        task = current_task()
        assert task is not None
        try:
            task.check_cancelled()
            copy.append("head")
            if not cured:
                task.check_cancelled()
            copy.append("tail")
        finally:
            ended.set()

    asyncframe.run_until_complete(replicate(), check=False)
    ended.wait()
    assert copy in ([], ["head", "tail"])
