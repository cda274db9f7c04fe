-- Takes an update to Redis, unless Redis has a newer one.
-- KEYS: the code's, its revision's. ARGV: revision, code, its end in ms, whether it is usable.
local seen = tonumber(redis.call('GET', KEYS[2]) or '') or 0
local revision = tonumber(ARGV[1])
if revision < seen then
  return 'older'
end
local before = redis.pcall('GET', KEYS[1]) -- an error if it is not a string; it is overwritten then
local remove = ARGV[4] ~= 'true' and (revision > seen or before == ARGV[2])
if remove then
  redis.call('DEL', KEYS[1]) -- before the other writes: Redis deletes even when its memory is full
end
if revision > seen then
  -- In a day, every older code is dead.
  redis.call('SET', KEYS[2], ARGV[1], 'EX', 86400)
end
if remove then
  return 'removed'
end
if ARGV[4] ~= 'true' or revision == seen and before == ARGV[2] and redis.call('PTTL', KEYS[1]) > 0 then
  return 'same'
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3]) -- this and SET are SET with PXAT, which Redis has since 6.2
if redis.call('PTTL', KEYS[1]) < 0 then
  return 'expired'
end
return 'written'
