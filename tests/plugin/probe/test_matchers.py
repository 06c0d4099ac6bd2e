"""Which function and which arguments a matcher refers to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest

from framework import background_task, retry_task, throttled_task
from pytest_asyncframe.probe import Probe


@background_task
def send(to: str, copies: int = 1) -> str:
    """Pretend to send."""
    return to * copies


@background_task(name="nightly report")
def count_pages() -> None:
    """Do nothing, as a task with a name of its own."""


class Mailer:
    """Something with methods that are tasks."""

    @background_task
    def post(self, to: str) -> None:
        """Do nothing."""

    @staticmethod
    @background_task
    def push(to: str) -> None:
        """Do nothing."""

    @classmethod
    @background_task
    def make(cls, to: str) -> None:
        """Do nothing."""

    def note_down(self, to: str, cc: str = "") -> None:
        """Do nothing, without being a task."""


def raised_by(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the text of the assertion error that a call raises."""
    with pytest.raises(AssertionError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# -- names


def test_a_name_with_or_without_its_module(asyncframe: Probe) -> None:
    """A function is found by its name alone, or by any part of its dotted name."""
    send("ann")
    asyncframe.run_until_idle()

    for name in ("send", "test_matchers.send", f"{send.__module__}.send"):
        asyncframe.assert_submitted(name, "ann")
        assert len(asyncframe.submitted(name)) == 1
        assert asyncframe.rate(name).starts == (0,)
        raised_by(asyncframe.assert_not_submitted, name)


def test_a_name_before_anything_is_submitted(asyncframe: Probe) -> None:
    """A decorated function is found by name even if it was not submitted."""
    asyncframe.assert_not_submitted("send")
    asyncframe.assert_not_submitted("Mailer.post")
    asyncframe.expect_failure("send", ValueError, times=0)
    assert asyncframe.submitted("send") == []


def test_an_unknown_name(asyncframe: Probe) -> None:
    """A mistyped name is an error of every matcher, with the most similar names."""
    for ask in (
        asyncframe.assert_submitted,
        asyncframe.assert_not_submitted,
        asyncframe.submitted,
        asyncframe.calls,
        asyncframe.rate,
        asyncframe.delays,
        functools.partial(asyncframe.expect_failure, exc=ValueError, times=0),
    ):
        with pytest.raises(
            LookupError,
            match=r"^no decorated function and no task of this test is named 'sned'\. Did you mean "
            rf".*{send.__module__}\.send.*\? Pass the function itself, or its name with or without "
            r"the module\.$",
        ):
            ask("sned")


def test_part_of_a_word_is_no_name(asyncframe: Probe) -> None:
    """A name matches only after a dot: 'end' does not match 'send'."""
    with pytest.raises(LookupError, match=r"^no decorated function .* is named 'end'\. "):
        asyncframe.assert_not_submitted("end")


def test_a_name_of_several_functions(asyncframe: Probe) -> None:
    """A name that two functions have is an error that shows both."""

    class Pager:
        @background_task
        def post(self) -> None: ...

    with pytest.raises(LookupError, match=r"^several functions are named 'post': ") as caught:
        asyncframe.assert_not_submitted("post")

    assert "Mailer.post" in str(caught.value)
    assert "Pager.post" in str(caught.value)
    asyncframe.assert_not_submitted("Pager.post")
    asyncframe.assert_not_submitted(Pager.post)


def test_a_name_of_collected_functions(asyncframe: Probe) -> None:
    """A function that nobody refers to any more does not make a name ambiguous."""

    def inner() -> None:
        @background_task
        def report_twice() -> None: ...

        cycle: list[object] = [report_twice]
        cycle.append(cycle)

    inner()

    @background_task
    def report_twice() -> None: ...

    asyncframe.assert_not_submitted("report_twice")


def test_a_given_name(asyncframe: Probe) -> None:
    """A task is found by its own name and by the name of its function."""
    count_pages()
    send.options(name="urgent")("ann")
    asyncframe.run_until_idle()

    asyncframe.assert_submitted("nightly report", times=1)
    asyncframe.assert_submitted("count_pages", times=1)
    asyncframe.assert_submitted("urgent", "ann", times=1)
    asyncframe.assert_submitted("send", "ann", times=1)


def test_an_undecorated_function(asyncframe: Probe) -> None:
    """An undecorated function is found by name only after it was submitted."""

    def weigh(number: int) -> int:
        return number

    with pytest.raises(LookupError, match=r"^no decorated function .* is named 'weigh'\. "):
        asyncframe.assert_not_submitted("weigh")
    asyncframe.assert_not_submitted(weigh)

    asyncframe.manager.submit_nowait(weigh, (3,))
    asyncframe.manager.submit_nowait(lambda: 4)
    asyncframe.run_until_idle()

    asyncframe.assert_submitted("weigh", 3)
    asyncframe.assert_submitted(weigh, number=3)
    asyncframe.assert_submitted("<lambda>", times=1)


def test_names_outside_of_tasks(asyncframe: Probe) -> None:
    """A throttled or retried function that is not a task is found by its bare name."""

    @retry_task(retry_delay=3)
    @throttled_task(rate_limit=2, time_window=10, when_limited="wait")
    def ask_again() -> None:
        if len(asyncframe.rate("ask_again").starts) == 1:
            raise OSError

    ask_again()

    assert asyncframe.delays("ask_again") == [3]
    assert asyncframe.rate("ask_again").starts == (0, 3)


def test_neither_function_nor_name(asyncframe: Probe) -> None:
    """Anything but a function or a name is rejected."""
    with pytest.raises(TypeError, match=r"^fn must be a decorated function or its name, not 7$"):
        asyncframe.assert_not_submitted(7)  # type: ignore[arg-type]  # the point of the test


def test_functions_of_other_test_modules(pytester: pytest.Pytester) -> None:
    """A function of another test module does not make a name ambiguous."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    source = """
    from framework import background_task

    @background_task
    def send(): pass

    def test_it(asyncframe):
        asyncframe.assert_not_submitted("send")
        send()
        asyncframe.run_until_idle()
        asyncframe.assert_submitted("send", times=1)
    """
    pytester.makepyfile(test_one=source, test_two=source)

    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_a_function_of_another_test_module_by_name(pytester: pytest.Pytester) -> None:
    """For a name in another test module, the error says to pass the function."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(
        test_one="""
        from framework import background_task

        @background_task
        def mail_it(): pass

        def test_it(asyncframe):
            asyncframe.assert_not_submitted("mail_it")
        """,
        test_two="""
        import pytest
        from test_one import mail_it

        def test_it(asyncframe):
            with pytest.raises(
                LookupError,
                match=r"^'mail_it' is the name of test_one.mail_it in other test modules, whose "
                "functions are not found by name: pass the function itself$",
            ):
                asyncframe.assert_not_submitted("mail_it")
            mail_it()
            asyncframe.run_until_idle()
            asyncframe.assert_submitted("mail_it", times=1)
        """,
    )

    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)


# -- arguments


def test_arguments_as_python_binds_them(asyncframe: Probe) -> None:
    """It does not matter how arguments are passed, or whether defaults are written out."""
    send("ann")
    send(to="ben", copies=1)
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(send, to="ann")
    asyncframe.assert_submitted(send, "ann", 1)
    asyncframe.assert_submitted(send, "ben", times=1)
    asyncframe.assert_submitted("send", "ben", copies=1, times=1)
    assert raised_by(asyncframe.assert_submitted, send, "ann", 2).endswith(
        ".send('ann')\n    copies: 1, expected 2\n"
        f"  {send.__module__}.send(to='ben', copies=1)\n"
        "    to: 'ben', expected 'ann'\n    copies: 1, expected 2"
    )


def test_no_arguments_match_any_call(asyncframe: Probe) -> None:
    """Without arguments any call matches, so that the two assertions never both fail."""
    send("ann")
    send("ben", 2)
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(send)
    asyncframe.assert_submitted(send, times=2)
    asyncframe.assert_not_submitted(send, "cid")
    assert raised_by(asyncframe.assert_submitted, send, times=1) == (
        "send was submitted twice, expected once" + 2 * "\n  submitted at a place no longer known"
    )
    assert raised_by(asyncframe.assert_not_submitted, send, "ben", 2).startswith(
        "send('ben', 2) was submitted once, expected never:\n"
    )


def test_all_calls(asyncframe: Probe) -> None:
    """calls() returns the arguments of each task, with defaults."""

    def gather(*parts: int, **more: int) -> None: ...

    send("ann")
    send("ben", copies=2)
    asyncframe.manager.submit_nowait(gather)
    asyncframe.manager.submit_nowait(gather, (1, 2), {"three": 3})
    asyncframe.run_until_idle()

    assert asyncframe.calls(send) == [{"to": "ann", "copies": 1}, {"to": "ben", "copies": 2}]
    assert asyncframe.calls("gather") == [
        {"parts": (), "more": {}},
        {"parts": (1, 2), "more": {"three": 3}},
    ]
    asyncframe.assert_submitted(gather, 1, 2, three=3)


def test_arguments_that_do_not_fit(asyncframe: Probe) -> None:
    """Arguments that the function does not take are a TypeError."""
    send("ann")
    asyncframe.run_until_idle()
    told = r" was given send\('ann', cc='ben'\), which does not fit send: got an unexpected keyword"

    for fn in (send, "send"):
        with pytest.raises(TypeError, match=rf"^assert_submitted\(\){told}"):
            asyncframe.assert_submitted(fn, "ann", cc="ben")
        with pytest.raises(TypeError, match=rf"^assert_not_submitted\(\){told}"):
            asyncframe.assert_not_submitted(fn, "ann", cc="ben")
    with pytest.raises(TypeError, match=r"^times must be a whole number, not 1\.5$"):
        asyncframe.assert_submitted(send, times=1.5)  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match=r"^times must be 0 or more, not -1$"):
        asyncframe.assert_submitted(send, times=-1)
    with pytest.raises(TypeError, match=r"^exc must be an exception class, such as ValueError"):
        asyncframe.expect_failure(send, ValueError("no"))  # type: ignore[arg-type]  # the point


def test_methods(asyncframe: Probe) -> None:
    """A method is matched as it is called; the object matters only if arguments are passed."""
    one, other = Mailer(), Mailer()
    one.post("ann")
    Mailer.push("ben")
    one.make("cid")
    asyncframe.manager.submit_nowait(one.note_down, ("dan",))
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(one.post, "ann")
    asyncframe.assert_submitted(Mailer.post, one, to="ann")
    asyncframe.assert_submitted("Mailer.post", ANY, "ann")
    asyncframe.assert_submitted(other.post)
    asyncframe.assert_not_submitted(other.post, "ann")
    asyncframe.assert_submitted(Mailer.push, to="ben")
    asyncframe.assert_submitted(Mailer.make, to="cid")
    asyncframe.assert_submitted(one.note_down, "dan", cc="")
    asyncframe.assert_submitted("note_down", "dan")


def test_partials_and_objects(asyncframe: Probe) -> None:
    """A partial matches its function with the bound arguments; a callable object is itself."""

    class Job:
        def __call__(self, number: int = 0) -> None: ...

    def add_up(left: int, right: int) -> None: ...

    job = Job()
    asyncframe.manager.submit_nowait(functools.partial(add_up, 1), (2,))
    asyncframe.manager.submit_nowait(job, (0,))
    asyncframe.manager.submit_nowait(int)
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(add_up, 1, right=2)
    asyncframe.assert_submitted("add_up", 2)
    asyncframe.assert_submitted(functools.partial(add_up, right=2), 1)
    asyncframe.assert_not_submitted(add_up, 1, 3)
    asyncframe.assert_submitted(job, number=0)
    asyncframe.assert_submitted("Job")
    asyncframe.assert_submitted(int)


def test_arguments_that_compare_strangely(asyncframe: Probe) -> None:
    """The test's value decides; a value that cannot be compared equals only itself."""

    class Array:
        def __eq__(self, other: object) -> Any:
            raise ValueError("the truth of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]  # as arrays have it

        def __repr__(self) -> str:
            return "array"

    def work(value: object) -> None: ...

    array, nan = Array(), float("nan")
    for value in (array, nan, 0.1 + 0.2):
        asyncframe.manager.submit_nowait(work, (value,))
    asyncframe.run_until_idle()

    asyncframe.assert_submitted(work, array, times=1)
    asyncframe.assert_submitted(work, nan, times=1)
    asyncframe.assert_submitted(work, pytest.approx(0.3), times=1)
    asyncframe.assert_submitted(work, ANY, times=3)
    assert "value: array, expected array (they look the same but are not equal)" in raised_by(
        asyncframe.assert_submitted, work, Array()
    )
