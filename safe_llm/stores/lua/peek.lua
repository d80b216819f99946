-- What stands against each charge: used and held, used and held, ..., with spaces between.
--
-- KEYS: the charges' counters
-- ARGV: now or "", the charges as JSON: [[key, amount, limit, kind, start, end], ...]

local values = call("MGET", unpack(KEYS))
local answer = {}
for i, charge in ipairs(cjson.decode(ARGV[2])) do
  local used, held = tally(load(KEYS[i], charge, values[i]), charge)
  answer[2 * i - 1], answer[2 * i] = whole(used), whole(held)
end
return table.concat(answer, " ")
