"""The metrics that Prometheus can read, and those that an expression of its language names."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from framework.telemetry._figures import FIGURE
from framework.telemetry._series import PREFIX
from framework.telemetry.prometheus import PrometheusSink

LABELS = {"instance", "job", "le", "name", "status"}
"""Those of the metrics, and those that Prometheus adds."""


def metrics() -> dict[str, str]:
    """Return the metric of each series that Prometheus can read, by the name of the series."""
    registry = CollectorRegistry()
    PrometheusSink(registry)
    found: dict[str, str] = {}
    for metric in registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}[metric.type]
        found |= {metric.name + ending: metric.name for ending in endings}
    # Nothing is attached, so that the registry has none of these.
    for figure in FIGURE.values():
        name = PREFIX + figure.name
        found[f"{name}_total" if figure.grows else name] = name
    return found


def named_in(expression: str) -> tuple[set[str], set[str]]:
    """Return the series and the labels in an expression of PromQL."""
    series = set(re.findall(rf"{PREFIX}\w+", expression))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", expression))
    for names in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        labels |= set(re.findall(r"\w+", names))
    return series, labels
