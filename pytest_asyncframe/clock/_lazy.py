"""Coroutines that say so if a test has forgotten to await them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class LazyCoroutine(Coroutine[Any, Any, T]):
    """A coroutine that is created when it is awaited, and reports if it never is.

    Args:
        make: Creates the coroutine.
        name: What the user has called, for messages.
        never: Called if it was never awaited.
    """

    def __init__(
        self, make: Callable[[], Coroutine[Any, Any, T]], name: str, never: Callable[[], object]
    ) -> None:
        self._make = make
        self._name = name
        self._never = never
        self._made: Coroutine[Any, Any, T] | None = None

    @property
    def _coroutine(self) -> Coroutine[Any, Any, T]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        """Resume it; see `collections.abc.Coroutine`."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in it; see `collections.abc.Coroutine`."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Close it; see `collections.abc.Coroutine`."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self._name} has no {name!r} before it is awaited: write 'await' in front of it"
        )

    def __del__(self) -> None:
        if self._made is None:
            self._never()
