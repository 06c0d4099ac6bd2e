"""Scenarios of event loops and of the end: drains, mailboxes, apps that come and go."""

from __future__ import annotations

import _weakrefset
import asyncio
import contextlib
import weakref
from collections.abc import Callable
from contextlib import suppress

from framework import throttled_task
from framework._manager import frameworks
from framework._manager.core import Core
from framework._manager.drain import drain
from framework._manager.face.manager import TaskManager
from framework._records.statuses import FINAL
from framework._tasks import registry
from framework._tasks.live import Home
from framework._threads.waiters import Mailbox, Mailboxes
from framework.exceptions import FrameworkNotStartedError, TaskCancelledError, TaskInterruptedError
from tests.explore.ourselves.run import Late, Run, asleep, watching, wind_down
from tests.explore.ourselves.tasks import cancel, outcome


class App:
    """An app on a loop of its own, which stops half a second after it has started.

    Args:
        run: The run.
        core: The core of its framework, which stops with it.
        grace: How many seconds its tasks get to finish.

    Attributes:
        home: Its home, as soon as it has started.
    """

    def __init__(self, run: Run, core: Core, grace: float) -> None:
        self._run = run
        self._core = core
        self._grace = grace
        self.home = Late()

    def __call__(self) -> None:
        """Run the loop to its end."""
        loop = self._run.loop()
        home = Home(self._core, None, loop)
        self._core.intake.add_home(home)
        loop.run_until_complete(self._main(home))
        loop.close()

    async def _main(self, home: Home) -> None:
        self.home.set(home)
        await asleep(0.5)
        wind_down(self._core)
        await drain(self._core, home, self._grace)
        assert not self._core.ledger.unfinished(home)
        assert not self._core.runner.drives.of(home)


def is_final(manager: TaskManager, task_id: str) -> bool:
    """Return whether a task is final."""
    record = manager._core.ledger.find(task_id)
    return record is not None and record.status in FINAL


def drain_or_submit(run: Run) -> None:
    """Tasks are submitted while their app drains: each is refused, or final after it."""
    manager = run.manager(2)
    app, ids = App(run, manager._core, 5.0), list[str]()

    async def body() -> int:
        return 1

    def submit(fn: Callable[..., object]) -> None:
        app.home.get()
        run.sleep(0.5)
        with contextlib.suppress(FrameworkNotStartedError):
            ids.append(manager.submit_nowait(fn))

    run.together(app, lambda: submit(int), lambda: submit(body))
    for task_id in ids:
        assert is_final(manager, task_id)
    assert run.clock.monotonic() < 5


def drain_or_complete(run: Run) -> None:
    """Tasks end at the end of the grace period: the drain and they agree on how."""
    manager = run.manager(2)
    app, ids = App(run, manager._core, 1.0), list[str]()

    async def coroutine() -> None:
        await asleep(1.5)

    def submit() -> None:
        app.home.get()
        ids.append(manager.submit_nowait(run.sleep, args=(1.5,)))
        ids.append(manager.submit_nowait(coroutine))

    run.together(app, submit)
    for task_id in ids:
        assert is_final(manager, task_id)


def drain_stubborn(run: Run) -> None:
    """A coroutine that swallows its cancellation is abandoned, while a thread cancels it too."""
    manager = run.manager(1)
    app, ids = App(run, manager._core, 0.0), list[str]()

    async def coroutine() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asleep(50)

    def submit() -> None:
        app.home.get()
        ids.append(manager.submit_nowait(coroutine))

    def stop() -> None:
        app.home.get()
        run.sleep(0.5)
        for task_id in ids:
            cancel(manager, task_id)

    run.together(app, submit, stop)
    assert outcome(manager, ids[0]) is TaskInterruptedError


def drain_delayed(run: Run) -> None:
    """A delayed task falls due while its app drains."""
    manager = run.manager(1)
    app, ids = App(run, manager._core, 5.0), list[str]()

    def submit() -> None:
        app.home.get()
        ids.append(manager.submit_nowait(int, delay=0.5))

    run.together(app, submit)
    assert is_final(manager, ids[0])


def wait_on_a_loop(run: Run) -> None:
    """A coroutine waits for tasks that end on threads, some at its timeout."""
    manager = run.manager(2)
    told: list[object] = []

    async def wait(task_id: str, timeout: float | None) -> None:
        try:
            told.append(await manager.get_result(task_id, timeout))
        except TimeoutError:
            told.append(TimeoutError)

    async def main() -> None:
        ids = [await manager.submit(run.sleep, args=(1.0,)) for _ in range(2)]
        await asyncio.gather(wait(ids[0], None), wait(ids[0], 1.0), wait(ids[1], None))

    run.together(lambda: run.run_in_loop(main))
    assert len(told) == 3, told
    assert told.count(None) >= 2, told


def cancel_on_a_loop(run: Run) -> None:
    """A coroutine is cancelled from elsewhere while it takes its last step."""
    manager = run.manager(1)
    task_id = Late()

    async def body() -> int:
        await asleep(1.0)
        return 1

    async def main() -> None:
        task_id.set(await manager.submit(body))
        with contextlib.suppress(Exception):
            await manager.get_result(task_id.get())

    def stop() -> None:
        its = task_id.get()
        run.sleep(1.0)
        cancel(manager, its)

    run.together(lambda: run.run_in_loop(main), stop)


def post_or_drain(run: Run) -> None:
    """Threads post calls to a loop while it makes others: all are made."""
    made: list[int] = []
    loop = run.loop()
    box, ended = Mailbox(loop), asyncio.Event()

    def post() -> None:
        for _ in range(2):
            box.post(call)

    def call() -> None:
        made.append(1)
        if len(made) == 4:
            ended.set()

    def main() -> None:
        loop.run_until_complete(ended.wait())
        loop.close()

    run.together(main, post, post)
    assert len(made) == 4


def post_or_close(run: Run) -> None:
    """Threads post calls to a loop that closes: each is made, refused, or left for good."""
    made: list[int] = []
    loop = run.loop()
    box = Mailbox(loop)

    def post() -> None:
        for _ in range(2):
            box.post(lambda: made.append(1))

    def main() -> None:
        loop.run_until_complete(asleep(0))
        loop.close()

    run.together(main, post, post)
    assert not box.post(lambda: made.append(1))
    assert len(made) + box.lost == 5, (made, box.lost)


def post_to_a_closed_loop(run: Run) -> None:
    """Threads post calls to a loop that is closed: each is refused, and counted once."""
    loop = run.loop()
    loop.close()
    box = Mailbox(loop)

    def post() -> None:
        assert not box.post(int)

    run.together(post, post, post)
    assert box.lost == 3, box.lost


def mailboxes_of_loops(run: Run) -> None:
    """Loops get their first mailboxes at once, while that of a closed one goes."""
    boxes, gone = Mailboxes(), [run.loop() for _ in range(2)]
    for loop in gone:
        boxes.of(loop)
        loop.close()
    loops = [run.loop() for _ in range(2)]
    found: list[list[Mailbox]] = []

    def ask() -> None:
        found.append([boxes.of(loop) for loop in loops])

    run.together(ask, ask)
    assert found[0] == found[1]
    for loop in loops:
        loop.close()


def apps_come_and_go(run: Run) -> None:
    """Two frameworks start and stop at once: the list of those that run is right."""
    made = [run.manager(1) for _ in range(2)]
    opened = list(run.frameworks)

    def live(framework: frameworks.Framework) -> None:
        home = Home(framework.core, None, None)
        framework.open(home, schedules=False)
        framework.leave(home)
        framework.close(0.0)

    run.together(*(lambda framework=framework: live(framework) for framework in opened))
    state = frameworks.STATE
    assert (state.running, state.open, state.sole) == ([], [], None)
    assert len(made) == 2


def apps_come(run: Run) -> None:
    """Two frameworks start at once: neither is taken for the only one."""
    for _ in range(2):
        run.manager(1)
    opened = list(run.frameworks)

    def start(framework: frameworks.Framework) -> None:
        framework.open(Home(framework.core, None, None), schedules=False)

    run.together(*(lambda framework=framework: start(framework) for framework in opened))
    state = frameworks.STATE
    assert len(state.running) == 2
    assert state.sole is None
    for framework in opened:
        framework.close(0.0)


def use_promised(run: Run) -> None:
    """Two threads first use a promised framework at once: both get it, and it is made once."""
    run.manager(1)
    [framework] = run.frameworks
    promise = frameworks.Promise(lambda: frameworks.set_override(framework))
    frameworks.set_promise(promise)
    run.stack.callback(frameworks.set_promise, None)
    run.stack.callback(frameworks.set_override, None)
    found: list[frameworks.Framework | None] = []

    def use() -> None:
        found.append(frameworks.override())

    run.together(use, use)
    assert found == [framework, framework]


class Function:
    """Stands in for a decorated function."""

    def __init__(self) -> None:
        self.fn = object()


@watching(weakref.__file__, _weakrefset.__file__)
def list_or_register(run: Run) -> None:
    """Functions are listed while others are registered."""
    kept = [Function() for _ in range(2)]

    def add(number: int) -> None:
        registry.register(f"exploring {number}", kept[number])

    def look() -> None:
        assert set(registry.names()) <= {*before, "exploring 0", "exploring 1"}
        registry.functions()

    before = registry.names()
    try:
        run.together(lambda: add(0), lambda: add(1), look)
    finally:
        for number in range(2):
            registry._BY_NAME.pop(f"exploring {number}", None)


def queue_on_a_loop(run: Run) -> None:
    """Coroutines and threads wait in the queue of one throttle; one of them is cancelled."""
    manager, times = run.manager(2), list[float]()

    @throttled_task(rate_limit=1, time_window=1.0, when_limited="wait")
    async def on_loop() -> None:
        times.append(run.clock.monotonic())

    async def main() -> None:
        ids = [await manager.submit(on_loop) for _ in range(3)]
        await asleep(1.0)
        await manager.cancel_task(ids[1])
        for task_id in ids:
            with suppress(TaskCancelledError):
                await manager.get_result(task_id)

    run.together(lambda: run.run_in_loop(main))
    assert sorted(times) == [float(number) for number in range(len(times))]
    assert len(times) in (2, 3)


def loop_in_a_task(run: Run) -> None:
    """A task runs a loop of its own, in which it waits for queued tasks of the same pool."""
    manager = run.manager(1)

    async def wait(timeout: float | None) -> int:
        return int(await manager.get_result(await manager.submit(lambda: 1), timeout))

    def body(timeout: float | None) -> int:
        loop = run.loop()
        try:
            return int(loop.run_until_complete(wait(timeout)))
        finally:
            loop.close()

    ids = [manager.submit_nowait(body, args=(timeout,)) for timeout in (None, 5.0)]
    run.together(*(lambda task_id=task_id: outcome(manager, task_id) for task_id in ids))
    assert [outcome(manager, task_id) for task_id in ids] == [1, 1]
    assert run.clock.monotonic() < 5


def burst_on_a_loop(run: Run) -> None:
    """A coroutine submits several tasks at once while the pool's threads park."""
    manager = run.manager(2)

    async def main() -> None:
        for _ in range(2):
            ids = [await manager.submit(int) for _ in range(3)]
            assert [await manager.get_result(task_id) for task_id in ids] == [0, 0, 0]

    run.together(lambda: run.run_in_loop(main))


def cancel_burst(run: Run) -> None:
    """A thread cancels what a coroutine has just submitted and not yet handed to the pool."""
    manager, ids = run.manager(1), list[str]()
    submitted = Late()

    async def main() -> None:
        ids.extend([await manager.submit(int) for _ in range(3)])
        submitted.set(True)
        for task_id in ids:
            with suppress(TaskCancelledError):
                await manager.get_result(task_id)

    def stop() -> None:
        submitted.get()
        for task_id in ids:
            cancel(manager, task_id)

    run.together(lambda: run.run_in_loop(main), stop)


SCENARIOS: list[Callable[[Run], None]] = [
    drain_or_submit,
    drain_or_complete,
    drain_stubborn,
    drain_delayed,
    wait_on_a_loop,
    cancel_on_a_loop,
    post_or_drain,
    post_or_close,
    post_to_a_closed_loop,
    mailboxes_of_loops,
    apps_come_and_go,
    apps_come,
    use_promised,
    list_or_register,
    queue_on_a_loop,
    loop_in_a_task,
    burst_on_a_loop,
    cancel_burst,
]
