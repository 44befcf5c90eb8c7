"""What Redis does as one: a script each. All keys of a call lie in one slot, and are passed as KEYS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from resonate.bus.resp import pack


class Script:
    """`keys` is how many of its words are keys."""

    def __init__(self, keys: int, text: str) -> None:
        self.text = text
        self._head = (b"EVALSHA", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode(), b"%d" % keys)

    def call(self, words: Sequence[bytes]) -> bytes:
        """The command: keys, then arguments."""
        return pack((*self._head, *words))


# An entry is told to who follows in the step in which it gets its place, so they hear entries in their order. The part
# of an id behind its hyphen has 16 bits in a position. It gets there only where a clock has gone back: then the next id
# is made to begin anew. A log begins in the upper half of its millisecond: it may have been deleted, and had entries in
# the lower one.
_APPEND: Final = """
local function append(log, entry, publish, length, lifetime)
    local id = redis.call('XADD', log, 'NOMKSTREAM', 'MAXLEN', '~', length, '*', 'e', entry)
    if not id then
        local time = redis.call('TIME')
        local ms = time[1] * 1000 + math.floor(time[2] / 1000)
        id = redis.call('XADD', log, string.format('%.0f-32768', ms), 'e', entry)
    end
    redis.call('PEXPIRE', log, lifetime)
    redis.call(publish, log, id .. ' ' .. entry)
    if #id > 18 then
        local ms, number = string.match(id, '^(%d+)-(%d+)$')
        if tonumber(number) >= 65535 then
            redis.call('XSETID', log, string.format('%.0f-0', tonumber(ms) + 1))
        end
    end
    return id
end
"""

_LAST: Final = """
local function last(log)
    local found = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    return found and found[1] or '0-0'
end
"""

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

#: log, cached | publish, length, lifetime, entry, seconds to keep, cached. The id.
APPEND: Final = Script(
    2,
    _APPEND
    + """
if ARGV[5] ~= '0' then
    redis.call('SET', KEYS[2], ARGV[6], 'EX', ARGV[5])
end
return append(KEYS[1], ARGV[4], ARGV[1], ARGV[2], ARGV[3])
""",
)

#: log, members | publish, length, lifetime, entry, field, value. The id of the entry, or the last.
JOIN: Final = Script(
    2,
    _APPEND
    + _LAST
    + """
if redis.call('HSET', KEYS[2], ARGV[5], ARGV[6]) == 1 then
    return append(KEYS[1], ARGV[4], ARGV[1], ARGV[2], ARGV[3])
end
return last(KEYS[1])
""",
)

#: log, members | publish, length, lifetime, entry, field. The id of the entry, or the last.
LEAVE: Final = Script(
    2,
    _APPEND
    + _LAST
    + """
if redis.call('HDEL', KEYS[2], ARGV[5]) == 1 then
    return append(KEYS[1], ARGV[4], ARGV[1], ARGV[2], ARGV[3])
end
return last(KEYS[1])
""",
)

#: log, members, cached | where to begin or nothing, at most, whether with members. Entries, last, members, cached, ms.
READ: Final = Script(
    3,
    _LAST
    + """
local entries = ARGV[1] ~= '' and redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2]) or {}
local members = ARGV[3] == '1' and redis.call('HGETALL', KEYS[2])
return {entries, last(KEYS[1]), members, redis.call('GET', KEYS[3]), redis.call('PTTL', KEYS[3])}
""",
)

# A party's own hash says what it has in the totals: both change in one step, by the same. All is read before anything
# is written: if a key is somebody else's, that is found by then. What is no number counts as 0, and a total is never
# less than what the party has of it; when nobody holds anything of the app the totals go, whoever may have spoilt them.
# Lua unpacks somewhat less than 8,000 values: these are 2 x SLICE at most.
_COUNTED: Final = """
local function whole(text)
    return text and #text < 16 and string.match(text, '^%d+$') and tonumber(text) or 0
end

local function write(key, channels, numbers)
    local some, none = {}, {}
    for i, channel in ipairs(channels) do
        if numbers[i] > 0 then
            some[#some + 1] = channel
            some[#some + 1] = numbers[i]
        else
            none[#none + 1] = channel
        end
    end
    if #some > 0 then
        redis.call('HSET', key, unpack(some))
    end
    if #none > 0 then
        redis.call('HDEL', key, unpack(none))
    end
end

local function change(own, totals, channels, numbers)
    if #channels == 0 then
        return 0
    end
    local had = redis.call('HMGET', own, unpack(channels))
    local all = redis.call('HMGET', totals, unpack(channels))
    local more = 0
    for i, number in ipairs(numbers) do
        local difference = number - whole(had[i])
        more = more + difference
        all[i] = math.max(number, whole(all[i]) + difference)
    end
    write(own, channels, numbers)
    write(totals, channels, all)
    return more
end

local function subscriptions_of(counts, party)
    return whole(string.match(redis.call('HGET', counts, party) or '', '^%d+ %d+ (%d+)$'))
end

local function tell(counts, own, totals, party, connected, attached, subscriptions)
    local left = redis.call('HLEN', own)
    if connected == '0' and attached == '0' and left == 0 then
        redis.call('HDEL', counts, party)
        if redis.call('HLEN', counts) == 0 then
            redis.call('UNLINK', totals)
        end
    else
        subscriptions = string.format('%.0f', math.max(0, subscriptions))
        redis.call('HSET', counts, party, connected .. ' ' .. attached .. ' ' .. subscriptions)
    end
    return left
end
"""

#: counts, subscriptions of the party, and of all | party, connected, attached, then channel and count of each. How many
#: of its channels there are.
COUNT: Final = Script(
    3,
    _COUNTED
    + """
local before = subscriptions_of(KEYS[1], ARGV[1])
local channels, numbers = {}, {}
for i = 4, #ARGV, 2 do
    channels[#channels + 1] = ARGV[i]
    numbers[#numbers + 1] = whole(ARGV[i + 1])
end
local more = change(KEYS[2], KEYS[3], channels, numbers)
return tell(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], before + more)
""",
)

#: counts, subscriptions of the party, and of all | party, at most. How many of its channels are left.
BURY: Final = Script(
    3,
    _COUNTED
    + """
local before = subscriptions_of(KEYS[1], ARGV[1])
local channels, numbers = redis.call('HRANDFIELD', KEYS[2], ARGV[2]), {}
for i = 1, #channels do
    numbers[i] = 0
end
local more = change(KEYS[2], KEYS[3], channels, numbers)
return tell(KEYS[1], KEYS[2], KEYS[3], ARGV[1], '0', '0', before + more)
""",
)

#: counts | party, held, wanted, limit. How many more it has, and how many others have.
ADMIT: Final = Script(
    1,
    """
local others, more = 0, '0 0'
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local connected, rest = string.match(all[i + 1], '^(%d+) (%d+ %d+)$')
    if all[i] == ARGV[1] then
        more = rest or '0 0'
    else
        others = others + (tonumber(connected) or 0)
    end
end
local held = tonumber(ARGV[2])
local granted = math.max(0, math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - others - held))
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', held + granted) .. more)
return {granted, others}
""",
)

#: counts, subscriptions. What each party has, and how many channels there are.
TALLY: Final = Script(2, "return {redis.call('HVALS', KEYS[1]), redis.call('HLEN', KEYS[2])}")

#: parties | party, milliseconds. The time, and that of the first arrival, which stands among the parties: without them
#: nobody can go on, so it cannot be lost alone.
ARRIVE: Final = Script(
    1,
    _NOW
    + """
redis.call('ZADD', KEYS[1], 'NX', now, 'since')
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {now, tonumber(redis.call('ZSCORE', KEYS[1], 'since'))}
""",
)

#: parties | party, milliseconds. Whether it was there.
RENEW: Final = Script(
    1,
    _NOW
    + """
local until_then = redis.call('ZSCORE', KEYS[1], ARGV[1])
if until_then and tonumber(until_then) > now then
    redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
    return 1
end
return 0
""",
)

#: parties. Each, and whether its lease runs; `since` too.
PARTIES: Final = Script(
    1,
    _NOW
    + """
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 2, #found, 2 do
    found[i] = tonumber(found[i]) > now and 1 or 0
end
return found
""",
)

#: Those that a connection needs to know.
ALL: Final = (APPEND, JOIN, LEAVE, READ, COUNT, BURY, ADMIT, TALLY, ARRIVE, RENEW, PARTIES)
