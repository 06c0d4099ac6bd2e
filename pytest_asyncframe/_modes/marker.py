"""The marker ``task_modes`` and its options, with checks of their values: variants of a test."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import pytest

from pytest_asyncframe._backends.names import BACKENDS, Backend
from pytest_asyncframe._toolkit import items, options
from pytest_asyncframe._toolkit.options import Mode, Settings, Transport

_MARKER = "@pytest.mark.task_modes"
_ALLOWED = f"{', '.join(options.MODES)}, 'seeded:20' for 20 seeds, or 'seeded=7' for seed 7"
_MOST_SEEDS = 10_000


@dataclass(frozen=True, slots=True)
class Variant:
    """What sets one run of a test apart from the others.

    Attributes:
        mode: How tasks run; None for as the test says.
        seed: The seed, in the mode ``seeded``; None for the test's.
        transport: How clients reach the app; None for the way that their block says.
        backend: What keeps the tasks and runs them; None for memory, where no other is listed.
    """

    mode: Mode | None = None
    seed: int | None = None
    transport: Transport | None = None
    backend: Backend | None = None

    @property
    def mode_text(self) -> str:
        """The mode as it is written in the marker, with its seed; "" if there is none."""
        seed = "" if self.seed is None else f"={self.seed}"
        return f"{self.mode or ''}{seed}"

    @property
    def is_real(self) -> bool:
        """Whether it has a back end that is not memory, and so real time."""
        return self.backend not in (None, "memory")

    def __str__(self) -> str:
        on = f"on {self.backend}" if self.backend else ""
        over = f"over {self.transport}" if self.transport else ""
        return " ".join(filter(None, (self.mode_text, on, over)))


VARIANT = pytest.StashKey[Variant]()
"""The variant that a test is run in now, on its item; not set for other tests."""


def in_variant(item: pytest.Item, settings: Settings) -> Settings:
    """Return the settings of a test, changed by the variant that it is run in."""
    variant = item.stash.get(VARIANT, None)
    if variant is None:
        return settings
    return replace(
        settings,
        mode="threads" if variant.is_real else variant.mode or settings.mode,
        seed=settings.seed if variant.seed is None else variant.seed,
        seed_is_option=settings.seed_is_option and variant.seed is None,
        transport=variant.transport,
        backend=variant.backend or settings.backend,
        # The same test runs where tasks start by themselves, so it has no drain() of its own.
        drains=True,
    )


def applies(item: pytest.Item, asked: Collection[str]) -> bool:
    """Return whether a test is to be run in the variants of its marker; see `items.applies`.

    Only the back ends apply to tests with ``task_manager`` alone.
    """
    asks = "asyncframe" in asked or _only_backends(item, asked)
    return items.applies(item, "task_modes", asks=asks)


def _only_backends(item: pytest.Item, asked: Collection[str]) -> bool:
    """Whether a test runs on several back ends, but has no mode and no transport of its own."""
    marker = item.get_closest_marker("task_modes")
    has_manager = "task_manager" in asked and "asyncframe" not in asked
    return marker is not None and "on" in marker.kwargs and has_manager


def variants_for(item: pytest.Item, settings: Settings, asked: Collection[str]) -> list[Variant]:
    """Return the variants that a test with the marker is to be run in.

    Args:
        item: The test.
        settings: Its settings.
        asked: The fixtures of asyncframe that it requests.

    Raises:
        pytest.UsageError: If the marker has a value that is not allowed, or does not fit the
            test.
    """
    marker = item.get_closest_marker("task_modes")
    assert marker is not None
    for keyword in marker.kwargs:
        if keyword not in ("transports", "on"):
            raise pytest.UsageError(
                f"{_MARKER} has no keyword {keyword!r}; it takes modes, transports and on"
            )
    modes = _modes(marker.args, _MARKER, settings.seed)
    transports = _transports(marker.kwargs.get("transports", ()), _MARKER)
    backends = _backends(marker.kwargs.get("on", ()), _MARKER)
    if not (modes or transports or backends):
        raise pytest.UsageError(
            f"{_MARKER} names no mode, no transport and no back end: it takes {_ALLOWED}"
        )
    if modes and backends and "memory" not in backends:
        raise pytest.UsageError(
            f"{_MARKER} names a mode, and in 'on' no memory, which alone has modes: add 'memory' "
            "to 'on', or remove the mode"
        )
    _check_test(item, asked)
    chosen = from_options(item.config, settings.seed)
    if _only_backends(item, asked):
        variants = _combined((), (), chosen[2] or backends)
    else:
        variants = _combined(chosen[0] or modes, chosen[1] or transports, chosen[2] or backends)
    for variant in variants:
        _check_transport(item, variant.transport)
        mode, backend = variant.mode or settings.mode, variant.backend or "memory"
        options.check_fixtures(item, mode, asked, backend)
    return variants


def from_options(
    config: pytest.Config, seed: int
) -> tuple[list[Variant], list[Transport], list[Backend]]:
    """Return what the command line names, which replaces what markers name.

    Args:
        config: The configuration.
        seed: The first seed of several.

    Returns:
        Modes, transports and back ends; an empty list for what it does not name.

    Raises:
        pytest.UsageError: If a value is not allowed.
    """
    modes, transports, backends = (
        config.getoption(f"asyncframe_{name}") for name in ("modes", "transports", "on")
    )
    return (
        _modes(_split(modes), f"--asyncframe-modes={modes}", seed),
        _transports(_split(transports), f"--asyncframe-transports={transports}"),
        _backends(_split(backends), f"--asyncframe-on={backends}"),
    )


def _split(text: str | None) -> list[str]:
    return [] if text is None else [part.strip() for part in text.split(",")]


def _modes(texts: Sequence[Any], given: str, seed: int) -> list[Variant]:
    """Return a variant for each mode, and for each seed of one that has several."""
    found: list[Variant] = []
    for text in texts:
        for variant in _mode(text, given, seed):
            if variant in found:
                raise pytest.UsageError(f"{given} names {variant} twice")
            found.append(variant)
    return found


def _mode(text: Any, given: str, seed: int) -> Iterator[Variant]:
    if not isinstance(text, str):
        raise pytest.UsageError(
            f"{given}: a mode must be a text, not {text!r}; it takes {_ALLOWED}"
        )
    if text in options.MODES:
        yield Variant(cast("Mode", text))
        return
    mode, sign, number = text[:6], text[6:7], text[7:]
    if mode != "seeded" or sign not in (":", "=") or not number.removeprefix("-").isdecimal():
        raise pytest.UsageError(f"{given}: there is no mode {text!r}; it takes {_ALLOWED}")
    if sign == "=":
        yield Variant("seeded", int(number))
        return
    if not 1 <= int(number) <= _MOST_SEEDS:
        raise pytest.UsageError(
            f"{given}: {text!r} must have from 1 to {_MOST_SEEDS} seeds, as in 'seeded:20'; "
            "'seeded=7' is seed 7"
        )
    for further in range(int(number)):
        yield Variant("seeded", seed + further)


def _transports(values: Any, given: str) -> list[Transport]:
    return _words(values, given, ("transports", "transport"), options.TRANSPORTS)


def _backends(values: Any, given: str) -> list[Backend]:
    return _words(values, given, ("on", "back end"), BACKENDS)


def _words(
    values: Any, given: str, names: tuple[str, str], allowed: Sequence[str]
) -> list[Any]:  # Any: some of those that are allowed
    """Return the values of the keyword that is the first of *names*; each is the second."""
    keyword, what = names
    several = [values] if isinstance(values, str) else values
    if not isinstance(several, (tuple, list)):
        raise pytest.UsageError(f"{given}: {keyword} must be a tuple, not {values!r}")
    for value in several:
        if value not in allowed:
            raise pytest.UsageError(
                f"{given}: there is no {what} {value!r}; there are {', '.join(allowed)}"
            )
        if several.count(value) > 1:
            raise pytest.UsageError(f"{given} names the {what} {value} twice")
    return list(several)


def _combined(
    modes: Sequence[Variant], transports: Sequence[Transport], backends: Sequence[Backend]
) -> list[Variant]:
    """Return each mode over each transport, and each back end but memory over each once.

    All seeds come to the same over a live server.
    """
    found: dict[Variant, None] = {}
    seeds = [one for one in modes if one.mode == "seeded"]
    for transport, backend in product(transports or (None,), backends or (None,)):
        for one in modes or (Variant(),):
            variant = Variant(one.mode, one.seed, transport, backend)
            if variant.is_real:
                variant = Variant(transport=transport, backend=backend)
            elif transport == "live" and one.mode == "seeded" and one is not seeds[0]:
                continue
            found[variant] = None
    return list(found)


def _check_test(item: pytest.Item, asked: Collection[str]) -> None:
    """Check that the marker fits the other markers and the fixtures of the test."""
    if "asyncframe" not in asked and not _only_backends(item, asked):
        raise pytest.UsageError(
            f"{item.name} has the marker task_modes, which needs the fixture asyncframe: request "
            "it, or remove the marker"
        )
    here = items.closeness(item, "task_modes")
    for name, keyword in (("interleave", None), ("asyncframe", "mode")):
        if here == items.closeness(item, name, keyword):
            other = f"{name}({keyword}=...)" if keyword else name
            raise pytest.UsageError(
                f"{item.name} has the markers task_modes and {other} side by side: remove one of "
                "them"
            )


def _check_transport(item: pytest.Item, transport: Transport | None) -> None:
    """Check that a client can be opened over a transport in the test."""
    is_async = inspect.iscoroutinefunction(getattr(item, "obj", None))
    if transport == "testclient" and is_async:
        raise pytest.UsageError(
            f"{item.name} is a coroutine, and the transport 'testclient' would block its event "
            "loop: use 'asgi' and 'live', or make the test a plain function"
        )
    if transport == "asgi" and not is_async:
        raise pytest.UsageError(
            f"{item.name} is no coroutine, and the transport 'asgi' needs its event loop: use "
            "'testclient' and 'live', or make the test a coroutine"
        )
