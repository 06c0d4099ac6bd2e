"""The functions that the scripts about tasks share, and what makes a script.

A line is two sorted sets: the tasks that have a place, and those that wait, by rank and number.
A task that stands in lines has a hash, with its process and the limit of each line. A task needs
its places until it is final. Before it is published nobody but its process knows it, so it then
needs them while its process is alive: the process keeps a key with a time to live.

A task that is yet to be published has a keeper: the process that sends its message to the broker
as long as it lives. Some have to wait before that, and say when they are due and which places
they need. Each keeper has a sorted set of its tasks, by the time at which others are to look at
them if it has died. Until it is sent, a task has no lease, and it keeps its places when its
keeper dies.
"""

from __future__ import annotations

from string import Template
from typing import Final

from framework._tasks.places import MOST_AHEAD
from framework.engines.celery._messages import KEEP

REPORTS_KEPT: Final = 20_000
"""The approximate length of the stream; a reader that is further behind reads the hashes."""

KEPT_LIVE: Final = 30 * 86_400
"""Seconds without a change after which a live task's hash is dropped: no workers run."""

INLINE_RESULT: Final = 2_048
"""Maximum length of a result in its report; a longer one is fetched."""

_FUNCTIONS: Final = """
local task, stream, counter, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local live, messages, over = KEYS[4], KEYS[5], KEYS[1] .. ':over'
local prefix = string.sub(task, 1, #task - #id - 5)
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local function stamp(seconds) return string.format('%.6f', seconds) end
local function get(field) return redis.call('HGET', task, field) or '' end
-- Returns several fields, '' for each that is not there.
local function read(...)
  local found = redis.call('HMGET', task, ...)
  for at = 1, #found do found[at] = found[at] or '' end
  return unpack(found)
end
-- Returns for how long a task has waited between its deliveries, now that this wait ends as well.
local function add_sleep(slept, since)
  return since == '' and slept or stamp((tonumber(slept) or 0) + now - tonumber(since))
end
local function tell(one, kind, ...)
  redis.call('XADD', stream, 'MAXLEN', '~', $REPORTS_KEPT, '*',
    'n', redis.call('INCR', counter), 'k', kind, 'i', one, ...)
end
local function is_final(status)
  return status ~= '' and status ~= 'pending' and status ~= 'running'
end
local function is_alive(process) return redis.call('EXISTS', prefix .. 'alive:' .. process) == 1 end
local function stay_of(one) return prefix .. 'stay:' .. one end
local function placed_in(line) return prefix .. 'line:' .. line .. ':p' end
local function waiting_in(line) return prefix .. 'line:' .. line .. ':w' end
local function is_gone(one)
  local status = redis.call('HGET', prefix .. 'task:' .. one, 'status')
  if status then return is_final(status) end
  local holder = redis.call('HGET', stay_of(one), '@')
  return not (holder and is_alive(holder))
end
local function place(line, one)
  redis.call('ZADD', placed_in(line), redis.call('INCR', prefix .. 'lines:n'), one)
  redis.call('EXPIRE', placed_in(line), $KEPT_LIVE)
end
-- Removes a task, and adds its lines, whose places may be free now, to a list.
local function remove(one, freed)
  for _, line in ipairs(redis.call('HKEYS', stay_of(one))) do
    if line ~= '@' then
      redis.call('ZREM', placed_in(line), one)
      redis.call('ZREM', waiting_in(line), one)
      freed[#freed + 1] = line
    end
  end
  redis.call('DEL', stay_of(one))
end
-- Removes those among the first of a line's set whose processes have died.
local function drop_gone(some, last, freed)
  for _, one in ipairs(redis.call('ZRANGE', some, 0, last)) do
    if is_gone(one) then remove(one, freed) end
  end
end
-- Gives free places to the first that wait. More lines are added while it goes on.
local function grant(freed)
  for _, line in ipairs(freed) do
    while true do
      local first = redis.call('ZRANGE', waiting_in(line), 0, 0)[1]
      if not first then break end
      if is_gone(first) then
        remove(first, freed)
      elseif redis.call('ZCARD', placed_in(line)) <
          tonumber(redis.call('HGET', stay_of(first), line)) then
        redis.call('ZREM', waiting_in(line), first)
        place(line, first)
        tell(first, 'placed', 'l', line)
      else
        break
      end
    end
  end
end
local function has_places()
  local lines = redis.call('HKEYS', stay_of(id))
  for _, line in ipairs(lines) do
    if line ~= '@' and not redis.call('ZSCORE', placed_in(line), id) then return false end
  end
  return #lines > 0
end
-- Asks for a place: 1; or 0 and at most so many ids, of those who have one, and of those who wait.
local function join(line, limit, waits, rank, process, most)
  if redis.call('ZSCORE', placed_in(line), id) then return {1} end
  local placed, waiting = placed_in(line), waiting_in(line)
  local freed = {line}
  if redis.call('ZCARD', placed) >= limit then drop_gone(placed, -1, freed) end
  grant(freed)
  local function enter()
    redis.call('HSET', stay_of(id), '@', process, line, limit)
    redis.call('EXPIRE', stay_of(id), $KEPT_LIVE)
  end
  if not redis.call('ZSCORE', waiting, id) then
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
    if redis.call('ZCARD', placed) < limit and
        (not first or math.floor(tonumber(first) / $RANK) > rank) then
      enter()
      place(line, id)
      return {1}
    end
    if waits then
      enter()
      redis.call('ZADD', waiting, rank * $RANK + redis.call('INCR', prefix .. 'lines:n'), id)
      redis.call('EXPIRE', waiting, $KEPT_LIVE)
    end
  end
  local answer = {0}
  for _, part in ipairs({placed, waiting}) do
    for _, one in ipairs(redis.call('ZRANGE', part, 0, most)) do
      if one ~= id and #answer <= most then answer[#answer + 1] = one end
    end
  end
  return answer
end
local function leave()
  if redis.call('EXISTS', stay_of(id)) == 0 then return end
  local freed = {}
  remove(id, freed)
  grant(freed)
end
local function tasks_of(process) return prefix .. 'kept:' .. process end
-- Makes a process the keeper of the task, which others look at from some time on.
local function keep(process, life, from)
  redis.call('SET', prefix .. 'alive:' .. process, '1', 'PX', life)
  redis.call('HSET', task, 'keeper', process)
  redis.call('ZADD', tasks_of(process), from, id)
  redis.call('SADD', prefix .. 'keepers', process)
end
-- From now on the message is to be sent, and is searched for.
local function release()
  redis.call('HSET', task, 'unsent', '1', 'reason', '')
  redis.call('HDEL', task, 'due', 'places')
  redis.call('EXPIRE', task, $KEPT_LIVE)
  redis.call('ZADD', live, now, id)
end
local function finish(status, result, error, reason, ttl)
  local keeper, copies, attempts, fn, slept, since =
    read('keeper', 'copies', 'attempts', 'fn', 'slept', 'asleep')
  redis.call('HSET', task, 'status', status, 'ended', stamp(now), 'result', result,
    'error', error, 'reason', reason, 'slept', add_sleep(slept, since))
  if keeper ~= '' then redis.call('ZREM', tasks_of(keeper), id) end
  redis.call('HDEL', task, 'holder', 'until', 'next', 'unsent', 'missing',
    'keeper', 'due', 'places', 'asleep')
  redis.call('EXPIRE', task, ttl)
  redis.call('ZREM', live, id)
  local text = status ~= 'completed' and redis.call('HGET', messages, id)
  local message = text and cjson.decode(text)
  if message and #message.call <= (message.keep or $KEEP) then
    redis.call('HSET', task, 'call', message.call)
  end
  redis.call('HDEL', messages, id)
  -- A second message may come when the hash is gone.
  if copies ~= '' then redis.call('SET', over, '1', 'EX', $KEPT_LIVE) end
  local big = #result > $INLINE_RESULT
  tell(id, 'ended', 's', status, 'at', stamp(now), 'r', big and '' or result, 'e', error,
    'w', reason, 'a', attempts, 'b', big and '1' or '0', 'f', fn)
  leave()
end
-- Adds the task, whose message and facts (field, value, ...) are in ARGV from a place on.
local function add(from)
  redis.call('HSET', task, 'status', 'pending', 'attempts', '0', 'seq', '0',
    unpack(ARGV, from + 1))
  redis.call('HSET', messages, id, ARGV[from])
end
"""
"""``join`` asks for a place; ``leave`` takes the task out of all its lines; ``has_places`` tells
whether it has a place in each.
"""


def script(body: str) -> str:
    """Return a script about a task: the functions, and then its own steps, with our numbers."""
    return Template(_FUNCTIONS + body).substitute(
        INLINE_RESULT=INLINE_RESULT,
        KEEP=KEEP,
        KEPT_LIVE=KEPT_LIVE,
        MOST_AHEAD=MOST_AHEAD,
        RANK=1 << 48,
        REPORTS_KEPT=REPORTS_KEPT,
    )
