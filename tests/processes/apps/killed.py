"""A process that has tasks, tells of each step in a line, and is killed.

``killed.py <url> <folder> <count> [durable]``. It submits tasks that write a file each and
end; each line of its input lets one more of them do so. Its output is ``tasks <ids>``, or, if
it is to be durable, ``accepted <id>`` for each task once its record is safe.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

from framework import background_task, current_task, get_task_manager, setup_async_framework
from framework.stores.sql import SQLStore

URL, FOLDER, COUNT = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
DURABLE = "durable" in sys.argv
GATES = [threading.Semaphore(0) for _ in range(COUNT)]
"""One for each task, since a semaphore lets a task that has just begun overtake one that waits."""


@background_task
def write(number: int) -> str:
    """Leave a file with this task's id, the first time it is written and each further time."""
    task = current_task()
    assert task is not None
    GATES[number].acquire()
    with (FOLDER / task.task_id).open("a") as file:
        file.write("ran\n")
    return task.task_id


def read_input() -> None:
    """Let one task go on for each line."""
    for _, gate in zip(sys.stdin, GATES, strict=False):
        gate.release()


async def main() -> None:
    """Submit, and tell who has ended."""
    store = SQLStore(URL, durable=DURABLE)
    async with setup_async_framework(None, store=store, max_workers=2):
        manager = get_task_manager()
        threading.Thread(target=read_input, daemon=True).start()
        if DURABLE:
            for number in range(COUNT):
                print("accepted", await manager.submit(write, (number,)), flush=True)
        else:
            print("tasks", *[write(number) for number in range(COUNT)], flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
