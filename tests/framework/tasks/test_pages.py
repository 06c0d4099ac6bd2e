"""Pages that are put together from two places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from framework._records.pages import PageQuery, key_of, with_own
from framework._records.records import Heading, TaskRecord
from framework._records.statuses import TaskStatus

PLACES = st.tuples(st.integers(0, 6), st.sampled_from("abcdefgh"))
"""When a task was submitted, and its id."""


def record(place: tuple[int, str]) -> TaskRecord:
    """Return the record of a task with this place."""
    made = TaskRecord()
    made.task_id, made.created_at = f"{place[1]}{place[0]}", float(place[0])
    made.heading, made.status, made.rest = Heading("task", ""), TaskStatus.COMPLETED, None
    return made


@given(
    st.sets(PLACES, max_size=30),
    st.sets(PLACES, max_size=15),
    st.integers(1, 5),
    st.integers(0, 50),
    st.booleans(),
    st.none() | PLACES,
)
def test_a_page_of_two_places(
    here: set[tuple[int, str]],
    there: set[tuple[int, str]],
    limit: int,
    offset: int,
    oldest_first: bool,
    after: tuple[int, str] | None,
) -> None:
    """A page has what a sorted list of both would have, however they alternate."""
    own = [record(place) for place in here]
    others = [record(place) for place in there - here]
    query = PageQuery(limit, offset=offset, oldest_first=oldest_first)
    if after is not None:
        query = replace(query, after=key_of(record(after)))
    asked: list[PageQuery] = []

    def fetch(page: PageQuery) -> Sequence[TaskRecord]:
        asked.append(page)
        return page.first(others)

    behind = query.in_order(filter(query.matches, own))
    assert with_own(query, behind, fetch) == query.first([*own, *others])
    # By halves: of 15 tasks, four or five looks.
    assert len(asked) <= 8


def test_all_here_come_first() -> None:
    """If what is here is newest, as live tasks mostly are, one look is enough."""
    own, others = [record((9, one)) for one in "abcd"], [record((1, one)) for one in "abcdefgh"]
    for offset in (0, 2, 4, 7):
        asked: list[PageQuery] = []

        def fetch(page: PageQuery, asked: list[PageQuery] = asked) -> Sequence[TaskRecord]:
            asked.append(page)
            return page.first(others)

        query = PageQuery(3, offset=offset)
        assert with_own(query, query.in_order(own), fetch) == query.first([*own, *others])
        assert len(asked) == 1
