-- Makes a commit whole or not at all: the same as `Commit::apply`. `script.rs` has the arguments and the replies.

local kind, above, keep, life, detail, channel, message = unpack(ARGV, 1, 7)
local FIRST_CHANGE, CHANGE = 8, 4

local function older(a, b)
    local a_millis, a_counter = struct.unpack('>I6I2', a)
    local b_millis, b_counter = struct.unpack('>I6I2', b)
    return a_millis < b_millis or (a_millis == b_millis and a_counter < b_counter)
end

local function newer_of(a, b)
    return older(a, b) and b or a
end

local function following(version)
    local time, counter = struct.unpack('>I6I2', version)
    if counter < 65535 then
        return struct.pack('>I6I2', time, counter + 1)
    end
    return time < MAX_MILLIS and struct.pack('>I6I2', time + 1, 0) or version
end

-- An entry: the version, a byte that is 1 for a tombstone, and the JSON. A shorter entry counts as absent.
local function version_of(entry)
    return entry and #entry > 8 and entry:sub(1, 8) or ZERO
end

local function outranks(entry, current)
    if not current or #current < 9 then
        return true
    end
    if version_of(entry) ~= version_of(current) then
        return older(version_of(current), version_of(entry))
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

-- The next header.
local newest = header and header:sub(3, 10) or ZERO
local stamp = newer_of(struct.pack('>I6I2', now, 0), following(newer_of(newest, above)))
local generation = header and header:sub(11, 18) or stamp
local expired_at = header and expires_of(header) or 0
local expires = math.max(expired_at, math.min(now + keep, MAX_MILLIS))
local not_before = header and header:sub(25, 32) or ZERO
local kept_life = header and header:sub(33, 53) or string.rep('\0', 21)
if life ~= '' and (kept_life:byte(1) == 0 or older(kept_life:sub(14), life:sub(14))) then
    -- A new lifetime may be shorter, and then shortens the span too.
    kept_life, expires = life, math.min(now + keep, MAX_MILLIS)
end
newest = stamp

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
if kind == 'revoke' then
    not_before = newer_of(not_before, detail ~= '' and detail or stamp)
elseif kind ~= 'end' then
    for at = FIRST_CHANGE, #ARGV, CHANGE do
        local field, version = ARGV[at], ARGV[at + 2]
        local entry = (version == '' and stamp or version) .. ARGV[at + 3]
        newest = newer_of(newest, version_of(entry))
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
    write[4] = '\1\1' .. newest .. generation .. millis(expires) .. not_before .. kept_life
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
