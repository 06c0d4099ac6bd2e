"""A process of a measurement: ``python -m benchmarks.queueing NAME work`` or ``NAME submit``.

The one that submits does what each line of its input says, and answers with a line of JSON:

- ``many FIRST END`` and ``one FIRST END`` submit tasks, together or one after the other, and answer
  with the CPU seconds of that;
- ``spaced FIRST END`` submits them with pauses, in which the workers have nothing to do, and
  ``stream FIRST END`` some 50 a second; both answer with the moment before each call;
- ``left`` answers how many have not ended.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

from benchmarks.queueing import _marks

BURST: Final = 100
"""How many tasks are submitted together."""

PAUSES: Final = (0.1, 0.3)
"""The least and the greatest pause of those that are spaced, in seconds."""

STREAM: Final = (0.01, 0.03)
"""The same of a stream."""


async def _many(submit: _marks.Submit, numbers: range) -> float:
    began = time.process_time()
    for at in range(0, len(numbers), BURST):
        await submit.many(numbers[at : at + BURST])
    return time.process_time() - began


async def _one(submit: _marks.Submit, numbers: range) -> float:
    began = time.process_time()
    for number in numbers:
        await submit.one(number)
    return time.process_time() - began


async def _spaced(
    submit: _marks.Submit, numbers: range, pauses: tuple[float, float] = PAUSES
) -> list[float]:
    drawn, moments = random.Random(1), []
    for number in numbers:
        await asyncio.sleep(drawn.uniform(*pauses))  # noqa: TID251 - the workers are to wait
        moments.append(time.perf_counter())
        await submit.one(number)
    return moments


_ORDERS: Final[dict[str, Callable[[_marks.Submit, range], Awaitable[object]]]] = {
    "many": _many,
    "one": _one,
    "spaced": _spaced,
    "stream": partial(_spaced, pauses=STREAM),
}


async def _submitting(way: Any) -> None:  # Any: a module of this folder
    async with way.submitting() as submit:
        _marks.ready()
        while line := await asyncio.to_thread(sys.stdin.readline):
            order, *numbers = line.split()
            if order == "left":
                answer: object = await asyncio.to_thread(way.left)
            else:
                answer = await _ORDERS[order](submit, range(*map(int, numbers)))
            _marks.say(f"{_marks.ANSWER}{json.dumps(answer)}}}")


def main(name: str, what: str) -> None:
    """Work, or make what the queue needs and submit."""
    way = import_module(f"benchmarks.queueing.{name}")
    if what == "work":
        way.work()
    else:
        way.prepare()
        asyncio.run(_submitting(way))


if __name__ == "__main__":
    main(*sys.argv[1:])
