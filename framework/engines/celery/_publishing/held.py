"""Which tasks have a message at a Redis broker: in a queue, or delivered and unacknowledged.

Queues are read in small parts, so that a long one blocks neither the broker nor this process.
Messages move meanwhile: one that is put back during the search may be missed, so a single
search proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from framework.engines.celery._publishing.sender import connection_to

_FIND: Final = r"""
local function find(text)
  -- Of our own text nothing but the id stands in this part of a message.
  local _, last = string.find(text, '"correlation_id"', 1, true)
  if last then _, last = string.find(text, '^:%s*"', last + 1) end
  if not last then return nil end
  local from = last + 1
  while true do
    last = string.find(text, '["\\]', last + 1)
    if not last then return nil end
    if string.sub(text, last, last) == '"' then return string.sub(text, from, last - 1) end
    last = last + 1
  end
end
"""

_QUEUE: Final = """
-- KEYS: a queue. ARGV: first place, last place. Returns how many, their length, ids.
local found, length = {0, 0}, 0
for number, text in ipairs(redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  found[1], length = number, length + #text
  found[#found + 1] = find(text)
end
found[2] = length
return found
"""

_UNACKED: Final = """
-- KEYS: the hash of what is not acknowledged. ARGV: cursor, count. Returns cursor, ids.
local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {reply[1]}
for number = 2, #reply[2], 2 do
  found[#found + 1] = find(reply[2][number])
end
return found
"""

_PART: Final = 1 << 18
"""Characters to read in one step; a message has from 1,000 to some millions."""

_FEW: Final = 20
_MANY: Final = 1_000


class Held:
    """The messages at a Redis broker.

    Args:
        channel: A channel of a connection to it.
    """

    def __init__(self, channel: Any) -> None:  # Any: kombu has no types
        self._client = redis.Redis(connection_pool=channel.pool)
        self._prefix = channel.global_keyprefix
        self._unacked = channel.unacked_key
        # The suffixes of a queue's name, one for each priority.
        self._steps = [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps]
        self._queue_script: Any = self._client.register_script(_FIND + _QUEUE)
        self._unacked_script: Any = self._client.register_script(_FIND + _UNACKED)

    def ids(self, queues: Iterable[str]) -> set[str]:
        """Return the ids of all tasks with a message in these queues, or delivered from any.

        Raises:
            redis.RedisError: If the broker does not answer.
        """
        found: set[str] = set()
        for name in queues:
            for step in self._steps:
                found.update(self._in_queue(f"{self._prefix}{name}{step}"))
        # After the queues, since messages go from there to here.
        found.update(self._taken())
        return found

    def _in_queue(self, key: str) -> Iterator[str]:
        place, many = 0, _FEW
        while True:
            number, length, *ids = self._queue_script([key], [place, place + many - 1])
            yield from map(_as_id, ids)
            if number < many:
                return
            # What comes in meanwhile moves the rest away from the beginning: none is missed.
            place += number
            many = min(max(_PART * number // max(length, 1), _FEW), _MANY)

    def _taken(self) -> Iterator[str]:
        cursor, key = "0", f"{self._prefix}{self._unacked}"
        while True:
            cursor, *ids = self._unacked_script([key], [cursor, _FEW])
            yield from map(_as_id, ids)
            if cursor in ("0", b"0"):
                return


def _as_id(text: str | bytes) -> str:
    found: str = json.loads(f'"{text if isinstance(text, str) else text.decode()}"')
    return found


@contextmanager
def held(app: Any) -> Iterator[Held]:  # Any: Celery has no types
    """Connect to the Redis broker of a Celery app.

    Raises:
        Exception: What the transport raises if it cannot be reached.
    """
    with connection_to(app) as connection:
        yield Held(connection.default_channel)
