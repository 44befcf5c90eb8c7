"""The main path, end to end: connect, subscribe, publish, receive."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.client import Client
from tests.support.rest import Rest


def test_publish_reaches_subscriber(connect: Callable[..., Client], rest: Rest) -> None:
    client = connect()
    assert client.subscribed("news") == {}
    assert rest.publish("news", "order.shipped", '{"a":1}').json() == {}
    assert client.event() == {"event": "order.shipped", "data": '{"a":1}', "channel": "news"}


def test_presence_client_events_and_counts(connect: Callable[..., Client], rest: Rest) -> None:
    ann, bob = connect(), connect()
    assert ann.subscribed("presence-x", {"user_id": 1}) == {"presence": {"count": 1, "ids": [1], "hash": {"1": None}}}
    assert bob.subscribed("presence-x", {"user_id": "2", "user_info": {}})["presence"]["ids"] == [1, "2"]
    assert ann.event()["event"] == "pusher_internal:member_added"
    ann.send("client-typing", {"x": {}}, channel="presence-x")
    assert bob.event() == {"event": "client-typing", "channel": "presence-x", "data": {"x": {}}, "user_id": 1}
    assert rest.call("GET", "/channels/presence-x", query={"info": "user_count"}).json() == {
        "occupied": True,
        "user_count": 2,
    }
    assert rest.call("POST", "/users/2/terminate_connections", {}).status == 200
    assert bob.closed() == 4009
    assert ann.event()["data"] == '{"user_id":"2"}'
