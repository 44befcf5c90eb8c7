"""Frames of the bus: what is written is read again, and whatever else comes in is refused with one error."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from msgspec.structs import fields, replace

from resonate.encoding import EncodingError, decode, encode
from resonate.errors import PusherError
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
    Described,
    Detach,
    Disconnect,
    Event,
    Expel,
    Frame,
    HandedOver,
    HandOver,
    Hello,
    Inherit,
    Inspect,
    ListChannels,
    Listed,
    ListUsers,
    Mark,
    Member,
    MemberAdded,
    MemberRemoved,
    Message,
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
from resonate.pusher import events

# --- any value of each kind ------------------------------------------------------------------------------------------

TEXT = st.text(max_size=20)
NUMBER = st.integers(0, 2**53)
POSITION = st.integers(0, 2**63 - 1)
PAYLOAD = st.binary(max_size=40)
MAYBE_PAYLOAD = st.none() | PAYLOAD
SCALAR = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALAR | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
USER_ID = TEXT | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
DATA = st.builds(
    lambda more, id_, info: {**more, "user_id": id_, "user_info": info},
    st.dictionaries(TEXT, SCALAR, max_size=2),
    USER_ID,
    JSON,
)
PAIRS = st.lists(st.tuples(USER_ID, JSON), max_size=3)
INFO = st.builds(ChannelInfo, NUMBER, NUMBER, MAYBE_PAYLOAD)
VALUE = st.none() | NUMBER | st.lists(JSON, max_size=3)

HELD_MEMBERS = st.lists(st.tuples(TEXT, DATA, NUMBER), max_size=2)
HOLDING = st.builds(ChannelHolding, TEXT, TEXT, NUMBER, HELD_MEMBERS, POSITION)
HELD_APPS = st.lists(st.tuples(TEXT, NUMBER, NUMBER), max_size=3)
USERS_OF = st.lists(st.tuples(TEXT, TEXT, st.lists(USER_ID, max_size=3)), max_size=2)
INHERIT = st.builds(Inherit, TEXT, NUMBER, NUMBER, HELD_APPS, st.lists(HOLDING, max_size=2), USERS_OF, st.booleans())

REQUESTS: dict[type, st.SearchStrategy[Request]] = {
    Connect: st.builds(Connect, TEXT, TEXT, st.none() | NUMBER),
    Disconnect: st.builds(Disconnect, TEXT),
    Attach: st.builds(Attach, TEXT),
    Detach: st.builds(Detach, TEXT),
    Subscribe: st.builds(Subscribe, TEXT, TEXT, TEXT, NUMBER, st.none() | st.builds(Member, TEXT, DATA)),
    Refresh: st.builds(Refresh, TEXT, TEXT, TEXT, NUMBER),
    Unsubscribe: st.builds(Unsubscribe, TEXT, TEXT, st.none() | TEXT),
    Publish: st.builds(Publish, NUMBER, TEXT, TEXT, PAYLOAD, st.none() | TEXT, NUMBER, st.booleans()),
    Describe: st.builds(Describe, NUMBER, TEXT, TEXT),
    ListChannels: st.builds(ListChannels, NUMBER, TEXT, TEXT, st.booleans(), st.booleans()),
    ListUsers: st.builds(ListUsers, NUMBER, TEXT, TEXT),
    CountConnections: st.builds(CountConnections, NUMBER, TEXT),
    Terminate: st.builds(Terminate, NUMBER, TEXT, TEXT),
    Inspect: st.builds(Inspect, NUMBER, TEXT),
    HandOver: st.builds(HandOver, NUMBER, TEXT, NUMBER, st.booleans(), HELD_APPS, st.lists(HOLDING, max_size=2)),
}
EVENTS: dict[type, st.SearchStrategy[Event]] = {
    Connected: st.builds(Connected, TEXT, TEXT, st.booleans()),
    Subscribed: st.builds(Subscribed, TEXT, TEXT, TEXT, NUMBER, st.none() | PAIRS, MAYBE_PAYLOAD, POSITION),
    Publication: st.builds(Publication, TEXT, TEXT, PAYLOAD, st.none() | TEXT, NUMBER, POSITION),
    MemberAdded: st.builds(MemberAdded, TEXT, TEXT, DATA, TEXT),
    MemberRemoved: st.builds(MemberRemoved, TEXT, TEXT, USER_ID),
    Present: st.builds(Present, TEXT, TEXT, PAIRS),
    Expel: st.builds(Expel, TEXT, TEXT),
    Answer: st.builds(Answer, NUMBER, VALUE),
    Described: st.builds(Described, NUMBER, INFO),
    Listed: st.builds(Listed, NUMBER, st.dictionaries(TEXT, INFO, max_size=3)),
    HandedOver: st.builds(HandedOver, NUMBER, NUMBER, st.booleans(), USERS_OF),
    Inherit: INHERIT,
    Superseded: st.builds(Superseded, TEXT, TEXT),
    Standing: st.builds(Standing, NUMBER, TEXT),
    Reached: st.builds(Reached, TEXT, TEXT, POSITION),
}
MARKS = st.lists(st.builds(Mark, TEXT, NUMBER, NUMBER), max_size=3)
ANY_REQUESTS = st.lists(st.one_of(*REQUESTS.values()), max_size=4)
ANY_EVENTS = st.lists(st.one_of(*EVENTS.values()), max_size=3)
DECLARATION = st.builds(
    Declaration,
    HELD_APPS,
    st.lists(HOLDING, max_size=2),
    st.lists(st.tuples(TEXT, TEXT, PAYLOAD, NUMBER, NUMBER), max_size=3),
    MARKS,
    NUMBER,
    ANY_REQUESTS,
    NUMBER,
    st.lists(st.tuples(TEXT, NUMBER), max_size=2).map(tuple),
    st.lists(st.tuples(TEXT, NUMBER, INHERIT), max_size=2).map(tuple),
    st.lists(st.tuples(TEXT, TEXT, POSITION), max_size=2).map(tuple),
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, TEXT, DECLARATION),
    st.builds(Batch, TEXT, NUMBER, NUMBER, ANY_REQUESTS),
    st.builds(Beat, TEXT, NUMBER, st.none() | st.dictionaries(TEXT, JSON, max_size=3), st.booleans()),
    st.builds(
        Parcel,
        TEXT,
        NUMBER,
        NUMBER,
        st.lists(st.builds(Ack, NUMBER, NUMBER, NUMBER), max_size=3),
        MARKS,
        st.lists(st.builds(Stamped, TEXT, NUMBER, NUMBER, ANY_EVENTS), max_size=3),
        st.booleans(),
    ),
)

# --- one of each kind, in the order of the numbers that they have on the wire ----------------------------------------

ANN = {"user_id": 1, "user_info": {"name": "Ann"}}
SAMPLE_REQUESTS: tuple[Request, ...] = (
    Connect("app", "1.1", 5),
    Disconnect("app"),
    Attach("app"),
    Detach("app"),
    Subscribe("app", "presence-ä", "1.1", 7, Member("1", ANN)),
    Refresh("app", "a", "1.1", 7),
    Unsubscribe("app", "a", "1"),
    Publish(3, "app", "a", b"\x00payload\xff", "1.1", 60),
    Describe(3, "app", "a"),
    ListChannels(3, "app", "presence-", True),
    ListUsers(3, "app", "a"),
    CountConnections(3, "app"),
    Terminate(3, "app", "1"),
    Inspect(3),
    HandOver(3, "w-3-4", 1, False, [("app", 2, 1)], [ChannelHolding("app", "presence-ä", 1, [("1", ANN, 1)])]),
)
SAMPLE_EVENTS: tuple[Event, ...] = (
    Connected("app", "1.1", True),
    Subscribed("app", "a", "1.1", 7, [(1, {"name": "Ann"})], b"cached"),
    Publication("app", "a", b"\x00payload\xff", "1.1", 60, 1 << 60),
    MemberAdded("app", "a", ANN, "1.1"),
    MemberRemoved("app", "a", 1),
    Present("app", "a", [("1", None)]),
    Expel("app", "1"),
    Answer(3, [{"publishes": 1}]),
    HandedOver(3, 1, True, [("app", "presence-ä", [1])]),
    Inherit("w-3-4", 3, 1, [("app", 2, 1)], [ChannelHolding("app", "a", 1, [])], [("app", "a", [1])], True),
    Superseded("app", "cache-a"),
    Standing(1, "Redis does not answer"),
    Reached("app", "a", 1 << 60),
    Described(3, ChannelInfo(2, 1, b"cached")),
    Listed(3, {"a": ChannelInfo(2, 1, None)}),
)
HELLO = Hello(
    "w-1-2",
    Declaration(
        [("app", 2, 1)],
        [ChannelHolding("app", "presence-ä", 1, [("1", ANN, 1)])],
        [("app", "cache-a", b"kept", 30, 4)],
        [Mark("w-3-4", 9, 12)],
        5,
        list(SAMPLE_REQUESTS),
        positions=(("app", "presence-ä", 1 << 60),),
    ),
)
BATCH = Batch("w-1-2", 6, 5, list(SAMPLE_REQUESTS))
BEAT = Beat("w-1-2", 6, {"publishes": 1, "errors": {"4200": 3}, "rest_latency": [1, 2]})
PARCEL = Parcel("s0-1-2", 3, 8, [Ack(5, 9, 2)], [Mark("w-3-4", 9, 12)], [Stamped("w-1-2", 5, 9, list(SAMPLE_EVENTS))])
SAMPLE_FRAMES: tuple[Frame, ...] = (HELLO, BATCH, BEAT, PARCEL)


def carrying(message: Any) -> Frame:
    """A frame that carries a request or an event, and nothing else."""
    if isinstance(message, get_args(Request)):
        return Batch("w", 1, 1, [message])
    return Parcel("s", 1, 1, [], [], [Stamped("w", 1, 1, [message])])


def row_of(frame: Any) -> Any:
    """The one message in what `carrying` has made."""
    return frame[4][0] if frame[0] == BATCH_NUMBER else frame[6][0][3][0]


BATCH_NUMBER = 1


def is_refused(data: bytes) -> bool:
    """Whether it is no frame; any exception but EncodingError is raised."""
    try:
        decode(data)
    except EncodingError:
        return True
    return False


def is_frame_or_none(data: bytes) -> bool:
    """Whether it is refused, or is a frame that can be sent on; by its bytes, for NaN is not equal to itself."""
    try:
        written = encode(decode(data))
    except EncodingError:
        return True
    return encode(decode(written)) == written


# --- what is written is read again -----------------------------------------------------------------------------------


def test_there_is_a_sample_and_a_strategy_of_every_kind() -> None:
    assert set(map(type, SAMPLE_REQUESTS)) == set(REQUESTS) == set(get_args(Request))
    assert set(map(type, SAMPLE_EVENTS)) == set(EVENTS) == set(get_args(Event))
    assert set(map(type, SAMPLE_FRAMES)) == set(get_args(Frame))


@pytest.mark.parametrize("kind", [*REQUESTS, *EVENTS], ids=lambda kind: str(kind.__name__))
def test_every_message_comes_as_it_went(kind: type) -> None:
    @settings(max_examples=40)
    @given({**REQUESTS, **EVENTS}[kind])
    def check(message: Any) -> None:
        assert decode(encode(carrying(message))) == carrying(message)

    check()


@given(FRAMES)
def test_every_frame_comes_as_it_went(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


def test_the_numbers_of_messages_are_for_ever() -> None:
    """Workers and shards of two versions talk to each other while one takes the other's place."""
    *requests, hand_over = SAMPLE_REQUESTS
    events, later = SAMPLE_EVENTS[:8], SAMPLE_EVENTS[8:]
    for number, message in enumerate((*requests, *events, hand_over, *later)):
        assert row_of(msgpack.decode(encode(carrying(message))))[0] == number
    assert [msgpack.decode(encode(frame))[0] for frame in SAMPLE_FRAMES] == [0, 1, 2, 3]


def test_payloads_are_not_looked_into() -> None:
    payload = bytes(range(256)) * 4
    data = encode(Batch("w", 0, 1, [Publish(0, "app", "a", payload, None, 0), Publish(0, "app", "a", b"", None, 0)]))
    assert payload in data
    frame = decode(data)
    assert isinstance(frame, Batch)
    assert [request.payload for request in frame.requests if isinstance(request, Publish)] == [payload, b""]


def test_a_big_declaration() -> None:
    members = [(str(user), {"user_id": user, "user_info": {"name": "x" * 50}}, 1) for user in range(100)]
    channels = [ChannelHolding("app", f"presence-{index}", 100, members) for index in range(100)]
    cached = [("app", f"cache-{index}", b"%d" % index * 500, 30, index) for index in range(500)]
    requests: list[Request] = [Publish(0, "app", "a", b"%d" % index, None, 0) for index in range(20_000)]
    hello = Hello("w", Declaration([("app", 9, 9)], channels, cached, [Mark("w", 1, 1)] * 20_000, 1, requests))
    assert decode(encode(hello)) == hello


# --- the deepest JSON that a client may send -------------------------------------------------------------------------


def deepest() -> dict[str, Any]:
    """The `channel_data` that nests deepest of what `events.parse` lets through."""
    for depth in range(1024, 0, -1):
        try:
            found: dict[str, Any] = events.parse(b'{"user_id":1,"user_info":' + b"[" * depth + b"]" * depth + b"}")
        except PusherError:
            continue
        return found
    raise AssertionError("nothing is let through")


@pytest.mark.parametrize("way", ["declared", "asked", "asked again", "added", "subscribed", "present"])
def test_the_deepest_user_info_that_a_client_may_have_can_travel(way: str) -> None:
    data = deepest()
    assert str(data).count("[") >= events.MAX_DEPTH
    pairs, subscribe = [(1, data["user_info"])], Subscribe("app", "a", "1.1", 1, Member("1", data))
    frames: dict[str, Frame] = {
        "declared": Hello("w", Declaration([], [ChannelHolding("app", "a", 1, [("1", data, 1)])], [], [], 1, [])),
        "asked": carrying(subscribe),
        "asked again": Hello("w", Declaration([], [], [], [], 1, [subscribe])),
        "added": carrying(MemberAdded("app", "a", data, "1.1")),
        "subscribed": carrying(Subscribed("app", "a", "1.1", 1, pairs, None)),
        "present": carrying(Present("app", "a", pairs)),
    }
    assert decode(encode(frames[way])) == frames[way]


# --- what comes in is data: one error, and no other ------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_frame(data: bytes) -> None:
    assert is_refused(data)


@given(JSON)
def test_arbitrary_values_are_no_frames(value: Any) -> None:
    assert is_refused(msgpack.encode(value))


@pytest.mark.parametrize("message", [*SAMPLE_REQUESTS, *SAMPLE_EVENTS], ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("by", [-100, 100, -len((*SAMPLE_REQUESTS, *SAMPLE_EVENTS))])
def test_a_message_of_another_number_is_none(message: Any, by: int) -> None:
    """Not even of one that counts from the end."""
    content = msgpack.decode(encode(carrying(message)))
    row_of(content)[0] += by
    assert is_refused(msgpack.encode(content))


@pytest.mark.parametrize("frame", SAMPLE_FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_that_is_cut_off_or_goes_on(frame: Frame) -> None:
    data = encode(frame)
    assert all(is_refused(data[:end]) for end in range(len(data)))
    assert is_refused(data + b"\0")
    assert is_refused(data + data)


@pytest.mark.parametrize("frame", SAMPLE_FRAMES, ids=lambda frame: type(frame).__name__)
def test_flipped_bits_make_another_frame_or_none(frame: Frame) -> None:
    data = encode(frame)
    for at in range(len(data)):
        for bit in (0x01, 0x20, 0x80):
            assert is_frame_or_none(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value or a part of it stands."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(spot for key in keys for spot in spots(value[key], (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    """The same with another part at that place."""
    if not path:
        return part
    value[path[0]] = replaced(value[path[0]], path[1:], part)
    return value


@settings(max_examples=400)
@given(st.data(), st.sampled_from(SAMPLE_FRAMES))
def test_frames_with_something_else_in_them_make_another_frame_or_none(data: st.DataObject, frame: Frame) -> None:
    content = msgpack.decode(encode(frame))
    path = data.draw(st.sampled_from(spots(content)))
    assert is_frame_or_none(msgpack.encode(replaced(content, path, data.draw(JSON))))


#: Some value of each type.
OF_TYPE: dict[type, Any] = {type(value): value for value in (None, True, 1, 1.5, "x", b"x", [1], {1: 1})}


def written_as(hint: Any) -> set[type]:
    """The types as which a field may come."""
    if isinstance(hint, UnionType):
        return {kind for part in get_args(hint) for kind in written_as(part)}
    kind = get_origin(hint) or hint
    return {list if kind is tuple or issubclass(kind, Message) else kind}


@pytest.mark.parametrize(
    "message", [*SAMPLE_REQUESTS, *SAMPLE_EVENTS, *SAMPLE_FRAMES], ids=lambda message: type(message).__name__
)
def test_fields_of_other_types_and_other_numbers_of_fields(message: Any) -> None:
    """What has come later may be missing: an earlier version has not known of it."""
    is_frame = isinstance(message, get_args(Frame))
    content = msgpack.decode(encode(message if is_frame else carrying(message)))
    row = content if is_frame else row_of(content)
    original = list(row)

    def refused(fields: list[Any]) -> bool:
        row[:] = fields
        return is_refused(msgpack.encode(content))

    kinds = get_type_hints(type(message))
    required = sum(field.required for field in fields(type(message)))
    assert not refused(original)
    assert not refused(original[: required + 1])
    assert refused(original[:required])
    assert refused([*original, None])
    for at, (field, hint) in enumerate(kinds.items(), 1):
        for kind in OF_TYPE.keys() - written_as(hint):
            assert refused([*original[:at], OF_TYPE[kind], *original[at + 1 :]]), (field, kind)


ODD = ({"user_id": 1}, {"user_info": None}, {}, *({"user_id": odd, "user_info": 1} for odd in (None, True, [], {})))


@pytest.mark.parametrize("data", ODD, ids=str)
def test_a_member_without_an_id_or_info_is_none(data: dict[str, Any]) -> None:
    """Nothing that is sent can be so: it cannot be made."""
    subscribe, added = [4, "app", "a", "1.1", 1, ["1", data]], [17, "app", "a", data, "1.1"]
    held = ["app", "a", 1, [["1", data, 1]], 0]
    for row in (subscribe, [22, 3, "w", 1, False, [], [held]]):
        assert is_refused(msgpack.encode([1, "w", 0, 1, [row]]))
    for row in (added, [24, "w", 3, 1, [], [held], [], False]):
        assert is_refused(msgpack.encode([3, "s", 1, 1, [], [], [["w", 1, 1, [row]]]]))
    for make in (lambda: Member("1", data), lambda: MemberAdded("app", "a", data, "1.1")):
        with pytest.raises(ValueError, match="user_id"):
            make()


@pytest.mark.parametrize("event", SAMPLE_EVENTS, ids=lambda event: type(event).__name__)
def test_a_worker_sends_no_events(event: Event) -> None:
    with pytest.raises(EncodingError):
        decode(encode(Batch("w", 0, 1, [event])))  # type: ignore[list-item]
    with pytest.raises(EncodingError):
        decode(encode(Hello("w", replace(HELLO.declaration, requests=[event]))))  # type: ignore[list-item]


@pytest.mark.parametrize("request_", SAMPLE_REQUESTS, ids=lambda request: type(request).__name__)
def test_a_shard_sends_no_requests(request_: Request) -> None:
    with pytest.raises(EncodingError):
        decode(encode(Parcel("s", 1, 1, [], [], [Stamped("w", 1, 1, [request_])])))  # type: ignore[list-item]


def test_an_array_that_claims_to_be_larger_than_memory() -> None:
    for claim in (b"\xdd", b"\xdf", b"\xc6", b"\xdb"):
        assert is_refused(claim + b"\xff\xff\xff\xff")
        assert is_refused(b"\x95\x01\xa1w\x00\x01" + claim + b"\xff\xff\xff\xff")


def test_what_nests_too_deep_is_no_frame() -> None:
    assert is_refused(b"\x95\x02\xa1w\x00\x81\xa1a" + b"\x91" * 5000 + b"\x01\xc2")


class _Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self._trace,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    pickled = pickle.dumps(_Bomb(tmp_path / "trace"))
    assert is_refused(pickled)
    assert is_refused(b"\xc4" + bytes([len(pickled)]) + pickled)
    assert not is_refused(encode(Batch("w", 0, 1, [Publish(0, "app", "a", pickled, None, 0)])))
    assert not (tmp_path / "trace").exists()
