"""A task's dependencies are solved as FastAPI solves those of an endpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from framework import TaskManager, async_task, setup_async_framework

_MOST = 5
"""How many dependencies a graph has at most."""

KINDS = ("sync", "async", "sync yield", "async yield")


class Drawn(NamedTuple):
    """A dependency of a graph: its kind, and the numbers of those before it that it needs."""

    kind: str
    needs: tuple[int, ...]


def _dependency(number: int) -> st.SearchStrategy[Drawn]:
    earlier = st.integers(0, number - 1) if number else st.nothing()
    needs = st.lists(earlier, unique=True, max_size=number).map(tuple)
    return st.builds(Drawn, st.sampled_from(KINDS), needs)


graphs = st.integers(1, _MOST).flatmap(lambda size: st.tuples(*map(_dependency, range(size))))


class Graph:
    """Dependencies that tell what becomes of them.

    Args:
        drawn: The dependencies.

    Attributes:
        log: What has happened.
        calls: The functions.
    """

    def __init__(self, drawn: tuple[Drawn, ...]) -> None:
        self.log: list[str] = []
        self._made = 0
        self.calls: list[Callable[..., Any]] = []
        for number, one in enumerate(drawn):
            call = self._call(number, one.kind)
            sign(call, {f"d{need}": Depends(self.calls[need]) for need in one.needs})
            self.calls.append(call)

    def _open(self, number: int, values: dict[str, str]) -> str:
        self._made += 1
        made = f"{number}#{self._made}({', '.join(values.values())})"
        self.log.append(f"opened {made}")
        return made

    def _call(self, number: int, kind: str) -> Callable[..., Any]:
        def sync(**values: str) -> str:
            return self._open(number, values)

        async def on_loop(**values: str) -> str:
            return self._open(number, values)

        def sync_yield(**values: str) -> Any:
            made = self._open(number, values)
            try:
                yield made
            except ValueError as error:
                self.log.append(f"told {made} {error}")
                raise
            finally:
                self.log.append(f"closed {made}")

        async def async_yield(**values: str) -> Any:
            made = self._open(number, values)
            try:
                yield made
            except ValueError as error:
                self.log.append(f"told {made} {error}")
                raise
            finally:
                self.log.append(f"closed {made}")

        return dict(zip(KINDS, (sync, on_loop, sync_yield, async_yield), strict=True))[kind]

    def user(self, needs: list[tuple[int, bool]], *, fails: bool) -> Callable[..., Any]:
        """Return a function that needs some of them; with False those without the cache."""

        async def use(**values: str) -> None:
            self.log.append(f"body {values}")
            if fails:
                raise ValueError("no")

        sign(
            use,
            {
                f"p{place}": Depends(self.calls[number], use_cache=cached)
                for place, (number, cached) in enumerate(needs)
            },
        )
        return use


def sign(fn: Any, dependencies: dict[str, Any]) -> None:
    """Give a function these parameters."""
    fn.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=depends)
            for name, depends in dependencies.items()
        ]
    )


@pytest.mark.extended("time")
@pytest.mark.asyncframe(mode="threads", lost_failures="off")
@settings(max_examples=40)
@given(data=st.data(), drawn=graphs, fails=st.booleans())
def test_the_same_order(data: Any, drawn: tuple[Drawn, ...], fails: bool) -> None:
    """Whatever the graph: the same calls and values, and the same order of closing."""
    needs = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(drawn) - 1), st.booleans()), min_size=1, max_size=_MOST
        )
    )
    by_request, by_task = Graph(drawn), Graph(drawn)
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/request")(by_request.user(needs, fails=fails))
    app.get("/task")(async_task(by_task.user(needs, fails=fails)))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert isinstance(app.state.task_manager, TaskManager)
        answers = [client.get(path).status_code for path in ("/request", "/task")]
    assert answers == [500 if fails else 200] * 2
    assert by_task.log == by_request.log
