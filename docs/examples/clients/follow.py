"""Uses the client that openapi-python-client generates: starts, follows and cancels tasks.

Its argument is the address of the app.
"""

from __future__ import annotations

import sys

from tasks_client import Client
from tasks_client.api.start_a_task import create_custom_task, start_processing
from tasks_client.api.tasks import cancel_task, get_task, list_tasks
from tasks_client.models import (
    AcceptedProcessed,
    AcceptedSum,
    CancelResult,
    CustomParameters,
    Processed,
    TaskList,
    TaskStatus,
    TaskView,
)


def main(url: str) -> None:
    """Print what became of two tasks."""
    with Client(base_url=url, raise_on_unexpected_status=True) as client:
        accepted = start_processing.sync(client=client, data_id="7")
        assert isinstance(accepted, AcceptedProcessed)
        task = get_task.sync(accepted.task_id, client=client, wait=60)
        assert isinstance(task, TaskView)
        assert task.status is TaskStatus.COMPLETED
        assert task.result is not None
        print(Processed.from_dict(task.result))

        later = CustomParameters(arg1=1, arg2=2, delay=3_600)
        delayed = create_custom_task.sync(client=client, body=later)
        assert isinstance(delayed, AcceptedSum)
        cancelled = cancel_task.sync(delayed.task_id, client=client, x_requested_with="a test")
        assert isinstance(cancelled, CancelResult)
        print(cancelled.cancelled, cancelled.status)

        page = list_tasks.sync(client=client, limit=1, status=[TaskStatus.CANCELLED])
        assert isinstance(page, TaskList)
        print([task.task_id for task in page.tasks] == [delayed.task_id])


if __name__ == "__main__":
    main(*sys.argv[1:])
