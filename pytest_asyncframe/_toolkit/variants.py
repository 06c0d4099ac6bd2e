"""A variant of a test: the mode, seed and transport of one of its runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pytest_asyncframe._toolkit.options import Mode, Settings, Transport


@dataclass(frozen=True, slots=True)
class Variant:
    """What sets one run of a test apart from the others.

    Attributes:
        mode: How tasks run; None for as the test says.
        seed: The seed, in the mode ``seeded``; None for the test's.
        transport: How clients reach the app; None for the way that their block says.
    """

    mode: Mode | None = None
    seed: int | None = None
    transport: Transport | None = None

    @property
    def mode_text(self) -> str:
        """The mode as it is written in the marker, with its seed; "" if there is none."""
        seed = "" if self.seed is None else f"={self.seed}"
        return f"{self.mode or ''}{seed}"

    def __str__(self) -> str:
        over = f"over {self.transport}" if self.transport else ""
        return f"{self.mode_text} {over}".strip()


VARIANT = pytest.StashKey[Variant]()
"""The variant that a test is run in now, on its item; not set for other tests."""


def in_variant(item: pytest.Item, settings: Settings) -> Settings:
    """Return the settings of a test, changed by the variant that it is run in."""
    variant = item.stash.get(VARIANT, None)
    if variant is None:
        return settings
    return replace(
        settings,
        mode=variant.mode or settings.mode,
        seed=settings.seed if variant.seed is None else variant.seed,
        seed_is_option=settings.seed_is_option and variant.seed is None,
        transport=variant.transport,
        # The same test runs where tasks start by themselves, so it has no drain() of its own.
        drains=True,
    )
