"""The vocabulary of a shard and the store that all hosts share: Redis, in `resonate.bus`, or memory, in tests.

A shard *orders*, the store *reports*; both are plain values. What concerns one log is done in the order in which it was
ordered, and each order that has a `ref` is answered once by `Reply`, in that order too; unless the store is lost
before: then `Lost` is reported, nothing else of what was ordered before it, and nobody knows which of that has been
done. So every order may be given again to no other effect than the first time, but for `Append`, whose entries carry
numbers by which receivers know them again.

A *log* holds the latest entries of one channel; its name is made by `names`, of app and channel. A *position* is the
place of an entry in its log: whole numbers that only grow, 0 before the first. A *party* is a shard process as the
store knows it. Entries and values are bytes that the store never looks into.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# --- orders: one log -------------------------------------------------------------------------------------------------


class Follow(NamedTuple):
    """Report each new entry of the log from now on, beginning with `Followed`. Harmless when repeated."""

    log: str


class Unfollow(NamedTuple):
    """Report nothing of it any more; what is on its way may still come."""

    log: str


class Append(NamedTuple):
    """Add an entry, for all who follow. Answered by its position.

    With `keep_s` other than 0 `cached` is kept for so many seconds as the log's cached event: the one before is gone.
    """

    ref: int
    log: str
    entry: bytes
    cached: bytes
    keep_s: int


class Read(NamedTuple):
    """Answered by a `Page`: the entries after the position `after`, the oldest first, at most PAGE of them.

    `after` None: no entries, only how the log stands. `members`: whether those are wanted too.
    """

    ref: int
    log: str
    after: int | None
    members: bool


class Join(NamedTuple):
    """Put `field` with `value` among the log's members; if it was not there, append `entry`.

    Answered by the position of the entry; if there is none, by that of the last entry of the log.
    """

    ref: int
    log: str
    field: str
    value: bytes
    entry: bytes


class Leave(NamedTuple):
    """Take `field` from the log's members; if it was there, append `entry`. Answered as `Join`."""

    ref: int
    log: str
    field: str
    entry: bytes


class Keep(NamedTuple):
    """Keep `cached` for `keep_s` seconds as the log's cached event, without an entry. Not answered."""

    log: str
    cached: bytes
    keep_s: int


class Look(NamedTuple):
    """Answered by a `Page` without entries: members and cached event of a log. It need not be followed."""

    ref: int
    log: str


# --- orders: one app -------------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """How much the party holds of an app, in place of what was said before. Answered by None.

    A party that is not known is from now on, with a lease that has run out; so it is by `Admit`.

    `connected` and `attached` connections; subscriptions by channel, of those in `channels` alone: 0 removes one. They
    are SLICE at most.
    """

    ref: int
    party: str
    app: str
    connected: int
    attached: int
    channels: dict[str, int]


class Admit(NamedTuple):
    """The party holds `held` connections of an app and wants `wanted` more, of `limit` over all parties.

    It counts as many as it may have, `held` included. Answered by (granted, others): how many more it has now, and how
    many the other parties have.
    """

    ref: int
    party: str
    app: str
    held: int
    wanted: int
    limit: int


class Tally(NamedTuple):
    """Answered by a `Sum` of an app over all parties."""

    ref: int
    app: str


class Subscriptions(NamedTuple):
    """Answered by how many there are to a channel over all parties."""

    ref: int
    app: str
    channel: str


class Channels(NamedTuple):
    """Answered by the subscriptions over all parties by channel, of those whose names begin with `prefix`.

    That is no matter of one moment: a channel that is occupied all the while is among them, with what it had once.
    """

    ref: int
    app: str
    prefix: str


# --- orders: parties -------------------------------------------------------------------------------------------------


class Arrive(NamedTuple):
    """The party is there from now on, for `lease_s` seconds. Answered by `Arrived`."""

    ref: int
    party: str
    lease_s: float


class Renew(NamedTuple):
    """The same again, unless it has run out. Answered by whether the party still was there."""

    ref: int
    party: str
    lease_s: float


class Index(NamedTuple):
    """Remember that the party has members in this log: they are to be removed when it has gone. Answered by None."""

    ref: int
    party: str
    log: str


class Unindex(NamedTuple):
    """It has none there any more. Not answered."""

    party: str
    log: str


class ListParties(NamedTuple):
    """Answered by {party: whether its lease still runs}, of all that have arrived and have not been buried."""

    ref: int


class Logs(NamedTuple):
    """Answered by the list of logs in which a party had members."""

    ref: int
    party: str


class Bury(NamedTuple):
    """Forget a party: its lease, its counts, its index. Answered by None. Its members are removed by `Leave` before."""

    ref: int
    party: str


# --- orders: programs that are no hosts ------------------------------------------------------------------------------


class Listen(NamedTuple):
    """Report what is said on the store's open channel from now on: anybody may speak there. Not answered."""


class Say(NamedTuple):
    """Say that there. Who listens at the moment hears it, once, this end too. Not answered."""

    data: bytes


Order = (
    Follow
    | Unfollow
    | Append
    | Read
    | Join
    | Leave
    | Keep
    | Look
    | Count
    | Admit
    | Tally
    | Subscriptions
    | Channels
    | Arrive
    | Renew
    | Index
    | Unindex
    | ListParties
    | Logs
    | Bury
    | Listen
    | Say
)


# --- answers ---------------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    """`entries` are (position, entry). `last` is the position of the log's last entry, 0 where it has none.

    `members` are (field, value), None where not wanted; `cached` is the cached event with the whole seconds that it
    still has, None if there is none. All as of one moment.
    """

    entries: list[tuple[int, bytes]]
    last: int
    members: list[tuple[str, bytes]] | None
    cached: tuple[bytes, int] | None


class Arrived(NamedTuple):
    """`now` is where an entry would stand that came now.

    `since` is where one would have when the first party arrived: of what was before, the store knows nothing any more.
    """

    now: int
    since: int


class Sum(NamedTuple):
    """How many connections, of those with a subscription, subscriptions, and channels that are occupied."""

    connected: int
    attached: int
    subscriptions: int
    channels: int


# --- reports ---------------------------------------------------------------------------------------------------------


class Ready(NamedTuple):
    """The store can be used, for the first time or again; nothing is followed."""


class Lost(NamedTuple):
    """The store cannot be used. `Ready` is reported as soon as it can; orders are dropped until then."""

    reason: str


class Followed(NamedTuple):
    """The log is followed: each entry from now on is reported. May come more than once: entries may be missing then."""

    log: str


class Entry(NamedTuple):
    """A new entry of a log that is followed; in the order of its positions."""

    log: str
    position: int
    entry: bytes


class Said(NamedTuple):
    """Somebody has said that on the open channel: a host, or a program that nobody knows."""

    data: bytes


class Reply(NamedTuple):
    """The answer to an order; None also where the order is one that the store has refused (it is in the log)."""

    ref: int
    value: Any


Report = Ready | Lost | Followed | Entry | Said | Reply

#: Entries of a page.
PAGE = 500
#: Channels of one `Count`: of an app that has more it takes several.
SLICE = 1000
