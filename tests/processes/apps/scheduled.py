"""A process with a schedule that it shares; it is killed at some moment.

Arguments: the database, the number of an open pipe, the interval in seconds, "hang" for a function
that does not return, and "requeue" if others run what is left. The pipe gets a line for each claim,
with its answer, due time, task and process, and one for each run of the function.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any, Final

from framework import current_task, scheduled_task, setup_async_framework
from framework.stores.sql import SQLStore
from framework.stores.sql._shared.site import Pace

URL, PIPE, EVERY, MODE, LEFT = sys.argv[1:]
REQUEUE: Final = LEFT == "requeue"


def write(*words: object) -> None:
    """Write a line, in one step, since others write there too."""
    os.write(int(PIPE), f"{' '.join(map(str, words))} {os.getpid()}\n".encode())


class ToldStore(SQLStore):
    """A store that tells of its claims."""

    def claim_run(self, name: str, due: float | None, record: Any, *, skip: bool = True) -> Any:
        """Claim a run, and write the answer."""
        answer = super().claim_run(name, due, record, skip=skip)
        write(answer, due, record.task_id)
        return answer


@scheduled_task(
    every=float(EVERY),
    name="shared",
    on_restart="requeue" if REQUEUE else "interrupt",
    idempotent=REQUEUE,
)
def shared() -> None:
    """Write that it runs, and return or not."""
    task = current_task()
    assert task is not None
    write("ran", 0, task.task_id)
    if MODE == "hang":
        threading.Event().wait()


async def main() -> None:
    """Run until somebody ends the process."""
    store = ToldStore(URL, durable=REQUEUE)
    # So that the others notice its death sooner than in earnest.
    store._pace = Pace(beat=0.1)
    async with setup_async_framework(None, store=store):
        await asyncio.Event().wait()


asyncio.run(main())
