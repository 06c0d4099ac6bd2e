"""What it costs to watch an event loop: the share of a core, with `slow_loop` and without it.

``python -m benchmarks.watching`` prints a line for a loop that is idle, and for one that is
woken a thousand times a second. All threads of the process count. It takes 200 s.
"""

from __future__ import annotations

import asyncio
import sys
from time import process_time
from typing import Final

from framework import setup_async_framework

SECONDS: Final = 10.0
"""How long one measurement takes."""

_ROUNDS: Final = 5

WAKE_UPS: Final = (0, 1_000)
"""How often the loop is woken in a second."""


async def spent(slow_loop: float, wake_ups: int, seconds: float) -> float:
    """Return the share of a core that the process takes, 1.0 for all of it.

    Args:
        slow_loop: The setting; 0 for no watch.
        wake_ups: How often the loop is woken in a second by something else.
        seconds: How long to measure.
    """
    async with setup_async_framework(None, slow_loop=slow_loop):
        loop = asyncio.get_running_loop()
        ended, until = loop.create_future(), loop.time() + seconds

        def wake() -> None:
            if loop.time() < until:
                loop.call_later(1 / wake_ups if wake_ups else seconds, wake)
            else:
                ended.set_result(None)

        begun = process_time()
        wake()
        await ended
        return (process_time() - begun) / seconds


def main() -> None:
    """Print what each kind of loop costs, without the watch and with it."""
    for wake_ups in WAKE_UPS:
        best = {0.0: 1.0, 1.0: 1.0}
        for _ in range(_ROUNDS):
            for slow_loop, known in best.items():
                share = asyncio.run(spent(slow_loop, wake_ups, SECONDS))
                best[slow_loop] = min(known, share)
        sys.stdout.write(
            f"{wake_ups:5} wake-ups/s: {best[0.0]:.4%} of a core without, {best[1.0]:.4%} with, "
            f"{best[1.0] - best[0.0]:+.4%} for the watch\n"
        )


if __name__ == "__main__":
    main()
