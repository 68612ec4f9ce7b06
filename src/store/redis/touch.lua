-- Keeps a live record for longer: the same as `StoredRecord::touch`. ARGV[1] is the span in milliseconds.

local header = redis.call('HGET', key, '@')
if header and not is_decodable(header) then
    return redis.error_reply(UNDECODABLE)
end
if header and header:byte(2) == LIVE then
    local expires = math.min(now + ARGV[1], MAX_MILLIS)
    local expired_at = struct.unpack('>I6', header, 19)
    if now < expired_at and expired_at < expires then
        redis.call('HSET', key, '@', header:sub(1, 18) .. struct.pack('>I6', expires) .. header:sub(25))
        redis.call('PEXPIREAT', key, string.format('%d', expires - 1))
    end
end
return ''
