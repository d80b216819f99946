-- What reserve, settle and peek share. Each is sent to the server as one script: this file, and then its own.
--
-- The counter of a fixed or sliding charge is a string of three values in MessagePack:
--     keep     when the key expires, in epoch seconds
--     totals   {begins, total, ...} of each window or slice, ascending; what is used and held is one sum, which is all
--              that decides who fits
--     leases   {ends, begins, amount, ...}, those that end first first: how much of it is held, and until when; nil for
--              none, which is faster to read than an empty list
-- The counter of calls in flight, where the end of a lease decides who fits, is a sorted set: leases named
-- "<amount> <position>/<id>" by when they end and, below zero, the sum of them as "held".
--
-- Numbers are doubles here, exact up to 2^53. None may pass through tostring or cjson.encode, which round to 14 digits.

local call, format, min, max = redis.call, string.format, math.min, math.max
local insert, remove = table.insert, table.remove
local GRACE = 60 -- seconds that a value outlives its use: clocks differ, and lost answers are asked for again
local MANY = 64 -- leases whose ends a counter tells apart
local AMOUNT, LIMIT, KIND, START, END = 2, 3, 4, 5, 6 -- of a charge, whose first is the key

-- The time by the client's clock where it sent one, else the server's.
local now = tonumber(ARGV[1])
if not now then
  local time = call("TIME")
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function whole(number)
  return format("%.0f", number)
end

-- Where a charge counts: the second its window or slice begins, and the second that this is over.
local function place(charge)
  local begins, over = charge[START], charge[END]
  local span = over - begins
  local apart = now < begins - GRACE or now >= over + GRACE
  if charge[KIND] == "sliding" then
    begins = over - span / 61
    over = begins + span
  end
  -- Where the client's clock is far from this one, what it asks for is not over, whichever is wrong.
  return begins, apart and now + span or over
end

-- The counter of calls in flight, with the leases that have ended given back.
local function in_flight(key)
  local held, ended = 0, 0
  local entries = call("ZRANGEBYSCORE", key, "-inf", now, "WITHSCORES")
  for at = 1, #entries, 2 do
    local name, score = entries[at], tonumber(entries[at + 1])
    if score > 0 then
      ended = ended + tonumber(string.match(name, "^%d+"))
    else
      held = -score
    end
  end
  if ended > 0 then
    held = held - ended
    call("ZREMRANGEBYSCORE", key, "(0", now)
    call("ZADD", key, -held, "held")
  end
  return { held = held }
end

local loaded = {}

-- The counter of a charge; `packed` is what the key holds, if that is a string. Two charges of one call may meet on it.
local function load(key, charge, packed)
  local counter = loaded[key]
  if counter then
    return counter
  elseif charge[KIND] == "held" then
    counter = in_flight(key)
  elseif packed then
    local keep, totals, leases = cmsgpack.unpack(packed)
    counter = { keep = keep, totals = totals, leases = leases or {} }
  else
    counter = { keep = 0, totals = {}, leases = {} }
  end
  loaded[key] = counter
  return counter
end

-- Write the counter of a window or slice back, which counts until `over`.
local function save(key, counter, over)
  local extend = counter.keep < over + GRACE
  if extend then
    -- For longer than it must, so that a busy key need not be told at each call.
    counter.keep = over + 2 * GRACE
  end
  local packed = cmsgpack.pack(counter.keep, counter.totals, counter.leases[1] and counter.leases)
  if extend then
    call("SET", key, packed) -- Its option PX would take longer than a second command.
    call("PEXPIRE", key, whole(max(GRACE, counter.keep - now) * 1000))
  else
    call("SET", key, packed, "KEEPTTL")
  end
end

-- Write the counter of calls in flight back; with the lease that has been added, if there is one, and when that ends.
local function save_in_flight(key, counter, lease, ends)
  if counter.held == 0 then
    call("DEL", key)
  elseif lease then
    call("ZADD", key, -counter.held, "held", ends, lease)
    local life = (ends - now + GRACE) * 1000
    if call("PTTL", key) < life then
      call("PEXPIRE", key, whole(life + GRACE * 1000))
    end
  else
    call("ZADD", key, -counter.held, "held")
  end
end

-- What stands against a charge, used and held in one. Slices newer than its own come from a client whose clock is ahead;
-- they are spent all the same.
local function total(counter, charge)
  local totals = counter.totals
  if not totals then
    return counter.held
  elseif charge[KIND] == "fixed" then
    return totals[2] or 0
  end
  local from, sum = charge[START], 0
  for at = #totals - 1, 1, -2 do
    if totals[at] < from then
      break
    end
    sum = sum + totals[at + 1]
  end
  return sum
end

-- The same, apart.
local function tally(counter, charge)
  if counter.held then
    return 0, counter.held
  end
  local leases, held = counter.leases, 0
  local from = charge[KIND] == "fixed" and -math.huge or charge[START]
  for at = 1, #leases, 3 do
    if leases[at] > now and leases[at + 1] >= from then
      held = held + leases[at + 2]
    end
  end
  return max(0, total(counter, charge) - held), held
end

-- Add to the total of the window or slice that begins there. None falls below zero.
local function add(totals, begins, amount)
  local at = #totals - 1
  while at > 0 and totals[at] > begins do
    at = at - 2
  end
  if totals[at] == begins then
    totals[at + 1] = max(0, totals[at + 1] + amount)
  elseif amount > 0 then
    insert(totals, at + 2, begins)
    insert(totals, at + 3, amount)
  end
end
