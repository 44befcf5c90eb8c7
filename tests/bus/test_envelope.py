"""The envelope of Reverb: what programs say with it, and what is said to them."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.envelope import HOST, MAX_BYTES, MAX_CHANNELS, Envelope
from resonate.messages import Publish, Terminate
from resonate.pusher import events as wire

HOST_ID = "h1"
TTL = 600


def php(app: str, size: int | None = None) -> str:
    """An app as a genuine Reverb writes it; `size` is what it says of the id's length, in bytes."""
    length = len(app.encode()) if size is None else size
    return (
        f'O:26:"Laravel\\Reverb\\Application":11:{{s:5:"\0*\0id";s:{length}:"{app}";'
        's:6:"\0*\0key";s:4:"key1";s:17:"\0*\0maxConnections";N;}'
    )


def message(payload: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "application": "app1", "payload": payload, **more}


EVENT = {"event": "e", "channels": ["room"], "data": "x"}


def envelope() -> Envelope:
    return Envelope(HOST_ID, TTL)


def heard(value: Any, by: Envelope | None = None) -> list[Publish | Terminate]:
    """What an envelope asks for, which is not refused."""
    by = by or envelope()
    found = list(by.heard(value if isinstance(value, bytes) else json.dumps(value).encode()))
    assert (by.refused, by.complaints()) == (0, [])
    return found


# --- what is heard ----------------------------------------------------------------------------------------------------


def test_an_event_looks_as_one_that_is_published_over_rest() -> None:
    (request,) = heard(message({"event": "e", "channels": ["room"], "data": '{"a":1}'}))
    assert request == Publish(0, "app1", "room", wire.published("e", "room", '{"a":1}'), None, 0)
    (request,) = heard(message({"event": "e", "channel": "room", "data": "x"}))
    assert request == Publish(0, "app1", "room", wire.published_in_batch("e", "room", "x"), None, 0)
    (request,) = heard(message({"event": "client-x", "channel": "private-a", "data": {"o": []}, "user_id": "7"}))
    assert request == Publish(
        0, "app1", "private-a", wire.client_event("client-x", "private-a", {"o": []}, "7"), None, 0
    )


def test_each_channel_gets_it_once() -> None:
    for channels in (["a", "cache-b", "a"], {"0": "a", "2": "cache-b"}):
        found = heard(message({"event": "e", "channels": channels, "data": "x"}, socket_id="1.2"))
        assert [(each.channel, each.except_, each.keep_s) for each in found if isinstance(each, Publish)] == [
            ("a", "1.2", 0),
            ("cache-b", "1.2", TTL),
        ]
        assert [orjson.loads(each.payload)["channel"] for each in found if isinstance(each, Publish)] == [
            "a",
            "cache-b",
        ]


def test_connections_of_a_user_are_closed() -> None:
    for user in ("7", 7):
        value = {"type": "terminate", "application": "app1", "payload": {"user_id": user}}
        assert heard(value) == [Terminate(0, "app1", "7")]


@pytest.mark.parametrize("app", ["app1", "ünï", '";s:1:"', "0", "O:26"])
def test_the_app_of_a_genuine_reverb(app: str) -> None:
    (request,) = heard(message(EVENT) | {"application": php(app)})
    assert request.app == app


def test_what_a_host_has_said_is_in_the_log() -> None:
    for host in (HOST_ID, "another"):
        assert heard(message(EVENT) | {HOST: host}) == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"hello",
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"NaN",
        {"type": ["message"]},
        {"type": "9tBHV1Qn6z", "payload": {"room": []}},
        {"type": "metrics", "payload": 'O:45:"Laravel\\Reverb\\Protocols\\Pusher\\PendingMetric":6:{}'},
        {"type": "metrics", "application": "app1", "key": "k", "payload": {}},
        message(None),
        message("x"),
        message([EVENT]),
        message({}),
        message({"channels": ["room"], "data": "x"}),
        message({"event": "", "channels": ["room"]}),
        message({"event": {"e": 1}, "channels": ["room"]}),
        message({"event": "e"}),
        message({"event": "e", "channels": []}),
        message({"event": "e", "channels": [7]}),
        message({"event": "e", "channels": [""]}),
        message({"event": "e", "channel": {}}),
        message({"event": "e", "channels": list(map(str, range(MAX_CHANNELS + 1)))}),
        message(EVENT, socket_id=1.2),
        message({**EVENT, "data": "x" * MAX_BYTES}),
        message(EVENT) | {"application": None},
        message(EVENT) | {"application": ""},
        message(EVENT) | {"application": {"id": "app1"}},
        message(EVENT) | {"application": php("")},
        message(EVENT) | {"application": php("app1", 3)},
        message(EVENT) | {"application": php("app1", 5)},
        message(EVENT) | {"application": php("app1", 9999)},
        message(EVENT) | {"application": php("ü", 1)},
        message(EVENT) | {"application": 'O:8:"stdClass":1:{s:2:"id";s:4:"app1";}'},
        {"type": "terminate", "application": "app1", "payload": {}},
        {"type": "terminate", "application": "app1", "payload": {"user_id": True}},
        {"type": "terminate", "application": "app1", "payload": {"user_id": ["7"]}},
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_none_is_counted_and_told_once(value: Any) -> None:
    by = envelope()
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    for count in range(1, 4):
        assert list(by.heard(data)) == []
        assert by.refused == count
        assert len(by.complaints()) == (count == 1)


def test_depth() -> None:
    def nested(depth: int) -> bytes:
        deep = b"[" * depth + b"]" * depth
        return b'{"type":"message","application":"a","payload":{"event":"e","channels":["c"],"data":%b}}' % deep

    (request,) = heard(nested(wire.MAX_DEPTH - 10))
    assert isinstance(request, Publish)
    by = envelope()
    assert list(by.heard(nested(500))) == []
    assert by.refused == 1


_KEYS = st.sampled_from(
    ["type", "application", "payload", "event", "channels", "channel", "data", "user_id", "socket_id"]
)
_TEXTS = (
    st.sampled_from(["message", "terminate", "metrics", "app1", "room", "e", php("app1"), php("x", 9), HOST])
    | st.text()
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS | st.text(), inner, max_size=8),
    max_leaves=20,
)
_NEARLY = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["message", "terminate"]),
        "application": st.sampled_from(["app1", php("app1")]) | _JSON,
        "payload": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("event", "channels", "channel", "data", "user_id"), _JSON)
        ),
    },
    optional={"socket_id": _JSON},
)


@given(st.binary() | st.builds(json.dumps, _JSON | _NEARLY).map(lambda text: text.encode()))
def test_whatever_comes_nothing_is_raised(data: bytes) -> None:
    by = envelope()
    found = list(by.heard(data))
    assert not (found and by.refused)
    for request in found:
        assert isinstance(request.app, str)
        if isinstance(request, Publish):
            event = orjson.loads(request.payload)
            assert (type(event["event"]), event["channel"]) == (str, request.channel)
            assert "channels" not in event


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        wire.published("e", "room", "x"),
        wire.published_in_batch("e", "room", "x"),
        wire.client_event("client-e", "room", {"a": [1]}, "7"),
    ],
)
def test_an_event_that_is_said(payload: bytes) -> None:
    said = envelope().said(Publish(3, "app1", "room", payload, "1.2", 0))
    value = json.loads(said)
    assert value == {
        "type": "message",
        "application": "app1",
        "payload": {"channels": ["room"], **json.loads(payload)},
        "socket_id": "1.2",
        HOST: HOST_ID,
    }
    del value[HOST]
    (request,) = heard(value)
    assert request == Publish(0, "app1", "room", payload, "1.2", 0), "another program's says the same"
    assert heard(said) == []


def test_nobody_is_left_out_who_is_not_named() -> None:
    assert "socket_id" not in json.loads(envelope().said(Publish(3, "a", "c", wire.published("e", "c", "x"), None, 0)))


def test_a_termination_that_is_said() -> None:
    value = json.loads(envelope().said(Terminate(3, "app1", "7")))
    assert value == {"type": "terminate", "application": "app1", "payload": {"user_id": "7"}, HOST: HOST_ID}
