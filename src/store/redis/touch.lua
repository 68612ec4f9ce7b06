-- Keeps a live record for longer: the same as `StoredRecord::touch`. ARGV[1] is the span in milliseconds.

local header = redis.call('HGET', key, '@')
if header and not is_decodable(header) then
    return redis.error_reply(UNDECODABLE)
end
local expires = math.min(now + ARGV[1], MAX_MILLIS)
if header and state_of(header) == LIVE and now < expires_of(header) and expires_of(header) < expires then
    redis.call('HSET', key, '@', header:sub(1, 18) .. millis(expires) .. header:sub(25))
    expire_at(expires)
end
return ''
