"""Retries with exponential backoff."""

import pytest

from framework import background_task, get_task_manager, retry_task, setup_async_framework
from framework.protocols import TaskEvent


class Partner:
    """A remote service that fails twice and then answers."""

    def __init__(self) -> None:
        self.calls = 0

    def ask(self) -> str:
        """Fail twice, then answer."""
        self.calls += 1
        if self.calls < 3:
            raise ConnectionError(f"call {self.calls} failed")
        return "an answer"


@background_task(timeout=60)
@retry_task(
    max_retries=5, retry_delay=0.01, backoff=2, max_delay=0.1, exceptions=(ConnectionError,)
)
async def ask(partner: Partner) -> str:
    """Ask until there is an answer, at most six times."""
    return partner.ask()


async def test_delays_grow() -> None:
    """Two failures cause two delays, and the second is twice the first."""
    events: list[TaskEvent] = []
    async with setup_async_framework(None):
        manager = get_task_manager()
        manager.subscribe(events.append)
        task_id = ask(Partner())
        assert await manager.get_result(task_id) == "an answer"
        task = await manager.get_task(task_id)
        assert task is not None
        assert task.attempts == 3
    retries = [event for event in events if event.kind == "retrying"]
    assert [event.delay for event in retries] == [0.01, 0.02]
    assert str(retries[0].error) == "call 1 failed"


@retry_task(max_retries=2, retry_delay=0)
async def never_works() -> None:
    """Fail each time."""
    raise ConnectionError("no answer")


async def test_the_last_error_is_raised_as_it_was() -> None:
    """The caller gets the function's own exception, here without a framework."""
    with pytest.raises(ConnectionError, match=r"^no answer$"):
        await never_works()
