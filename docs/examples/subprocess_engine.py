"""Your own engine: tasks run in child processes, which are killed at the time limit."""

import asyncio
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from framework import (
    TaskId,
    TaskInterruptedError,
    TaskManager,
    TaskStatus,
    TaskTimeoutError,
    background_task,
    current_task,
    get_task_manager,
    setup_async_framework,
)
from framework.protocols import (
    EngineHost,
    EngineTask,
    Kind,
    RemoteEngine,
    Run,
    SharedDirectory,
    TaskEvent,
    TaskRecord,
    TaskRules,
    decode_call,
    decode_error,
    decode_result,
    encode_call,
    encode_error,
    encode_result,
    find_function,
    load_record,
)

HEARS = 1.0
"""How many seconds a cancellation waits until the child has received it."""

KEPT = 10_000
"""How many tasks that were submitted by other tasks are remembered."""


# -- the child process


class Server:
    """The child process: it runs tasks for the parent, and reports every event."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # keep what tasks print out of the reports
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._cancelling: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Run tasks until the parent closes the pipe or dies."""
        # After that nobody needs the running tasks, so do not wait for them.
        async with setup_async_framework(None, graceful_shutdown_timeout=0):
            self._manager = get_task_manager()
            self._manager.subscribe(self._receive)
            threading.Thread(target=self._read, daemon=True).start()
            self._answer(kind="ready")
            while (item := await self._inbox.get()) is not None:
                if isinstance(item, TaskEvent):
                    self._answer(**await facts_of(self._manager, item))
                elif "run" in item:
                    await self._begin(item)
                else:
                    cancelling = asyncio.create_task(self._cancel(item["cancel"]))
                    self._cancelling.add(cancelling)
                    cancelling.add_done_callback(self._cancelling.discard)

    def _receive(self, item: object) -> None:
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, item)

    def _read(self) -> None:
        for line in sys.stdin:
            self._receive(json.loads(line))
        self._receive(None)

    def _answer(self, **facts: Any) -> None:
        self._answers.write(f"{json.dumps(facts)}\n")

    async def _begin(self, item: dict[str, Any]) -> None:
        """Submit a task with its id from the parent, or report why it cannot run."""
        try:
            function = find_function(item["name"])
            if function is None:
                raise LookupError(f"no module of the child has a function {item['name']!r}")
            args, kwargs = decode_call(function, item["call"])
            if await self._manager.get_task(item["run"]) is not None:
                # The parent has forgotten the task with this id by now, and all older ones.
                self._manager.cleanup_completed_tasks(max_age=0)
            self._manager.submit_nowait(
                function, args, kwargs, task_id=item["run"], timeout=item["timeout"]
            )
        except Exception as error:  # it ends the task, and the child continues
            self._answer(kind="failed", task_id=item["run"], error=encode_error(error))

    async def _cancel(self, task_id: str) -> None:
        await self._manager.cancel_task(task_id)
        self._answer(kind="heard")


async def facts_of(manager: TaskManager, event: TaskEvent) -> dict[str, Any]:
    """Return an event as a dict for JSON, with the result if there is one."""
    facts = {
        "kind": event.kind,
        "task_id": event.task_id,
        "name": event.name,
        "at": event.time,
        "attempt": event.attempt,
        "delay": event.delay,
        "progress": event.progress,
        "message": event.message,
        "error": None if event.error is None else encode_error(event.error),
    }
    if event.kind == "completed" and event.task_id is not None:
        task = await manager.get_task(event.task_id)
        try:
            if task is None:
                raise LookupError("its result was dropped")
            facts["result"] = encode_result(find_function(event.name), task.result)
        except (LookupError, TypeError, ValueError) as error:
            facts |= {"kind": "failed", "error": encode_error(error)}
            facts["message"] = "its result cannot be kept"
    return facts


async def serve() -> None:
    """Run the child process."""
    await Server().serve()


# -- the parent


class Child:
    """A child process, with a thread that writes to it and one that reads from it.

    Attributes:
        engine: Receives the child's reports.
        task: The task that it runs; None if it is free.
        inner: The tasks that its tasks have submitted, by id.
        ready: Set when it has imported all modules.
        heard: Set when it has received a cancellation.
    """

    def __init__(self, engine: "SubprocessEngine", modules: Sequence[str]) -> None:
        self.engine = engine
        self.task: EngineTask | None = None
        self.inner: dict[str, dict[str, Any]] = {}
        self.ready = threading.Event()
        self.heard = threading.Event()
        self._asked: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        path = os.pathsep.join([str(Path.cwd()), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl+C is for the app, which then shuts down its tasks
        )
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, **what: Any) -> None:
        """Send a line to the child, without blocking."""
        self._asked.put(what)

    def kill(self) -> None:
        """Kill the child; the engine is told when it has ended."""
        self._process.kill()

    def join(self) -> None:
        """Block until the child has ended."""
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as pipe:  # it may have ended
            while (what := self._asked.get()) is not None:
                pipe.write(f"{json.dumps(what)}\n")
                pipe.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                self.engine.hear(self, json.loads(line))
        self._process.wait()
        self._asked.put(None)
        self.engine.lose(self)


class SubprocessEngine(RemoteEngine, TaskRules, SharedDirectory):
    """Runs tasks in child processes, one at a time in each.

    Args:
        modules: Modules with the task functions, which each child imports.
        processes: How many child processes to use, 1 or more.
    """

    def __init__(self, modules: Sequence[str] = (), processes: int = 2) -> None:
        self._modules = modules
        self._processes = processes
        self._changed = threading.Condition()
        self._waiting: dict[str, EngineTask] = {}
        self._children: list[Child] = []
        self._inner: dict[str, dict[str, Any]] = {}

    def start_child(self) -> Child:
        """Start and return a child."""
        return Child(self, self._modules)

    def stop_child(self, child: Child) -> None:
        """End a child that is no longer needed; blocks until it has ended."""
        child.kill()
        child.join()

    def open(self, host: EngineHost) -> None:
        """Start the children and wait until they are ready.

        Raises:
            RuntimeError: If a child does not start; it has printed why.
        """
        self._host = host
        children = [self.start_child() for _ in range(self._processes)]
        with self._changed:
            self._children = list(children)
        for child in children:
            child.ready.wait()
        if self._children != children:
            self.close(0)
            raise RuntimeError("a child process did not start; see what it has printed")

    def close(self, patience: float) -> None:
        """Wait for tasks for some seconds; then end the rest, and the children."""
        with self._changed:
            self._changed.wait_for(self._is_idle, min(patience, threading.TIMEOUT_MAX))
            waiting, self._waiting = list(self._waiting), {}
            children, self._children = self._children, []
        now = self._host.clock.time()
        for task_id in waiting:
            self._host.ended(
                task_id, TaskStatus.CANCELLED, now, reason="the app stopped before it started"
            )
        for child in children:
            self.stop_child(child)
            self._interrupt(child, "the app stopped")

    def _is_idle(self) -> bool:
        inner = (facts["status"] for child in self._children for facts in child.inner.values())
        busy = any(child.task is not None for child in self._children)
        return not (self._waiting or busy or any(not TaskStatus(one).is_final for one in inner))

    # -- accepting tasks

    def admit(self, task: EngineTask) -> None:
        """Convert the arguments to JSON, and refuse the task if that fails."""
        function = find_function(task.spec.name)
        if function is None:
            raise ValueError(
                f"func must be a decorated function, not {task.spec.name}: the child processes "
                "find it by its name"
            )
        task.engine_note = encode_call(function, task.args or (), task.kwargs)

    def start(self, task: EngineTask, kind: Kind, run: Run) -> None:
        """Queue a task; a child calls the function, so *run* is not needed."""
        with self._changed:
            if not self._children:
                raise RuntimeError("there is no child process")
            self._waiting[task.task_id] = task
            self._hand_out()

    def withdraw(self, task: EngineTask) -> None:
        """Forget a task that was cancelled before a child had it."""
        with self._changed:
            self._waiting.pop(task.task_id, None)
            self._changed.notify_all()

    def _hand_out(self) -> None:
        """Give waiting tasks to free children, oldest first. Call it with the lock held."""
        for child in self._children:
            if child.task is None and self._waiting:
                task = child.task = self._waiting.pop(next(iter(self._waiting)))
                call, task.engine_note = task.engine_note, None
                child.ask(run=task.task_id, name=task.spec.name, call=call, timeout=task.limit)
        self._changed.notify_all()

    # -- reports of children

    def hear(self, child: Child, facts: dict[str, Any]) -> None:
        """Forward a child's report; called on the thread that reads from the child."""
        kind, host, task = facts["kind"], self._host, child.task
        if kind in ("ready", "heard"):
            (child.ready if kind == "ready" else child.heard).set()
        elif facts["task_id"] is None or kind in ("late_result", "evicted"):
            pass
        elif task is None or facts["task_id"] != task.task_id:
            self._hear_of_inner(child, facts)
        elif kind == "started":
            host.started(task.task_id, facts["at"], facts["attempt"])
        elif kind == "progress":
            host.progress(task.task_id, facts["progress"], facts["message"])
        elif kind in ("retrying", "throttled"):
            error = facts["error"] and decode_error(facts["error"])
            host.announce(task.task_id, kind, facts["delay"], error)
        elif kind in STATUS_OF:
            if kind == "timed_out" and task.spec.kind == "thread":
                child.kill()  # nothing else ends a blocking function
            else:
                self._free(child)
            self._end(task, facts)

    def _free(self, child: Child) -> None:
        with self._changed:
            child.task = None
            self._hand_out()

    def _end(self, task: EngineTask, facts: dict[str, Any]) -> None:
        result = facts.get("result")
        self._host.ended(
            task.task_id,
            STATUS_OF[facts["kind"]],
            facts.get("at", self._host.clock.time()),
            result=result and decode_result(task.spec.fn, result),
            error=facts["error"] and decode_error(facts["error"]),
            reason=facts.get("message", ""),
            attempts=facts.get("attempt", 0),
        )

    def _hear_of_inner(self, child: Child, facts: dict[str, Any]) -> None:
        """Remember the state of a task that another task has submitted."""
        task_id, kind = facts["task_id"], facts["kind"]
        with self._changed:
            known = self._inner.setdefault(
                task_id,
                {"task_id": task_id, "name": facts["name"], "created_at": facts["at"]}
                | {"status": "pending"},
            )
            child.inner[task_id] = known
            known["attempts"] = facts["attempt"]
            if kind == "started":
                known |= {"status": "running", "started_at": facts["at"]}
            elif kind == "progress":
                known |= {"progress": facts["progress"], "progress_message": facts["message"]}
            elif kind in STATUS_OF:
                del child.inner[task_id]
                known |= {"status": STATUS_OF[kind].value, "ended_at": facts["at"]}
                known |= {"error": facts["error"], "reason": facts["message"]}
                known["result"] = facts.get("result")
                if len(self._inner) > KEPT:
                    del self._inner[next(iter(self._inner))]
            self._changed.notify_all()

    def lose(self, child: Child) -> None:
        """Replace a child that has ended."""
        another = self.start_child() if child in self._children and child.ready.is_set() else None
        with self._changed:
            lost = child in self._children
            if lost:
                self._children.remove(child)
            if lost and another is not None:
                self._children.append(another)
                self._hand_out()
        if another is not None and not lost:
            self.stop_child(another)  # the engine has been closed
        if lost:
            self._interrupt(child, "its process died")
        child.ready.set()
        child.heard.set()

    def _interrupt(self, child: Child, reason: str) -> None:
        """End the tasks of a child that has ended."""
        task, now = child.task, self._host.clock.time()
        if task is not None:
            self._host.ended(task.task_id, TaskStatus.INTERRUPTED, now, reason=reason)
        for known in child.inner.values():
            known |= {"status": "interrupted", "ended_at": now, "reason": reason}

    # -- questions of the framework

    def fetch(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return the records of tasks that other tasks have submitted."""
        with self._changed:
            known = [dict(self._inner[one]) for one in task_ids if one in self._inner]
        return [load_record(facts, self._host.clock) for facts in known]

    def forget(self, task_ids: Collection[str]) -> None:
        """Forget some finished tasks."""
        with self._changed:
            for task_id in task_ids:
                self._inner.pop(task_id, None)

    def request_cancel(self, task_id: str) -> bool:
        """Cancel a waiting task, or ask its child to cancel it."""
        with self._changed:
            waited = self._waiting.pop(task_id, None) is not None
            child = next((one for one in self._children if _has(one, task_id)), None)
            if child is not None:
                child.heard.clear()
                child.ask(cancel=task_id)
            self._changed.notify_all()
        if waited:
            reason = "it was cancelled before it started"
            now = self._host.clock.time()
            self._host.ended(task_id, TaskStatus.CANCELLED, now, reason=reason)
        elif child is not None:
            child.heard.wait(HEARS)
        return waited or child is not None

    def is_alone(self) -> bool:
        """Return True: no other process has tasks, so an unknown id is unknown immediately."""
        return True

    def doubt(self) -> Exception | None:
        """Return None: no task of another process can be missing."""
        return None

    # -- for tests of apps, where another engine replaces this one

    def received(self, task: EngineTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as a child would read them."""
        return decode_call(task.spec.fn, task.engine_note)

    def settle(self, task: EngineTask, result: Any) -> Any:
        """Return a result as it would come back from a child."""
        return decode_result(task.spec.fn, encode_result(task.spec.fn, result))


def _has(child: Child, task_id: str) -> bool:
    return task_id in child.inner or (child.task is not None and child.task.task_id == task_id)


STATUS_OF = {
    "completed": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
    "timed_out": TaskStatus.TIMEOUT,
    "cancelled": TaskStatus.CANCELLED,
    "interrupted": TaskStatus.INTERRUPTED,
}


# -- tests


@background_task(name="example.where")
def where() -> int:
    """Return the id of this process."""
    task = current_task()
    assert task is not None
    task.report_progress(0.5, "half")
    return os.getpid()


@background_task(name="example.block")
def block() -> None:
    """Block forever."""
    threading.Event().wait()


@background_task(name="example.crash")
def crash() -> None:
    """End the process, like a crash in an extension."""
    os._exit(1)


@background_task(name="example.nested")
def nested() -> TaskId[int]:
    """Submit another task and return its id."""
    return where()


@asynccontextmanager
async def app() -> AsyncIterator[TaskManager]:
    """Run an app with an engine that has one child process."""
    async with setup_async_framework(
        None, engine=SubprocessEngine(processes=1), graceful_shutdown_timeout=0
    ):
        yield get_task_manager()


async def test_a_task_runs_in_another_process() -> None:
    """Tasks run in the same child, and tasks that they submit are known too."""
    async with app() as manager:
        first, second = where(), nested()
        process = await manager.get_result(first)
        assert process != os.getpid()
        assert await manager.get_result(await manager.get_result(second)) == process
        task = await manager.get_task(first)
        assert task is not None
        assert (task.status, task.progress, task.attempts) == (TaskStatus.COMPLETED, 0.5, 1)


async def test_a_limit_ends_what_blocks() -> None:
    """A function that blocks past its limit is killed, and other tasks continue."""
    async with app() as manager:
        with pytest.raises(TaskTimeoutError):
            await manager.submit(block, timeout=0.1, wait=True)
        assert await manager.get_result(where())


async def test_a_child_that_dies() -> None:
    """A task whose process dies is INTERRUPTED, and the next one has a new process."""
    async with app() as manager:
        with pytest.raises(TaskInterruptedError):
            await manager.submit(crash, wait=True)
        assert await manager.get_result(where())


async def test_a_task_that_waits_is_cancelled() -> None:
    """A waiting task can be cancelled; a running one is INTERRUPTED when the app stops."""
    async with app() as manager:
        running, waiting = block(), where()
        assert await manager.cancel_task(waiting)
    task = manager.get_all_tasks()[running]
    assert (task["status"], task["reason"]) == ("interrupted", "the app stopped")


async def test_a_module_that_is_not_there() -> None:
    """An app does not start if its children cannot import a module."""
    engine = SubprocessEngine(["no_such_module"], processes=1)
    with pytest.raises(
        RuntimeError, match=r"^a child process did not start; see what it has printed$"
    ):
        async with setup_async_framework(None, engine=engine):
            pass


async def test_a_function_without_a_name() -> None:
    """A function that the child cannot find is refused at submission."""
    async with app() as manager:
        with pytest.raises(ValueError, match=r"^func must be a decorated function, not "):
            await manager.submit(lambda: None)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    asyncio.run(serve())
