"""All outcomes of small random programs, against an interpreter that knows nothing of asyncio."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.explore.oracle import interpreter, on_asyncio
from tests.explore.oracle.programs import drawn

MOST = 200
"""How many runs a program may take; others are passed over."""


def differing(seeds: Iterable[int]) -> tuple[list[int], int]:
    """Return the seeds whose programs have other outcomes than the interpreter says.

    Returns:
        Those seeds, and how many programs were compared.
    """
    wrong, compared = list[int](), 0
    for seed in seeds:
        program = drawn(seed)
        expected = interpreter.outcomes(program, MOST)
        if expected is not None:
            compared += 1
            found, proof = on_asyncio.outcomes(program)
            if found != expected or not proof.startswith(("all", "the only")):
                wrong.append(seed)
    return wrong, compared


@pytest.mark.extended("time")
def test_coroutines_do_all_that_they_may() -> None:
    """Exploring every schedule shows each outcome that a program may have, and no other one."""
    wrong, compared = differing(range(300))
    assert wrong == []
    assert compared > 280


@pytest.mark.soak
def test_many_programs() -> None:
    """The same for ten thousand programs."""
    wrong, compared = differing(range(1_000, 11_000))
    assert wrong == []
    assert compared > 9_300
