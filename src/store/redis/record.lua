-- The record of one owner: a hash, whose field `@` is the header. `layout.rs` has the bytes.
--
-- A version has 64 bits, and a number of Lua has 53, so a version stays a string here, and is compared as milliseconds
-- and counter. The operator `<` on strings is never used: Lua compares strings by the locale of the server.
--
-- Each call runs the whole script, and so makes each function anew: lines in place are faster than a function with one
-- caller.

local LIVE, ENDED = 1, 2
local MAX_MILLIS = 2 ^ 48 - 1
local UNDECODABLE = 'LSFORMAT the record has an unknown format: a later build of the application may have written it'

-- A record is absent from its expiry on. Redis counts a key as present in the millisecond of the key's expiry, so a key
-- expires a millisecond before its record.
local key = KEYS[1]
local clock = redis.call('TIME')
local now = math.min(clock[1] * 1000 + math.floor(clock[2] / 1000), MAX_MILLIS)

local function is_decodable(header)
    local format, state = header:byte(1, 2)
    return format == 1 and (state == LIVE and #header == 53 or state == ENDED and (#header == 31 or #header == 63))
end

local function is_older(a, b)
    if a == b then
        return false
    end
    local millis_a, counter_a = struct.unpack('>I6I2', a)
    local millis_b, counter_b = struct.unpack('>I6I2', b)
    return millis_a < millis_b or (millis_a == millis_b and counter_a < counter_b)
end
