"""Tasks that wait for their time or for places before they are published, as scripts in Redis.

Such a task is kept: its hash names its keeper, the process that publishes it as long as it lives,
and when it is due and which places it needs, so that another process can do that later. A sorted
set for each keeper has its tasks by the time at which others are to look at them. A task that is
kept has neither a message at the broker nor a lease, and keeps its places when its keeper dies.
"""

from __future__ import annotations

from typing import Final

KEEP_TASK: Final = """
-- ARGV: id, keeper, its time to live in ms, seconds until it is due, its places as JSON, why it
-- waits, then what `add` takes
redis.call('SET', prefix .. 'alive:' .. ARGV[2], '1', 'PX', ARGV[3])
if get('status') ~= '' then return 'kept' end
if redis.call('EXISTS', over) == 1 then return 'dropped' end
local due = now + tonumber(ARGV[4])
add(7)
redis.call('HSET', task, 'keeper', ARGV[2], 'due', stamp(due), 'places', ARGV[5], 'reason', ARGV[6])
redis.call('EXPIRE', task, KEPT + math.ceil(tonumber(ARGV[4])))
redis.call('ZADD', kept_by(ARGV[2]), due, id)
redis.call('SADD', prefix .. 'keepers', ARGV[2])
return 'kept'
"""
"""Add a task that waits before it is published; ``dropped`` if it was cancelled before."""

RETIRE: Final = """
-- ARGV: id, status, error, reason, ttl of a final hash
if get('keeper') == '' then return 0 end
finish(ARGV[2], '', ARGV[3], ARGV[4], ARGV[5])
return 1
"""
"""Make a task final that is kept; 0 if it is not, or was published by another process."""

LEFT: Final = """
-- ARGV: '', most ids
local found = {}
for _, keeper in ipairs(redis.call('SMEMBERS', prefix .. 'keepers')) do
  if redis.call('EXISTS', prefix .. 'alive:' .. keeper) == 0 then
    local ids = redis.call('ZRANGEBYSCORE', kept_by(keeper), '-inf', now, 'LIMIT', 0, ARGV[2])
    for _, one in ipairs(ids) do
      found[#found + 1] = keeper
      found[#found + 1] = one
    end
    if redis.call('EXISTS', kept_by(keeper)) == 0 then
      redis.call('SREM', prefix .. 'keepers', keeper)
    end
  end
end
return found
"""
"""Return keepers that have died, each with a task of theirs that somebody is to look at."""

RELEASE: Final = """
-- ARGV: id, keeper, seconds until the next look, ttl of a final hash
local others = kept_by(ARGV[2])
local is_kept = get('keeper') == ARGV[2]
if get('status') ~= 'pending' or not (is_kept or get('unsent') == '1') then
  redis.call('ZREM', others, id)
  return ''
end
if redis.call('EXISTS', prefix .. 'alive:' .. ARGV[2]) == 1 then return '' end
-- Another process looks at it now.
if tonumber(redis.call('ZSCORE', others, id) or now) > now then return '' end
redis.call('ZADD', others, now + tonumber(ARGV[3]), id)
if is_kept then
  if tonumber(get('due')) > now then
    redis.call('ZADD', others, get('due'), id)
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

Until it was sent and the set does not have it any more, it is returned again after a while.
"""
