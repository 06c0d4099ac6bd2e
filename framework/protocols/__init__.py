"""Protocols of the parts of a framework that you can replace.

Each framework has its own parts; nothing is replaced globally. A class does not have to
inherit from these protocols. If it does, it inherits the methods that have a default.

The functions convert calls, results, errors and records to JSON and back, for an engine or
store that stores them or sends them to another process.
"""

from __future__ import annotations

from framework._records import exports
from framework._records.chains import After
from framework._records.pages import PageQuery
from framework._records.reasons import awaited_tasks, message_names
from framework._records.records import Kind, Restart, TaskEvent, TaskRecord
from framework._records.schedules import RunClaim, ScheduleState
from framework._records.statuses import TaskStatus
from framework._records.steps import MessageRecord, Sent, StepRecord
from framework._tasks.errors.kept import decode_error, encode_error
from framework._tasks.facts import dump_record, load_record
from framework._tasks.places import PlaceAnswer, PlaceRequest
from framework._tasks.registry import find_function
from framework._tasks.wire import decode_call, decode_result, encode_call, encode_result
from framework.protocols._books import (
    ScheduleBook,
    SharedPlaces,
    SharedWindows,
    WindowAnswer,
    WindowRequest,
)
from framework.protocols._clock import Clock, TimerHandle
from framework.protocols._engines import (
    EngineHost,
    EngineTask,
    KeepingEngine,
    LoggingWorkers,
    RemoteEngine,
    Run,
    TaskEngine,
    TaskFunction,
    TaskRules,
    TaskWaiter,
)
from framework.protocols._features import (
    AskingDirectory,
    BatchingStore,
    CallStore,
    ChainStore,
    CountingStore,
    Fallible,
    Featured,
    Features,
    GroupingStore,
    LargeStore,
    LeavingStore,
    NewsDirectory,
    PagedStore,
    RequeueStore,
    SharedDirectory,
    TimedStore,
    TransactionalStore,
)
from framework.protocols._observers import EventSink, Interceptor, StepTracer, TaskTracer, Telemetry
from framework.protocols._processes import ProcessBook, ProcessInfo
from framework.protocols._steps import MessageCameError, StepChange, StepStore
from framework.protocols._stores import SharedStore, StoreHost, TaskStore

__all__ = [
    "After",
    "AskingDirectory",
    "BatchingStore",
    "CallStore",
    "ChainStore",
    "Clock",
    "CountingStore",
    "EngineHost",
    "EngineTask",
    "EventSink",
    "Fallible",
    "Featured",
    "Features",
    "GroupingStore",
    "Interceptor",
    "KeepingEngine",
    "Kind",
    "LargeStore",
    "LeavingStore",
    "LoggingWorkers",
    "MessageCameError",
    "MessageRecord",
    "NewsDirectory",
    "PageQuery",
    "PagedStore",
    "PlaceAnswer",
    "PlaceRequest",
    "ProcessBook",
    "ProcessInfo",
    "RemoteEngine",
    "RequeueStore",
    "Restart",
    "Run",
    "RunClaim",
    "ScheduleBook",
    "ScheduleState",
    "Sent",
    "SharedDirectory",
    "SharedPlaces",
    "SharedStore",
    "SharedWindows",
    "StepChange",
    "StepRecord",
    "StepStore",
    "StepTracer",
    "StoreHost",
    "TaskEngine",
    "TaskEvent",
    "TaskFunction",
    "TaskRecord",
    "TaskRules",
    "TaskStatus",
    "TaskStore",
    "TaskTracer",
    "TaskWaiter",
    "Telemetry",
    "TimedStore",
    "TimerHandle",
    "TransactionalStore",
    "WindowAnswer",
    "WindowRequest",
    "awaited_tasks",
    "decode_call",
    "decode_error",
    "decode_result",
    "dump_record",
    "encode_call",
    "encode_error",
    "encode_result",
    "find_function",
    "load_record",
    "message_names",
]

exports.pin(globals())
