#!lua name={{library}}
-- What relays share, changed in one step each: a Redis function runs alone, so nothing comes between asking and holding.
--
-- Every function may be called a second time with the same arguments, as it is when its reply was lost: the second call
-- finds what the first has done. All keys of a call have the same hash tag, so they lie on one node of a cluster.
-- Amounts are whole nano-dollars and travel as text: HINCRBY counts them exactly, and Lua compares them exactly up to
-- 9 * 10^15 (nine million dollars). Times are Redis's own, so the clocks of machines don't have to agree on them.

local MINUTE = 60
local DAYS = 64 -- that an account tells apart, as the embedded ledger does
local FENCES_MS = 600000 -- that a fence is remembered: anybody may name sessions, and a lease lasts for seconds

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local function negative(amount)
  if amount == '0' then return amount end -- Redis knows no -0
  if amount:sub(1, 1) == '-' then return amount:sub(2) end
  return '-' .. amount
end

-- -- money: an account is a hash with `total`, `n` (requests under way), and for each day `s:DAY` (spent), `h:DAY` (held)

local function prune(account)
  local days = {}
  for _, name in ipairs(redis.call('HKEYS', account)) do
    if name:sub(1, 2) == 's:' then days[#days + 1] = name end
  end
  if #days > DAYS then
    table.sort(days)
    for at = 1, #days - DAYS do redis.call('HDEL', account, days[at]) end
  end
end

local function spend(account, day, amount)
  redis.call('HINCRBY', account, 'total', amount)
  redis.call('HINCRBY', account, 's:' .. day, amount)
  prune(account)
end

-- Spent and held since a day, '' for all.
local function standing(account, since)
  local spent, held, fields = 0, 0, redis.call('HGETALL', account)
  for at = 1, #fields, 2 do
    local name, value = fields[at], tonumber(fields[at + 1])
    local kind, day = name:sub(1, 2), name:sub(3)
    if kind == 'h:' and day >= since then held = held + value end
    if kind == 's:' and since ~= '' and day >= since then spent = spent + value end
    if name == 'total' and since == '' then spent = value end
  end
  return spent, held
end

-- The count of a minute that is over with this second; what is older is forgotten.
local function minute(rate, kind, second)
  local sum, seconds, fields = 0, {}, redis.call('HGETALL', rate)
  for at = 1, #fields, 2 do
    local name = fields[at]
    if name:sub(1, 2) == kind then
      local when = tonumber(name:sub(3))
      if when <= second - MINUTE then
        redis.call('HDEL', rate, name)
      else
        sum = sum + tonumber(fields[at + 1])
        seconds[#seconds + 1] = {when, tonumber(fields[at + 1])}
      end
    end
  end
  return sum, seconds
end

local function count(rate, kind, second, number)
  redis.call('HINCRBY', rate, kind .. text(second), number)
  redis.call('EXPIRE', rate, 2 * MINUTE)
end

-- Seconds until a minute's count is below its limit, if nothing more comes.
local function retry_after(sum, seconds, second, limit)
  table.sort(seconds, function(one, other) return one[1] < other[1] end)
  for _, each in ipairs(seconds) do
    sum = sum - each[2]
    if sum < limit then return math.max(1, each[1] + MINUTE - second) end
  end
  return MINUTE
end

-- A hold: {account, rate, day, amount, tokens, counted, row}. `row` is what is written where its holder is gone, '' for
-- a request that is only limited.
local function release(holds, request, packed)
  local hold = cmsgpack.unpack(packed)
  redis.call('HDEL', holds, request)
  redis.call('HINCRBY', hold[1], 'n', -1)
  if redis.call('HINCRBY', hold[1], 'h:' .. hold[3], negative(hold[4])) == 0 then
    redis.call('HDEL', hold[1], 'h:' .. hold[3]) -- there may be others that hold nothing
  end
  return hold
end

-- KEYS: account, rate, holds of the holder, holders, done mark, epoch.
-- ARGV: request, holder, lease (ms), amount, tokens, day, row; budget, since, requests, tokens, parallel ('' is none);
-- the epoch.
local function reserve(keys, args)
  local account, rate, holds, holders, done, epoch = unpack(keys)
  local request, holder, lease, amount, tokens, day, row = unpack(args)
  local budget, since, requests, most_tokens, parallel = unpack(args, 8)
  if redis.call('HEXISTS', holds, request) == 1 then return {'ok'} end
  if redis.call('EXISTS', done) == 1 then return {'settled'} end
  if (redis.call('GET', epoch) or '') ~= args[13] then return {'lost'} end
  local now = now_ms()
  local second = math.floor(now / 1000)
  if parallel ~= '' and tonumber(redis.call('HGET', account, 'n') or '0') >= tonumber(parallel) then
    return {'parallel'}
  end
  for _, limit in ipairs({{'requests', 'r:', requests}, {'tokens', 't:', most_tokens}}) do
    if limit[3] ~= '' then
      local sum, seconds = minute(rate, limit[2], second)
      if sum >= tonumber(limit[3]) then
        return {limit[1], text(retry_after(sum, seconds, second, tonumber(limit[3])))}
      end
    end
  end
  if budget ~= '' then
    local spent, held = standing(account, since)
    local left = tonumber(budget) - spent - held
    if tonumber(amount) > left or left <= 0 then return {'budget', text(left)} end
  end
  redis.call('HINCRBY', account, 'h:' .. day, amount)
  redis.call('HINCRBY', account, 'n', 1)
  if requests ~= '' then count(rate, 'r:', second, 1) end
  if most_tokens ~= '' then count(rate, 't:', second, tokens) end
  local counted = most_tokens ~= '' and '1' or ''
  redis.call('HSET', holds, request, cmsgpack.pack({account, rate, day, amount, tokens, counted, row}))
  redis.call('ZADD', holders, text(now + tonumber(lease)), holder)
  return {'ok'}
end

-- KEYS: account, rate, holds of the holder, done mark, stream.
-- ARGV: request, cost, tokens, day, row, keep the mark for (ms), '1' where it was held.
-- Cost is '' where there is none to be counted, row is '' where none is written. 0 where it was settled before.
local function settle(keys, args)
  local account, rate, holds, done, stream = unpack(keys)
  local request, cost, tokens, day, row, kept, held = unpack(args)
  if not redis.call('SET', done, '1', 'NX', 'PX', kept) then return 0 end
  local second = math.floor(now_ms() / 1000)
  local packed = held == '1' and redis.call('HGET', holds, request)
  if packed then
    local hold = release(holds, request, packed)
    if hold[6] == '1' and tokens ~= '' then
      count(rate, 't:', second, text(tonumber(tokens) - tonumber(hold[5])))
    end
  elseif held ~= '1' and tokens ~= '' and tokens ~= '0' then
    count(rate, 't:', second, tokens)
  end
  if cost ~= '' then spend(account, day, cost) end
  if row ~= '' then redis.call('XADD', stream, '*', 'row', row) end
  return 1
end

-- Settle what holders have left whose lease is over, each at its hold. KEYS: holders, stream.
-- ARGV: beginning of the names of holds and of done marks, how many at most, keep marks for (ms), and until when this
-- holds (ms since the epoch): a Redis that stood still must not find everybody gone. How many there were.
local function abandon(keys, args)
  local holders, stream = unpack(keys)
  local holds_of, done_of, most, kept = args[1], args[2], tonumber(args[3]), args[4]
  local settled = 0
  if now_ms() > tonumber(args[5]) then return 0 end
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', text(now_ms()))) do
    local holds = holds_of .. holder
    local found = redis.call('HGETALL', holds)
    for at = 1, #found, 2 do
      if settled >= most then return settled end
      local request = found[at]
      local hold = release(holds, request, found[at + 1])
      redis.call('SET', done_of .. request, '1', 'PX', kept)
      if hold[7] ~= '' then
        spend(hold[1], hold[3], hold[4])
        redis.call('XADD', stream, '*', 'row', hold[7])
      end
      settled = settled + 1
    end
    redis.call('ZREM', holders, holder)
  end
  return settled
end

-- KEYS: account, mark. ARGV: day, amount, keep the mark for (ms). Of what several machines say was spent on a day that
-- Redis has lost the most is added, to what has been spent since.
local function restore(keys, args)
  local before = redis.call('GET', keys[2]) or '0'
  local more = tonumber(args[2]) - tonumber(before)
  if more > 0 then
    spend(keys[1], args[1], text(more))
    redis.call('SET', keys[2], args[2], 'PX', args[3])
  end
  return 1
end

-- KEYS: epoch. ARGV: a new one. The one that holds.
local function join(keys, args)
  redis.call('SET', keys[1], args[1], 'NX')
  return redis.call('GET', keys[1])
end

-- KEYS: holders. ARGV: holder, lease (ms).
local function live(keys, args)
  return redis.call('ZADD', keys[1], text(now_ms() + tonumber(args[2])), args[1])
end

-- KEYS: holders, holds of the holder. ARGV: holder. It leaves, with nothing held.
local function leave(keys, args)
  if redis.call('EXISTS', keys[2]) == 0 then redis.call('ZREM', keys[1], args[1]) end
  return 1
end

-- -- sessions: a hash of `text` and `at`; a lease is a hash of `fence` and `holder`, a queue is sorted by arrival

-- KEYS: session. ARGV: since when it has to have been used (ms before now).
local function load(keys, args)
  local found = redis.call('HMGET', keys[1], 'text', 'at')
  if not found[1] or now_ms() - tonumber(found[2]) >= tonumber(args[1]) then return false end
  return found[1]
end

local function holds_lease(lease, fence)
  return redis.call('HGET', lease, 'fence') == fence
end

-- KEYS: session, lease, sessions of the owner. ARGV: fence, text, lifetime (ms), most sessions of the owner.
-- The sessions that had to go, or false where the lease is lost.
local function save(keys, args)
  local session, lease, owned = unpack(keys)
  local fence, said, lifetime, most = unpack(args)
  if not holds_lease(lease, fence) then return false end
  local now = now_ms()
  redis.call('HSET', session, 'text', said, 'at', text(now))
  redis.call('PEXPIRE', session, lifetime)
  redis.call('ZREMRANGEBYSCORE', owned, '-inf', text(now - tonumber(lifetime)))
  redis.call('ZADD', owned, text(now), session)
  redis.call('PEXPIRE', owned, lifetime)
  local gone, over = {}, redis.call('ZCARD', owned) - tonumber(most)
  if over > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', owned, 0, over)) do
      if oldest ~= session and #gone < over then
        redis.call('DEL', oldest)
        redis.call('ZREM', owned, oldest)
        gone[#gone + 1] = oldest
      end
    end
  end
  return gone
end

-- KEYS: session, lease, sessions of the owner. ARGV: fence. 1, 0 where there was none, -1 where the lease is lost.
local function delete(keys, args)
  local session, lease, owned = unpack(keys)
  if not holds_lease(lease, args[1]) then return -1 end
  local there = redis.call('DEL', session)
  redis.call('ZREM', owned, session)
  if there == 1 then redis.call('HSET', lease, 'deleted', '1') end -- for a second call
  return redis.call('HEXISTS', lease, 'deleted')
end

-- The next one in a queue that still waits. Who has not asked for `patience` ms is gone.
local function head(queue, seen, now, patience)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', text(now - patience))) do
    redis.call('ZREM', queue, gone)
    redis.call('ZREM', seen, gone)
  end
  return redis.call('ZRANGE', queue, 0, 0)[1]
end

-- KEYS: lease, queue, seen, fences. ARGV: ticket, most that may wait, lease (ms), patience (ms), a holder that is gone.
-- {'mine', fence}; {'full'}; or {'wait', ms until the lease that is in force is over, its holder}.
local function take(keys, args)
  local lease, queue, seen, fences = unpack(keys)
  local ticket, most, lasts, patience = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local now = now_ms()
  if redis.call('HGET', lease, 'holder') == ticket then return {'mine', redis.call('HGET', lease, 'fence')} end
  local holder = redis.call('HGET', lease, 'holder') or ''
  if args[5] ~= '' and holder == args[5] then redis.call('DEL', lease) end
  local first = head(queue, seen, now, patience)
  local held = redis.call('PTTL', lease)
  if held < 0 and (not first or first == ticket) then
    redis.call('ZREM', queue, ticket)
    redis.call('ZREM', seen, ticket)
    -- The clock, so that it rises beyond what Redis has forgotten; and by one, where the clock has gone back.
    local time = redis.call('TIME')
    local fence = time[1] * 1000000 + time[2]
    fence = math.max(fence, tonumber(redis.call('GET', fences) or '0') + 1)
    redis.call('SET', fences, text(fence), 'PX', FENCES_MS)
    redis.call('HSET', lease, 'holder', ticket, 'fence', text(fence))
    redis.call('PEXPIRE', lease, lasts)
    return {'mine', text(fence)}
  end
  if not redis.call('ZSCORE', queue, ticket) then
    if redis.call('ZCARD', queue) >= most then return {'full'} end
    local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
    redis.call('ZADD', queue, text(tonumber(last or '0') + 1), ticket)
  end
  redis.call('ZADD', seen, text(now), ticket)
  redis.call('PEXPIRE', queue, 10 * patience)
  redis.call('PEXPIRE', seen, 10 * patience)
  return {'wait', text(math.max(held, 0)), holder}
end

-- KEYS: lease, queue, seen. ARGV: ticket, patience (ms). Gives back a lease, or a place in the queue.
-- The ticket of the next one, '' for nobody.
local function release_lease(keys, args)
  local lease, queue, seen = unpack(keys)
  redis.call('ZREM', queue, args[1])
  redis.call('ZREM', seen, args[1])
  if redis.call('HGET', lease, 'holder') == args[1] then redis.call('DEL', lease) end
  if redis.call('EXISTS', lease) == 1 then return '' end
  return head(queue, seen, now_ms(), tonumber(args[2])) or ''
end

-- KEYS: lease. ARGV: fence, lease (ms). 0 where it is lost.
local function renew(keys, args)
  if not holds_lease(keys[1], args[1]) then return 0 end
  return redis.call('PEXPIRE', keys[1], args[2])
end

-- -- keys that were handed out: one text, and how often it was changed

-- KEYS: keys. ARGV: the version that was read, the text. The new version, 0 where somebody else was faster.
local function write_keys(keys, args)
  local version = redis.call('HGET', keys[1], 'version') or '0'
  if version ~= args[1] then return 0 end
  redis.call('HSET', keys[1], 'text', args[2])
  return redis.call('HINCRBY', keys[1], 'version', 1)
end

-- KEYS: secret, keys. ARGV: what the secret is to be, the text of the keys, '' for none, and its version. 0 where nothing
-- was missing. Of several relays that give their keys again the newest version stays: a key that was revoked stays so.
local function begin(keys, args)
  local given = redis.call('SET', keys[1], args[1], 'NX') and 1 or 0
  local version = tonumber(redis.call('HGET', keys[2], 'version') or '0')
  if args[2] ~= '' and redis.call('GET', keys[1]) == args[1] and version < tonumber(args[3]) then
    redis.call('HSET', keys[2], 'text', args[2], 'version', args[3])
    given = 1
  end
  return given
end

local functions = { -- without pairs, which Redis does not have at this point
  {'reserve', reserve}, {'settle', settle}, {'abandon', abandon}, {'live', live}, {'leave', leave},
  {'load', load}, {'save', save}, {'delete', delete},
  {'take', take}, {'release_lease', release_lease}, {'renew', renew},
  {'restore', restore}, {'join', join}, {'write_keys', write_keys}, {'begin', begin},
}
for at = 1, #functions do
  redis.register_function('{{library}}_' .. functions[at][1], functions[at][2])
end
