"""Every endpoint, with the shards' answers made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resonate.http import Response
from resonate.messages import (
    ChannelInfo,
    CountConnections,
    Describe,
    ListChannels,
    ListUsers,
    Publish,
    Terminate,
)
from tests.api.support import asked

EMPTY = ChannelInfo(0, 0, None)
EVENT = {"name": "e", "data": "x", "channels": ["a"]}


def payload(event: str, channel: str, data: str) -> bytes:
    return json.dumps({"event": event, "data": data, "channel": channel}, separators=(",", ":")).encode()


# --- publishing ------------------------------------------------------------------------------------------------------


def test_publish() -> None:
    data = {"name": "order.shipped", "data": '{"a":1}', "channels": ["a", "private-cache-b"], "socket_id": "1.1"}
    requests, response = asked("POST", "/events", data, answers=[EMPTY, EMPTY], cache_ttl=5)
    assert requests == [
        Publish(1, "app1", "a", payload("order.shipped", "a", '{"a":1}'), "1.1", 0),
        Publish(2, "app1", "private-cache-b", payload("order.shipped", "private-cache-b", '{"a":1}'), "1.1", 5),
    ]
    assert response == Response(200, b"{}")


def test_publish_to_one_channel_by_its_own_name() -> None:
    requests, _ = asked("POST", "/events", {"name": "e", "data": "x", "channel": "a"}, answers=[EMPTY])
    assert requests == [Publish(1, "app1", "a", payload("e", "a", "x"), None, 0)]


def test_publish_to_the_same_channel_twice_delivers_once() -> None:
    requests, _ = asked("POST", "/events", {**EVENT, "channels": ["a", "b", "a"]}, answers=[EMPTY, EMPTY])
    assert [request.channel for request in requests] == ["a", "b"]  # type: ignore[union-attr]


def test_publish_takes_the_values_of_an_object_of_channels() -> None:
    requests, _ = asked("POST", "/events", {**EVENT, "channels": {"x": "a", "y": "b"}}, answers=[EMPTY, EMPTY])
    assert [request.channel for request in requests] == ["a", "b"]  # type: ignore[union-attr]


def test_publish_with_info() -> None:
    data = {**EVENT, "channels": ["a", "presence-b", "empty"], "info": "subscription_count,user_count"}
    _, response = asked("POST", "/events", data, answers=[ChannelInfo(2, 0, None), ChannelInfo(3, 2, None), EMPTY])
    assert response == Response(
        200, b'{"channels":{"a":{"subscription_count":2},"presence-b":{"user_count":2},"empty":{}}}'
    )


def test_batch() -> None:
    batch = [{"name": "e", "data": "1", "channel": "a"}, {"name": "f", "data": "2", "channel": "b", "socket_id": "1.1"}]
    requests, response = asked("POST", "/batch_events", {"batch": batch}, answers=[EMPTY, EMPTY])
    assert requests == [
        Publish(1, "app1", "a", b'{"event":"e","channel":"a","data":"1"}', None, 0),
        Publish(2, "app1", "b", b'{"event":"f","channel":"b","data":"2"}', "1.1", 0),
    ]
    assert response == Response(200, b'{"batch":{}}')


def test_batch_with_info_of_one() -> None:
    batch = [{"name": "e", "data": "1", "channel": "a", "info": "subscription_count"}, EVENT | {"channel": "b"}]
    _, response = asked("POST", "/batch_events", {"batch": batch}, answers=[ChannelInfo(2, 0, None)] * 2)
    assert response == Response(200, b'{"batch":[{"subscription_count":2},{}]}')


def test_publish_to_a_user() -> None:
    requests, response = asked("POST", "/users/7/events", {"name": "e", "data": "x"}, answers=[EMPTY])
    channel = "#server-to-user-7"
    assert requests == [Publish(1, "app1", channel, payload("e", channel, "x"), None, 0)]
    assert response == Response(200, b"{}")


# --- questions -------------------------------------------------------------------------------------------------------

FULL = {
    "news": ChannelInfo(2, 0, None),
    "cache-x": ChannelInfo(1, 0, b'{"event":"e"}'),
    "presence-x": ChannelInfo(3, 2, None),
}


@pytest.mark.parametrize(
    ("info", "channels"),
    [
        ("", {"news": {}, "cache-x": {}, "presence-x": {}}),
        ("user_count", {"news": {}, "cache-x": {}, "presence-x": {"user_count": 2}}),
        (
            "subscription_count",
            {"news": {"subscription_count": 2}, "cache-x": {"subscription_count": 1}, "presence-x": {}},
        ),
        ("cache", {"news": {}, "cache-x": {"cache": {"event": "e"}}, "presence-x": {}}),
        ("occupied", {name: {"occupied": True} for name in FULL}),
        ("nonsense", {"news": {}, "cache-x": {}, "presence-x": {}}),
    ],
)
def test_channels(info: str, channels: dict[str, Any]) -> None:
    requests, response = asked("GET", "/channels", query={"info": info}, answers=[FULL])
    assert requests == [ListChannels(1, "app1", "", info == "cache", info == "user_count")]
    assert json.loads(response.body) == {"channels": channels}


def test_channels_by_prefix() -> None:
    requests, response = asked("GET", "/channels", query={"filter_by_prefix": "presence-"}, answers=[{}])
    assert requests == [ListChannels(1, "app1", "presence-", False, False)]
    assert response == Response(200, b'{"channels":{}}')


@pytest.mark.parametrize(
    ("name", "info", "answer", "expected"),
    [
        ("news", "", FULL["news"], {"occupied": True}),
        ("news", "subscription_count,user_count", FULL["news"], {"occupied": True, "subscription_count": 2}),
        ("presence-x", "user_count,subscription_count", FULL["presence-x"], {"occupied": True, "user_count": 2}),
        ("cache-x", "cache", FULL["cache-x"], {"occupied": True, "cache": {"event": "e"}}),
        ("cache-x", "cache", ChannelInfo(1, 0, None), {"occupied": True}),
        ("news", "subscription_count", EMPTY, {"occupied": False}),
    ],
)
def test_channel(name: str, info: str, answer: ChannelInfo, expected: dict[str, Any]) -> None:
    requests, response = asked("GET", f"/channels/{name}", query={"info": info}, answers=[answer])
    assert requests == [Describe(1, "app1", name)]
    assert json.loads(response.body) == expected
    assert response.status == 200


def test_a_channels_name_is_decoded() -> None:
    requests, _ = asked("GET", "/channels/a%20%C3%A9", answers=[EMPTY])
    assert requests == [Describe(1, "app1", "a é")]


@pytest.mark.parametrize(
    ("name", "answer", "status", "body"),
    [
        ("presence-x", [1, "b"], 200, b'{"users":[{"id":1},{"id":"b"}]}'),
        ("presence-x", None, 404, b"{}"),
        ("news", [], 400, b"{}"),
    ],
)
def test_users(name: str, answer: Any, status: int, body: bytes) -> None:
    requests, response = asked("GET", f"/channels/{name}/users", answers=[answer])
    assert requests == [ListUsers(1, "app1", name)]
    assert (response.status, response.body) == (status, body)


def test_connections() -> None:
    assert asked("GET", "/connections", answers=[3]) == (
        [CountConnections(1, "app1")],
        Response(200, b'{"connections":3}'),
    )


@pytest.mark.parametrize("body", [None, {}, b"whatever"])
def test_terminate(body: Any) -> None:
    assert asked("POST", "/users/7/terminate_connections", body, answers=[None]) == (
        [Terminate(1, "app1", "7")],
        Response(200, b"{}"),
    )
