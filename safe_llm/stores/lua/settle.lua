-- Turn what was reserved into what was used.
--
-- KEYS: the reservation, the charges' counters
-- ARGV: now or "", a name for this settlement, the id, what was used of each charge as JSON: [amount, ...]
--
-- Answers 1 if this settlement was made, now or by an earlier try of the same name; 0 if another was, or if there is no
-- such reservation any more.

local values = call("MGET", unpack(KEYS))
if not values[1] then
  return 0
end
local name, id, actual = ARGV[2], ARGV[3], cjson.decode(ARGV[4])
local ends, settled, reserved = string.match(values[1], "^(%S+) (%S+) (.*)$")
if settled ~= "-" then
  return settled == name and 1 or 0
end
local expires, charges = tonumber(ends), cjson.decode(reserved)
if #charges ~= #actual then
  return redis.error_reply("ERR the reservation has another number of charges")
end

-- Let go of an amount that is held until the lease ends.
local function release(leases, begins, amount)
  local at = 1
  while leases[at] and amount > 0 do
    local released = 0
    if leases[at] >= expires and leases[at + 1] == begins then
      released = min(amount, leases[at + 2])
      amount = amount - released
    end
    if released > 0 and released == leases[at + 2] then
      remove(leases, at)
      remove(leases, at)
      remove(leases, at)
    else
      leases[at + 2] = leases[at + 2] - released
      at = at + 3
    end
  end
end

for i, charge in ipairs(charges) do
  local key, amount, used = KEYS[i + 1], charge[AMOUNT], actual[i]
  if charge[KIND] == "held" then
    if amount > 0 then
      local counter = load(key, charge)
      if call("ZREM", key, whole(amount) .. " " .. i .. "/" .. id) == 1 then
        counter.held = counter.held - amount
        save_in_flight(key, counter)
      end
    end
  elseif amount > 0 or used > 0 then
    local counter = load(key, charge, values[i + 1])
    local begins, over = place(charge)
    add(counter.totals, begins, used - amount)
    if expires > now then
      release(counter.leases, begins, amount)
    end
    if values[i + 1] or counter.totals[1] then
      save(key, counter, over)
    end
  end
end
local forget = max(expires, now) + GRACE
call("SET", KEYS[1], ends .. " " .. name .. " " .. reserved)
call("PEXPIRE", KEYS[1], whole((forget - now) * 1000))
return 1
