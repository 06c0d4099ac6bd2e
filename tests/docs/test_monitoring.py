"""The page about monitoring names the metrics and the problems that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from framework.http.health import CHECKS
from framework.telemetry._figures import FIGURE
from tests.framework.telemetry.exported import LABELS, metrics, named_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "monitoring.md"


def rows(beginning: str) -> list[str]:
    """Return what the rows of a table of the page begin with, where that fits."""
    return re.findall(rf"^\| `({beginning})` \|", PAGE.read_text("utf-8"), re.MULTILINE)


def test_every_metric_is_in_the_table() -> None:
    """The table has each metric once, by the name that Prometheus uses, and no other."""
    series = {one for one in metrics() if not one.endswith(("_bucket", "_count", "_sum"))}
    histograms = {one.removesuffix("_bucket") for one in metrics() if one.endswith("_bucket")}

    assert sorted(rows(r"asyncframe_\w+")) == sorted(series | histograms)


def test_types_in_the_table() -> None:
    """What grows is called a counter, and what does not a gauge."""
    text = PAGE.read_text("utf-8")
    expected = [
        f"| `asyncframe_{figure.name}_total` | counter |"
        if figure.grows
        else f"| `asyncframe_{figure.name}` | gauge |"
        for figure in FIGURE.values()
    ]
    assert [row for row in expected if row not in text] == []


def alerts() -> list[dict[str, Any]]:
    """Return the rules of the page."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (group,) = yaml.safe_load(block)["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_alerts() -> None:
    """Each rule has a metric and labels that exist, and tells what is wrong."""
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) > 0
    for rule in alerts():
        series, labels = named_in(rule["expr"])
        assert series
        assert series <= metrics().keys()
        assert labels <= LABELS
        assert rule["labels"]["severity"] in ("warning", "critical")
        told = rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= LABELS


def test_every_problem_is_in_the_table() -> None:
    """The table of problems has each one that can make a process unready."""
    assert rows(r"framework|pool|queue|store|broker") == ["framework", *CHECKS]
