"""What `.ci/steady.py` finds in tests that fail on busy machines, and what it lets pass."""

from __future__ import annotations

from tests.ci.scripts import load

steady = load("steady")

FOUND = {
    "done.wait(10)": "wait waits for 10 s at most: take PATIENCE",
    "thread.join(timeout=0.5)": "join waits for 0.5 s at most: take PATIENCE",
    "await wait_for(task, 5)": "wait_for waits for 5 s at most: take PATIENCE",
    "await asyncio.wait_for(task, timeout=5)": "wait_for waits for 5 s at most: take PATIENCE",
    "begun = perf_counter()": (
        "perf_counter reads a real clock: wait for an event, or take virtual time"
    ),
    "@settings(deadline=100)\n    def inner(): ...": "deadline: no test has one",
    "with pytest.raises(ValueError): ...": "raises: match=r'^the whole message$'",
    "with pytest.raises(ValueError, match='bad'): ...": "raises: match begins with ^",
}
LEFT = [
    "done.wait(0)",
    "done.wait(60)",
    "done.wait(PATIENCE)",
    "done.wait(3)  # steady: the reason",
    "names.get('name', 3)",
    "', '.join(words)",
    "with pytest.raises(ValueError, match=r'^bad$'): ...",
    "with pytest.raises(ValueError) as caught: ...",
    "with pytest.raises(ValueError, match=re.escape(text)): ...",
]


def test_what_is_found() -> None:
    """Each place is found at its line, and told with what to do instead."""
    found = {code: steady.find(f"async def test_one(task_pool):\n    {code}\n") for code in FOUND}

    assert found == {code: [(2, told)] for code, told in FOUND.items()}


def test_what_is_left() -> None:
    """Long waits, virtual time, and lines that give a reason are left alone."""
    code = "".join(f"    {line}\n" for line in LEFT)
    virtual = "def test_two(asyncframe):\n    def inner():\n        done.wait(3)\n"

    assert steady.find(f"def test_one():\n{code}{virtual}") == []
