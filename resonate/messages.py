"""The vocabulary of workers and shards. How it travels between processes is resonate.encoding's.

A worker sends requests to the shard that is home to the channel (or, for what concerns an app as a whole, to the app);
the shard answers, and tells workers what happens on the channels that they hold. Both directions are ordered. The
annotations are the contract: what comes from another process has these types, or is refused. Payloads are bytes that a
shard never looks into.

`app` is an app id, `socket` a socket id, `ref` a number by which the sender knows the answer again.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A value. It travels as an array of its fields; where several kinds may stand, behind its number, the `tag`.

    Requests and events share their numbers, which only ever grow at the end; frames have their own. The garbage
    collector does not look into messages (`gc`): they are in no cycle.
    """


#: As it first came; see `user_key`.
UserId = str | int | float


def user_key(user_id: UserId) -> str:
    """A user id as it is compared: a string."""
    return user_id if isinstance(user_id, str) else orjson.dumps(user_id).decode()


def check_data(data: dict[str, Any]) -> None:
    """What the type of a member's data does not say. Raises ValueError."""
    if type(data.get("user_id")) not in (str, int, float) or "user_info" not in data:
        raise ValueError("a member has a user_id, which is a string or a number, and a user_info")


class Member(Message, frozen=True):
    """A presence member: the id as compared (a string) and the signed `channel_data` as it came."""

    user: str
    data: dict[str, Any]

    def __post_init__(self) -> None:
        check_data(self.data)


class ChannelHolding(Message, frozen=True):
    """What somebody holds of one channel: subscriptions, and members as (user, data, connections).

    Who inherits it is told with `position` how far the channel's log has come; 0 where there are no other hosts.
    """

    app: str
    channel: str
    subscriptions: int
    members: list[tuple[str, dict[str, Any], int]]
    position: int = 0

    def __post_init__(self) -> None:
        for _, data, _ in self.members:
            check_data(data)


# --- worker to shard -------------------------------------------------------------------------------------------------


class Connect(Message, frozen=True, tag=0):
    """A connection asks for a place among the app's `limit` connections (None: unlimited)."""

    app: str
    socket: str
    limit: int | None


class Disconnect(Message, frozen=True, tag=1):
    """An admitted connection has gone."""

    app: str


class Attach(Message, frozen=True, tag=2):
    """A connection holds its first subscription: it counts in `GET /connections` from now on."""

    app: str


class Detach(Message, frozen=True, tag=3):
    """A connection holds no subscription any more."""

    app: str


class Subscribe(Message, frozen=True, tag=4):
    """A connection joins a channel. Answered by `Subscribed`: the barrier before anything published later."""

    app: str
    channel: str
    socket: str
    ref: int
    member: Member | None


class Refresh(Message, frozen=True, tag=5):
    """A connection that is on the channel asks again for what a new subscriber is told. Changes nothing."""

    app: str
    channel: str
    socket: str
    ref: int


class Unsubscribe(Message, frozen=True, tag=6):
    """A connection leaves a channel; `user` when it was a presence member."""

    app: str
    channel: str
    user: str | None


class Publish(Message, frozen=True, tag=7):
    """An event for a channel. With a `ref` other than 0 it is answered: by `Described` if `info` is wanted.

    `except_` is the socket id that does not get it, `keep_s` for how many seconds a late subscriber still does.
    """

    ref: int
    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int
    info: bool = False


class Describe(Message, frozen=True, tag=8):
    """Answered by `Described`."""

    ref: int
    app: str
    channel: str


class ListChannels(Message, frozen=True, tag=9):
    """Answered by `Listed`, of the channels that are occupied; by each shard, of those that it has.

    `cached`: whether the payloads kept for late subscribers are wanted too; `users`: whether the numbers of users are.
    """

    ref: int
    app: str
    prefix: str
    cached: bool
    users: bool = True


class ListUsers(Message, frozen=True, tag=10):
    """Answered by a list of user ids as they first came, or None when the channel is unoccupied."""

    ref: int
    app: str
    channel: str


class CountConnections(Message, frozen=True, tag=11):
    """Answered by the number of connections that hold a subscription."""

    ref: int
    app: str


class Terminate(Message, frozen=True, tag=12):
    """Every worker is to close the connections of a user. Answered by None once all have been told."""

    ref: int
    app: str
    user: str


class Inspect(Message, frozen=True, tag=13):
    """Answered by each shard with a list of counters: its own, and those that workers have reported to it."""

    ref: int
    app: str = ""


class HandOver(Message, frozen=True, tag=22):
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


class Connected(Message, frozen=True, tag=14):
    """The answer to `Connect`; `admitted` is False when the app is over its quota."""

    app: str
    socket: str
    admitted: bool


class Subscribed(Message, frozen=True, tag=15):
    """The answer to `Subscribe` and `Refresh`.

    `members` are the users of a presence channel as (id, user_info), in order of their joining; None on other kinds.
    `cached` is the payload of the last event that was kept for the channel; `position` as in `ChannelHolding`.
    """

    app: str
    channel: str
    socket: str
    ref: int
    members: list[tuple[UserId, Any]] | None
    cached: bytes | None
    position: int = 0


class Publication(Message, frozen=True, tag=16):
    """An event at its place in the channel's order; for every subscriber but `except_`. `keep_s` as in `Publish`.

    `position` is its place in the log that all hosts share, 0 where it has none.
    """

    app: str
    channel: str
    payload: bytes
    except_: str | None
    keep_s: int
    position: int = 0


class Superseded(Message, frozen=True, tag=25):
    """The event that this worker remembers of a cache channel is not the last one any more; others know that."""

    app: str
    channel: str


class MemberAdded(Message, frozen=True, tag=17):
    """A user's first connection has joined; everybody but that connection (`except_`) is told."""

    app: str
    channel: str
    data: dict[str, Any]
    except_: str

    def __post_init__(self) -> None:
        check_data(self.data)


class MemberRemoved(Message, frozen=True, tag=18):
    """A user's last connection has gone. `id` is as it first came: a string or a number."""

    app: str
    channel: str
    id: UserId


class Present(Message, frozen=True, tag=19):
    """Who is on a presence channel, after a shard has died. What clients have not been told yet is news to them."""

    app: str
    channel: str
    members: list[tuple[UserId, Any]]


class Expel(Message, frozen=True, tag=20):
    """Close every connection of this user."""

    app: str
    user: str


class Reached(Message, frozen=True, tag=27):
    """The log of a channel has come to this position, with nothing that this worker has not heard."""

    app: str
    channel: str
    position: int


class Standing(Message, frozen=True, tag=26):
    """How a shard stands with the other hosts: why it cannot reach them, empty where it can."""

    shard: int
    trouble: str


class ChannelInfo(Message, frozen=True):
    """What a shard knows of a channel: subscriptions, users (presence) and the payload kept for late subscribers."""

    subscriptions: int
    users: int
    cached: bytes | None


class Answer(Message, frozen=True, tag=21):
    """The answer to a request that carried a `ref`, and asked neither for one channel nor for all."""

    ref: int
    value: list[Any] | int | None


class Described(Message, frozen=True, tag=28):
    """The answer to `Describe`, and to a `Publish` that wanted it."""

    ref: int
    value: ChannelInfo


class Listed(Message, frozen=True, tag=29):
    """The answer to `ListChannels`, by the channels' names."""

    ref: int
    value: dict[str, ChannelInfo]


#: What a question is answered by.
Reply = Answer | Described | Listed


class HandedOver(Message, frozen=True, tag=23):
    """The answer to `HandOver`. What was before it on that shard's channels concerns the connections, what follows does
    not. `done` is False where there is no such heir: nothing has changed then.

    `beliefs` is what the connections have been told of presence, as user ids: the worker knows it, and puts it in. The
    heir needs it where a shard has died meanwhile.
    """

    ref: int
    shard: int
    done: bool
    beliefs: list[tuple[str, str, list[UserId]]]


class Inherit(Message, frozen=True, tag=24):
    """What `origin` has handed over to this worker is its own from here on. `ref` and the rest are as in `HandOver`.

    `present` are the user ids on those presence channels of which this worker has not known before. `recovered`: a
    shard has died meanwhile, so what the connections have been told of presence may be wrong. `Present` follows.
    """

    origin: str
    ref: int
    shard: int
    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]
    present: list[tuple[str, str, list[UserId]]]
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
    | Reply
)


# --- between a worker and a shard that is new to it ------------------------------------------------------------------


class Declaration(Message, frozen=True):
    """All that a worker holds on a shard: connections by app as (app, connected, attached), and channels.

    `cached` are the last events of cache channels that it knows, as (app, channel, payload, seconds left, place);
    `seen` the requests whose outcome it has lately seen. `requests` are those that it makes
    again, or has never sent, numbered from `first` on: what it holds is what it held before them. Up to the place
    `stable` every worker has dealt with everything. `inherited` are the (origin, seq) of what others have handed over
    to it, which is part of what it holds; of `bequests` the same, with what it is, and it is not part of that yet.
    `positions` are how far in the logs of channels it has heard, as (app, channel, position), if there are other hosts.
    """

    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]
    cached: list[tuple[str, str, bytes, int, int]]
    seen: list[Mark]
    first: int
    requests: list[Request]
    stable: int = 0
    inherited: tuple[tuple[str, int], ...] = ()
    bequests: tuple[tuple[str, int, Inherit], ...] = ()
    positions: tuple[tuple[str, str, int], ...] = ()


class Stamped(Message, frozen=True):
    """What one request (or death) means for one receiver. `place` is its position in the shard's order.

    `origin` and `seq` name the request: its sender, and the sender's number for it.
    """

    origin: str
    seq: int
    place: int
    events: list[Event]


class Ack(Message, frozen=True):
    """Tells a worker that `size` of its requests are done: the last is `seq`, at `place`, the others before it."""

    seq: int
    place: int
    size: int


class Mark(Message, frozen=True):
    """Tells a worker how far the shard has come with another: the request `seq` of `origin` was done at `place`."""

    origin: str
    seq: int
    place: int


# --- frames ----------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=0):
    """A worker is there, and declares what it holds."""

    worker: str
    declaration: Declaration


class Batch(Message, frozen=True, tag=1):
    """Requests of a worker, numbered from `first` on. `received` is the last parcel that it has dealt with."""

    worker: str
    received: int
    first: int
    requests: list[Request]


class Beat(Message, frozen=True, tag=2):
    """A worker lives. `counters` are what it has counted so far, None where only `received` is news.

    `urgent`: it waits until everybody has dealt with what it has asked for.
    """

    worker: str
    received: int
    counters: dict[str, Any] | None
    urgent: bool = False


class Parcel(Message, frozen=True, tag=3):
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
