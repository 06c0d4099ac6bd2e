"""Arguments of steps: which calls are the same when a task goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from framework import background_task, retry_task
from framework.steps import step
from pytest_asyncframe.probe import Probe

TAGGED: list[str] = []

# Equal sets whose elements come in another order, as those of texts do in each process.
SETS = ({0, 8}, {8, 0})
RUNS = itertools.count()


@step
async def tag(order: int, tags: dict[str, set[int] | frozenset[int]], rest: object) -> None:
    """Note that it runs."""
    TAGGED.append(f"order {order}: {[sorted(one) for one in tags.values()]} {rest}")


@background_task(on_restart="resume", name="tests.tags")
@retry_task(max_retries=1, retry_delay=1)
async def tags_twice() -> None:
    """Call a step with sets, and fail the first time."""
    number = next(RUNS)
    found = SETS[number % 2]
    await tag(7, {"a": found, "b": frozenset(found)}, [found])
    if not number:
        raise ConnectionError


async def test_a_set_has_no_order(asyncframe: Probe) -> None:
    """A call with an equal set is the same call, in whatever order its elements come."""
    TAGGED.clear()
    assert [list(one) for one in SETS] == [[0, 8], [8, 0]]
    await asyncframe.manager.get_result(tags_twice())

    assert TAGGED == ["order 7: [[0, 8], [0, 8]] [{0, 8}]"]


class Weigher:
    """What can be called, and awaited."""

    async def __call__(self, weight: int) -> int:
        """Return the weight."""
        return weight


@background_task(on_restart="resume", name="tests.weighs_by_an_object")
async def weighs_by_an_object() -> int:
    """Call an object as a step."""
    weigh: Any = step(Weigher())
    found: int = await weigh(3)
    return found


async def test_an_object_may_be_an_async_step(asyncframe: Probe) -> None:
    """An object whose call is a coroutine is a step of async tasks."""
    assert await asyncframe.manager.get_result(weighs_by_an_object()) == 3


@background_task(on_restart="resume", name="tests.takes_as_stored")
async def takes_as_stored(pair: object, number: int, more: Iterable[float] = ()) -> str:
    """Return what it was called with."""
    return repr((pair, number, more))


async def test_the_first_run_gets_what_later_ones_get(asyncframe: Probe) -> None:
    """A task that resumes is called with what JSON gives back, also before any restart."""
    given: Any = ((1, (2,)), "5", (3,))
    result = await asyncframe.manager.get_result(takes_as_stored(*given))

    assert result == "([1, [2]], 5, [3.0])"
