"""A parser that is taken down anywhere in a stream and set up elsewhere goes on as if nothing had been."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import UNFIT
from resonate.websocket import Close, Event, Fail, Message, Oversized, Ping, Pong, WebSocket
from resonate.websocket.protocol import from_json, to_json
from tests.support.client import frame
from tests.websocket.test_properties import LIMIT, fed, streams

payloads = st.binary(max_size=130)
events = st.one_of(
    payloads.map(Message),
    st.just(Oversized()),
    payloads.map(Ping),
    payloads.map(Pong),
    st.builds(Close, st.one_of(st.none(), st.integers(1000, 4999)), st.text(max_size=40)),
    st.builds(Fail, st.integers(1000, 4999), st.text(max_size=40)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def carried(value: Any) -> Any:
    """What arrives of it at another process."""
    return json.loads(json.dumps(value))


def moved(websocket: WebSocket, limit: int = LIMIT) -> WebSocket:
    return WebSocket.restore(limit, carried(websocket.snapshot()))


@given(streams, st.data())
def test_a_move_is_not_seen(stream: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(stream)))
    websocket = WebSocket(LIMIT)
    found = websocket.receive(stream[:at])
    if not found or not isinstance(found[-1], Fail):
        found += moved(websocket).receive(stream[at:])
    assert found == fed([stream])


def test_every_byte_of_a_stream_with_all_there_is() -> None:
    stream = (
        frame(b"fragmented ", fin=False)
        + frame(b"in between", 9)
        + frame(b"message", 0)
        + frame(bytes(range(40)), 2, fin=False)
        + frame(b"", 0)
        + frame(bytes(60), 2, fin=False)  # over the limit
        + frame(bytes(30), 0)
        + frame(b"\x03\xe8bye", 8)
    )
    expected = fed([stream])
    assert [type(event) for event in expected] == [Ping, Message, Message, Oversized, Close]
    for at in range(len(stream) + 1):
        websocket = WebSocket(LIMIT)
        assert websocket.receive(stream[:at]) + moved(websocket).receive(stream[at:]) == expected
    websocket, found = WebSocket(LIMIT), list[Event]()
    for octet in stream:
        websocket = moved(websocket)
        found += websocket.receive(bytes([octet]))
    assert found == expected


def test_text_is_checked_though_it_began_elsewhere() -> None:
    websocket = WebSocket(LIMIT)
    websocket.receive(frame(b"\xe2", 1, fin=False))
    (event,) = moved(websocket).receive(frame(b"\x28", 0))
    assert isinstance(event, Fail)
    websocket.receive(frame(b"\x82\xac", 0))
    websocket.receive(frame(b"\xe2", 2, fin=False))
    assert moved(websocket).receive(frame(b"\x28", 0)) == [Message(b"\xe2\x28")]


def test_a_message_that_is_too_long_by_a_new_limit_is_dropped() -> None:
    websocket = WebSocket(LIMIT)
    websocket.receive(frame(bytes(30), fin=False))
    assert moved(websocket, 20).receive(frame(b"more", 0) + frame(b"next")) == [Oversized(), Message(b"next")]


def test_what_a_later_version_adds_is_ignored() -> None:
    restored = WebSocket.restore(LIMIT, WebSocket(LIMIT).snapshot() | {"compression": {"window": 15}})
    assert restored.receive(frame(b"a")) == [Message(b"a")]


@given(st.lists(events, max_size=8))
def test_events_that_wait_arrive(waiting: list[Event]) -> None:
    assert from_json(carried(to_json(waiting))) == waiting


@pytest.mark.parametrize(
    "change",
    [
        {"buffer": "\u20ac"},
        {"buffer": 3},
        {"fragments": [1]},
        {"skip": [1, 2]},
        {"skip": [5, 9, True]},
        {"skip": [5, -1, True]},
        {"skip": [5, 1, True], "fragments": "abc"},
        {"skip": [float("inf"), 0, True]},
    ],
)
def test_what_is_no_snapshot(change: dict[str, Any]) -> None:
    with pytest.raises(UNFIT):
        WebSocket.restore(LIMIT, WebSocket(LIMIT).snapshot() | change)
    with pytest.raises(UNFIT):
        WebSocket.restore(LIMIT, {"utf8": True})


@given(json_values)
def test_whatever_comes_raises_nothing_else(value: Any) -> None:
    for read in (from_json, lambda value: WebSocket.restore(LIMIT, value)):
        try:
            read(value)
        except UNFIT:
            pass


@given(st.dictionaries(st.sampled_from(["buffer", "fragments", "skip", "utf8"]), json_values))
def test_a_snapshot_with_anything_in_it_raises_nothing_else(change: dict[str, Any]) -> None:
    try:
        restored = WebSocket.restore(LIMIT, WebSocket(LIMIT).snapshot() | change)
    except UNFIT:
        return
    restored.receive(frame(b"abc"))
