"""The vocabulary of workers and shards. How it travels between processes is resonate.encoding's.

A worker sends requests to the shard that is home to the channel (or, for what concerns an app as a whole, to the app);
the shard answers, and tells workers what happens on the channels that they hold. Both directions are ordered. All are
plain tuples of values that JSON can carry, apart from payloads, which are bytes that a shard never looks into.

`app` is an app id, `socket` a socket id, `ref` a number by which the sender knows the answer again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson


def user_key(user_id: Any) -> str:
    """A user id as it is compared: a string."""
    return user_id if isinstance(user_id, str) else orjson.dumps(user_id).decode()


class Member(NamedTuple):
    """A presence member: the id as compared (a string) and the signed `channel_data` as it came."""

    user: str
    data: dict[str, Any]


class ChannelHolding(NamedTuple):
    """What somebody holds of one channel: subscriptions, and members as (user, data, connections).

    Who inherits it is told with `position` how far the channel's log has come; 0 where there are no other hosts.
    """

    app: str
    channel: str
    subscriptions: int
    members: list[tuple[str, dict[str, Any], int]]
    position: int = 0


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
    """An event for a channel. With a `ref` other than 0 it is answered: by `ChannelInfo` if `info` is wanted.

    `except_` is the socket id that does not get it, `keep_s` for how many seconds a late subscriber still does.
    """

    ref: int
    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int
    info: bool = False


class Describe(NamedTuple):
    """Answered by `ChannelInfo`."""

    ref: int
    app: str
    channel: str


class ListChannels(NamedTuple):
    """Answered by a dict of the occupied channels' names to `ChannelInfo`; by each shard, of those that it has.

    `cached`: whether the payloads kept for late subscribers are wanted too; `users`: whether the numbers of users are.
    """

    ref: int
    app: str
    prefix: str
    cached: bool
    users: bool = True


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


class Inspect(NamedTuple):
    """Answered by each shard with a list of counters: its own, and those that workers have reported to it."""

    ref: int
    app: str = ""


class HandOver(NamedTuple):
    """A worker hands connections over to another: what they hold on this shard is the heir's from here on.

    `apps` and `channels` are as in a declaration. `shard` is the number of the shard that is told. `certain`: it has
    been done before, by a shard that has died, and cannot be refused. Answered by `HandedOver`; the heir is told
    `Inherit` at the same place of the order.
    """

    ref: int
    heir: str
    shard: int
    certain: bool
    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]


#: What REST asks: each has a `ref`, and one answer from each shard that it concerns.
Question = Publish | Describe | ListChannels | ListUsers | CountConnections | Terminate | Inspect

Request = Connect | Disconnect | Attach | Detach | Subscribe | Refresh | Unsubscribe | HandOver | Question


def plain_ref(request: Request) -> int:
    """The `ref` of a request whose answer has no value, else 0: on the bus its acknowledgement is all the answer."""
    if isinstance(request, Publish):
        return 0 if request.info else request.ref
    return request.ref if isinstance(request, Terminate) else 0


# --- shard to worker -------------------------------------------------------------------------------------------------


class Connected(NamedTuple):
    """The answer to `Connect`; `admitted` is False when the app is over its quota."""

    app: str
    socket: str
    admitted: bool


class Subscribed(NamedTuple):
    """The answer to `Subscribe` and `Refresh`.

    `members` are the users of a presence channel as (id, user_info), in order of their joining; None on other kinds.
    `cached` is the payload of the last event that was kept for the channel; `position` as in `ChannelHolding`.
    """

    app: str
    channel: str
    socket: str
    ref: int
    members: list[tuple[Any, Any]] | None
    cached: bytes | None
    position: int = 0


class Publication(NamedTuple):
    """An event at its place in the channel's order; for every subscriber but `except_`. `keep_s` as in `Publish`.

    `position` is its place in the log that all hosts share, 0 where it has none.
    """

    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int
    position: int = 0


class Superseded(NamedTuple):
    """The event that this worker remembers of a cache channel is not the last one any more; others know that."""

    app: str
    channel: str


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


class Present(NamedTuple):
    """Who is on a presence channel, after a shard has died. What clients have not been told yet is news to them."""

    app: str
    channel: str
    members: list[tuple[Any, Any]]


class Expel(NamedTuple):
    """Close every connection of this user."""

    app: str
    user: str


class Reached(NamedTuple):
    """The log of a channel has come to this position, with nothing that this worker has not heard."""

    app: str
    channel: str
    position: int


class Standing(NamedTuple):
    """How a shard stands with the other hosts: why it cannot reach them, empty where it can."""

    shard: int
    trouble: str


class Answer(NamedTuple):
    """The answer to a request that carried a `ref`."""

    ref: int
    value: Any


class HandedOver(NamedTuple):
    """The answer to `HandOver`. What was before it on that shard's channels concerns the connections, what follows does
    not. `done` is False where there is no such heir: nothing has changed then.

    `beliefs` is what the connections have been told of presence, as user ids: the worker knows it, and puts it in. The
    heir needs it where a shard has died meanwhile.
    """

    ref: int
    shard: int
    done: bool
    beliefs: list[tuple[str, str, list[Any]]]


class Inherit(NamedTuple):
    """What `origin` has handed over to this worker is its own from here on. `ref` and the rest are as in `HandOver`.

    `present` are the user ids on those presence channels of which this worker has not known before. `recovered`: a
    shard has died meanwhile, so what the connections have been told of presence may be wrong. `Present` follows.
    """

    origin: str
    ref: int
    shard: int
    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]
    present: list[tuple[str, str, list[Any]]]
    recovered: bool = False


Event = (
    Connected
    | Subscribed
    | Publication
    | MemberAdded
    | MemberRemoved
    | Present
    | Expel
    | HandedOver
    | Inherit
    | Superseded
    | Standing
    | Reached
    | Answer
)


class ChannelInfo(NamedTuple):
    """What a shard knows of a channel: subscriptions, users (presence) and the payload kept for late subscribers."""

    subscriptions: int
    users: int
    cached: bytes | None


# --- between a worker and a shard that is new to it ------------------------------------------------------------------


class Declaration(NamedTuple):
    """All that a worker holds on a shard: connections by app as (app, connected, attached), and channels.

    `cached` are the last events of cache channels that it knows, as (app, channel, payload, seconds left, place);
    `seen` the requests whose outcome it has lately seen, as (origin, seq, place). `requests` are those that it makes
    again, or has never sent, numbered from `first` on: what it holds is what it held before them. Up to the place
    `stable` every worker has dealt with everything. `inherited` are the (origin, seq) of what others have handed over
    to it, which is part of what it holds; of `bequests` the same, with what it is, and it is not part of that yet.
    `positions` are how far in the logs of channels it has heard, as (app, channel, position), if there are other hosts.
    """

    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]
    cached: list[tuple[str, str, bytes, int, int]]
    seen: list[tuple[str, int, int]]
    first: int
    requests: list[Request]
    stable: int = 0
    inherited: tuple[tuple[str, int], ...] = ()
    bequests: tuple[tuple[str, int, Inherit], ...] = ()
    positions: tuple[tuple[str, str, int], ...] = ()


class Stamped(NamedTuple):
    """What one request (or death) means for one receiver. `place` is its position in the shard's order.

    `origin` and `seq` name the request: its sender, and the sender's number for it.
    """

    origin: str
    seq: int
    place: int
    events: list[Event]


class Ack(NamedTuple):
    """Tells a worker that `size` of its requests are done: the last is `seq`, at `place`, the others before it."""

    seq: int
    place: int
    size: int


class Mark(NamedTuple):
    """Tells a worker how far the shard has come with another: the request `seq` of `origin` was done at `place`."""

    origin: str
    seq: int
    place: int


# --- frames ----------------------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """A worker is there, and declares what it holds."""

    worker: str
    declaration: Declaration


class Batch(NamedTuple):
    """Requests of a worker, numbered from `first` on. `received` is the last parcel that it has dealt with."""

    worker: str
    received: int
    first: int
    requests: list[Request]


class Beat(NamedTuple):
    """A worker lives. `counters` are what it has counted so far, None where only `received` is news.

    `urgent`: it waits until everybody has dealt with what it has asked for.
    """

    worker: str
    received: int
    counters: dict[str, Any] | None
    urgent: bool = False


class Parcel(NamedTuple):
    """What a shard tells a worker. `shard` is its name, `number` counts the parcels to this worker from 1 on.

    Every worker has dealt with everything up to the place `stable`, which is -1 while the shard recovers. Events and
    acks are each in order. `urgent`: somebody waits to hear that this worker has dealt with it.
    """

    shard: str
    number: int
    stable: int
    acks: list[Ack]
    marks: list[Mark]
    events: list[Stamped]
    urgent: bool = False


Frame = Hello | Batch | Beat | Parcel
