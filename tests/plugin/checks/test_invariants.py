"""What a test says must always hold: where it is checked, and what a broken one tells."""

from __future__ import annotations

import re
from typing import Any

import pytest

from framework import background_task
from pytest_asyncframe.probe import Probe
from tests.plugin.endings import LOOPS, PASSED, PLAIN, Ending

SHOP = """
    import pytest
    from framework import background_task, get_task_manager

    class Shop:
        sold, stock = 0, 2

    shop = Shop()

    @pytest.fixture(autouse=True)
    def new_shop():
        shop.sold = 0

    @background_task
    def buy():
        shop.sold += 1

"""
HELD = "asyncframe.always(lambda: shop.sold <= shop.stock)"


def normal(text: str) -> str:
    """Return a text without ids, times and numbers of threads."""
    text = re.sub(r"#[0-9a-f]{8}", "#ID", text)
    return re.sub(r"[\d.e-]+ s after", "AT s after", text)


@pytest.mark.parametrize("mode", ["auto", "virtual", "seeded", "threads"])
def test_where_it_was_first_false(ending: Ending, mode: str) -> None:
    """The test fails in its call, with the event, the task, the predicate and its line."""
    told = ending(
        f"""{SHOP}
    @pytest.mark.asyncframe(mode="{mode}")
    def test_it(asyncframe):
        {HELD}
        for _ in range(4):
            asyncframe.run_until_complete(buy())
        shop.sold = 0
    """
    )

    assert normal(told) == (
        "call: always() is false at the event completed of buy#ID, AT s after the test began:\n"
        f"    {HELD}\n"
        "    test_it.py:20 in test_it.<locals>.<lambda>"
    )


def test_one_that_holds(ending: Ending) -> None:
    """A predicate that is true at every event costs the test nothing."""
    told = ending(f"""{SHOP}
    async def test_it(asyncframe):
        {HELD}
        for _ in range(2):
            await asyncframe.completed(buy())
    """)

    assert told == PASSED


def test_the_test_itself_breaks_it(ending: Ending) -> None:
    """It is checked once more when the test function has ended, and not after that."""
    told = ending(f"""{SHOP}
    async def test_it(asyncframe):
        {HELD}
        shop.sold = 3

    def test_fixtures_may_break_it(asyncframe, request):
        {HELD}

        def end():
            shop.sold = 3
            buy()
            asyncframe.run_until_idle()

        request.addfinalizer(end)
    """)

    assert normal(told) == (
        "call: always() is false at the end of the test, AT s after the test began:\n"
        f"    {HELD}\n"
        "    test_it.py:19 in test_it.<locals>.<lambda>"
    )


def test_all_that_are_broken_are_told(ending: Ending) -> None:
    """Each predicate is told once, where it was first false; the others go on."""
    told = ending(f"""{SHOP}
    def test_it(asyncframe):
        asyncframe.always(lambda: shop.sold < 2)
        asyncframe.always(lambda: shop.sold < 1)
        for _ in range(3):
            asyncframe.run_until_complete(buy())
    """)

    assert re.findall(r"shop.sold < \d", told) == ["shop.sold < 1", "shop.sold < 2"]


def test_an_error_of_the_test_comes_first(pytester: pytest.Pytester) -> None:
    """A test that fails by itself keeps its error; the timeline says what else was broken."""
    pytester.makepyfile(
        test_it="""
        from framework import background_task
        numbers = []

        @background_task
        def add():
            numbers.append(1)

        def test_it(asyncframe):
            asyncframe.always(lambda: not numbers)
            asyncframe.run_until_complete(add())
            assert numbers == [2]
        """
    )

    result = pytester.runpytest(*PLAIN, *LOOPS)

    result.stdout.fnmatch_lines(
        [
            "E * assert [[]1] == [[]2]",
            "*task timeline*",
            "*always() is false: asyncframe.always(lambda: not numbers)*",
        ]
    )


# -- predicates


@background_task
def work() -> None:
    """Do nothing."""


def test_a_decorator(asyncframe: Probe) -> None:
    """It returns the predicate, so a function can be decorated with it."""
    calls: list[int] = []

    @asyncframe.always
    def counted() -> bool:
        calls.append(1)
        return True

    asyncframe.run_until_complete(work())

    assert len(calls) == 4  # at once, submitted, started, completed
    assert counted()


def test_a_predicate_may_use_the_framework(asyncframe: Probe) -> None:
    """A predicate that causes events itself is not called again by them."""
    depths: list[int] = []

    def nested() -> bool:
        depths.append(1)
        if len(depths) == 2:
            work()
        return asyncframe.manager.get_stats()["submitted"] < 10

    asyncframe.always(nested)
    asyncframe.run_until_complete(work())
    asyncframe.run_until_idle()

    assert len(depths) == 6  # at once, three events, and two of the task that it submitted


def test_false_from_the_start(asyncframe: Probe) -> None:
    """A predicate that is false already is an error at that line."""
    with pytest.raises(AssertionError, match=r"^always\(\) is false from the start:\n    async"):
        asyncframe.always(lambda: False)


def needs_one(one: int) -> bool:
    """Take a parameter."""
    return bool(one)


async def waits() -> bool:
    """Be a coroutine function."""
    return True


def starts_one() -> object:
    """Return a coroutine."""
    return waits()


def forgets() -> None:
    """Return nothing."""


NO_PREDICATES: tuple[tuple[Any, str], ...] = (
    (True, r"always\(\) takes a function, such as lambda: sold <= stock, not True"),
    (needs_one, r"always\(\) calls <function needs_one at .*> without arguments: missing .*"),
    (waits, r"always\(\) takes a plain function, not the coroutine function <.*>"),
    (starts_one, r"always\(\) takes a predicate, but .* returned an awaitable, .*"),
    (
        forgets,
        r"always\(\) takes a predicate, but .* returned None, and must return whether .*",
    ),
)


def test_what_is_no_predicate(asyncframe: Probe) -> None:
    """What cannot be called without arguments, or returns no truth, is refused at once."""
    for given, message in NO_PREDICATES:
        with pytest.raises(TypeError, match=f"^{message}$"):
            asyncframe.always(given)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / (2 - shop.sold)", "raised ZeroDivisionError: division by zero at the event"),
        ("pytest.fail('too many') if shop.sold else 1", "raised Failed: too many at the event"),
        ("None if shop.sold else 1", "returned None, and must return whether it holds at the"),
        ("check()", "is false (too many: 1) at the event"),
    ],
)
def test_other_ways_to_be_false(ending: Ending, body: str, told: str) -> None:
    """An error in a predicate is told as that, and so is the message of an assert."""
    text = ending(f"""{SHOP}
    def check():
        assert not shop.sold, f"too many: {{shop.sold}}"
        return True

    def test_it(asyncframe):
        asyncframe.always(lambda: {body})
        for _ in range(2):
            asyncframe.run_until_complete(buy())
    """)

    assert text.startswith(f"call: always() {told}")


def test_a_function_is_named_by_its_first_line(ending: Ending) -> None:
    """A decorated function is shown by its own line, not by that of the decorator."""
    told = ending(f"""{SHOP}
    def test_it(asyncframe):
        @asyncframe.always
        def few():
            return shop.sold < 1

        asyncframe.run_until_complete(buy())
    """)

    assert told.endswith(":\n    def few():\n    test_it.py:20 in test_it.<locals>.few")
