"""Frames of the bus as bytes: a head of JSON, and behind it the payloads, which nobody on the way looks into.

The head is four bytes of length and an array. A message in it is an array too: its number in `_KINDS`, then its fields;
a payload is given by its length, -1 for none, and follows in the order of appearance. What comes in is data: whatever
does not have the shape of a message raises EncodingError, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Final

import orjson

from resonate.errors import ResonateError
from resonate.messages import (
    Ack,
    Answer,
    Attach,
    Batch,
    Beat,
    ChannelHolding,
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Declaration,
    Describe,
    Detach,
    Disconnect,
    Expel,
    Frame,
    HandedOver,
    HandOver,
    Hello,
    Inherit,
    Inspect,
    ListChannels,
    ListUsers,
    Mark,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Present,
    Publication,
    Publish,
    Reached,
    Refresh,
    Request,
    Stamped,
    Standing,
    Subscribe,
    Subscribed,
    Superseded,
    Terminate,
    Unsubscribe,
)

Row = list[Any]


class EncodingError(ResonateError):
    """Bytes that are no frame."""


_STR, _INT, _BOOL, _DICT, _LIST = (str,), (int,), (bool,), (dict,), (list,)
_ID: Final = (str, int, float)
_MAYBE_STR, _MAYBE_INT, _MAYBE_LIST = (str, type(None)), (int, type(None)), (list, type(None))

#: The types that each field may have in the head, in the order of their numbers: those only ever grow at the end.
_KINDS: Final[tuple[tuple[Any, tuple[tuple[type, ...], ...]], ...]] = (
    (Connect, (_STR, _STR, _MAYBE_INT)),
    (Disconnect, (_STR,)),
    (Attach, (_STR,)),
    (Detach, (_STR,)),
    (Subscribe, (_STR, _STR, _STR, _INT, _MAYBE_LIST)),
    (Refresh, (_STR, _STR, _STR, _INT)),
    (Unsubscribe, (_STR, _STR, _MAYBE_STR)),
    (Publish, (_INT, _STR, _STR, _INT, _MAYBE_STR, _INT, _BOOL)),
    (Describe, (_INT, _STR, _STR)),
    (ListChannels, (_INT, _STR, _STR, _BOOL, _BOOL)),
    (ListUsers, (_INT, _STR, _STR)),
    (CountConnections, (_INT, _STR)),
    (Terminate, (_INT, _STR, _STR)),
    (Inspect, (_INT, _STR)),
    (Connected, (_STR, _STR, _BOOL)),
    (Subscribed, (_STR, _STR, _STR, _INT, _MAYBE_LIST, _INT, _INT)),
    (Publication, (_STR, _STR, _INT, _MAYBE_STR, _INT, _INT)),
    (MemberAdded, (_STR, _STR, _DICT, _STR)),
    (MemberRemoved, (_STR, _STR, _ID)),
    (Present, (_STR, _STR, _LIST)),
    (Expel, (_STR, _STR)),
    (Answer, (_INT, _LIST)),
    (HandOver, (_INT, _STR, _INT, _BOOL, _LIST, _LIST)),
    (HandedOver, (_INT, _INT, _BOOL, _LIST)),
    (Inherit, (_STR, _INT, _INT, _LIST, _LIST, _LIST, _BOOL)),
    (Superseded, (_STR, _STR)),
    (Standing, (_INT, _STR)),
    (Reached, (_STR, _STR, _INT)),
)
_NUMBERS: Final = {kind: number for number, (kind, _) in enumerate(_KINDS)}
_SHAPES: Final = tuple(frozenset(product(*fields)) for _, fields in _KINDS)
_REQUESTS: Final = frozenset((*range(_NUMBERS[Connect], _NUMBERS[Inspect] + 1), _NUMBERS[HandOver]))
_EVENTS: Final = frozenset(_NUMBERS.values()) - _REQUESTS
#: How the value of an answer is told: as it is, or one channel's, or those of many.
_PLAIN, _CHANNEL, _CHANNELS = 0, 1, 2
#: Makes a named tuple of fields that have been looked at.
_new: Final = tuple.__new__
#: The first item of a head.
_HELLO, _BATCH, _BEAT, _PARCEL = 0, 1, 2, 3


# --- writing ---------------------------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    payloads: list[bytes] = []
    text = orjson.dumps(_HEADS[type(frame)](frame, payloads))
    return b"".join((len(text).to_bytes(4, "big"), text, *payloads))


def _parcel_head(frame: Parcel, payloads: list[bytes]) -> tuple[Any, ...]:
    events = [(*stamped[:3], [_pack(event, payloads) for event in stamped[3]]) for stamped in frame.events]
    return (_PARCEL, *frame[:3], list(map(tuple, frame.acks)), list(map(tuple, frame.marks)), events, frame.urgent)


def _batch_head(frame: Batch, payloads: list[bytes]) -> tuple[Any, ...]:
    return (_BATCH, *frame[:3], [_pack(request, payloads) for request in frame.requests])


def _beat_head(frame: Beat, payloads: list[bytes]) -> tuple[Any, ...]:
    return (_BEAT, *frame)


def _hello_head(frame: Hello, payloads: list[bytes]) -> tuple[Any, ...]:
    worker, declared = frame
    requests = [_pack(request, payloads) for request in declared.requests]
    cached = [(app, channel, _put(payload, payloads), *rest) for app, channel, payload, *rest in declared.cached]
    channels = list(map(tuple, declared.channels))
    seen, first, _, stable, inherited, bequests, at = declared[3:]
    packed = [(*bequest[:2], _pack(bequest[2], payloads)) for bequest in bequests]
    return (_HELLO, worker, declared.apps, channels, cached, seen, first, requests, stable, inherited, packed, at)


_HEADS: Final[dict[type, Callable[[Any, list[bytes]], tuple[Any, ...]]]] = {
    Hello: _hello_head,
    Batch: _batch_head,
    Beat: _beat_head,
    Parcel: _parcel_head,
}


def _pack(message: Any, payloads: list[bytes]) -> Sequence[Any]:
    kind = type(message)
    packer = _PACKERS.get(kind)
    return (_NUMBERS[kind], *message) if packer is None else packer(message, payloads)


def _pack_publish(message: Publish, payloads: list[bytes]) -> Sequence[Any]:
    ref, app, channel, payload, except_, keep_s, info = message
    payloads.append(payload)
    return (_PUBLISH, ref, app, channel, len(payload), except_, keep_s, info)


def _pack_publication(message: Publication, payloads: list[bytes]) -> Sequence[Any]:
    app, channel, payload, except_, keep_s, position = message
    payloads.append(payload)
    return (_PUBLICATION, app, channel, len(payload), except_, keep_s, position)


def _pack_subscribe(message: Subscribe, payloads: list[bytes]) -> Sequence[Any]:
    *rest, member = message
    return (_NUMBERS[Subscribe], *rest, None if member is None else tuple(member))


def _pack_subscribed(message: Subscribed, payloads: list[bytes]) -> Sequence[Any]:
    *rest, members, cached, position = message
    return (_NUMBERS[Subscribed], *rest, members, _put(cached, payloads), position)


def _pack_hand_over(message: HandOver, payloads: list[bytes]) -> Sequence[Any]:
    *rest, channels = message
    return (_NUMBERS[HandOver], *rest, list(map(tuple, channels)))


def _pack_inherit(message: Inherit, payloads: list[bytes]) -> Sequence[Any]:
    *rest, channels, present, recovered = message
    return (_NUMBERS[Inherit], *rest, list(map(tuple, channels)), present, recovered)


def _pack_answer(message: Answer, payloads: list[bytes]) -> Sequence[Any]:
    return (_NUMBERS[Answer], message.ref, _pack_value(message.value, payloads))


_PUBLISH: Final = _NUMBERS[Publish]
_PUBLICATION: Final = _NUMBERS[Publication]
#: How to write the kinds that are more than their fields.
_PACKERS: Final[dict[type, Callable[[Any, list[bytes]], Sequence[Any]]]] = {
    Answer: _pack_answer,
    HandOver: _pack_hand_over,
    Inherit: _pack_inherit,
    Publication: _pack_publication,
    Publish: _pack_publish,
    Subscribe: _pack_subscribe,
    Subscribed: _pack_subscribed,
}


def _put(payload: bytes | None, payloads: list[bytes]) -> int:
    if payload is None:
        return -1
    payloads.append(payload)
    return len(payload)


def _pack_info(info: ChannelInfo, payloads: list[bytes]) -> tuple[int, int, int]:
    return info.subscriptions, info.users, _put(info.cached, payloads)


def _pack_value(value: Any, payloads: list[bytes]) -> Row:
    if type(value) is ChannelInfo:
        return [_CHANNEL, _pack_info(value, payloads)]
    if type(value) is dict:
        return [_CHANNELS, {name: _pack_info(info, payloads) for name, info in value.items()}]
    return [_PLAIN, value]


# --- reading ---------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> Frame:
    """The frame in these bytes. Raises EncodingError."""
    try:
        size = int.from_bytes(data[:4], "big") + 4
        head = orjson.loads(data[4:size])
        reader = _Reader(data, size)
        frame: Frame = _READERS[head[0]](head, reader)
    except (ValueError, TypeError, LookupError) as error:  # JSONDecodeError is a ValueError
        raise EncodingError(f"{len(data)} bytes are no frame: {error!r}") from None
    if reader.at != len(data):
        raise EncodingError(f"a frame of {reader.at} bytes came as {len(data)}")
    return frame


class _Reader:
    """The payloads behind a head."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes | None:
        """The next payload, if there is one."""
        return None if size < 0 else self.payload(size)

    def payload(self, size: int) -> bytes:
        """The next payload."""
        if size < 0:
            raise ValueError("a payload is missing")
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise ValueError("a payload is missing")
        return self.data[start : self.at]


def _unpack(row: Row, reader: _Reader) -> Any:
    number = row[0]
    fields = row[1:]
    if tuple(map(type, fields)) not in _SHAPES[number]:
        raise ValueError(f"the fields of message {number} have other types")
    kind = _KINDS[number][0]
    unpacker = _UNPACKERS.get(kind)
    if unpacker is not None:
        unpacker(fields, reader)
    return _new(kind, fields)


def _unpack_publish(fields: Row, reader: _Reader) -> None:
    fields[3] = reader.payload(fields[3])


def _unpack_publication(fields: Row, reader: _Reader) -> None:
    fields[2] = reader.payload(fields[2])


def _unpack_subscribe(fields: Row, reader: _Reader) -> None:
    if fields[4] is not None:
        fields[4] = _member(fields[4])


def _unpack_subscribed(fields: Row, reader: _Reader) -> None:
    if fields[4] is not None:
        fields[4] = _pairs(fields[4])
    fields[5] = reader.take(fields[5])


def _unpack_member_added(fields: Row, reader: _Reader) -> None:
    fields[2]["user_id"], fields[2]["user_info"]  # both are there, or a KeyError says so


def _unpack_present(fields: Row, reader: _Reader) -> None:
    fields[2] = _pairs(fields[2])


def _unpack_hand_over(fields: Row, reader: _Reader) -> None:
    fields[4] = _held_apps(fields[4])
    fields[5] = [_holding(row) for row in fields[5]]


def _unpack_handed_over(fields: Row, reader: _Reader) -> None:
    fields[3] = _users_of(fields[3])


def _unpack_inherit(fields: Row, reader: _Reader) -> None:
    fields[3] = _held_apps(fields[3])
    fields[4] = [_holding(row) for row in fields[4]]
    fields[5] = _users_of(fields[5])


def _unpack_answer(fields: Row, reader: _Reader) -> None:
    fields[1] = _value(fields[1], reader)


#: How to read those kinds: each puts right what differs from the fields.
_UNPACKERS: Final[dict[type, Callable[[Row, _Reader], None]]] = {
    Answer: _unpack_answer,
    HandOver: _unpack_hand_over,
    HandedOver: _unpack_handed_over,
    Inherit: _unpack_inherit,
    MemberAdded: _unpack_member_added,
    Present: _unpack_present,
    Publication: _unpack_publication,
    Publish: _unpack_publish,
    Subscribe: _unpack_subscribe,
    Subscribed: _unpack_subscribed,
}


def _member(row: Row) -> Member:
    user, data = _typed(row, (str, dict))
    data["user_id"], data["user_info"]
    return Member(user, data)


def _pairs(rows: Row) -> list[tuple[Any, Any]]:
    return [(id_, info) for id_, info in rows]


def _value(row: Row, reader: _Reader) -> Any:
    how, value = row
    if how == _CHANNEL:
        return _info(value, reader)
    if how == _CHANNELS:
        if type(value) is not dict:
            raise ValueError("the channels of an answer are an object")
        return {name: _info(item, reader) for name, item in value.items()}
    return value


def _info(row: Row, reader: _Reader) -> ChannelInfo:
    subscriptions, users, size = _typed(row, (int, int, int))
    return ChannelInfo(subscriptions, users, reader.take(size))


def _record(kind: type, row: Row, types: tuple[type, ...]) -> Any:
    """One of the small messages that are part of others, and frequent."""
    return _new(kind, _typed(row, types))


def _typed(row: Row, types: tuple[type, ...]) -> Any:
    """The items of `row`, which have these types."""
    found = tuple(row)
    if tuple(map(type, found)) != types:
        raise ValueError("the items of a row have other types")
    return found


def _requests(rows: Row, reader: _Reader) -> list[Request]:
    if not _REQUESTS.issuperset([row[0] for row in rows]):
        raise ValueError("what a worker sends is no request")
    return [_unpack(row, reader) for row in rows]


def _events(rows: Row, reader: _Reader) -> list[Any]:
    if not _EVENTS.issuperset([row[0] for row in rows]):
        raise ValueError("what a shard sends is no event")
    return [_unpack(row, reader) for row in rows]


def _stamped(row: Row, reader: _Reader) -> Stamped:
    origin, seq, place, events = _typed(row, (str, int, int, list))
    return _new(Stamped, (origin, seq, place, _events(events, reader)))


def _read_parcel(head: Row, reader: _Reader) -> Parcel:
    types = (int, str, int, int, list, list, list, bool)
    _, shard, number, stable, acks, marks, events, urgent = _typed(head, types)
    return Parcel(
        shard,
        number,
        stable,
        [_record(Ack, row, (int, int, int)) for row in acks],
        [_record(Mark, row, (str, int, int)) for row in marks],
        [_stamped(row, reader) for row in events],
        urgent,
    )


def _read_batch(head: Row, reader: _Reader) -> Batch:
    _, worker, received, first, requests = _typed(head, (int, str, int, int, list))
    return Batch(worker, received, first, _requests(requests, reader))


def _read_beat(head: Row, reader: _Reader) -> Beat:
    _, worker, received, counters, urgent = head
    _typed([worker, received, urgent], (str, int, bool))
    if counters is not None and type(counters) is not dict:
        raise ValueError("counters are an object")
    return Beat(worker, received, counters, urgent)


def _read_hello(head: Row, reader: _Reader) -> Hello:
    types = (int, str, list, list, list, list, int, list, int, list, list, list)
    _, worker, apps, channels, cached, seen, first, requests, stable, inherited, bequests, at = _typed(head, types)
    made = _requests(requests, reader)
    kept = [(*_typed(row[:2], (str, str)), reader.take(row[2]) or b"", *_typed(row[3:], (int, int))) for row in cached]
    return Hello(
        worker,
        Declaration(
            _held_apps(apps),
            [_holding(row) for row in channels],
            kept,
            [_typed(row, (str, int, int)) for row in seen],
            first,
            made,
            stable,
            tuple([_typed(row, (str, int)) for row in inherited]),
            tuple([_bequest(row, reader) for row in bequests]),
            tuple([_typed(row, (str, str, int)) for row in at]),
        ),
    )


def _held_apps(rows: Row) -> list[tuple[str, int, int]]:
    return [_typed(row, (str, int, int)) for row in rows]


def _bequest(row: Row, reader: _Reader) -> tuple[str, int, Inherit]:
    origin, seq, packed = _typed(row, (str, int, list))
    if packed[0] != _NUMBERS[Inherit]:
        raise ValueError("a bequest is something else")
    return origin, seq, _unpack(packed, reader)


def _users_of(rows: Row) -> list[tuple[str, str, list[Any]]]:
    return [_typed(row, (str, str, list)) for row in rows]


def _holding(row: Row) -> ChannelHolding:
    app, channel, subscriptions, members, position = _typed(row, (str, str, int, list, int))
    return ChannelHolding(app, channel, subscriptions, [_held_member(item) for item in members], position)


def _held_member(row: Row) -> tuple[str, dict[str, Any], int]:
    user, data, connections = _typed(row, (str, dict, int))
    data["user_id"], data["user_info"]
    return user, data, connections


_READERS: Final[dict[int, Callable[[Row, _Reader], Frame]]] = {
    _HELLO: _read_hello,
    _BATCH: _read_batch,
    _BEAT: _read_beat,
    _PARCEL: _read_parcel,
}
