"""How events are written and read."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import Fault, PusherError
from resonate.messages import user_key
from resonate.pusher import events

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS
JSON = st.recursive(
    SCALARS | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            events.established("1.2", 30),
            r'{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":30}"}',
        ),
        (
            events.error(Fault(4009, "Connection is unauthorized")),
            r'{"event":"pusher:error","data":"{\"code\":4009,\"message\":\"Connection is unauthorized\"}"}',
        ),
        (
            events.succeeded("news", None),
            '{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"news"}',
        ),
        (
            events.succeeded("presence-x", [(1, {"name": "A"}), ("2", None)]),
            (
                r'{"event":"pusher_internal:subscription_succeeded","data":"{\"presence\":{\"count\":2,'
                r'\"ids\":[1,\"2\"],\"hash\":{\"1\":{\"name\":\"A\"},\"2\":null}}}","channel":"presence-x"}'
            ),
        ),
        (events.cache_miss("cache-x"), '{"event":"pusher:cache_miss","channel":"cache-x"}'),
        (
            events.member_added("presence-x", {"user_id": "1", "user_info": {"é": "/"}}),
            (
                r'{"event":"pusher_internal:member_added","data":"{\"user_id\":\"1\",\"user_info\":{\"é\":\"/\"}}",'
                '"channel":"presence-x"}'
            ),
        ),
        (
            events.member_removed("presence-x", 7),
            r'{"event":"pusher_internal:member_removed","data":"{\"user_id\":7}","channel":"presence-x"}',
        ),
        (
            events.signin_success('{"id":"7"}'),
            '{"event":"pusher:signin_success","data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"7\\\\\\"}\\"}"}',
        ),
        (
            events.published("order.shipped", "orders", '{"a":1}'),
            '{"event":"order.shipped","data":"{\\"a\\":1}","channel":"orders"}',
        ),
        (events.published_in_batch("e", "c", "x"), '{"event":"e","channel":"c","data":"x"}'),
        (
            events.client_event("client-x", "private-x", {"a": {}}),
            '{"event":"client-x","channel":"private-x","data":{"a":{}}}',
        ),
        (
            events.client_event("client-x", "presence-x", None, 5),
            '{"event":"client-x","channel":"presence-x","data":null,"user_id":5}',
        ),
    ],
)
def test_on_the_wire(written: bytes, expected: str) -> None:
    assert written.decode() == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"pusher:ping"',
        b"{}",
        b'{"event":""}',
        b'{"event":null}',
        b'{"event":5}',
        b'{"event":["x"]}',
        b'{"data":{}}',
        b'{"event":"x"}x',
        b'{"event":"\xff"}',
        b'{"event":"\\ud800"}',
    ],
)
def test_what_is_no_message(text: bytes) -> None:
    with pytest.raises(PusherError, match="4200 Invalid message format"):
        events.decode(text)


@pytest.mark.parametrize(
    ("data", "decoded"),
    [
        ('{"channel":"news"}', {"channel": "news"}),
        ("[1]", [1]),
        ("5", 5),
        ("null", None),
        ("", ""),
        ("{broken", "{broken"),
        ('"{}"', "{}"),  # one layer only
        ({"a": "{}"}, {"a": "{}"}),
        (None, None),
    ],
)
def test_data_that_is_a_string_of_json_is_decoded_once(data: Any, decoded: Any) -> None:
    assert events.decode(json.dumps({"event": "x", "data": data}).encode())["data"] == decoded


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_depth_limit_of_a_message() -> None:
    assert events.decode(f'{{"event":"x","data":{nested(199)}}}'.encode())["event"] == "x"
    for levels in (300, 1000, 100_000):
        with pytest.raises(PusherError):
            events.decode(f'{{"event":"x","data":{nested(levels)}}}'.encode())


def test_data_inside_a_string_that_is_too_deep_stays_a_string() -> None:
    def decoded(levels: int) -> Any:
        return events.decode(json.dumps({"event": "x", "data": nested(levels)}).encode())["data"]

    assert isinstance(decoded(200), list)
    for levels in (300, 1000, 100_000):
        assert decoded(levels) == nested(levels)


def test_brackets_inside_strings_are_no_depth() -> None:
    text = json.dumps({"event": "x", "data": {"a": '\\"' + "[{" * 5000}}).encode()
    assert events.decode(text)["data"]["a"].endswith("[{")


def test_many_shallow_brackets_are_no_depth() -> None:
    value = {"event": "x", "data": [[i] for i in range(1000)]}
    assert events.decode(json.dumps(value).encode()) == value


@given(value=JSON, levels=st.integers(180, 270), inside=st.booleans())
def test_what_is_accepted_can_be_written_again(value: Any, levels: int, inside: bool) -> None:
    """JSON that can be read and not be written would fail in the middle of a broadcast."""
    for _ in range(levels):
        value = [value]
    data = json.dumps(value) if inside else value
    text = json.dumps({"event": "client-x", "channel": "private-x", "data": data}).encode()
    with contextlib.suppress(PusherError):
        decoded = events.decode(text)["data"]
        assert json.loads(events.client_event("client-x", "private-x", decoded, "user"))["data"] in (value, data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(text: bytes) -> None:
    with contextlib.suppress(PusherError):
        assert isinstance(events.decode(text)["event"], str)


@pytest.mark.parametrize(("given_id", "key"), [("7", "7"), (7, "7"), (1.0, "1.0"), (-1, "-1"), ("", "")])
def test_user_ids_are_compared_as_strings(given_id: Any, key: str) -> None:
    assert user_key(given_id) == key
