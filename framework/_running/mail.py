"""Mail: the messages to tasks, from wherever they are sent, until a step receives them.

Where no store keeps them, the task itself does, as long as it is in memory.

Lock order: the ledger's lock is held for a change of what a task keeps, and an inbox's for one of
what it has given; nothing else with them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import attrgetter

from framework._records.statuses import FINAL
from framework._records.steps import KeptMessages, MessageRecord, Sent
from framework._running.ledger import Ledger
from framework._tasks.live import LiveTask
from framework.exceptions import StoreUnavailableError


class Mail:
    """The messages to the tasks of one framework.

    Args:
        ledger: Of the tasks; says what their store can do.

    Attributes:
        is_shared: Whether other processes send messages to the tasks of this one.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._store = ledger.features.messages
        self.is_shared = self._store is not None
        self._listeners: dict[str, dict[Callable[[], object], None]] = {}

    def send(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        """Keep a message, and wake who waits for it here; may block.

        Args:
            task_id: The task.
            name: Of the message.
            value: It, as JSON.
            key: See `protocols.MessageStore.send_message`.

        Raises:
            StoreUnavailableError: If the store cannot be used.
        """
        if self._store is None:
            sent = self._keep(task_id, name, value, key)
        else:
            task = self._ledger.find(task_id)
            # Its end may not be stored yet.
            has_ended = task is not None and task.status in FINAL
            sent = self._store.send_message(task_id, name, value, key)
            if sent == "sent" and has_ended:
                return "ended"
        if sent == "sent":
            for call in list(self._listeners.get(task_id, ())):
                call()
        return sent

    def _keep(self, task_id: str, name: str, value: str, key: str | None) -> Sent:
        task = self._ledger.find(task_id)
        if task is None:
            return "unknown"
        with self._ledger.lock:
            kept = task.messages if isinstance(task, LiveTask) else None
            if kept is not None and key is not None and (name, key) in kept.keys:
                return "again" if kept.keys[name, key] == value else "other"
            if not isinstance(task, LiveTask) or task.status in FINAL:
                return "ended"
            if kept is None:
                kept = task.messages = KeptMessages()
            kept.number += 1
            kept.left.append(MessageRecord(kept.number, name, value))
            if key is not None:
                kept.keys[name, key] = value
        return "sent"

    def left(self, task: LiveTask) -> Sequence[MessageRecord]:
        """Return the messages of a task that no step has taken, the oldest first; may block.

        Empty while the store cannot be read: whoever waits looks again, and that no message has
        come in time is stored only if that is so.
        """
        if self._store is not None:
            with suppress(StoreUnavailableError):
                return self._store.fetch_messages(str(task.task_id))
            return ()
        with self._ledger.lock:
            return () if task.messages is None else tuple(task.messages.left)

    def take(self, task: LiveTask, numbers: Sequence[int]) -> None:
        """Forget messages that a task keeps itself, since a step has received them."""
        with self._ledger.lock:
            kept = task.messages
            if kept is not None:
                kept.left = [one for one in kept.left if one.number not in numbers]

    @contextmanager
    def listening(self, task: LiveTask, call: Callable[[], object]) -> Iterator[None]:
        """Call *call* when a message is sent here to a task, inside the block; on any thread."""
        task_id = str(task.task_id)
        self._listeners.setdefault(task_id, {})[call] = None
        try:
            yield
        finally:
            here = self._listeners.get(task_id, {})
            here.pop(call, None)
            if not here:
                self._listeners.pop(task_id, None)


class Inbox:
    """The messages to one task that runs here.

    Guarantees: each message is given to one wait, also if several threads ask at once, or have
    looked before it was given. That of a wait which was cancelled is given to the next one.

    Args:
        mail: Of the framework.
        task: The task.

    Attributes:
        is_shared: See `Mail`.
    """

    def __init__(self, mail: Mail, task: LiveTask) -> None:
        self.is_shared = mail.is_shared
        self._mail, self._task = mail, task
        self._lock = threading.Lock()
        self._given = set[int]()
        self._returned: dict[int, MessageRecord] = {}

    def listening(self, call: Callable[[], object]) -> AbstractContextManager[None]:
        """Call *call* when a message is sent here; see `Mail.listening`."""
        return self._mail.listening(self._task, call)

    def look(self) -> Sequence[MessageRecord]:
        """Return the messages that are not known to be taken, the oldest first; may block."""
        return self._mail.left(self._task)

    def give(self, name: str, seen: Iterable[MessageRecord]) -> MessageRecord | None:
        """Give the oldest message of a name; None if there is none.

        Args:
            name: Of the message.
            seen: What a look has found.
        """
        with self._lock:
            # What was given back may not be in the mail any more.
            there = sorted((*self._returned.values(), *seen), key=attrgetter("number"))
            free = (one for one in there if one.number not in self._given)
            found = next((one for one in free if one.name == name), None)
            if found is not None:
                self._given.add(found.number)
        return found

    def give_back(self, messages: Iterable[MessageRecord]) -> None:
        """Let messages be given again."""
        with self._lock:
            for one in messages:
                self._returned[one.number] = one
                self._given.discard(one.number)

    def forget(self, numbers: Sequence[int]) -> None:
        """Forget messages that no store keeps, since a step has received them."""
        self._mail.take(self._task, numbers)
