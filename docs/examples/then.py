"""Run one task after another."""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from framework import (
    TaskId,
    background_task,
    get_task_manager,
    retry_task,
    setup_async_framework,
)

app = FastAPI(lifespan=setup_async_framework)


@background_task
def notify(customer: str, invoice: str) -> str:
    """Tell a customer that the invoice is there."""
    return f"{invoice} sent to {customer}"


@background_task
@retry_task(max_retries=3)
def make_invoice(customer: str) -> TaskId[str]:
    """Make an invoice, and then start what comes after it."""
    invoice = f"{customer}.pdf"
    return notify.options(description=f"invoice of {customer}")(customer, invoice)


@background_task
def sum_up(month: int) -> int:
    """Return the turnover of a month."""
    return 100 * month


@background_task
async def make_report(first: int, second: int) -> str:
    """Do several steps in order: two at the same time, then a third with their results."""
    manager = get_task_manager()
    turnovers = await manager.gather([sum_up(first), sum_up(second)])
    sent = notify("the boss", f"{sum(turnovers)}.pdf")
    return await manager.get_result(sent)


def test_a_task_starts_the_next() -> None:
    """The result of the first is the id of the second."""
    with TestClient(app):
        manager = app.state.task_manager
        following = manager.wait_result(manager.submit_nowait(make_invoice, ("ann",)), timeout=60)
        assert manager.wait_result(following, timeout=60) == "ann.pdf sent to ann"
        assert manager.get_all_tasks()[following]["description"] == "invoice of ann"


def test_a_task_that_does_several_steps() -> None:
    """Its result is that of the last step."""
    with TestClient(app):
        manager = app.state.task_manager
        report = manager.submit_nowait(make_report, (1, 2))
        assert manager.wait_result(report, timeout=60) == "300.pdf sent to the boss"
