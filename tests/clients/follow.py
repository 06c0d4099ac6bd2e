"""Uses the client that openapi-python-client generates: starts, follows and cancels tasks.

Runs in the environment of the tools, with the address of the app as its argument.
"""

from __future__ import annotations

import sys

from tasks_client import Client
from tasks_client.api.look_at_tasks import cancel_task, get_task_status
from tasks_client.api.start_a_task import create_custom_task, start_processing
from tasks_client.models import (
    CancelTaskResponseCancelTask,
    CustomParameters,
    GetTaskStatusResponseGetTaskStatus,
    Started,
)


def main(url: str) -> None:
    """Print what became of two tasks."""
    with Client(base_url=url, raise_on_unexpected_status=True) as client:
        started = start_processing.sync(client=client, data_id="7")
        assert isinstance(started, Started)
        shown = get_task_status.sync(started.task_id, client=client, wait=60)
        assert isinstance(shown, GetTaskStatusResponseGetTaskStatus)
        print(shown["status"], shown["result"])

        later = CustomParameters(arg1=1, arg2=2, delay=3_600)
        delayed = create_custom_task.sync(client=client, body=later)
        assert isinstance(delayed, Started)
        cancelled = cancel_task.sync(delayed.task_id, client=client)
        assert isinstance(cancelled, CancelTaskResponseCancelTask)
        print(cancelled["cancelled"])


if __name__ == "__main__":
    main(*sys.argv[1:])
