"""The dashboard for Grafana shows the metrics that there are, and can be imported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import combinations
from typing import Any

from framework._records.statuses import WITHOUT_RESULT
from tests.framework.telemetry.exported import LABELS, metrics, named_in

LEFT_OUT = {
    "asyncframe_tasks_evicted": "old tasks are removed all the time, which tells nothing",
}
"""Metrics that the dashboard does not show, and why."""

VARIABLES = {"datasource", "instance", "job", "name"}


def dashboard() -> dict[str, Any]:
    """Return what users import, as the installed package has it."""
    text = files("framework.telemetry").joinpath("grafana.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def panels() -> Iterator[dict[str, Any]]:
    """Yield the panels that show something."""
    for panel in dashboard()["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    """Return every expression of the dashboard, and the queries of its variables."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    variables = dashboard()["templating"]["list"]
    return found + [one["query"]["query"] for one in variables if one["type"] == "query"]


def test_it_shows_metrics_that_exist() -> None:
    """Each expression has a metric, and only labels and variables that there are."""
    for expression in expressions():
        shown, labels = named_in(expression)
        assert shown, expression
        assert shown <= metrics().keys(), expression
        assert labels <= LABELS, expression
        assert set(re.findall(r"\$(\w+)", expression)) <= VARIABLES | {"__rate_interval"}
        for failed in re.findall(r'status=~"(.*?)"', expression):
            assert failed == "|".join(WITHOUT_RESULT)


def test_it_shows_every_metric() -> None:
    """A metric is on the dashboard, or among those that are left out for a reason."""
    shown = {metrics()[series] for one in expressions() for series in named_in(one)[0]}

    assert shown | LEFT_OUT.keys() == set(metrics().values())
    assert not shown & LEFT_OUT.keys()


def test_it_can_be_imported() -> None:
    """It has what Grafana asks for, and no id or data source of the Grafana that it is from."""
    board = dashboard()
    assert board["title"] == "asyncframe"
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert "id" not in board
    assert board["schemaVersion"] >= 36
    source, *others = board["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    used = [one["datasource"] for one in others]
    used += [panel["datasource"] for panel in panels()]
    used += [target["datasource"] for panel in panels() for target in panel["targets"]]
    assert used == [{"type": "prometheus", "uid": "${datasource}"}] * len(used)
    assert {one["name"] for one in (source, *others)} == VARIABLES


def test_its_panels() -> None:
    """Each panel has an id, a title, an explanation and a place of its own."""
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    for one, other in combinations([panel["gridPos"] for panel in dashboard()["panels"]], 2):
        assert 0 <= one["x"] < one["x"] + one["w"] <= 24
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
