-- Keeps a live record for longer: the same as `StoredRecord::touch`. ARGV: the span in milliseconds, and the version of
-- the lifetime, or an empty string.

local header = redis.call('HGET', key, '@')
if header and not is_decodable(header) then
    return redis.error_reply(UNDECODABLE)
end
if header and header:byte(2) == LIVE then
    local expires, lifetime = math.min(now + ARGV[1], MAX_MILLIS), ARGV[2]
    local expired_at = struct.unpack('>I6', header, 19)
    local is_outdated = lifetime ~= '' and is_older(lifetime, header:sub(46))
    if now < expired_at and expired_at < expires and not is_outdated then
        redis.call('HSET', key, '@', header:sub(1, 18) .. struct.pack('>I6', expires) .. header:sub(25))
        redis.call('PEXPIREAT', key, string.format('%.0f', expires - 1))
    end
end
return ''
