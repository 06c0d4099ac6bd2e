"""Thousands of ids over processes that are killed, suspended and ended: what is said of each.

The functions of the tasks write down when they begin and end, in a file of their own. That is
compared with what every process says of each id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.telling.crowds import FAULTS, crowd
from tests.processes.telling.hearing import lies

BACK_ENDS = {
    "memory": ("", ""),
    "sqlite": ("sqlite_url", ""),
    "postgres": ("postgres_url", ""),
    "redis": ("", "redis_server"),
    "redis+sqlite": ("sqlite_url", "redis_server"),
    "rabbitmq": ("", "rabbit_server"),
    "rabbitmq+postgres": ("postgres_url", "rabbit_server"),
}
"""The fixtures of a back end's store, and of the broker from which Celery workers take tasks."""


def cases() -> Iterator[Any]:
    """Yield each back end with each fault that it may have."""
    for name, (_, broker) in BACK_ENDS.items():
        for fault in FAULTS:
            alone = name == "memory"
            near = fault in ("tasks cancelled", "apps drained")
            far = fault.startswith(("workers", "pool", "redis"))
            if near if alone else fault != "apps drained" and (broker or not far):
                yield pytest.param(name, fault, id=f"{name}-{fault.replace(' ', '_')}")


@pytest.mark.soak
@pytest.mark.extended("processes")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "fault"), list(cases()))
def test_what_is_said_of_each_id(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
    fault: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever happens to the processes, all of them say the same of each id, and it is true."""
    store, broker = (one and request.getfixturevalue(one) for one in BACK_ENDS[name])
    redis = request.getfixturevalue("redis_server") if broker else None
    url, what, apps = broker and broker.url, FAULTS[fault], 1 if name == "memory" else 3
    with crowd(tmp_path, store, url, redis, apps) as made:
        for _ in range(what.times):
            made.submit(3 * what.many // apps)
            what.do(made)
        made.judge(made.look())
    record_property("ids", made.ids)
    record_property("ends", dict(made.ends))
    record_property("found", dict(made.found))
    assert made.ids > 500
    assert dict(made.found) == {}


ACCEPTED: dict[str, tuple[str, str]] = {
    "a": ("plain", "1"),
    "b": ("requeued", "1"),
    "c": ("limited", "2"),
}
GOOD: dict[str, Any] = {
    "a": ["interrupted", None, 1, ""],
    **{one: ["completed", one, 1, ""] for one in "bc"},
}
DONE = """\
begin a 1 plain 0
dead 1
begin b 2 requeued 0
begin c 2 limited 0
end b 2 requeued 0
end c 2 limited 0
"""


WRONG: list[tuple[dict[str, Any], str, set[str]]] = [
    ({}, "", set()),
    ({"a": None}, "", {"unknown: plain"}),
    ({"b": ["running", None, 1, ""]}, "", {"never ended: requeued"}),
    ({"b": ["interrupted", None, 1, ""]}, "", {"interrupted without a cause: requeued"}),
    ({"b": ["failed", None, 1, ""]}, "", {"failed without a cause: requeued"}),
    (
        {"b": ["failed", None, 0, "it could not be started"]},
        "",
        {"failed without a cause: requeued"},
    ),
    ({"b": ["completed", "a", 1, ""]}, "", {"wrong result: requeued"}),
    ({"a": ["completed", "a", 1, ""]}, "", {"completed without an end: plain"}),
    (
        {"c": ["cancelled", None, 0, "it was cancelled before it started"]},
        "",
        {
            "cancelled without a cause: limited",
            "cancelled, and ended: limited",
            "cancelled before it started, and begun: limited",
        },
    ),
    ({}, "begin b 2 requeued 0", {"doubled: requeued"}),
    ({}, "begin x 2 limited 0\nbegin y 2 limited 0", set()),
    (
        {},
        "begin x 2 limited 0\nbegin y 2 limited 0\nbegin z 2 limited 0",
        {"too many at a time: limited"},
    ),
    ({}, "begin x 2 limited 0\nbegin y 2 limited 0\ndead 2\nbegin z 3 limited 0", set()),
]
"""What is changed in what is said, what more is done, and what is found then."""


def test_lies_are_found() -> None:
    """Each thing that must not be is found, and nothing where all is as it should be."""
    for changed, more, found in WRONG:
        assert set(lies(ACCEPTED, [{**GOOD, **changed}], DONE + more)) == found
    # Two processes differ, or one says otherwise than what came of a cancellation.
    other = {**GOOD, "b": ["failed", None, 2, ""]}
    assert lies(ACCEPTED, [GOOD, other], DONE) == {
        "said differently: requeued": 1,
        "other results: requeued": 1,
        "other attempts: requeued": 1,
        "failed without a cause: requeued": 1,
    }
    # One that never began has failed only if a submission was refused.
    unstarted = {**GOOD, "b": ["failed", None, 0, "it could not be started"]}
    text = DONE.replace("begin b 2 requeued 0\n", "").replace("end b 2 requeued 0\n", "")
    assert set(lies(ACCEPTED, [unstarted], text)) == {"could not be started: requeued"}
    assert lies(ACCEPTED, [unstarted], text, refused={"requeued": 1}) == {}
    assert set(lies(ACCEPTED, [GOOD], DONE, asked={"b": "cancelled"})) == {
        "cancelled, and then not: requeued"
    }
    # On a worker, a task whose process died may begin again, and one whose process lives not.
    text = "begin a 1 plain 0\ndead 1\nbegin a 2 plain 0\nend a 2 plain 0\n"
    accepted = {"a": ("plain", "9")}
    said: list[dict[str, Any]] = [{"a": ["completed", "a", 2, ""]}]
    assert lies(accepted, said, text, far=True) == {}
    assert lies(accepted, said, text) == {"doubled: plain": 1}
    assert lies(accepted, said, text.replace("dead 1\n", ""), far=True) == {"doubled: plain": 1}
