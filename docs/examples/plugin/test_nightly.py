"""A year of nightly runs, in a fraction of a second."""

from datetime import datetime
from zoneinfo import ZoneInfo

from framework import TaskManager, scheduled_task, setup_async_framework
from pytest_asyncframe.clock import VirtualClock

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400


async def test_a_year_of_nights(task_manager: TaskManager, task_clock: VirtualClock) -> None:
    """The report is sent at 03:00 each night, in summer and in winter."""
    sent: list[datetime] = []

    @scheduled_task(cron="0 3 * * *", tz="Europe/Berlin")
    def send_report() -> None:
        sent.append(task_clock.now().astimezone(BERLIN))

    # The clean-up runs once a minute; in a year of virtual time that is half a million times.
    async with setup_async_framework(None, cleanup_interval=DAY):
        await task_clock.run_for(365 * DAY)
    assert len(sent) == 365
    assert {f"{one:%H:%M}" for one in sent} == {"03:00"}
    assert callable(send_report)
