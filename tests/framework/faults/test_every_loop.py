"""Every kind of loop in Python's debug modes: row D9 of the fault table."""

from __future__ import annotations

import textwrap

import pytest

from tests.children import python

pytestmark = pytest.mark.extended("processes")

SCENARIO = """
    import asyncio, sys, threading
    import framework
    from framework import (
        RateLimitExceededError, TaskCancelledError, TaskTimeoutError, async_task,
        background_task, current_task, get_task_manager, retry_task, setup_async_framework,
        throttled_task,
    )

    def new_loop():
        if sys.argv[1] == "uvloop":
            import uvloop
            return uvloop.new_event_loop()
        return asyncio.new_event_loop()

    @background_task
    def thread_task(number):
        current_task().report_progress(0.5)
        return number

    @background_task
    async def coroutine_task(number):
        return number + await in_place(number)

    @async_task
    async def in_place(number):
        return number + await awaited_thread(number)

    @async_task
    def awaited_thread(number):
        manager = get_task_manager()
        return manager.wait_result(thread_task(number))

    attempts = []

    @async_task
    @retry_task(max_retries=2, retry_delay=0.001)
    async def flaky():
        attempts.append(1)
        if len(attempts) < 3:
            raise KeyError("again")
        return "third"

    @async_task(timeout=0.01)
    async def too_long():
        await asyncio.Event().wait()

    # Nobody waits for it yet when it reaches its limit.
    @background_task(timeout=0.01, on_error="silent")
    def too_long_in_a_thread():
        gate.wait()

    @background_task
    async def hang():
        started.set()
        await asyncio.Event().wait()

    @throttled_task(rate_limit=1)
    def once():
        return 1

    gate = threading.Event()

    async def main():
        global started
        started = asyncio.Event()
        # What is slow here is a busy machine, and no claim of this.
        asyncio.get_running_loop().slow_callback_duration = 3600.0
        assert type(asyncio.get_running_loop()).__module__.startswith(sys.argv[1])
        async with setup_async_framework(None, max_workers=2):
            manager = get_task_manager()
            results = await asyncio.gather(*map(manager.get_result, map(thread_task, range(50))))
            assert results == list(range(50))
            assert await manager.get_result(coroutine_task(1)) == 3
            assert await flaky() == "third"
            for wait in (too_long(), manager.get_result(too_long_in_a_thread())):
                try:
                    await wait
                except TaskTimeoutError:
                    print("limit")
            gate.set()
            cancelled = hang()
            await started.wait()
            assert await manager.cancel_task(cancelled)
            try:
                await manager.get_result(cancelled)
            except TaskCancelledError:
                print("cancelled")
            once()
            try:
                once()
            except RateLimitExceededError:
                print("limited")
            left = thread_task("drained")
        print(await manager.get_result(left))

    for _ in range(2):
        attempts.clear()
        gate.clear()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("options", "environment"),
    [
        pytest.param((), {}, id="plain"),
        pytest.param(("-X", "dev", "-W", "error"), {"PYTHONASYNCIODEBUG": "1"}, id="strict"),
    ],
)
def test_d9_every_loop_in_every_mode(
    loop: str, options: tuple[str, ...], environment: dict[str, str]
) -> None:
    """Each loop behaves the same, plain and in debug mode with warnings as errors."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = python(*options, "-c", textwrap.dedent(SCENARIO), loop, env=environment, status=None)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split() == ["limit", "limit", "cancelled", "limited", "drained"] * 2
