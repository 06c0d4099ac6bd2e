"""What a task costs: the fixture ``task_benchmark`` and its report."""

from __future__ import annotations

from pytest_asyncframe.benchmark._benchmark import Row, TaskBenchmark, table

__all__ = ["Row", "TaskBenchmark", "table"]

# Where users import it from, whatever module it is defined in.
TaskBenchmark.__module__ = __name__
