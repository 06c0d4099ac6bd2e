"""What the errors of the framework say, from the first to the last letter; for `match`."""

from __future__ import annotations

_CURE = (
    r"add it to the app that is served \(FastAPI\(lifespan=setup_async_framework\)\), as one that "
    r"is mounted in it has no lifespan, enter it yourself "
    r"\('async with setup_async_framework\(app\):'\), or in a test use 'with TestClient\(app\)' "
    r"or the fixture task_manager of the pytest plugin$"
)
_TASK = r"^task \S+ \(.+\)"

NOT_STARTED = rf"^no task framework is running here: {_CURE}"
STOPPED = rf"^this task framework has stopped; start a new one: {_CURE}"
STOPPING = (
    r"^the task framework is shutting down and accepts no new tasks: submit before the lifespan "
    r"ends, or answer 503$"
)

QUEUE_FULL = (
    r"^the task queue is full: \d+ tasks are waiting; try again in [\d.]+ s, or increase "
    r"'queue_size' or 'max_workers'$"
)
LIMITED = (
    r"^\S+ may be called \d+ times in [\d.]+ s; try again in [\d.]+ s, or use when_limited='wait'$"
)

CANCELLED = rf"{_TASK} was cancelled$"
INTERRUPTED = rf"{_TASK} was interrupted before it could end; it may have run in part$"
TIMED_OUT = rf"{_TASK} ran past its time limit of [\d.]+ s$"
UNKNOWN = (
    r"^task .+ is unknown: the id is wrong, or the finished task was forgotten "
    r"\(see 'result_ttl' and 'max_finished_tasks'\)$"
)
DEADLOCK = (
    r"^deadlock: \S+( waits for \S+)+; wait with a timeout, or return the task id and let the "
    r"caller wait$"
)
