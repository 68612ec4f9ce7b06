-- The record of one owner: a hash, whose field `@` is the header. `layout.rs` has the bytes.
--
-- A version has 64 bits, and a number of Lua has 53, so a version stays a string here, and is compared as milliseconds
-- and counter. The operator `<` on strings is never used: Lua compares strings by the locale of the server.

local LIVE, ENDED = 1, 2
local ZERO = string.rep('\0', 8)
local MAX_MILLIS = 2 ^ 48 - 1
local UNDECODABLE = 'LSFORMAT the record has an unknown format: a later build of the application may have written it'

local key = KEYS[1]
local clock = redis.call('TIME')
local now = math.min(clock[1] * 1000 + math.floor(clock[2] / 1000), MAX_MILLIS)

local function is_decodable(header)
    local format, state = header:byte(1, 2)
    return format == 1 and (state == LIVE and #header == 53 or state == ENDED and (#header == 31 or #header == 63))
end

local function state_of(header)
    return header:byte(2)
end

local function expires_of(header)
    return (struct.unpack('>I6', header, 19))
end

local function millis(time)
    return struct.pack('>I6', time)
end

-- A record is absent from its expiry on. Redis counts a key as present in the millisecond of the key's expiry.
local function expire_at(time)
    redis.call('PEXPIREAT', key, string.format('%.0f', time - 1))
end
