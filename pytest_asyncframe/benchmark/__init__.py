"""How long a task takes: the fixture ``task_benchmark`` and its report."""

from __future__ import annotations

from pytest_asyncframe.benchmark._benchmark import Row, TaskBenchmark, table

__all__ = ["Row", "TaskBenchmark", "table"]

# The module that users import it from.
TaskBenchmark.__module__ = __name__
