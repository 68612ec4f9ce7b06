-- Makes a commit whole or not at all: the same as `Commit::apply`. `script.rs` has the arguments and the replies.

local kind, above, keep, life, detail, channel, message = unpack(ARGV, 1, 7)
local FIRST_CHANGE, CHANGE = 8, 4
local ZERO = '\0\0\0\0\0\0\0\0'

-- An entry: the version, a byte that is 1 for a tombstone, and the JSON. A shorter entry counts as absent.
local function outranks(entry, current)
    if not current or #current < 9 then
        return true
    end
    local version, current_version = entry:sub(1, 8), current:sub(1, 8)
    if version ~= current_version then
        return is_older(current_version, version)
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
-- The parts of the header. The rest is the not-before and the lifetime of a live record, or the end.
local state, newest, generation, expires, rest
if header then
    state, newest, generation, expires = struct.unpack('>Bc8c8I6', header, 2)
    rest = header:sub(25)
end
if not header or expires <= now then
    header, current, newest, expires, rest = false, {}, ZERO, 0, string.rep('\0', 29)
end

-- Refusals.
if header and state == ENDED then
    return { 'ended', '', header }
end
if not header and (kind == 'update' or kind == 'clear') then
    return { 'absent', '' }
end
local life_version, current_life_version = life:sub(14), rest:sub(22)
local is_outdated = header and kind == 'create' or life ~= '' and is_older(life_version, current_life_version)
for at = FIRST_CHANGE, #ARGV, CHANGE do
    local replaces = ARGV[at + 1]
    if replaces ~= '' then
        local entry = current[(at - FIRST_CHANGE) / CHANGE + 2]
        is_outdated = is_outdated or replaces ~= (entry and #entry > 8 and entry:sub(1, 8) or ZERO)
    end
end
if is_outdated then
    return { 'outdated', '', header and redis.call('HGETALL', key) or {} }
end

-- The stamp: the clock's time, or the version that follows the newest known version.
local known_millis, counter = struct.unpack('>I6I2', is_older(newest, above) and above or newest)
if known_millis < now then
    known_millis, counter = now, 0
elseif counter < 65535 then
    counter = counter + 1
elseif known_millis < MAX_MILLIS then
    known_millis, counter = known_millis + 1, 0
end
local stamp = struct.pack('>I6I2', known_millis, counter)

-- The stamp is above each version of the record, unless the record has the greatest version of all.
local is_above_all = stamp ~= newest

-- The next header.
newest, generation = stamp, header and generation or stamp
local expired_at = expires
expires = math.max(expired_at, math.min(now + keep, MAX_MILLIS))
if kind == 'revoke' then
    local not_before = detail ~= '' and detail or stamp
    rest = is_older(rest:sub(1, 8), not_before) and not_before .. rest:sub(9) or rest
end
if life ~= '' and (rest:byte(9) == 0 or is_older(current_life_version, life_version)) then
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
        if version == '' then
            version = stamp
        elseif is_older(newest, version) then
            newest = version
        end
        local entry = version .. ARGV[at + 3]
        local is_first_and_above = is_above_all and version == stamp and not entries[field]
        if is_first_and_above or outranks(entry, entries[field] or current[(at - FIRST_CHANGE) / CHANGE + 2]) then
            entries[field] = entry
        end
    end
end

-- The writes. No command before this line writes.
local retired = header and kind == 'end' and redis.call('HGETALL', key)
local begins = not header or kind == 'end'
local head = (kind == 'end' and '\1\2' or '\1\1') .. newest .. generation .. struct.pack('>I6', expires)
if kind == 'end' then
    rest = detail:sub(1, 1) .. struct.pack('>I6', now) .. detail:sub(2)
end
local write = { 'HSET', key, '@', head .. rest }
for field, entry in pairs(entries) do
    write[#write + 1] = field
    write[#write + 1] = entry
end
if begins then
    redis.call('DEL', key)
end
redis.call(unpack(write))
if begins or expired_at ~= expires then
    redis.call('PEXPIREAT', key, string.format('%.0f', expires - 1))
end

-- A server may refuse the notice (ACL channels). The commit is made, and so succeeds.
local sent = redis.pcall('PUBLISH', channel, message .. newest .. generation)
local silent = type(sent) == 'table' and sent.err or ''

if kind ~= 'end' then
    return { 'applied', silent, stamp .. newest .. generation }
end
return retired and { 'retired', silent, retired } or { 'absent', silent }
