"""The vocabulary of workers and shards.

A worker sends requests to the shard that is home to the channel (or, for what concerns an app as a whole, to the app);
the shard answers, and tells workers what happens on the channels that they hold. Both directions are ordered. All are
plain tuples of values that JSON can carry, apart from payloads, which are bytes that a shard never looks into.

`app` is an app id, `socket` a socket id, `ref` a number by which the sender knows the answer again.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Member(NamedTuple):
    """A presence member: the id as compared (a string) and the signed `channel_data` as it came."""

    user: str
    data: dict[str, Any]


# --- worker to shard -------------------------------------------------------------------------------------------------


class Connect(NamedTuple):
    """A connection asks for a place among the app's `limit` connections (None: unlimited)."""

    app: str
    socket: str
    limit: int | None


class Disconnect(NamedTuple):
    """An admitted connection has gone."""

    app: str


class Attach(NamedTuple):
    """A connection holds its first subscription: it counts in `GET /connections` from now on."""

    app: str


class Detach(NamedTuple):
    """A connection holds no subscription any more."""

    app: str


class Subscribe(NamedTuple):
    """A connection joins a channel. Answered by `Subscribed`: the barrier before anything published later."""

    app: str
    channel: str
    socket: str
    ref: int
    member: Member | None


class Refresh(NamedTuple):
    """A connection that is on the channel asks again for what a new subscriber is told. Changes nothing."""

    app: str
    channel: str
    socket: str
    ref: int


class Unsubscribe(NamedTuple):
    """A connection leaves a channel; `user` when it was a presence member."""

    app: str
    channel: str
    user: str | None


class Publish(NamedTuple):
    """An event for a channel. With a `ref` other than 0 it is answered by an `Answer` that holds `ChannelInfo`.

    `except_` is the socket id that does not get it, `keep_s` for how many seconds a late subscriber still does.
    """

    ref: int
    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int


class Describe(NamedTuple):
    """Answered by `ChannelInfo`."""

    ref: int
    app: str
    channel: str


class ListChannels(NamedTuple):
    """Answered by a dict of the occupied channels' names to `ChannelInfo`."""

    ref: int
    app: str
    prefix: str


class ListUsers(NamedTuple):
    """Answered by a list of user ids as they first came, or None when the channel is unoccupied."""

    ref: int
    app: str
    channel: str


class CountConnections(NamedTuple):
    """Answered by the number of connections that hold a subscription."""

    ref: int
    app: str


class Terminate(NamedTuple):
    """Every worker is to close the connections of a user. Answered by None once all have been told."""

    ref: int
    app: str
    user: str


#: What REST asks: each has a `ref`, and one answer.
Question = Publish | Describe | ListChannels | ListUsers | CountConnections | Terminate

Request = Connect | Disconnect | Attach | Detach | Subscribe | Refresh | Unsubscribe | Question

# --- shard to worker -------------------------------------------------------------------------------------------------


class Connected(NamedTuple):
    """The answer to `Connect`; `admitted` is False when the app is over its quota."""

    app: str
    socket: str
    admitted: bool


class Subscribed(NamedTuple):
    """The answer to `Subscribe` and `Refresh`.

    `members` are the users of a presence channel as (id, user_info), in order of their joining; None on other kinds.
    `cached` is the payload of the last event that was kept for the channel.
    """

    app: str
    channel: str
    socket: str
    ref: int
    members: list[tuple[Any, Any]] | None
    cached: bytes | None


class Publication(NamedTuple):
    """An event at its place in the channel's order; for every subscriber but `except_`. `keep_s` as in `Publish`."""

    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int


class MemberAdded(NamedTuple):
    """A user's first connection has joined; everybody but that connection (`except_`) is told."""

    app: str
    channel: str
    data: dict[str, Any]
    except_: str


class MemberRemoved(NamedTuple):
    """A user's last connection has gone. `id` is as it first came: a string or a number."""

    app: str
    channel: str
    id: Any


class Expel(NamedTuple):
    """Close every connection of this user."""

    app: str
    user: str


class Answer(NamedTuple):
    """The answer to a request that carried a `ref`."""

    ref: int
    value: Any


Event = Connected | Subscribed | Publication | MemberAdded | MemberRemoved | Expel | Answer


class ChannelInfo(NamedTuple):
    """What a shard knows of a channel: subscriptions, users (presence) and the payload kept for late subscribers."""

    subscriptions: int
    users: int
    cached: bytes | None


# --- between a worker and a shard that is new to it ------------------------------------------------------------------


class ChannelHolding(NamedTuple):
    """What a worker holds of one channel: subscriptions, and members as (user, data, connections)."""

    app: str
    channel: str
    subscriptions: int
    members: list[tuple[str, dict[str, Any], int]]


class Declaration(NamedTuple):
    """All that a worker holds on a shard: connections by app as (app, connected, attached), and channels.

    `cached` are the last events of cache channels that it has seen, as (app, channel, payload, seconds left); `seen`
    the requests whose outcome it has lately seen, as (origin, seq, place). `requests` are those that it makes again, or
    has never sent, numbered from `first` on: what it holds is what it held before them.
    """

    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]
    cached: list[tuple[str, str, bytes, int]]
    seen: list[tuple[str, int, int]]
    first: int
    requests: list[Request]
