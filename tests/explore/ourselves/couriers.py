"""Scenarios of `Courier`: what is handed in, tried again, and left at the end."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from framework._threads import courier as _courier
from framework._threads.courier import LAST, PAUSES, Courier
from tests.explore.ourselves.run import Run


class AwayError(Exception):
    """What a call raises while a server is away."""


def hand_in_or_close(run: Run) -> None:
    """Calls come from two threads while a third one closes: accepted ones are made once."""
    courier, made, taken = Courier("courier", clock=run.clock), list[str](), list[str]()

    def put(name: str) -> Callable[[], None]:
        def hand_in() -> None:
            for word in (f"{name}1", f"{name}2"):
                if courier.put(lambda word=word: made.append(word)):  # type: ignore[misc]  # bound early
                    taken.append(word)

        return hand_in

    run.together(put("a"), put("b"), lambda: courier.close(5.0))
    assert sorted(made) == sorted(taken)
    assert [one for one in made if one[0] == "a"] == sorted(one for one in made if one[0] == "a")
    assert not courier.put(bool)
    assert not courier.wake()
    assert not courier.is_running


def try_again(run: Run) -> None:
    """A call that fails twice holds up the next one, and each is made until it returns."""
    made, errors = list[tuple[str, float]](), list[Exception]()
    courier = Courier("courier", failed=errors.append, clock=run.clock)
    began = run.clock.monotonic()

    def call(name: str) -> None:
        made.append((name, round(run.clock.monotonic() - began, 6)))
        if name == "a" and len(made) < 3:
            raise AwayError

    run.together(lambda: courier.put(lambda: call("a")), courier.flush)
    courier.put(lambda: call("b"))
    courier.close(5.0)
    first, second, third, last = (moment for _, moment in made)
    assert [name for name, _ in made] == ["a", "a", "a", "b"]
    # `close` may end one pause, so that the last seconds are used.
    paused = (second - first >= PAUSES[0] - 1e-6, third - second >= PAUSES[1] - 1e-6)
    assert any(paused)
    assert last >= third
    assert len(errors) == 2
    assert not courier.is_failing


def turn_or_wake(run: Run) -> None:
    """A turn begins after each wake, also after one that comes while a turn is taken."""
    asked, seen = list[int](), list[int]()

    def turn() -> float | None:
        seen.append(len(asked))
        run.sleep(0.01)
        return None

    courier = Courier("courier", turn, clock=run.clock)

    def wake() -> None:
        asked.append(1)
        assert courier.wake()

    run.together(wake, wake, courier.flush)
    courier.flush()
    assert seen[-1] == 2
    assert len(seen) <= 2
    courier.close(5.0)


def close_while_it_fails(run: Run) -> None:
    """What fails for ever ends with the patience, and is not tried after that."""
    tries, ended = list[float](), list[bool]()

    def turn() -> float | None:
        tries.append(run.clock.monotonic())
        raise AwayError

    courier = Courier(
        "courier", turn, pauses=(0.3,), ended=lambda: ended.append(True), clock=run.clock
    )
    took = list[float]()

    def close() -> None:
        began = run.clock.monotonic()
        courier.close(1.0)
        took.append(run.clock.monotonic() - began)

    run.together(courier.wake, close)
    courier.close(1.0)
    many = len(tries)
    run.sleep(5.0)
    assert took[0] <= 1.0 + LAST + 1e-3
    assert len(tries) == many <= 6
    assert len(ended) == (1 if tries else 0)
    assert not courier.is_running


def put_in_a_forked_child(run: Run) -> None:
    """A child that was forked while the lock was held has a lock and a thread of its own."""
    courier, made = Courier("courier", clock=run.clock), list[str]()
    courier.put(lambda: made.append("parent"))
    courier.flush()
    held = courier._condition
    with held:
        run.replace(_courier, "os", SimpleNamespace(getpid=lambda: -1))
        courier.put(lambda: made.append("child"))
        courier.close(5.0)
        assert made == ["parent", "child"]
        # The parent's thread, which no real child has, sees that it is to end.
        held.notify_all()


SCENARIOS: list[Callable[[Run], None]] = [
    hand_in_or_close,
    try_again,
    turn_or_wake,
    close_while_it_fails,
    put_in_a_forked_child,
]
