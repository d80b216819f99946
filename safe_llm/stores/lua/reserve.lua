-- Take room for all charges, or for none and say why.
--
-- KEYS: the reservation, the charges' counters
-- ARGV: now or "", the lease's seconds, the id, the charges as JSON: [[key, amount, limit, kind, start, end], ...]
--
-- Answers one of
--     expires                 taken, until then
--     {1, expires, charges}   this id was reserved before, with these charges
--     {0, now, [used, held, when, amount, when, amount, ...] of each charge}
--         refused; of a charge that does not fit, which amounts leave its window when, the first to go first

local values = call("MGET", unpack(KEYS))
if values[1] then
  local expires, charges = string.match(values[1], "^(%S+) %S+ (.*)$")
  return { 1, expires, charges }
end

local id, charges = ARGV[3], cjson.decode(ARGV[4])
local fits, counters, excess, asked = true, {}, {}, {}
for i, charge in ipairs(charges) do
  local key = KEYS[i + 1]
  local counter = load(key, charge, values[i + 1])
  local all = (asked[key] or 0) + charge[AMOUNT]
  counters[i], asked[key] = counter, all
  -- Not total + all > limit: the sum would be rounded at 2^53.
  excess[i] = all - (charge[LIMIT] - total(counter, charge))
  fits = fits and excess[i] <= 0
end

if not fits then
  local answer = { 0, format("%.17g", now) }
  for i, charge in ipairs(charges) do
    local counter, missing = counters[i], excess[i]
    local used, held = tally(counter, charge)
    local row = { whole(used), whole(held) }
    local function leaves(when, amount)
      if missing > 0 then
        row[#row + 1], row[#row + 2] = when, whole(amount)
        missing = missing - amount
      end
    end
    if missing > 0 and counter.held then
      -- A lease holds at least one, so no more of them than this need to end.
      local leases = call("ZRANGEBYSCORE", KEYS[i + 1], "(0", "inf", "WITHSCORES", "LIMIT", 0, whole(missing))
      for at = 1, #leases, 2 do
        leaves(leases[at + 1], tonumber(string.match(leases[at], "^%d+")))
      end
    elseif missing > 0 then
      local from = charge[KIND] == "fixed" and -math.huge or charge[START]
      for at = 1, #counter.totals, 2 do
        local begins = counter.totals[at]
        if begins >= from then
          leaves(whole(begins + charge[END] - charge[START]), counter.totals[at + 1])
        end
      end
    end
    answer[i + 2] = row
  end
  return answer
end

-- Hold an amount until the lease ends.
local function hold(leases, expires, begins, amount)
  while leases[1] and leases[1] <= now do
    remove(leases, 1)
    remove(leases, 1)
    remove(leases, 1)
  end
  local at = #leases + 1
  while at > 1 and leases[at - 3] > expires do
    at = at - 3
  end
  if at > #leases then -- Nearly always.
    leases[at], leases[at + 1], leases[at + 2] = expires, begins, amount
  else
    insert(leases, at, expires)
    insert(leases, at + 1, begins)
    insert(leases, at + 2, amount)
  end
end

-- Hold neighbours as one, until the later ends: which leases have ended decides only what counts as used already. Those
-- of slices that began up to `gone` are not counted any more.
local function merge(leases, gone)
  local merged, at = {}, 1
  while leases[at] do
    local amount = leases[at + 2]
    if leases[at + 4] == leases[at + 1] then
      at = at + 3
      amount = amount + leases[at + 2]
    end
    if leases[at + 1] > gone then
      local size = #merged
      merged[size + 1], merged[size + 2], merged[size + 3] = leases[at], leases[at + 1], amount
    end
    at = at + 3
  end
  return merged
end

local expires = now + tonumber(ARGV[2])
local last = expires
for i, charge in ipairs(charges) do
  local amount, counter = charge[AMOUNT], counters[i]
  if amount == 0 then
    -- Nothing taken leaves no trace: switches are looked at by every call of every user.
  elseif counter.held then
    counter.held = counter.held + amount
    save_in_flight(KEYS[i + 1], counter, whole(amount) .. " " .. i .. "/" .. id, expires)
  else
    local begins, over = place(charge)
    local totals = counter.totals
    -- This clock and the client's must agree that a slice is over: neither alone, if wrong, can wipe live ones.
    local gone = min(now, charge[START]) - GRACE - charge[END] + charge[START]
    while totals[1] and totals[1] <= gone do
      remove(totals, 1)
      remove(totals, 1)
    end
    add(totals, begins, amount)
    hold(counter.leases, expires, begins, amount)
    if #counter.leases > 3 * MANY then
      counter.leases = merge(counter.leases, gone)
    end
    save(KEYS[i + 1], counter, over)
    last = max(last, over)
  end
end
-- Unsettled, it is remembered for as long as a late settlement still makes a difference.
expires = format("%.17g", expires)
call("SET", KEYS[1], expires .. " - " .. ARGV[4])
call("PEXPIRE", KEYS[1], whole((last + GRACE - now) * 1000))
return expires
