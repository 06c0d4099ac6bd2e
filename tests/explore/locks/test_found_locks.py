"""Locks that exist before an explored test are modelled in its runs, and put back after each."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_asyncframe._explore.locks.found import FoundLocks
from pytest_asyncframe._explore.locks.model import Modelled, ModelLock, ModelRLock
from tests.explore.sessions import run

APP = """
import functools, queue, threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, PrivateAttr

stock_lock = threading.Lock()
audit_lock = RLock()
same_lock = stock_lock
changed = threading.Condition()
plain_changed = threading.Condition(threading.Lock())
slots = threading.Semaphore(2)
done = threading.Event()
meeting = threading.Barrier(2)
jobs = queue.Queue()
by_name = {"a": threading.Lock(), 1: [threading.Lock()]}
made_by_name = defaultdict(threading.Lock)
recent = deque([{"lock": threading.Lock()}])
app = FastAPI()
app.state.lock = threading.Lock()


class Shop:
    lock = threading.Lock()

    def __init__(self):
        self.own_lock = threading.RLock()
        self.other = Other(self)


class Other:
    __slots__ = ("lock", "shop")

    def __init__(self, shop):
        self.lock = threading.Lock()
        self.shop = shop


@dataclass
class Account:
    lock: Any = field(default_factory=threading.Lock)


class Order(BaseModel):
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class Report:
    @functools.cached_property
    def rows(self):
        return []


def guarded():
    lock = threading.Lock()

    def call(other=threading.Lock(), *, make=threading.Lock):
        return lock, other, make()

    return functools.wraps(call)(lambda: call())


shop = Shop()
call = guarded()
"""


WAYS = {
    "stock_lock": ("locked_app.stock_lock", 11),
    "audit_lock": ("locked_app.audit_lock", 12),
    "same_lock": ("locked_app.stock_lock", 11),
    "changed._lock": ("locked_app.changed", 14),
    "plain_changed._lock": ("locked_app.plain_changed", 15),
    "slots._cond._lock": ("locked_app.slots", 16),
    "done._cond._lock": ("locked_app.done", 17),
    "meeting._cond._lock": ("locked_app.meeting", 18),
    "jobs.mutex": ("locked_app.jobs", 19),
    "jobs.not_empty._lock": ("locked_app.jobs", 19),
    "by_name['a']": ("locked_app.by_name['a']", 0),
    "by_name[1][0]": ("locked_app.by_name[1][0]", 0),
    "recent[0]['lock']": ("locked_app.recent['lock']", 0),
    "app.state.lock": ("locked_app.app.state._state['lock']", 0),
    "Shop.lock": ("locked_app.Shop.lock", 0),
    "shop.own_lock": ("locked_app.shop.own_lock", 31),
    "shop.other.lock": ("locked_app.shop.other.lock", 0),
    "call()[0]": ("locked_app.call.call.lock", 0),
    "call()[1]": ("locked_app.call.call", 0),
}
"""How to reach the locks, and their names and lines; 0 where several lines may have made one."""

MADE = ["call()[2]", "made_by_name['b']", "Account().lock", "Order()._lock", "Lock()", "RLock()"]
"""How to make locks with what was found."""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a module with locks of many kinds, under a root directory of its own."""
    (tmp_path / "locked_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    import locked_app  # type: ignore[import-not-found]

    yield locked_app
    del sys.modules["locked_app"]


def reached(app: Any, way: str) -> Any:
    """Return what an expression in the module is worth."""
    return eval(way, vars(app))


def test_a_lock_is_found(app: Any, tmp_path: Path) -> None:
    """A lock is modelled and named wherever it is kept, and is the real one again afterwards."""
    real = {way: reached(app, way) for way in WAYS}
    named = {
        way: name + (f", made at locked_app.py:{line}" if line else "")
        for way, (name, line) in WAYS.items()
    }
    found = FoundLocks(tmp_path)
    for _ in range(2):
        with found.modelled():
            models = {way: reached(app, way) for way in WAYS}
            assert [way for way in WAYS if not issubclass(type(models[way]), Modelled)] == []
            assert [way for way in WAYS if models[way].real is not real[way]] == []
            assert {way: str(model.origin) for way, model in models.items()} == named
        assert [way for way in WAYS if reached(app, way) is not real[way]] == []


def test_what_makes_locks_is_found(app: Any, tmp_path: Path) -> None:
    """Imported names and default factories make modelled locks, and real ones afterwards."""
    found = FoundLocks(tmp_path)
    for _ in range(2):
        with found.modelled():
            assert [way for way in MADE if not makes_a_model(app, way)] == []
        assert [way for way in MADE if makes_a_model(app, way)] == []


def makes_a_model(app: Any, way: str) -> bool:
    """Whether an expression makes a modelled lock."""
    made = type(reached(app, way))
    app.made_by_name.clear()
    return made in (ModelLock, ModelRLock)


def test_conditions_use_the_models(app: Any, tmp_path: Path) -> None:
    """A condition that was found takes and tests the model, and waits with it."""
    kept = [dict(vars(one)) for one in (app.changed, app.plain_changed)]
    with FoundLocks(tmp_path).modelled():
        for one, kind in ((app.changed, ModelRLock), (app.plain_changed, ModelLock)):
            assert vars(one)["_is_owned"].__self__ is one._lock
            with one:
                assert one._is_owned()
                assert not one.wait(0)
            assert one.acquire.__func__ is kind.acquire
    assert [dict(vars(one)) for one in (app.changed, app.plain_changed)] == kept


def test_a_lock_is_put_back_after_a_failure(app: Any, tmp_path: Path) -> None:
    """Whatever a run raises, and whoever holds a lock, the locks are the real ones again."""
    real = app.stock_lock

    def run_once() -> None:
        with FoundLocks(tmp_path).modelled():
            app.stock_lock.acquire()
            raise KeyboardInterrupt("in a run")

    with pytest.raises(KeyboardInterrupt, match=r"^in a run$"):
        run_once()
    assert app.stock_lock is real
    assert real.locked()


def test_what_a_run_has_changed_stays(app: Any, tmp_path: Path) -> None:
    """A lock that a run has replaced or deleted is not put back."""
    found = FoundLocks(tmp_path)
    with found.modelled():
        new = app.stock_lock = object()
        del app.audit_lock
        app.by_name[1].clear()
    assert app.stock_lock is new
    assert not hasattr(app, "audit_lock")
    with found.modelled():
        assert app.stock_lock is new
        assert app.by_name[1] == []


def test_modules_that_a_run_imports(app: Any, tmp_path: Path) -> None:
    """A module that is imported in a run is looked through before the next one."""
    (tmp_path / "late_app.py").write_text("import threading\nfrom locked_app import *\n")
    found = FoundLocks(tmp_path)
    try:
        with found.modelled():
            import late_app  # type: ignore[import-not-found]

            model = late_app.stock_lock
        assert type(model) is ModelLock
        with found.modelled():
            assert type(late_app.stock_lock) is ModelLock
    finally:
        del sys.modules["late_app"]


def test_only_modules_under_the_root(app: Any, tmp_path: Path) -> None:
    """The locks of modules that lie elsewhere stay real."""
    with FoundLocks(tmp_path / "elsewhere").modelled():
        assert type(app.stock_lock) is not ModelLock
        assert type(vars(threading)["_active_limbo_lock"]) is not ModelRLock


def test_objects_that_no_module_refers_to(app: Any, tmp_path: Path) -> None:
    """Objects that are given, such as fixtures of a session, are looked through too."""
    kept = {"shop": app.Shop()}
    with FoundLocks(tmp_path, lambda: kept).modelled():
        assert str(kept["shop"].own_lock.origin) == "shop.own_lock"
        assert type(kept["shop"].other.lock) is ModelLock


def test_steps_into_other_packages(app: Any, tmp_path: Path) -> None:
    """Two objects of other packages may lie one behind the other, counted from one of the app's."""
    far, near = threading.Lock(), threading.Lock()
    app.shop.other.lock = SimpleNamespace(one=SimpleNamespace(lock=near, one=[]))
    app.shop.other.lock.one.one = [SimpleNamespace(lock=far)]
    app.app.state.shop = app.shop
    app.shop = None
    with FoundLocks(tmp_path).modelled():
        spaces = app.app.state.shop.other.lock
        assert type(spaces.one.lock) is ModelLock
        assert spaces.one.one[0].lock is far


def test_logging_handlers(app: Any, tmp_path: Path) -> None:
    """The locks of logging handlers that exist already are modelled, and real afterwards."""
    handler: Any = logging.StreamHandler()
    real = handler.lock
    with FoundLocks(tmp_path).modelled():
        assert type(handler.lock) is ModelRLock
    assert handler.lock is real


def test_cycles_and_large_containers(app: Any, tmp_path: Path) -> None:
    """A search ends, and looks at the first thousand items of a container only."""
    app.loop = [app.loop] if hasattr(app, "loop") else []
    app.loop.append(app.loop)
    app.many = [*range(999), threading.Lock(), threading.Lock()]
    with FoundLocks(tmp_path).modelled():
        assert [type(one) is ModelLock for one in app.many[-2:]] == [True, False]


@pytest.mark.extended("time")
def test_an_explored_test_uses_its_modules_locks(pytester: pytest.Pytester) -> None:
    """Tasks that hold a lock of their module over a point never block the process."""
    source = """
        import threading
        import pytest
        from framework import background_task

        stock_lock = threading.Lock()
        made = []

        class Shop:
            def __init__(self):
                self.lock = threading.Lock()
                self.stock = 5

        @pytest.fixture(scope="module")
        def shop():
            made.append(1)
            return Shop()

        @background_task
        def buy(asyncframe, shop):
            with stock_lock, shop.lock:
                left = shop.stock
                asyncframe.manager.get_stats()
                shop.stock = left - 1

        @pytest.mark.interleave(seeds=40, level="locks")
        def test_sale(asyncframe, shop):
            shop.stock = 3
            for _ in range(3):
                buy(asyncframe, shop)
            asyncframe.run_until_idle()
            assert shop.stock == 0
            assert not asyncframe.clock.sequencer.outside.met

        def test_afterwards():
            assert made == [1]
            assert repr(type(stock_lock)) == repr(type(threading.Lock()))
    """
    run(pytester, source).assert_outcomes(passed=2)
