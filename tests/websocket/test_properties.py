"""Properties of the codec that hold for whatever a client sends, found by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.websocket import Event, Fail, Message, WebSocket, encode_close, encode_ping, encode_pong, encode_text
from resonate.websocket.frames import unmask
from tests.support.client import CLOSE, PING, PONG, TEXT, frame

LIMIT = 50

masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=20).map(str.encode)
payloads = st.one_of(st.binary(max_size=20), texts, st.binary(min_size=100, max_size=130))
proper = st.builds(frame, payloads, st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10]), st.booleans(), st.just(0), masks)
any_frame = st.builds(
    frame, payloads, st.integers(0, 15), st.booleans(), st.sampled_from([0, 0, 0, 0, 1, 4]), st.one_of(masks, st.none())
)
long_frame = st.builds(frame, st.integers(0, 900).map(bytes), st.sampled_from([0, 1, 2]), st.booleans())
streams = st.lists(st.one_of(proper, proper, any_frame, long_frame), max_size=12).map(b"".join)


@st.composite
def cut(draw: st.DrawFn, stream: st.SearchStrategy[bytes] = streams) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in pieces (some of them empty)."""
    data = draw(stream)
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return data, [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def fed(parts: list[bytes]) -> list[Event]:
    websocket, events = WebSocket(LIMIT), list[Event]()
    for part in parts:
        events += websocket.receive(part)
        if events and isinstance(events[-1], Fail):
            break
    return events


@given(cut())
def test_cuts_are_not_seen(case: tuple[bytes, list[bytes]]) -> None:
    data, parts = case
    assert fed(parts) == fed([data])


@given(cut(st.binary(max_size=300)))
def test_arbitrary_bytes_never_raise(case: tuple[bytes, list[bytes]]) -> None:
    data, parts = case
    assert fed(parts) == fed([data])


@given(st.lists(payloads, max_size=8))
def test_messages_come_as_they_were_sent(messages: list[bytes]) -> None:
    sent = b"".join(frame(data, 2) for data in messages)
    assert WebSocket(1000).receive(sent) == [Message(data) for data in messages]


@given(streams, st.integers(1, 40))
def test_what_is_kept_is_bounded(data: bytes, size: int) -> None:
    """A frame and a message that are not complete: each no longer than the limit, or than a control frame."""
    websocket = WebSocket(LIMIT)
    for start in range(0, len(data), size):
        events = websocket.receive(data[start : start + size])
        assert len(websocket._buffer or b"") <= max(LIMIT, 125) + 14
        assert len(websocket._fragments or b"") <= LIMIT
        if any(isinstance(event, Fail) for event in events):
            return


@given(st.binary(max_size=300), masks)
def test_unmask_is_the_xor_of_the_specification(payload: bytes, mask: bytes) -> None:
    expected = bytes(octet ^ mask[index % 4] for index, octet in enumerate(payload))
    assert unmask(payload, mask) == unmask(bytearray(payload), bytearray(mask)) == expected
    assert unmask(expected, mask) == payload


def decoded(data: bytes) -> tuple[int, bytes]:
    """Opcode and payload of one final, unmasked frame with the shortest possible length; nothing may follow."""
    assert data[0] & 0xF0 == 0x80
    size, head = data[1], 2
    if size == 126:
        size, head = int.from_bytes(data[2:4], "big"), 4
        assert size > 125
    elif size == 127:
        size, head = int.from_bytes(data[2:10], "big"), 10
        assert size > 0xFFFF
    assert len(data) == head + size
    return data[0] & 15, data[head:]


@given(st.one_of(payloads, st.sampled_from([0, 125, 126, 127, 65535, 65536]).map(lambda size: b"x" * size)))
def test_what_is_encoded_can_be_read(payload: bytes) -> None:
    assert decoded(encode_text(payload)) == (TEXT, payload)
    control = payload[:125]
    assert decoded(encode_ping(control)) == (PING, control)
    assert decoded(encode_pong(control)) == (PONG, control)


@given(st.integers(1000, 4999), st.text(max_size=200))
def test_close_frames_keep_within_125_bytes_and_to_whole_characters(code: int, reason: str) -> None:
    opcode, payload = decoded(encode_close(code, reason))
    assert (opcode, payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
    assert len(payload) <= 125
    assert reason.startswith(payload[2:].decode())
    if len(reason.encode()) <= 123:
        assert payload[2:].decode() == reason
