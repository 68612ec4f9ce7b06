-- Makes a commit whole or not at all: the same as `Commit::apply`. `script.rs` has the arguments and the replies.

local kind, above, keep, life, detail, channel, message = unpack(ARGV, 1, 7)
local FIRST_CHANGE, CHANGE = 8, 4
-- The not-before and the lifetime of a new record.
local NO_REST = string.rep('\0', 29)

-- A version as two numbers: the milliseconds and the counter.
local function parts(version)
    return struct.unpack('>I6I2', version)
end

local function is_older(millis_a, counter_a, millis_b, counter_b)
    return millis_a < millis_b or (millis_a == millis_b and counter_a < counter_b)
end

local function newer_of(a, b)
    local millis_a, counter_a = parts(a)
    return is_older(millis_a, counter_a, parts(b)) and b or a
end

-- An entry: the version, a byte that is 1 for a tombstone, and the JSON. A shorter entry counts as absent.
local function version_of(entry)
    return entry and #entry > 8 and entry:sub(1, 8) or ZERO
end

local function outranks(entry, current)
    if not current or #current < 9 then
        return true
    end
    local millis_a, counter_a = parts(entry)
    local millis_b, counter_b = parts(current)
    if millis_a ~= millis_b or counter_a ~= counter_b then
        return is_older(millis_b, counter_b, millis_a, counter_a)
    end
    local removes, removed = entry:byte(9) % 2, current:byte(9) % 2
    if removes ~= removed or removes == 1 then
        return removed < removes
    end
    for at = 10, math.min(#entry, #current) do
        if entry:byte(at) ~= current:byte(at) then
            return current:byte(at) < entry:byte(at)
        end
    end
    return #current < #entry
end

-- The header and the current entry of each change.
local fields = { '@' }
for at = FIRST_CHANGE, #ARGV, CHANGE do
    fields[#fields + 1] = ARGV[at]
end
local current = redis.call('HMGET', key, unpack(fields))
local header = current[1]
if header and not is_decodable(header) then
    return redis.error_reply(UNDECODABLE)
end
if header and expires_of(header) <= now then
    header = false
end
if not header then
    current = {}
end

-- Refusals.
local function outdated()
    return { 'outdated', '', header and redis.call('HGETALL', key) or {} }
end
if header and state_of(header) == ENDED then
    return { 'ended', '', header }
end
if header and kind == 'create' then
    return outdated()
end
if not header and (kind == 'update' or kind == 'clear') then
    return { 'absent', '' }
end
for at = FIRST_CHANGE, #ARGV, CHANGE do
    local replaces = ARGV[at + 1]
    if replaces ~= '' and version_of(current[(at - FIRST_CHANGE) / CHANGE + 2]) ~= replaces then
        return outdated()
    end
end

-- The stamp: the clock's time, or the version that follows the newest known version.
local known_millis, counter = parts(header and newer_of(header:sub(3, 10), above) or above)
if known_millis < now then
    known_millis, counter = now, 0
elseif counter < 65535 then
    counter = counter + 1
elseif known_millis < MAX_MILLIS then
    known_millis, counter = known_millis + 1, 0
end
local stamp = struct.pack('>I6I2', known_millis, counter)

-- The next header.
local newest, generation = stamp, header and header:sub(11, 18) or stamp
local expired_at = header and expires_of(header) or 0
local expires = math.max(expired_at, math.min(now + keep, MAX_MILLIS))
-- The not-before and the lifetime.
local rest = header and header:sub(25) or NO_REST
if kind == 'revoke' then
    rest = newer_of(rest:sub(1, 8), detail ~= '' and detail or stamp) .. rest:sub(9)
end
if life ~= '' and (rest:byte(9) == 0 or newer_of(rest:sub(22), life:sub(14)) ~= rest:sub(22)) then
    -- A new lifetime may be shorter, and then shortens the span too.
    rest, expires = rest:sub(1, 8) .. life, math.min(now + keep, MAX_MILLIS)
end

-- The next entries, by field.
local entries = {}
if kind == 'clear' then
    local all = redis.call('HGETALL', key)
    for at = 1, #all, 2 do
        if all[at] ~= '@' and all[at] ~= detail then
            entries[all[at]] = stamp .. '\1'
        end
    end
end
if kind ~= 'revoke' and kind ~= 'end' then
    for at = FIRST_CHANGE, #ARGV, CHANGE do
        local field, version = ARGV[at], ARGV[at + 2]
        local entry = (version == '' and stamp or version) .. ARGV[at + 3]
        if version ~= '' then
            newest = newer_of(newest, version)
        end
        if outranks(entry, entries[field] or current[(at - FIRST_CHANGE) / CHANGE + 2]) then
            entries[field] = entry
        end
    end
end

-- The writes. No command before this line writes.
local retired = header and kind == 'end' and redis.call('HGETALL', key)
local begins = not header or kind == 'end'
local write = { 'HSET', key, '@' }
if kind == 'end' then
    local head = '\1\2' .. newest .. generation .. millis(expires)
    write[4] = head .. detail:sub(1, 1) .. millis(now) .. detail:sub(2)
else
    write[4] = '\1\1' .. newest .. generation .. millis(expires) .. rest
end
for field, entry in pairs(entries) do
    write[#write + 1] = field
    write[#write + 1] = entry
end
if begins then
    redis.call('DEL', key)
end
redis.call(unpack(write))
if begins or expired_at ~= expires then
    expire_at(expires)
end

-- A server may refuse the notice (ACL channels). The commit is made, and so succeeds.
local sent = redis.pcall('PUBLISH', channel, message .. newest .. generation)
local silent = type(sent) == 'table' and sent.err or ''

if kind ~= 'end' then
    return { 'applied', silent, stamp, newest, generation }
end
return retired and { 'retired', silent, retired } or { 'absent', silent }
