"""Run a failing schedule again: ``python -m tests.explore.ourselves.replay AF2:...``."""

from __future__ import annotations

import sys
import traceback

from pytest_asyncframe._explore.replay import decode, node_sum
from tests.explore.ourselves.harness import Explorer
from tests.explore.ourselves.scenarios import SCENARIOS


def replay(text: str) -> BaseException | None:
    """Run the schedule of a replay line; return what fails, None if nothing does.

    Raises:
        ReplayLineError: If it is no replay line.
        LookupError: If its scenario is not known.
    """
    line = decode(text)
    found = [scenario for scenario in SCENARIOS if node_sum(scenario.__name__) == line.node]
    if not found:
        raise LookupError("the line must be that of a scenario in this folder")
    return Explorer(found[0], line.level).replay(text).error


if __name__ == "__main__":
    error = replay(sys.argv[1])
    if error is None:
        sys.exit("it passes")
    traceback.print_exception(error)
