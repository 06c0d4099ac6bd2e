"""The routes of the page: the page, its list, its facts, and a task's details."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query, Request, Response

from framework._manager.face.names import SeveralNamesError
from framework._manager.face.schedules import scheduled_names
from framework._manager.frameworks import get_task_manager, require_core
from framework._records import checks
from framework._records.statuses import TaskStatus
from framework.exceptions import ScheduleBusyError, ScheduleNotFoundError
from framework.http._access.access import Access
from framework.http._access.marker import marked
from framework.http._responses import checked_meta, refused_query
from framework.http.dashboard._bulk import Action, change_some
from framework.http.dashboard._course import Range, course_of
from framework.http.dashboard._facts import page_facts, row_of
from framework.http.dashboard._groups import By, groups_of
from framework.http.dashboard._page import page
from framework.http.dashboard._steps import questions_of, steps_of
from framework.http.views import view_of
from framework.steps import Message

_MOST: Final = 200
"""The most rows that one request may ask for; the page shows some forty at a time."""


def add_dashboard(
    router: APIRouter,
    access: Access,
    buttons: Mapping[str, str],
    messages: Sequence[Message[Any]],
) -> None:
    """Add the page and what it asks for to the routes that show tasks.

    Args:
        router: Gets the routes; they pass its dependencies.
        access: What they may show.
        buttons: For each label the path of a POST route of the app.
        messages: Those for which the router has routes.

    Raises:
        TypeError: If *buttons* is no mapping from strings to strings.
        ValueError: If a label is empty, or a path is none of the app.
    """
    _add_page(router)
    _add_facts(router, access, _checked_buttons(buttons))
    _add_details(router, access, messages)
    if access.owner is None:
        _add_schedules(router, access)


def _checked_buttons(buttons: object) -> dict[str, str]:
    if not isinstance(buttons, Mapping):
        raise TypeError(
            'buttons must be a dict such as {"Send a report": "/reports"}, not '
            f"{checks.show(buttons)}"
        )
    for label, path in buttons.items():
        checks.filled_text("a label of buttons", label)
        # Two slashes would begin the name of another host.
        if not checks.text(f"buttons[{label!r}]", path).startswith("/") or path[1:2] in ("/", "\\"):
            raise ValueError(
                f"buttons[{label!r}] must be the path of a route of the app, such as '/reports', "
                f"not {checks.show(path)}"
            )
    return dict(buttons)


def _add_page(router: APIRouter) -> None:
    body, headers = page()

    @router.get("/dashboard", include_in_schema=False)
    @router.head("/dashboard", include_in_schema=False)
    async def show_dashboard(request: Request) -> Response:
        """Return the page."""
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(None, 304, headers)
        return Response(body, 200, headers, "text/html; charset=utf-8")


async def _asked(
    name: str | None = None,
    label: str | None = None,
    owner: str | None = None,
    meta: Annotated[str | None, Query(max_length=2_000)] = None,
    search: Annotated[str | None, Query(max_length=255)] = None,
    ended: Annotated[str | None, Query(pattern=r"^\d{1,11}-\d{1,11}$")] = None,
    scheduled: bool = True,
) -> dict[str, Any]:
    """Return what the list is asked for, apart from states, as `Access.tasks` takes it."""
    try:
        checks.owner("owner", owner or None)
    except ValueError as error:
        raise refused_query("owner", str(error), owner) from None
    exact = {"name": name, "label": label, "owner": owner, "meta": checked_meta(meta)}
    query = {key: value or None for key, value in exact.items()} | {"search": search}
    return {**query, "without": await _left_out(scheduled), **_ended_in(ended)}


_Asked: TypeAlias = Annotated[dict[str, Any], Depends(_asked)]


def _add_facts(router: APIRouter, access: Access, buttons: Mapping[str, str]) -> None:
    @router.get("/dashboard/list", include_in_schema=False)
    async def list_rows(
        request: Request,
        query: _Asked,
        status: Annotated[list[TaskStatus] | None, Query()] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
    ) -> Response:
        """Return some rows of the list, and how many it has in all."""
        owner, paged = access.owner_of(request), {"offset": offset, "limit": limit}
        with _one_name(query["name"]):
            found = await access.tasks(owner, status=status or None, **paged, **query)
        rows = [row_of(task) for task in found.tasks]
        return _answer(request, access, {"total": found.total, "rows": rows})

    @router.post(
        "/dashboard/all/{action}",
        include_in_schema=False,
        **marked({}, csrf_header=access.csrf_header),
    )
    async def change_all(
        action: Action,
        request: Request,
        query: _Asked,
        status: Annotated[list[TaskStatus] | None, Query()] = None,
        after: str | None = None,
    ) -> Response:
        """Change some of the tasks that the list matches, and say where to go on."""
        owner = access.owner_of(request)
        with _one_name(query["name"]):
            told = await change_some(access, owner, action, status, after=after, **query)
        return _answer(request, access, asdict(told))

    _add_counts(router, access)

    @router.get("/dashboard/facts", include_in_schema=False)
    async def show_facts(request: Request, scheduled: bool = True) -> Response:
        """Return what the page shows beside its list."""
        facts = await page_facts(access, access.owner_of(request), await _left_out(scheduled))
        root = request.scope.get("root_path", "")
        facts["buttons"] = [{"label": label, "path": root + buttons[label]} for label in buttons]
        return _answer(request, access, facts)


def _add_counts(router: APIRouter, access: Access) -> None:
    @router.get("/dashboard/course", include_in_schema=False)
    async def show_course(request: Request, query: _Asked, span: Range = "hour") -> Response:
        """Return how many of the tasks that match started and ended when, and how."""
        found = await course_of(access, access.owner_of(request), span, **query)
        return _answer(request, access, found)

    @router.get("/dashboard/groups", include_in_schema=False)
    async def show_groups(request: Request, query: _Asked, by: By = "name") -> Response:
        """Return how many of the tasks that match wait, run and have failed, by groups."""
        if by == "owner" and access.owner is not None:
            raise refused_query("by", "only who sees all tasks may group them by owner", by)
        found = await groups_of(access, access.owner_of(request), by, **query)
        return _answer(request, access, found)


def _ended_in(ended: str | None) -> dict[str, datetime]:
    """Return what a list is asked for of a range of wall seconds, such as ``60-120``."""
    if ended is None:
        return {}
    since, _, before = ended.partition("-")
    names = {"ended_since": since, "ended_before": before}
    return {name: datetime.fromtimestamp(int(at), UTC) for name, at in names.items()}


async def _left_out(scheduled: bool) -> frozenset[str]:
    """Return the names of tasks that are not asked for."""
    return frozenset() if scheduled else await scheduled_names(require_core())


@contextmanager
def _one_name(name: str | None) -> Iterator[None]:
    """Refuse a request for the tasks of a *name* that several functions have."""
    try:
        yield
    except SeveralNamesError as error:
        raise refused_query("name", str(error), name) from None


def _add_details(router: APIRouter, access: Access, messages: Sequence[Message[Any]]) -> None:
    questions = questions_of(messages)

    @router.get("/dashboard/details/{task_id:path}", include_in_schema=False)
    async def show_details(task_id: str, request: Request) -> Response:
        """Return all that the page may show of a task."""
        task = await access.task(request, task_id)
        row, view = row_of(task), view_of(task, expose_errors=access.expose_errors)
        # Without the seconds that are left, which the page counts itself.
        view["reason"] = row["reason"]
        # A browser would read 7.0 as 7, and round integers from 2 ** 53 on.
        for pairs in view["meta"], view["arguments"]:
            pairs.update({name: _json(value) for name, value in pairs.items()})
        view["result"] = _json(view["result"], indent=2)
        steps = await steps_of(task_id, questions)
        return _answer(request, access, {"row": row, "view": view, **steps})


def _add_schedules(router: APIRouter, access: Access) -> None:
    @router.post(
        "/dashboard/schedules/{action}",
        include_in_schema=False,
        **marked({}, csrf_header=access.csrf_header),
    )
    async def change_schedule(
        action: Literal["pause", "resume", "trigger"],
        name: str,
        request: Request,
    ) -> Response:
        """Pause or resume a schedule, or run it now."""
        schedules = get_task_manager().schedules
        try:
            done = await getattr(schedules, action)(name)
        except ScheduleNotFoundError:
            return _answer(request, access, {"detail": "This process has no such schedule"}, 404)
        except ScheduleBusyError:
            return _answer(request, access, {"detail": "Its last run has not ended"}, 409)
        return _answer(request, access, {"task_id": done})


def _answer(request: Request, access: Access, shown: object, status: int = 200) -> Response:
    """Return *shown* as JSON, or 304 if the page has it already.

    Its headers have the time of the server, and who sees it, so that a page which is left open
    shows nothing of one user to the next.
    """
    body = _json(shown, separators=(",", ":")).encode()
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {
        "Cache-Control": "no-store",
        "ETag": etag,
        "X-Asyncframe-Time": f"{get_task_manager().clock.time():.3f}",
        "X-Asyncframe-Viewer": _viewer(access.owner_of(request)),
        "X-Content-Type-Options": "nosniff",
    }
    if status == 200 and request.headers.get("if-none-match") == etag:
        return Response(None, 304, headers)
    return Response(body, status, headers, "application/json")


def _json(shown: object, **how: Any) -> str:
    return json.dumps(shown, ensure_ascii=False, allow_nan=False, **how)


def _viewer(owner: str | None) -> str:
    """Return a text that stands for one owner, and does not name them."""
    return "" if owner is None else hashlib.blake2b(owner.encode(), digest_size=8).hexdigest()
