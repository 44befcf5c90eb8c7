"""What `--debug` may show of the traffic, and what it may not."""

from __future__ import annotations

import json
import logging
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.pusher import events
from resonate.server.trace import Tracer, redact

SECRET = "hunter2"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def text(event: str, data: Any, **more: Any) -> bytes:
    return json.dumps({"event": event, "data": data, **more}).encode()


SUBSCRIPTION = {"channel": "presence-x", "auth": f"key1:{SECRET}", "channel_data": f'{{"user_id":"{SECRET}"}}'}
SIGNIN = {"auth": f"key1:{SECRET}", "user_data": f'{{"id":"{SECRET}"}}'}


@pytest.mark.parametrize(
    "message",
    [
        text("pusher:subscribe", SUBSCRIPTION),
        text("pusher:subscribe", json.dumps(SUBSCRIPTION)),
        text("pusher:subscribe", {"channel": "private-encrypted-x", "shared_secret": SECRET}),
        text("pusher:subscribe", {"auth": [SECRET], "channel_data": {"user_id": SECRET}}),
        text("pusher:signin", SIGNIN),
        text("pusher:signin", json.dumps(SIGNIN)),
        text("client-x", {"a": 1}, user_id=SECRET),
        events.signin_success(f'{{"id":"{SECRET}"}}'),
        events.succeeded("presence-x", [(SECRET, {"name": SECRET})]),
        events.member_added("presence-x", {"user_id": SECRET, "user_info": None}),
        events.member_removed("presence-x", SECRET),
        events.client_event("client-x", "presence-x", {}, SECRET),
        b'{"event":"pusher:subscribe","data":{"auth":"hunter2"}',  # no JSON: not shown at all
        # malformed, and refused; but what stands in them are secrets all the same
        json.dumps({"event": "pusher:subscribe", **SUBSCRIPTION}).encode(),
        text("pusher:subscribe", [SUBSCRIPTION]),
        text("pusher:subscribe", {"data": SUBSCRIPTION}),
        json.dumps([{"event": "pusher:subscribe", "data": SUBSCRIPTION}]).encode(),
    ],
)
def test_secrets_and_presence_data_are_not_shown(message: bytes) -> None:
    assert SECRET not in redact(message)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (b'{"event":"pusher:ping"}', '{"event":"pusher:ping"}'),
        (text("order.shipped", '{"a":1}', channel="news"), "order.shipped"),
        (text("order.shipped", '{"a":1}', channel="news"), "news"),
        (text("client-x", {"text": "hello"}, channel="private-x"), "hello"),
        (text("pusher:subscribe", SUBSCRIPTION), "presence-x"),
        (events.error(events.INVALID_FORMAT), "4200"),
        (b"hello", "5 bytes that are not JSON"),
        (b"\xff\xfe", "2 bytes that are not JSON"),
        (b"", "0 bytes that are not JSON"),
        (b"5", "5"),
    ],
)
def test_the_rest_is_shown(message: bytes, shown: str) -> None:
    assert shown in redact(message)


def test_a_long_message_is_cut() -> None:
    shown = redact(text("x", "y" * 100_000))
    assert len(shown) < 600
    assert "100" in shown[-30:]  # and its length told


@pytest.mark.parametrize("levels", [200, 255, 300, 1000, 100_000])
def test_any_depth_can_be_shown(levels: int) -> None:
    """A client can send it, so it must not cost the connection."""
    assert redact(b'{"event":"x","data":' + b"[" * levels + b"]" * levels + b"}")
    assert redact(json.dumps({"event": "x", "data": '{"a":' + "[" * levels + "]" * levels + "}"}).encode())


@given(JSON | st.fixed_dictionaries({"event": TEXT, "data": JSON | JSON.map(json.dumps)}))
def test_no_message_can_draw_on_the_terminal(value: Any) -> None:
    shown = redact(json.dumps(value, ensure_ascii=False).encode())
    assert not [char for char in shown if unicodedata.category(char) == "Cc"]


@given(st.binary(max_size=100))
def test_any_bytes_can_be_shown(message: bytes) -> None:
    assert "\n" not in redact(message)


def test_directions(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tracer = Tracer(logging.getLogger("test"))
    tracer.received("1.1", b'{"event":"a"}')
    tracer.sent("1.1", b'{"event":"b"}')
    tracer.broadcast("new\ns", 3, b'{"event":"c"}')
    assert caplog.messages == [
        '1.1 > {"event":"a"}',
        '1.1 < {"event":"b"}',
        '3 subscribers of \'new\\ns\' < {"event":"c"}',
    ]
