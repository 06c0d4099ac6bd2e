"""Histories of operations, compared with a model at the end of a test."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from pytest_asyncframe.histories import History
from pytest_asyncframe.probe import Probe

pytestmark = pytest.mark.extended("time")


class Stock:
    """What a stock of tickets should do."""

    def __init__(self, left: int = 1) -> None:
        self.left = left

    def buy(self, who: str, count: int = 1) -> str:
        """Sell tickets if there are enough left."""
        if count > self.left:
            return "sold out"
        self.left -= count
        return "sold"

    def back(self, count: int) -> None:
        """Take tickets back; a LookupError for none."""
        if not count:
            raise LookupError("none")
        self.left += count


class Stale:
    """A cache whose reads are old, in a coroutine and in a plain method."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.old: dict[str, int] = {}

    async def put(self, key: str, value: int) -> None:
        """Keep a value."""
        self.old = dict(self.values)
        self.values[key] = value

    def get(self, key: str) -> int | None:
        """Return the value before the latest one."""
        return self.old.get(key)

    def later(self, key: str) -> Any:
        """Return what is to be awaited for the value."""
        return asyncio.ensure_future(self.slow(key))

    async def slow(self, key: str) -> int:
        """Return the value, later."""
        return self.values[key]


class Values:
    """What that cache should do."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def put(self, key: str, value: int) -> None:
        """Keep a value."""
        self.values[key] = value

    def get(self, key: str) -> int | None:
        """Return a value."""
        return self.values.get(key)

    later = slow = get


def sell(history: History, who: str, result: object) -> None:
    """Record a sale."""
    with history.operation("buy", who) as operation:
        operation.result = result


# ------------------------------------------------------------------ what is told


def test_the_shortest_history_is_told(asyncframe: Probe) -> None:
    """Of nine operations one is told: it was refused a ticket, though only two were before it."""
    history = asyncframe.linearizable(lambda: Stock(left=3))
    for who in "abcdefgh":
        sell(history, who, "sold" if who in "abh" else "sold out")
    with history.operation("back", 0) as operation:
        operation.unknown()
    told = """\
not linearizable: by the model Stock, no order of the operations explains the result of this one:
  1  buy('c')  returned 'sold out'  test  at 0 s  |-|
in the model, buy('c') returns 'sold'
8 other operations explain nothing, and may have taken effect or not"""
    with pytest.raises(AssertionError, match=r"^not linearizable: (.|\n)+$") as caught:
        history.check()
    assert str(caught.value) == told


async def test_overlapping_requests(asyncframe: Probe) -> None:
    """Both orders of two overlapping sales are told, and the seconds at which they were made."""
    history = asyncframe.linearizable(Stock)

    async def buying(who: str, wait: float) -> None:
        async with history.operation("buy", who) as operation:
            await asyncframe.clock.asleep(wait)
            operation.result = "sold"

    await asyncio.gather(buying("ann", 1), buying("bob", 2), buying("eve", 3))
    told = """\
not linearizable: by the model Stock, no order of these operations explains their results:
  1  buy('ann')  returned 'sold'  buying (Task-N)  0 s to 1 s  |---|
  2  buy('bob')  returned 'sold'  buying (Task-N)  0 s to 2 s    |---|
in the model, after 1, buy('bob') returns 'sold out'
in the model, after 2, buy('ann') returns 'sold out'
1 other operation explains nothing, and may have taken effect or not"""
    with pytest.raises(AssertionError, match=r"^not linearizable: (.|\n)+$") as caught:
        history.check()
    assert re.sub(r"Task-\d+", "Task-N", str(caught.value)) == told


# ------------------------------------------------------------------ what counts


def raising(error: BaseException) -> Callable[[History], None]:
    """Return what records an operation that ends with an error."""

    def record(history: History) -> None:
        with suppress(type(error)), history.operation("back", 0):
            raise error

    return record


def unknown(history: History) -> None:
    """Record a sale of which nobody knows whether it took effect."""
    with history.operation("buy", "ann") as operation:
        operation.unknown()


ENDINGS = [
    (raising(LookupError("other text")), True),
    (raising(KeyError("a subclass")), True),
    (raising(ValueError("none")), False),
    (raising(TimeoutError()), True),
    (raising(asyncio.CancelledError()), True),
    (lambda history: sell(history, "ann", "sold"), True),
    (lambda history: sell(history, "ann", "sold out"), False),
    (unknown, True),
]


def test_how_operations_end(asyncframe: Probe) -> None:
    """Errors are compared by class, and what did not end may have taken effect or not."""
    for record, is_right in ENDINGS:
        history = asyncframe.linearizable(Stock)
        record(history)
        if is_right:
            history.check()
        else:
            with pytest.raises(AssertionError, match=r"^not linearizable: (.|\n)+$"):
                history.check()


def test_a_lost_sale_explains_both(asyncframe: Probe) -> None:
    """After a request without an answer, the last ticket may be there or not."""
    for result in ("sold", "sold out"):
        history = asyncframe.linearizable(Stock)
        unknown(history)
        sell(history, "bob", result)
        history.check()


async def test_a_stand_in_is_the_real_object(asyncframe: Probe) -> None:
    """Plain methods, coroutines and awaitables are recorded until their result is there."""
    history = asyncframe.linearizable(Values, key="key")
    real = Stale()
    cache = history.watch(real)
    assert isinstance(cache, Stale)
    assert cache.values is real.values
    await cache.put("a", 1)
    reading = cache.later("a")
    await cache.put("a", 2)
    assert (await reading, await cache.slow("a")) == (2, 2)
    history.check()

    assert cache.get("a") == 1
    with pytest.raises(AssertionError, match=r"^not linearizable: (.|\n)+$") as caught:
        history.check()
    assert "put('a', 2)" in str(caught.value)
    assert not re.search("later|slow", str(caught.value))


def test_a_dict_is_a_model(asyncframe: Probe) -> None:
    """Special methods are recorded, and so is what a dict shows of itself at that moment."""
    history = asyncframe.linearizable(dict)
    real: dict[str, int] = {}
    cache = history.watch(real)
    cache["a"] = 1
    assert "a" in cache
    assert (cache["a"], len(cache), [*cache]) == (1, 1, ["a"])
    assert list(cache.items()) == [("a", 1)]
    del cache["a"]
    with pytest.raises(KeyError, match=r"^'a'$"):
        cache["a"]
    assert not cache
    history.check()
    real["b"] = 2
    assert cache.get("b") == 2
    with pytest.raises(AssertionError, match=r"^not linearizable: (.|\n)+$"):
        history.check()


@pytest.mark.asyncframe(mode="threads")
def test_threads(asyncframe: Probe) -> None:
    """Operations on several threads, at the same time, are explained by some order."""
    history = asyncframe.linearizable(lambda: Stock(left=2))
    real, lock = Stock(left=2), threading.Lock()
    gate = threading.Barrier(4)

    def buying(who: str) -> None:
        gate.wait()
        with history.operation("buy", who) as operation, lock:
            operation.result = real.buy(who)

    threads = [threading.Thread(target=buying, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history.check()
    assert repr(history) == "<history of 4 operations, model Stock>"


# ------------------------------------------------------------------ what is refused


class Coroutines:
    """A model that is none."""

    async def get(self) -> None:
        """Do nothing."""


SHARED = Stock()


REFUSED: list[tuple[Callable[[Probe], object], type[Exception], str]] = [
    (lambda it: it.linearizable(cast("Any", Stock())), TypeError, "model must be a class, or"),
    (lambda it: it.linearizable(lambda: SHARED), TypeError, "model must make a new model"),
    (lambda it: it.linearizable(Coroutines), TypeError, "Coroutines.get() is a coroutine"),
    (lambda it: it.linearizable(object), TypeError, "the model <object object at"),
    (lambda it: it.linearizable(Stock, states=0), ValueError, "states must be 1 or more"),
    (lambda it: it.linearizable(Stock).watch([]), TypeError, "[] has none of the methods of"),
    (lambda it: it.linearizable(Stock).operation("x"), AttributeError, "Stock has no method"),
    (lambda it: it.linearizable(Stock).operation("buy"), TypeError, "Stock.buy(): missing"),
    (
        lambda it: it.linearizable(Stock, key="who").operation("back", 1),
        TypeError,
        "Stock.back() has no parameter 'who', so it concerns all of them",
    ),
    (lambda it: it.linearizable(Stock).check(), RuntimeError, "no operation was recorded"),
]


def test_what_is_refused(asyncframe: Probe) -> None:
    """Each wrong use says what is wrong, where it is made."""
    for use, error, text in REFUSED:
        with pytest.raises(error, match=rf"^{re.escape(text)}"):
            use(asyncframe)
    # An empty one would fail this test at its end.
    asyncframe._toolkit.histories.clear()


def test_a_search_gives_up(asyncframe: Probe) -> None:
    """After so many states the check says that it has found nothing out."""
    history = asyncframe.linearizable(lambda: Stock(left=9), states=20)
    operations = [history.operation("buy", who) for who in "abcdefghij"]
    for operation in operations:
        operation.__enter__()
    for operation in operations:
        operation.result = "sold"
        operation.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match=r"^gave up after 20 states: 10 operations of Stock "):
        history.check()
    with pytest.raises(RuntimeError, match=r"^the operation buy has begun before: make a new one$"):
        operation.__enter__()


# ------------------------------------------------------------------ at the end of a test

ENDS = """
import asyncio
import pytest
from framework import current_task

class Stock:
    def __init__(self): self.left = 1
    def buy(self, who):
        self.left -= 1
        return self.left >= 0

@pytest.mark.interleave(level="framework")
def test_explored(asyncframe):
    left = [1]
    history = asyncframe.linearizable(Stock)
    def sell():
        if left[0]:
            current_task().report_progress(0.5)
            left[0] -= 1
            return True
        return False
    def buying(who):
        with history.operation("buy", who) as operation:
            operation.result = sell()
    for who in ("ann", "bob"):
        asyncframe.manager.submit_nowait(buying, (who,))
    asyncframe.run_until_idle()

def test_empty(asyncframe):
    asyncframe.linearizable(Stock)

def test_failed_before(asyncframe):
    history = asyncframe.linearizable(Stock)
    with history.operation("buy", "ann"): pass
    assert not "of its own"

def test_checked(asyncframe):
    history = asyncframe.linearizable(Stock)
    with history.operation("buy", "ann"): pass
    with pytest.raises(AssertionError): history.check()

async def test_never_ended(asyncframe):
    history = asyncframe.linearizable(Stock)
    async def buying(who):
        async with history.operation("buy", who) as operation:
            await asyncio.Event().wait()
    asyncio.create_task(buying("ann"))
    await asyncio.sleep(1)
"""


def test_the_end_of_a_test(pytester: pytest.Pytester) -> None:
    """A history that was not checked is, in each explored run too, unless the test has failed."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(test_it=ENDS)
    result = pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=2, failed=3)
    result.stdout.re_match_lines(
        [
            r"not linearizable: by the model Stock, no order of these operations explains .*",
            r"  1  buy\('ann'\)  returned True  buying#\w+  at 0 s  \|-----\|",
            r"  2  buy\('bob'\)  returned True  buying#\w+  at 0 s    \|-\|",
            r"the history was made at .*test_it.py:\d+ in test_explored",
            r"minimised: 1 switch \(from \d\)",
            r"replay: pytest .*",
            r"no operation was recorded to be compared with Stock: .*",
            r".*assert not 'of its own'",
        ]
    )
    assert sum(line.startswith("not linearizable") for line in result.outlines) == 1
