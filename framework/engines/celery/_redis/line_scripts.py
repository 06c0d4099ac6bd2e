"""The lines of tasks that are unique, or run in limited numbers, as scripts in Redis.

A line is two sorted sets: the tasks that have a place, and those that wait, by rank and number.
A task that stands in lines has a hash, with its process and the limit of each line.

A task needs its places until it is final. Before it is published nobody but its process knows
it, so it then needs them while its process is alive: the process keeps a key with a time to live.
"""

from __future__ import annotations

from typing import Final

from framework._tasks.places import MOST_AHEAD

LINES: Final = """
local prefix = string.sub(task, 1, #task - #id - 5)
local function stay_of(one) return prefix .. 'stay:' .. one end
local function placed_in(line) return prefix .. 'line:' .. line .. ':p' end
local function waiting_in(line) return prefix .. 'line:' .. line .. ':w' end
local function is_gone(one)
  local status = redis.call('HGET', prefix .. 'task:' .. one, 'status')
  if status then return is_final(status) end
  local holder = redis.call('HGET', stay_of(one), '@')
  return not holder or redis.call('EXISTS', prefix .. 'alive:' .. holder) == 0
end
local function place(line, one)
  local number = redis.call('INCR', prefix .. 'lines:n')
  redis.call('ZADD', placed_in(line), number, one)
  redis.call('EXPIRE', placed_in(line), KEPT)
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
  local at = 1
  while freed[at] do
    local line = freed[at]
    while true do
      local first = redis.call('ZRANGE', waiting_in(line), 0, 0)[1]
      if not first then break end
      if is_gone(first) then
        remove(first, freed)
      elseif redis.call('ZCARD', placed_in(line)) <
          tonumber(redis.call('HGET', stay_of(first), line)) then
        redis.call('ZREM', waiting_in(line), first)
        place(line, first)
        redis.call('XADD', stream, 'MAXLEN', '~', REPORTS, '*',
          'n', redis.call('INCR', counter), 'k', 'placed', 'i', first, 'l', line)
      else
        break
      end
    end
    at = at + 1
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
    redis.call('EXPIRE', stay_of(id), KEPT)
  end
  if not redis.call('ZSCORE', waiting, id) then
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')[2]
    if redis.call('ZCARD', placed) < limit and
        (not first or math.floor(tonumber(first) / RANK) > rank) then
      enter()
      place(line, id)
      return {1}
    end
    if waits then
      enter()
      redis.call('ZADD', waiting, rank * RANK + redis.call('INCR', prefix .. 'lines:n'), id)
      redis.call('EXPIRE', waiting, KEPT)
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
""".replace("RANK", str(1 << 48))
"""Functions that the scripts share.

``join`` asks for a place; ``leave`` takes the task out of all its lines; ``has_places`` tells
whether it has a place in each.
"""

JOIN: Final = """
-- ARGV: id, line, limit, whether it waits, rank, process, its time to live in ms, most ids
redis.call('SET', prefix .. 'alive:' .. ARGV[6], '1', 'PX', ARGV[7])
return join(ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6],
  tonumber(ARGV[8]))
"""
"""Ask for a place: 1, or 0 and the ids of the others who have one, and of those who wait."""

LEAVE_LINES: Final = """
-- ARGV: id
leave()
return 1
"""
"""Take a task out of all lines."""

DROP: Final = """
-- ARGV: id
if get('status') == '' then leave() end
return 1
"""
"""Take a task out of all lines, unless it was published."""

LOOK: Final = """
-- ARGV: id, lines. Drops tasks of dead processes, so that those who wait go on.
local freed = {}
for at = 2, #ARGV do
  freed[#freed + 1] = ARGV[at]
  drop_gone(placed_in(ARGV[at]), -1, freed)
  drop_gone(waiting_in(ARGV[at]), MOST, freed)
end
grant(freed)
return 1
""".replace("MOST", str(MOST_AHEAD))
"""Look whether places of lines have become free because a process has died.

Of those that wait, as many are looked at as others are told of.
"""

BEAT: Final = """
-- KEYS: the key of a process. ARGV: its time to live in ms.
local lived = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
return lived
"""
"""Renew the key of a process; 0 if it had expired, and others may have taken its places."""
