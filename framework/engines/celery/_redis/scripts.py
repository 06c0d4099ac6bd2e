"""The changes of a remote task in Redis, each as one script, so that each is atomic.

A task is a hash. Every script that changes one also appends to the stream of reports, whose
entries are numbered, so that a reader notices a missing one. Times are those of Redis, in
seconds since the epoch, because the clocks of workers may differ.

``KEYS`` are the task's hash, the stream of reports, the counter of reports, the live tasks
by their latest move, and their messages, in this order; ``ARGV[1]`` is the task's id.
"""

from __future__ import annotations

from typing import Final

from framework.engines.celery._redis.functions import script

PUBLISH: Final = script("""
-- ARGV: id, keeper, its time to live in ms, whether it needs places ('1'), then what `add` takes
local status = get('status')
if status ~= '' and get('due') == '' then
  -- Asked once more, since the answer was lost; or another process was faster.
  return get('unsent') == '1' and 'send' or 'sent'
end
if ARGV[4] == '1' then
  if redis.call('EXISTS', over) == 1 then return 'dropped' end
  if not has_places() then return 'unplaced' end
end
if status == '' then add(5) end
release()
keep(ARGV[2], ARGV[3], now)
return 'send'
""")
"""Add a task that is about to be sent, unless it was added while it waited for that.

Returns ``send`` if its message is to be sent, ``sent`` if it was, or the task has ended,
``unplaced`` if others have its places, since its process has been silent for too long, and
``dropped`` if it was cancelled while it waited for them.
"""

SENT: Final = script("""
-- ARGV: '', keeper, ids
for at = 3, #ARGV do redis.call('HDEL', prefix .. 'task:' .. ARGV[at], 'unsent', 'keeper') end
return redis.call('ZREM', tasks_of(ARGV[2]), unpack(ARGV, 3))
""")
"""Mark the messages of some tasks as sent."""

KEEP_TASK: Final = script("""
-- ARGV: id, keeper, its time to live in ms, seconds until it is due, its places as JSON, why it
-- waits, then what `add` takes
if get('status') ~= '' then return 'kept' end
if redis.call('EXISTS', over) == 1 then return 'dropped' end
local due = now + tonumber(ARGV[4])
add(7)
redis.call('HSET', task, 'due', stamp(due), 'places', ARGV[5], 'reason', ARGV[6])
redis.call('EXPIRE', task, $KEPT_LIVE + math.ceil(tonumber(ARGV[4])))
keep(ARGV[2], ARGV[3], due)
return 'kept'
""")
"""Add a task that waits before it is published; ``dropped`` if it was cancelled before."""

RETIRE: Final = script("""
-- ARGV: id, status, error, reason, ttl of a final hash, then what `add` takes
if get('status') == '' then
  -- Others ask for it as well.
  add(6)
elseif get('keeper') == '' then
  return 0
end
finish(ARGV[2], '', ARGV[3], ARGV[4], ARGV[5])
return 1
""")
"""Make a task final that was not sent, whether it was added before or not; 0 if it was sent."""

LEFT: Final = script("""
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
""")
"""Return keepers that have died, each with a task of theirs that somebody is to look at."""

RELEASE: Final = script("""
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
""")
"""Return the message of a task whose keeper has died, to be sent; "" if it waits, or is over.

Until it was sent and has no keeper any more, it is returned again after a while.
"""

START: Final = script("""
-- ARGV: id, holder, lease, sequence, holder known to be dead, most losses, ttl of a live
-- hash, ttl of a final one, whether it only waited ('1'), its worker or '', then field, value, ...
local status, last, holder, cancel, attempts, started, slept, since =
  read('status', 'seq', 'holder', 'cancel', 'attempts', 'started', 'slept', 'asleep')
if is_final(status) then return {'over', status, 0} end
if status == '' then
  if redis.call('EXISTS', over) == 1 then return {'over', '', 0} end
  redis.call('HSET', task, 'status', 'pending', 'attempts', '0', unpack(ARGV, 11))
end
local seq, known = tonumber(ARGV[4]), tonumber(last) or 0
if seq < known then
  local again = get('next')
  if again ~= '' and seq == known - 1 then
    -- A worker of an earlier release has put the message itself there.
    return {'again', again == '1' and redis.call('HGET', messages, id) or again, 0}
  end
  return {'stale', '', 0}
end
if holder ~= '' and holder ~= ARGV[2] then
  local left = (tonumber(get('until')) or 0) - now
  if left > 0 and holder ~= ARGV[5] then return {'busy', holder, stamp(left)} end
  if redis.call('HINCRBY', task, 'lost', 1) >= tonumber(ARGV[6]) then
    finish('interrupted', '', '', 'the worker that ran it died, ' .. ARGV[6] .. ' times', ARGV[8])
    return {'over', 'interrupted', 0}
  end
end
if cancel == '1' then
  finish('cancelled', '', '', 'it was cancelled', ARGV[8])
  return {'over', 'cancelled', 0}
end
attempts = tostring((tonumber(attempts) or 0) + (ARGV[9] == '1' and 0 or 1))
slept = add_sleep(slept, since)
redis.call('HSET', task, 'status', 'running', 'holder', ARGV[2],
  'until', stamp(now + tonumber(ARGV[3])), 'seq', ARGV[4], 'reason', '',
  'attempts', attempts, 'started', started == '' and stamp(now) or started, 'slept', slept)
-- With its holder: a worker of an earlier release says nothing about itself.
if ARGV[10] ~= '' then redis.call('HSET', task, 'worker', ARGV[2] .. ' ' .. ARGV[10]) end
redis.call('HDEL', task, 'next', 'unsent', 'keeper', 'missing', 'asleep')
redis.call('EXPIRE', task, ARGV[7])
redis.call('ZADD', live, now, id)
tell(id, 'started', 'at', stamp(now), 'a', attempts, 'sl', slept)
return {'run', attempts, 0}
""")
"""Take a task's lease; see `State.start` for the verdicts."""

RENEW: Final = script("""
-- ARGV: id, holder, lease
if get('holder') ~= ARGV[2] then return -1 end
redis.call('HSET', task, 'until', stamp(now + tonumber(ARGV[3])))
return get('cancel') == '1' and 1 or 0
""")
"""Renew a lease; 1 if cancellation was requested, -1 if the lease is lost."""

PROGRESS: Final = script("""
-- ARGV: id, holder, share, message
if get('holder') ~= ARGV[2] then return 0 end
redis.call('HSET', task, 'share', ARGV[3], 'message', ARGV[4])
tell(id, 'progress', 'p', ARGV[3], 'm', ARGV[4])
return 1
""")
"""Set a task's progress."""

AGAIN: Final = script("""
-- ARGV: id, holder, next message, kind, delay, error, reason
if get('next') ~= '' and redis.call('HGET', messages, id) == ARGV[3] then
  return 1 -- asked once more, since the answer was lost
end
if get('holder') ~= ARGV[2] then return 0 end
if get('cancel') == '1' then return -1 end
redis.call('HINCRBY', task, 'seq', 1)
redis.call('HSET', task, 'next', '1', 'reason', ARGV[7], 'asleep', stamp(now))
redis.call('HDEL', task, 'holder', 'until')
-- Its message is held back for so long, and is missed by nobody before.
redis.call('ZADD', live, now + math.max(tonumber(ARGV[5]), 0), id)
redis.call('HSET', messages, id, ARGV[3])
tell(id, 'again', 'o', ARGV[4], 'd', ARGV[5], 'e', ARGV[6], 'w', ARGV[7], 'a', get('attempts'))
return 1
""")
"""Release the lease until the next message; -1 if cancellation was requested."""

END: Final = script("""
-- ARGV: id, holder ('' for whoever has it), sequence, status, result, error, reason, ttl,
-- share, message
local status, holder, last = read('status', 'holder', 'seq')
if is_final(status) then return 0 end
if ARGV[2] ~= '' and holder ~= ARGV[2] then return 0 end
if ARGV[2] == '' and last ~= ARGV[3] then return 0 end
if ARGV[9] ~= '' then redis.call('HSET', task, 'share', ARGV[9], 'message', ARGV[10]) end
finish(ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
return 1
""")
"""Make a task final."""

CANCEL: Final = script("""
-- ARGV: id, ttl of a final hash, reason, prefix of the lists that wake workers
local status = get('status')
if status == '' and redis.call('EXISTS', stay_of(id)) == 1 then
  -- It waits for a place, and its process must not publish it any more.
  redis.call('SET', over, '1', 'EX', $KEPT_LIVE)
  leave()
  tell(id, 'dropped', 'w', ARGV[3])
  return ARGV[3]
end
if status == '' or is_final(status) then return '' end
redis.call('HSET', task, 'cancel', '1')
local holder = get('holder')
if holder == '' then
  local reason = status == 'pending' and ARGV[3] or 'it was cancelled before its next attempt'
  finish('cancelled', '', '', reason, ARGV[2])
  return reason
end
redis.call('RPUSH', ARGV[4] .. holder, id)
redis.call('EXPIRE', ARGV[4] .. holder, 60)
tell(id, 'asked')
return 'asked'
""")
"""Cancel, and return why it is CANCELLED; ``asked`` if its worker is informed, "" if it is over."""

UNRUN: Final = script("""
-- ARGV: '', seconds without a move, first place, most ids, whether those without a holder as
-- well ('1')
local ids = redis.call('ZRANGEBYSCORE', live, '-inf', now - ARGV[2], 'LIMIT', ARGV[3], ARGV[4])
local found = {#ids}
for _, one in ipairs(ids) do
  local facts = redis.call('HMGET', prefix .. 'task:' .. one, 'holder', 'until', 'keeper', 'worker')
  local holder, worker = facts[1] or '', facts[4] or ''
  local waits = ARGV[5] == '1' and not facts[3]
  if (holder == '' and waits) or (holder ~= '' and (tonumber(facts[2]) or 0) <= now) then
    local start = holder .. ' '
    local is_its = holder ~= '' and string.sub(worker, 1, #start) == start
    found[#found + 1] = one
    found[#found + 1] = holder
    found[#found + 1] = is_its and string.sub(worker, #start + 1) or ''
  end
end
return found
""")
"""Return how many tasks were looked at, and of those that no process runs the id, holder, worker.

Whoever is kept until it is sent is looked after by its keeper, or by who inherits it.
"""

RECOVER: Final = script("""
-- ARGV: id, seconds from the first sight of a lost message to the second, ttl of a final
-- hash, shortest and longest pause until it is looked for again, whether it must have a certain
-- holder ('1'), which
local status = get('status')
if status == '' or is_final(status) then
  redis.call('ZREM', live, id)
  redis.call('HDEL', messages, id)
  return ''
end
local holder = get('holder')
if (holder ~= '' and tonumber(get('until')) > now) or (ARGV[6] == '1' and holder ~= ARGV[7]) then
  redis.call('HDEL', task, 'missing')
  return ''
end
local since = get('missing')
if since == '' or now - tonumber(since) < tonumber(ARGV[2]) then
  redis.call('HSETNX', task, 'missing', stamp(now))
  return ''
end
local message = redis.call('HGET', messages, id)
if not message then
  finish('interrupted', '', '', 'its message was lost', ARGV[3])
  return ''
end
redis.call('HDEL', task, 'missing')
local copies = redis.call('HINCRBY', task, 'copies', 1)
redis.call('ZADD', live, now + math.min(ARGV[4] * 2 ^ (copies - 1), ARGV[5]), id)
return message
""")
"""Return the message of a task whose message is lost; "" if it must not be sent."""

REPEATED: Final = script("""
-- ARGV: id
local status = get('status')
if is_final(status) then
  redis.call('SET', over, '1', 'EX', $KEPT_LIVE)
elseif status ~= '' then
  redis.call('HINCRBY', task, 'copies', 1)
end
return status
""")
"""Mark a message as possibly sent twice."""

JOIN: Final = script("""
-- ARGV: id, line, limit, whether it waits, rank, process, its time to live in ms, most ids
redis.call('SET', prefix .. 'alive:' .. ARGV[6], '1', 'PX', ARGV[7])
return join(ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5]), ARGV[6],
  tonumber(ARGV[8]))
""")
"""Ask for a place: 1, or 0 and the ids of the others who have one, and of those who wait."""

LEAVE_LINES: Final = script("""
-- ARGV: id, whether it may have been published ('1')
if ARGV[2] == '1' or get('status') == '' then leave() end
return 1
""")
"""Take a task out of all lines, or only if it was not published."""

LOOK: Final = script("""
-- ARGV: id, lines. Drops tasks of dead processes, so that those who wait go on.
local freed = {}
for at = 2, #ARGV do
  freed[#freed + 1] = ARGV[at]
  drop_gone(placed_in(ARGV[at]), -1, freed)
  drop_gone(waiting_in(ARGV[at]), $MOST_AHEAD, freed)
end
grant(freed)
return 1
""")
"""Look whether places of lines have become free because a process has died.

Of those that wait, as many are looked at as others are told of.
"""

CHANGE_SCHEDULE: Final = script("""
-- KEYS, after the others: the schedule's hash, the set of names. ARGV: id of the task to add, or
-- '', name, its keeper, the time to live of that in ms, then how many fields there are, each with
-- its value before and after ('' for none), then what `add` takes, or nothing
local schedule, fields = KEYS[6], tonumber(ARGV[5])
for at = 6, 5 + 3 * fields, 3 do
  if (redis.call('HGET', schedule, ARGV[at]) or '') ~= ARGV[at + 1] then return 0 end
end
redis.call('SADD', KEYS[7], ARGV[2])
for at = 6, 5 + 3 * fields, 3 do
  if ARGV[at + 2] ~= '' then redis.call('HSET', schedule, ARGV[at], ARGV[at + 2]) end
end
local from = 6 + 3 * fields
if ARGV[from] and get('status') == '' then
  add(from)
  release()
  keep(ARGV[3], ARGV[4], now)
end
return 1
""")
"""Change a schedule, and add the task of its run; returns 0 if others have changed it meanwhile."""

THROTTLE: Final = """
-- KEYS: stamps of the calls in the window, those who wait. ARGV: rate, window, who.
local stamps, waiting = KEYS[1], KEYS[2]
local rate, window, who = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local length = math.ceil(window * 1000000)
local keep = math.ceil(window) + 60
-- A call exactly one window after another is free, so one of that age has left.
redis.call('ZREMRANGEBYSCORE', stamps, '-inf', now - length)
-- Who has not come back a minute after its turn will not come.
redis.call('ZREMRANGEBYSCORE', waiting, '-inf', now - 60000000)
local used = redis.call('ZCARD', stamps)
local mine = who ~= '' and redis.call('ZSCORE', waiting, who) or false
local ahead = redis.call('ZCOUNT', waiting, '-inf', mine and ('(' .. mine) or '+inf')
if used + ahead < rate then
  local number = redis.call('INCR', stamps .. ':n')
  redis.call('EXPIRE', stamps .. ':n', keep)
  redis.call('ZADD', stamps, now, number)
  redis.call('EXPIRE', stamps, keep)
  if mine then redis.call('ZREM', waiting, who) end
  return -number
end
-- Slots become free in the order of their stamps, and then again a window later.
local place = used + ahead - rate
local round = math.floor(place / rate)
local entry = redis.call('ZRANGE', stamps, place % rate, place % rate, 'WITHSCORES')
local from = entry[2] and tonumber(entry[2]) or now
local due = math.max(from + length * (round + 1), now + 1)
if who ~= '' then
  if not mine then redis.call('ZADD', waiting, due, who) end
  redis.call('EXPIRE', waiting, keep + math.ceil((due - now) / 1000000))
end
return due - now
"""
"""Count a call and return minus its number, or the microseconds until the next try."""

RESTAMP: Final = """
-- KEYS: stamps of the calls in the window. ARGV: number of one, window, seconds from now.
local stamp = redis.call('ZSCORE', KEYS[1], ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if not stamp then return 0 end
if tonumber(stamp) <= now - math.ceil(ARGV[2] * 1000000) then
  -- Others may have been counted since in its place.
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
redis.call('ZADD', KEYS[1], now + math.ceil(ARGV[3] * 1000000), ARGV[1])
return 1
"""
"""Move a counted call to another time; 0 if its window has passed: count it again."""

FORGET: Final = script("""
-- ARGV: id
return is_final(get('status')) and redis.call('DEL', task) or 0
""")
"""Drop a final task."""
