"""Which of several functions with the same name a matcher refers to."""

from __future__ import annotations

import functools
import gc
import operator
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeAlias

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from framework import background_task, setup_async_framework
from pytest_asyncframe.probe import Probe

Make: TypeAlias = Callable[..., ModuleType]

TASK = """
from framework import background_task

@background_task
def post_it(): pass
"""

STRANGER = """
from framework import background_task

@background_task
def note_it(): pass
"""


SCHEDULED = """
from framework import scheduled_task

@scheduled_task(every=60)
def post_it(): pass
"""


@background_task
def note_it() -> None:
    """Do nothing."""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that makes a module of some source, which the process has imported."""
    spaces: list[dict[str, Any]] = []

    def made(name: str, source: str = TASK, **names: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
        exec(source, vars(module))
        spaces.append(vars(module))
        return module

    yield made
    for space in spaces:
        space.clear()  # so that its functions end, whoever still has the module


def several(name: str, *functions: str) -> str:
    """Return the pattern of the error that names these functions."""
    return re.escape(
        f"several functions are named {name!r}: {', '.join(functions)}; pass the function itself, "
        "or more of its dotted name"
    )


def unknown(name: str) -> str:
    """Return the pattern of the error for a name of nothing; no function that is gone is in it."""
    return (
        f"no decorated function and no task of this test is named {re.escape(repr(name))}\\."
        r"( Did you mean (?!.*(dropped|old_one)).*\?)? Pass the function itself, or its name with "
        r"or without the module\."
    )


# -- what the test has used


def test_a_submitted_function_comes_first(asyncframe: Probe, make: Make) -> None:
    """A name means the function that this test has submitted, whatever others are called."""
    make("app_one")
    two = make("app_two")
    with pytest.raises(
        LookupError, match=f"^{several('post_it', 'app_one.post_it', 'app_two.post_it')}$"
    ):
        asyncframe.assert_not_submitted("post_it")

    two.post_it()
    asyncframe.run_until_idle()

    asyncframe.assert_submitted("post_it", times=1)
    assert [task.name for task in asyncframe.submitted("post_it")] == ["app_two.post_it"]
    asyncframe.assert_not_submitted("app_one.post_it")


def test_two_submitted_functions(asyncframe: Probe, make: Make) -> None:
    """A name of two functions that were submitted is an error that shows these two alone."""
    one, two, _ = make("app_one"), make("app_two"), make("app_three")
    one.post_it()
    two.post_it()
    asyncframe.run_until_idle()

    with pytest.raises(
        LookupError, match=f"^{several('post_it', 'app_one.post_it', 'app_two.post_it')}$"
    ):
        asyncframe.assert_submitted("post_it")


def test_a_full_name_comes_before_all(asyncframe: Probe, make: Make) -> None:
    """A full name means its function, though a submitted one's name ends the same way."""
    make("mail")
    make("shop.mail").post_it()
    asyncframe.run_until_idle()

    asyncframe.assert_submitted("shop.mail.post_it", times=1)
    asyncframe.assert_not_submitted("mail.post_it")
    asyncframe.assert_submitted("post_it", times=1)


def test_a_scheduled_function_comes_first(asyncframe: Probe, make: Make) -> None:
    """A name means the function that this test has scheduled, before it is due for once."""
    make("app_one")
    make("app_two", SCHEDULED)

    assert asyncframe.submitted("post_it") == []


# -- what the test and its apps have imported


def test_the_module_of_the_test(asyncframe: Probe, make: Make) -> None:
    """A name means the function of the test's own module, not one that nobody here imports."""
    make("app_one", STRANGER)

    asyncframe.assert_not_submitted("note_it")


def routed(make: Make, **names: Any) -> FastAPI:
    """Return an app whose only route is in a module with these names."""
    routes = make("app_routes", "def home(): pass", **names)
    app = FastAPI()
    app.get("/")(routes.home)
    return app


def included(make: Make, **names: Any) -> FastAPI:
    """Return an app that includes a router, and so has its route."""
    router = APIRouter()
    router.get("/")(make("app_routes", "def home(): pass", **names).home)
    app = FastAPI()
    app.include_router(router)
    return app


def mounting(make: Make, **names: Any) -> FastAPI:
    """Return an app with another app mounted in it."""
    app = FastAPI()
    app.mount("/inner", routed(make, **names))
    return app


class Around:
    """An ASGI app around another one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, *args: Any) -> None:
        """Call the app."""
        await self.app(*args)


# How an app has its endpoint and how that imports are apart, so each is here with one other.
@pytest.mark.parametrize(
    ("build", "kind"),
    [
        pytest.param(routed, "the module", id="route"),
        pytest.param(included, "a function", id="router"),
        pytest.param(mounting, "an object of a class", id="mounted"),
        pytest.param(
            lambda make, **names: Around(routed(make, **names)), "a router", id="middleware"
        ),
        pytest.param(
            lambda make, **names: functools.partial(routed(make, **names)),
            "the module",
            id="partial",
        ),
    ],
)
def test_the_modules_of_an_app(
    asyncframe: Probe, make: Make, build: Callable[..., Any], kind: str
) -> None:
    """A name means the function that the app of a client has imported, one step away or two."""
    make("app_stranger")
    tasks = make("app_tasks", TASK + "class Sender: pass\ndef help_it(): pass")
    router = APIRouter()
    router.get("/")(tasks.help_it)
    value = {
        "the module": tasks,
        "a function": tasks.help_it,
        "an object of a class": tasks.Sender(),
        "a router": router,
    }[kind]
    between = make("app_between", "def step(): pass", value=value)
    app = build(make, step=between.step)
    wrong = several("post_it", "app_stranger.post_it", "app_tasks.post_it")
    with pytest.raises(LookupError, match=f"^{wrong}$"):
        asyncframe.assert_not_submitted("post_it")

    asyncframe.client(app)

    asyncframe.assert_not_submitted("post_it")
    tasks.post_it()
    asyncframe.run_until_idle()
    asyncframe.assert_submitted("post_it", times=1)


def test_an_app_without_a_client_of_the_fixture(asyncframe: Probe, make: Make) -> None:
    """The modules of an app count while it is set up, though the test has made its client."""
    make("app_stranger")
    routes = make("app_routes", TASK + "def home(): pass")
    app = FastAPI(lifespan=setup_async_framework)
    app.get("/")(routes.home)

    with TestClient(app):
        asyncframe.assert_not_submitted("post_it")


def test_two_functions_of_an_app(asyncframe: Probe, make: Make) -> None:
    """A name of two functions that the app has imported is an error that shows these alone."""
    make("app_stranger")
    app = routed(make, one=make("app_one"), two=make("app_two"))
    asyncframe.client(app)

    with pytest.raises(
        LookupError, match=f"^{several('post_it', 'app_one.post_it', 'app_two.post_it')}$"
    ):
        asyncframe.assert_not_submitted("post_it")


def test_a_strange_object_in_a_module(asyncframe: Probe, make: Make) -> None:
    """An object that fails whatever it is asked does not keep names from being found."""

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("outside of a request")

        __class__ = property(operator.itemgetter(0))  # fails
        __slots__ = ()

    make("app_stranger")
    asyncframe.client(routed(make, proxy=Proxy(), tasks=make("app_tasks")))

    asyncframe.assert_not_submitted("post_it")


# -- modules that are gone


def test_a_replaced_module(asyncframe: Probe, make: Make) -> None:
    """A function of a module in whose place there is another one is not found any more."""
    old = make("app_one", STRANGER.replace("note_it", "old_one") + TASK)
    new = make("app_two")
    make("app_one", "")

    asyncframe.assert_not_submitted("post_it")
    with pytest.raises(LookupError, match=f"^{unknown('old_one')}$"):
        asyncframe.assert_not_submitted("old_one")

    old.old_one()
    new.post_it()
    asyncframe.run_until_idle()
    asyncframe.assert_submitted("old_one", times=1)


def test_a_dropped_module(asyncframe: Probe, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function is not found once its module has ended, in sys.modules or not."""
    kept, dropped = make("app_kept"), make("app_dropped")
    monkeypatch.undo()  # it has taken both out, and keeps no module
    held = dropped.post_it
    wrong = several("post_it", "app_dropped.post_it", "app_kept.post_it")
    with pytest.raises(LookupError, match=f"^{wrong}$"):
        asyncframe.assert_not_submitted("post_it")

    del dropped
    gc.collect()

    asyncframe.assert_not_submitted("post_it")
    assert asyncframe.submitted("app_kept.post_it") == []
    with pytest.raises(LookupError, match=f"^{unknown('app_dropped.post_it')}$"):
        asyncframe.submitted("app_dropped.post_it")
    assert (held.__module__, kept.__name__) == ("app_dropped", "app_kept")


def test_a_namespace_without_a_module(asyncframe: Probe) -> None:
    """A function in a namespace that never was a module's is found as long as it exists."""
    space: dict[str, Any] = {"__name__": "somewhere"}
    exec(TASK, space)

    asyncframe.assert_not_submitted("somewhere.post_it")
    asyncframe.assert_not_submitted("post_it")
