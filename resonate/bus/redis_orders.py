"""What an order is in Redis's words, and what its replies mean. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple

from resonate.bus import redis_scripts as scripts
from resonate.bus.resp import pack
from resonate.scaling import Scaling
from resonate.shard.cluster.entries import MAX_BYTES
from resonate.shard.cluster.names import log_name
from resonate.shard.cluster.store import (
    PAGE,
    SLICE,
    Admit,
    Append,
    Arrive,
    Arrived,
    Bury,
    Channels,
    Count,
    Entry,
    Index,
    Join,
    Keep,
    Leave,
    ListParties,
    Logs,
    Look,
    Page,
    Read,
    Renew,
    Say,
    Subscriptions,
    Sum,
    Tally,
    Unindex,
)

#: Digits of either part of an id.
_DIGITS: Final = 20
#: What is no letter in a pattern of Redis.
_SPECIAL: Final = re.compile(rb"[*?\[\\]")
#: A number of what is counted, as scripts know it; and the three that are kept of a party.
_WHOLE: Final = re.compile(rb"[0-9]{1,15}")
_HELD: Final = re.compile(rb"([0-9]{1,15}) ([0-9]{1,15}) ([0-9]{1,15})")


class Command(NamedTuple):
    """`key` says which node of a cluster it is for."""

    key: bytes
    packed: bytes


#: What is asked of Redis, one command after the other, each with its reply, None where it refuses; then the answer.
Talk = Generator[Command, Any, Any]


class Orders:
    """Makes commands of orders, with the keys of one prefix. `sharded`: entries are told by SPUBLISH."""

    def __init__(self, scaling: Scaling, sharded: bool) -> None:
        self._prefix = f"{_tag(scaling.prefix)}:{{".encode()
        self._begin = len(self._prefix)
        self.probe = (b"SET", f"{_tag(scaling.prefix)}:probe".encode(), b"", b"PX", b"1")  # what only a master does
        self._parties = f"{_tag(scaling.prefix)}:parties".encode()
        self.open_channel = scaling.prefix.encode()  # of the store's word `Say`
        self._append_words = (
            b"SPUBLISH" if sharded else b"PUBLISH",
            b"%d" % scaling.log_length,
            b"%d" % (scaling.log_seconds * 1000),
        )

    def commands(self, order: Any) -> tuple[Command, ...]:
        """Of one order that is neither to follow nor one of `TALKS`; the reply to the last is its answer's."""
        return _MAKERS[type(order)](self, order)

    # --- one log -----------------------------------------------------------------------------------------------------

    def channel(self, log: str) -> bytes:
        """The key of a log, where its entries are told as well."""
        return b"%b%b}:log" % (self._prefix, log.encode())

    def log(self, channel: bytes) -> str:
        """The opposite. Raises ValueError."""
        if not (channel.startswith(self._prefix) and channel.endswith(b"}:log")):
            raise ValueError
        return channel[self._begin : -5].decode()

    def _append(self, order: Append) -> tuple[Command, ...]:
        base = b"%b%b}:" % (self._prefix, order.log.encode())
        log = base + b"log"
        words = (log, base + b"cached", *self._append_words, order.entry, b"%d" % order.keep_s, order.cached)
        return (Command(log, scripts.APPEND.call(words)),)

    def _join(self, order: Join) -> tuple[Command, ...]:
        more = (order.entry, _bytes(order.field), order.value)
        return self._of_members(scripts.JOIN, order.log, more)

    def _leave(self, order: Leave) -> tuple[Command, ...]:
        return self._of_members(scripts.LEAVE, order.log, (order.entry, _bytes(order.field)))

    def _of_members(self, script: scripts.Script, log: str, more: tuple[bytes, ...]) -> tuple[Command, ...]:
        base = b"%b%b}:" % (self._prefix, log.encode())
        return (Command(base, script.call((base + b"log", base + b"members", *self._append_words, *more))),)

    def _keep(self, order: Keep) -> tuple[Command, ...]:
        key = b"%b%b}:cached" % (self._prefix, order.log.encode())
        return (Command(key, pack((b"SET", key, order.cached, b"EX", b"%d" % order.keep_s))),)

    def _say(self, order: Say) -> tuple[Command, ...]:
        """Not by SPUBLISH: programs listen to any node of a cluster."""
        return (Command(self.open_channel, pack((b"PUBLISH", self.open_channel, order.data))),)

    def _read(self, order: Read) -> tuple[Command, ...]:
        begin = b"" if order.after is None else _identity(order.after + 1)  # Redis 6.0 has no open ranges
        return self._page(order.log, begin, order.members)

    def _look(self, order: Look) -> tuple[Command, ...]:
        return self._page(order.log, b"", True)

    def _page(self, log: str, begin: bytes, members: bool) -> tuple[Command, ...]:
        base = b"%b%b}:" % (self._prefix, log.encode())
        keys = (base + b"log", base + b"members", base + b"cached")
        return (Command(base, scripts.READ.call((*keys, begin, b"%d" % PAGE, b"%d" % members))),)

    # --- one app -----------------------------------------------------------------------------------------------------

    def _app(self, app: str) -> bytes:
        return b"%b%b}:" % (self._prefix, log_name(app, "").encode())

    def _held(self, party: str, app: str) -> tuple[Command, Command]:
        """First of all, note where the party holds something: it may die before it holds it, not before it is noted.

        Where Redis has forgotten the party, it is there again, without a lease: somebody has to bury it.
        """
        apps = self._of_party(party, b"apps")
        return (
            Command(apps, pack((b"SADD", apps, _bytes(app)))),
            Command(self._parties, pack((b"ZADD", self._parties, b"NX", b"0", _bytes(party)))),
        )

    def _count(self, order: Count) -> tuple[Command, ...]:
        base = self._app(order.app)
        party = _bytes(order.party)
        words = [*_counted(base, party), party, b"%d" % order.connected, b"%d" % order.attached]
        for channel, count in order.channels.items():
            words += (_bytes(channel), b"%d" % count)
        return *self._held(order.party, order.app), Command(base, scripts.COUNT.call(words))

    def _admit(self, order: Admit) -> tuple[Command, ...]:
        base = self._app(order.app)
        words = (base + b"counts", _bytes(order.party), b"%d" % order.held, b"%d" % order.wanted, b"%d" % order.limit)
        return *self._held(order.party, order.app), Command(base, scripts.ADMIT.call(words))

    def _tally(self, order: Tally) -> tuple[Command, ...]:
        base = self._app(order.app)
        return (Command(base, scripts.TALLY.call((base + b"counts", base + b"subscriptions"))),)

    def _subscriptions(self, order: Subscriptions) -> tuple[Command, ...]:
        base = self._app(order.app)
        return (Command(base, pack((b"HGET", base + b"subscriptions", _bytes(order.channel)))),)

    def _channels(self, order: Channels, odd: list[bytes]) -> Talk:
        """Piece by piece: meanwhile Redis serves others."""
        key = self._app(order.app) + b"subscriptions"
        pattern = _SPECIAL.sub(rb"\\\g<0>", _bytes(order.prefix)) + b"*"
        found: dict[str, int] = {}
        cursor = b"0"
        while True:
            words = (b"HSCAN", key, cursor, b"MATCH", pattern, b"COUNT", b"%d" % SLICE)
            reply = yield Command(key, pack(words))
            if reply is None:
                return None
            cursor, flat = reply
            found.update((channel, count) for channel, value in _named(flat, odd) if (count := _whole(value)))
            if cursor == b"0":
                return found

    # --- parties -----------------------------------------------------------------------------------------------------

    def _of_party(self, party: str, what: bytes) -> bytes:
        return b"%b%b}:%b" % (self._prefix, _tag(party).encode(), what)

    def _lease(self, script: scripts.Script, order: Arrive | Renew) -> tuple[Command, ...]:
        words = (self._parties, _bytes(order.party), b"%d" % math.ceil(order.lease_s * 1000))
        return (Command(self._parties, script.call(words)),)

    def _arrive(self, order: Arrive) -> tuple[Command, ...]:
        return self._lease(scripts.ARRIVE, order)

    def _renew(self, order: Renew) -> tuple[Command, ...]:
        return self._lease(scripts.RENEW, order)

    def _indexed(self, verb: bytes, order: Index | Unindex) -> tuple[Command, ...]:
        key = self._of_party(order.party, b"index")
        return (Command(key, pack((verb, key, order.log.encode()))),)

    def _index(self, order: Index) -> tuple[Command, ...]:
        return self._indexed(b"SADD", order)

    def _unindex(self, order: Unindex) -> tuple[Command, ...]:
        return self._indexed(b"SREM", order)

    def _all(self, order: ListParties) -> tuple[Command, ...]:
        return (Command(self._parties, scripts.PARTIES.call((self._parties,))),)

    def _logs(self, order: Logs) -> tuple[Command, ...]:
        key = self._of_party(order.party, b"index")
        return (Command(key, pack((b"SMEMBERS", key))),)

    def _bury(self, order: Bury, odd: list[bytes]) -> Talk:
        """Who breaks off leaves it to others: what tells where the party holds something goes last.

        Only those apps are taken out of that: the party may be there yet, and hold something of another. What Redis
        refuses will not be better the next time, and holds up nothing else.
        """
        party = _bytes(order.party)
        noted, index = (self._of_party(order.party, what) for what in (b"apps", b"index"))
        apps = yield Command(noted, pack((b"SMEMBERS", noted)))
        for app in apps or ():
            try:
                base = self._app(_text(app))
            except ValueError:
                odd.append(app)
                continue
            bury = Command(base, scripts.BURY.call((*_counted(base, party), party, b"%d" % SLICE)))
            while (yield bury):
                pass  # some are left
            yield Command(noted, pack((b"SREM", noted, app)))
        yield Command(index, pack((b"DEL", index)))
        yield Command(self._parties, pack((b"ZREM", self._parties, party)))


_MAKERS: Final[dict[type[Any], Callable[[Orders, Any], tuple[Command, ...]]]] = {
    Append: Orders._append,
    Keep: Orders._keep,
    Say: Orders._say,
    Read: Orders._read,
    Join: Orders._join,
    Leave: Orders._leave,
    Look: Orders._look,
    Count: Orders._count,
    Admit: Orders._admit,
    Tally: Orders._tally,
    Subscriptions: Orders._subscriptions,
    Arrive: Orders._arrive,
    Renew: Orders._renew,
    Index: Orders._index,
    Unindex: Orders._unindex,
    ListParties: Orders._all,
    Logs: Orders._logs,
}

#: Orders for which Redis is asked more than once. What is left out of the answer is put into the list.
TALKS: Final[dict[type[Any], Callable[[Orders, Any, list[bytes]], Talk]]] = {
    Bury: Orders._bury,
    Channels: Orders._channels,
}


def _counted(base: bytes, party: bytes) -> tuple[bytes, bytes, bytes]:
    """Where it is counted what a party has of an app: connections, its subscriptions, and those of all."""
    return base + b"counts", base + b"channels:" + party, base + b"subscriptions"


def _tag(text: str) -> str:
    """As it may stand between braces, or before them: no braces, no slash."""
    return log_name(text, "")[:-1]


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogatepass")


# --- replies ---------------------------------------------------------------------------------------------------------


def position(identity: bytes) -> int:
    """The number of an id of a stream. Raises ValueError."""
    ms, _, number = identity.partition(b"-")
    if not (ms.isdigit() and number.isdigit() and len(identity) <= 2 * _DIGITS):
        raise ValueError
    return int(ms) << 16 | int(number)


def _identity(place: int) -> bytes:
    return b"%d-%d" % (place >> 16, place & 0xFFFF)


def entry(log: str, message: bytes) -> Entry:
    """What a message on a log's channel says. Raises ValueError for what is none of ours."""
    identity, space, content = message.partition(b" ")
    if not space or len(content) > MAX_BYTES:
        raise ValueError
    return Entry(log, position(identity), content)


def _page(reply: Any, odd: list[bytes]) -> Page:
    entries, last, members, cached, left_ms = reply
    return Page(
        [(position(identity), fields[1]) for identity, fields in entries if fields[0] == b"e"],
        position(last),
        None if members is None else _named(members, odd),
        None if cached is None else (cached, max(1, math.ceil(left_ms / 1000))),
    )


def _sum(reply: Any) -> Sum:
    parties, channels = reply
    held = [found for party in parties if (found := _HELD.fullmatch(party))]
    connected, attached, subscriptions = (sum(int(found[number]) for found in held) for number in (1, 2, 3))
    return Sum(connected, attached, subscriptions, channels)


def _whole(value: bytes | None) -> int:
    """What is no number of ours counts as 0."""
    return int(value) if value is not None and _WHOLE.fullmatch(value) else 0


def _named(flat: Sequence[Any], odd: list[bytes]) -> list[tuple[str, Any]]:
    """Fields with their values; what is no text goes among the odd: it spoils nothing but itself."""
    found = []
    for name, value in _pairs(flat):
        try:
            found.append((_text(name), value))
        except ValueError:
            odd.append(name)
    return found


def _nothing(reply: Any) -> None:
    return None


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


#: The answer to an order by Redis's reply. Raises ValueError and TypeError for what is none of ours.
ANSWERS: Final[dict[type[Any], Callable[[Any], Any]]] = {
    Append: position,
    Keep: _nothing,
    Say: _nothing,
    Join: position,
    Leave: position,
    Count: _nothing,
    Admit: tuple,
    Tally: _sum,
    Subscriptions: _whole,
    Arrive: lambda reply: Arrived(*(int(ms) << 16 for ms in reply)),
    Renew: bool,
    Index: _nothing,
    Unindex: _nothing,
    ListParties: lambda reply: {_text(party): bool(lives) for party, lives in _pairs(reply) if party != b"since"},
    Logs: lambda reply: [log.decode() for log in reply],
}

#: The same for answers with fields in them. What is left out of those is put into the list.
PARTIAL_ANSWERS: Final[dict[type[Any], Callable[[Any, list[bytes]], Any]]] = {Read: _page, Look: _page}
