"""Tasks that their process has yet to publish, as scripts in Redis.

Such a task has a keeper: the process that sends its message to the broker as long as it lives.
Some have to wait before that, and say when they are due and which places they need. Each keeper
has a sorted set of its tasks, by the time at which others are to look at them if it has died.
Until it is sent, a task has no lease, and it keeps its places when its keeper dies.
"""

from __future__ import annotations

from typing import Final

KEPT: Final = """
local function tasks_of(process) return prefix .. 'kept:' .. process end
local function is_alive(process) return redis.call('EXISTS', prefix .. 'alive:' .. process) == 1 end
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
  redis.call('EXPIRE', task, KEPT_LIVE)
  redis.call('ZADD', live, now, id)
end
"""
"""Functions that the scripts share."""

KEEP_TASK: Final = """
-- ARGV: id, keeper, its time to live in ms, seconds until it is due, its places as JSON, why it
-- waits, then what `add` takes
if get('status') ~= '' then return 'kept' end
if redis.call('EXISTS', over) == 1 then return 'dropped' end
local due = now + tonumber(ARGV[4])
add(7)
redis.call('HSET', task, 'due', stamp(due), 'places', ARGV[5], 'reason', ARGV[6])
redis.call('EXPIRE', task, KEPT_LIVE + math.ceil(tonumber(ARGV[4])))
keep(ARGV[2], ARGV[3], due)
return 'kept'
"""
"""Add a task that waits before it is published; ``dropped`` if it was cancelled before."""

RETIRE: Final = """
-- ARGV: id, status, error, reason, ttl of a final hash, then what `add` takes
if get('status') == '' then
  -- Others ask for it as well.
  add(6)
elseif get('keeper') == '' then
  return 0
end
finish(ARGV[2], '', ARGV[3], ARGV[4], ARGV[5])
return 1
"""
"""Make a task final that was not sent, whether it was added before or not; 0 if it was sent."""

LEFT: Final = """
-- ARGV: '', most ids
local found = {}
for _, keeper in ipairs(redis.call('SMEMBERS', prefix .. 'keepers')) do
  if not is_alive(keeper) then
    local ids = redis.call('ZRANGEBYSCORE', tasks_of(keeper), '-inf', now, 'LIMIT', 0, ARGV[2])
    for _, one in ipairs(ids) do
      found[#found + 1] = keeper
      found[#found + 1] = one
    end
    if redis.call('EXISTS', tasks_of(keeper)) == 0 then
      redis.call('SREM', prefix .. 'keepers', keeper)
    end
  end
end
return found
"""
"""Return keepers that have died, each with a task of theirs that somebody is to look at."""

RELEASE: Final = """
-- ARGV: id, keeper, seconds until the next look, ttl of a final hash
local tasks = tasks_of(ARGV[2])
if get('status') ~= 'pending' or get('keeper') ~= ARGV[2] then
  redis.call('ZREM', tasks, id)
  return ''
end
-- Or another process looks at it now.
if is_alive(ARGV[2]) or tonumber(redis.call('ZSCORE', tasks, id) or now) > now then return '' end
redis.call('ZADD', tasks, now + tonumber(ARGV[3]), id)
if get('due') ~= '' then
  if tonumber(get('due')) > now then
    redis.call('ZADD', tasks, get('due'), id)
    return ''
  end
  local waits = false
  for _, one in ipairs(cjson.decode(get('places'))) do
    local answer = join(one.key, one.limit, one.waits, one.rank, ARGV[2], 1)
    if answer[1] == 0 and not one.waits then
      finish('cancelled', '', '', 'a duplicate of task ' .. answer[2], ARGV[4])
      return ''
    end
    waits = waits or answer[1] == 0
  end
  if waits then return '' end
  release()
end
-- Its keeper may only have been slow, and publish it as well.
redis.call('HINCRBY', task, 'copies', 1)
return redis.call('HGET', messages, id) or ''
"""
"""Return the message of a task whose keeper has died, to be sent; "" if it waits, or is over.

Until it was sent and has no keeper any more, it is returned again after a while.
"""
