"""The official Python library against the REST API; plain clients and pusher-js listen to what it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pusher import Pusher
from pusher.errors import PusherBadAuth, PusherBadRequest, PusherBadStatus

from tests.clients.node import MASTER_KEY, Watcher
from tests.support.client import CLOSE, Client, Closed
from tests.support.server import ONE_APP, Server

APP_ID = "1001"  # the library takes digits only
Connect = Callable[..., Client]
Library = Callable[..., Pusher]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As the one of all tests, but for the app's id."""
    with Server(tmp_path_factory.mktemp("server"), apps=[{**ONE_APP, "app_id": APP_ID}]) as running:
        yield running


@pytest.fixture
def library_with(server: Server) -> Library:
    """Makes libraries that talk to the server, with some credentials replaced."""

    def new(**changes: str) -> Pusher:
        credentials = {"app_id": APP_ID, "key": "key1", "secret": "secret1", **changes}
        return Pusher(
            **credentials,
            ssl=False,
            host=server.host,
            port=server.port,
            timeout=20,
            encryption_master_key_base64=MASTER_KEY,
        )

    return new


@pytest.fixture
def library(library_with: Library) -> Pusher:
    return library_with()


def join(client: Client, room: str, user: str) -> None:
    client.subscribed(room, {"user_id": user, "user_info": {"name": user}})


def posted(client: Client) -> tuple[str, Any]:
    """Channel and decoded data of the next event, which must be called `posted`."""
    event = client.event()
    assert event["event"] == "posted", event
    return event["channel"], json.loads(event["data"])


# --- publishing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{"title": "a/b", "nested": [1, 2.5, None, {}]}, "text", "Grüße 🚀", [], {}])
def test_trigger(library: Pusher, connect: Connect, data: object) -> None:
    client = connect()
    client.subscribed("news")
    assert library.trigger("news", "posted", data) == {}
    expected = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    assert client.event() == {"event": "posted", "data": expected, "channel": "news"}


def test_trigger_on_many_channels(library: Pusher, connect: Connect) -> None:
    client = connect()
    names = [f"many-{number}" for number in range(100)]
    for name in names:
        client.subscribed(name)
    library.trigger(names, "posted", {"id": 1})
    assert sorted(posted(client) for _ in names) == sorted((name, {"id": 1}) for name in names)


def test_trigger_leaves_out_the_socket_that_is_named(library: Pusher, connect: Connect) -> None:
    sender, other = connect(), connect()
    for client in (sender, other):
        client.subscribed("news")
    library.trigger("news", "posted", "1", sender.socket_id)
    library.trigger("news", "posted", "2")
    assert posted(other) == ("news", 1)
    assert posted(sender) == ("news", 2)


def test_trigger_batch(library: Pusher, connect: Connect) -> None:
    one, two = connect(), connect()
    one.subscribed("one")
    two.subscribed("two")
    batch = [
        {"channel": "one", "name": "posted", "data": {"id": 1}},
        {"channel": "two", "name": "posted", "data": {"id": 2}},
        {"channel": "one", "name": "posted", "data": {"id": 3}, "socket_id": one.socket_id},
        {"channel": "one", "name": "posted", "data": {"id": 4}},
    ]
    assert library.trigger_batch(batch) == {"batch": {}}
    assert [posted(one), posted(one)] == [("one", {"id": 1}), ("one", {"id": 4})]
    assert posted(two) == ("two", {"id": 2})


def test_an_encrypted_event_is_decrypted_by_pusher_js(server: Server, library: Pusher, tmp_path: Path) -> None:
    channel = "private-encrypted-chat"
    with Watcher(server, tmp_path, app_id=APP_ID, channels=[channel]) as watcher:
        watcher.expect(event="pusher:subscription_succeeded", channel=channel)
        library.trigger(channel, "said", {"words": "nobody else must know: äöü 🚀"})
        watcher.expect(event="said", channel=channel, data={"words": "nobody else must know: äöü 🚀"})


def test_an_encrypted_event_passes_unread(library: Pusher, connect: Connect) -> None:
    client = connect()
    client.subscribed("private-encrypted-chat")
    library.trigger("private-encrypted-chat", "said", "nobody else must know")
    event = client.event()
    assert set(json.loads(event["data"])) == {"nonce", "ciphertext"}


# --- questions: all are GETs, on which the library signs the MD5 of nothing ----------------------------------------


def test_channels_info(library: Pusher, connect: Connect) -> None:
    one, two = connect(), connect()
    join(one, "presence-list-a", "ada")
    join(two, "presence-list-a", "bob")
    join(two, "presence-list-b", "bob")
    two.subscribed("public-list")
    channels = library.channels_info("presence-list-", ["user_count"])["channels"]
    assert channels == {"presence-list-a": {"user_count": 2}, "presence-list-b": {"user_count": 1}}
    assert set(library.channels_info()["channels"]) >= {"presence-list-a", "presence-list-b", "public-list"}
    assert library.channels_info("nobody-") == {"channels": {}}


def test_channel_info(library: Pusher, connect: Connect) -> None:
    client = connect()
    client.subscribed("public-info")
    join(client, "presence-info", "ada")
    assert library.channel_info("public-info") == {"occupied": True}
    assert library.channel_info("public-info", ["subscription_count"]) == {"occupied": True, "subscription_count": 1}
    assert library.channel_info("presence-info", ["user_count"]) == {"occupied": True, "user_count": 1}
    assert library.channel_info("nobody") == {"occupied": False}


def test_users_info(library: Pusher, connect: Connect) -> None:
    for user in ("ada", "bob", "bob"):
        join(connect(), "presence-users", user)
    assert sorted(user["id"] for user in library.users_info("presence-users")["users"]) == ["ada", "bob"]


def test_users_info_where_there_are_none(library: Pusher, connect: Connect) -> None:
    connect().subscribed("public-users")
    with pytest.raises(PusherBadRequest):
        library.users_info("public-users")
    with pytest.raises(PusherBadStatus, match=r"^404: "):
        library.users_info("presence-nobody")


# --- users -----------------------------------------------------------------------------------------------------------


def sign_in(client: Client, library: Pusher, user: dict[str, Any]) -> None:
    """Sign in and subscribe to the user's channel, as pusher-js does."""
    client.send("pusher:signin", library.authenticate_user(client.socket_id, user))
    success = client.event()
    assert success["event"] == "pusher:signin_success"
    assert json.loads(json.loads(success["data"])["user_data"]) == user
    client.send("pusher:subscribe", {"auth": "", "channel": f"#server-to-user-{user['id']}"})
    client.barrier()


def test_send_to_user(library: Pusher, connect: Connect) -> None:
    ada, bob = connect(), connect()
    sign_in(ada, library, {"id": "ada", "user_info": {"name": "Ada/ü"}})
    sign_in(bob, library, {"id": "bob"})
    assert library.send_to_user("ada", "posted", {"id": 1}) == {}
    library.send_to_user("bob", "posted", {"id": 2})
    assert posted(ada) == ("#server-to-user-ada", {"id": 1})
    assert posted(bob) == ("#server-to-user-bob", {"id": 2})


def test_send_to_user_reaches_pusher_js(server: Server, library: Pusher, tmp_path: Path) -> None:
    with Watcher(server, tmp_path, app_id=APP_ID, signin=True, user={"id": "eve"}) as watcher:
        watcher.expect(event="pusher_internal:subscription_succeeded", channel="#server-to-user-eve")
        library.send_to_user("eve", "notice", {"id": 1})
        watcher.expect(what="user", event="notice", data={"id": 1})


def test_terminate_connections_of_a_user(library: Pusher, connect: Connect) -> None:
    """Release 3.3.4 asks for /users/... without /apps/{id}; the server finds the app by its key."""
    doomed, witness = connect(), connect()
    join(doomed, "presence-end", "doomed")
    join(witness, "presence-end", "witness")
    assert library.terminate_user_connections("doomed") == {}
    assert doomed.event()["event"] == "pusher_internal:member_added"
    with suppress(Closed):
        assert doomed.frame().opcode == CLOSE
        doomed.close()
    assert witness.event()["event"] == "pusher_internal:member_removed"


# --- signatures ------------------------------------------------------------------------------------------------------


def test_authenticate_a_private_subscription(library: Pusher, connect: Connect) -> None:
    client = connect()
    client.send("pusher:subscribe", {"channel": "private-x", **library.authenticate("private-x", client.socket_id)})
    assert client.event()["event"] == "pusher_internal:subscription_succeeded"


def test_authenticate_a_presence_subscription(library: Pusher, connect: Connect) -> None:
    client = connect()
    member = {"user_id": "ada", "user_info": {"name": "Ada: a/ü", "empty": {}}}
    signed = library.authenticate("presence-x", client.socket_id, member)
    client.send("pusher:subscribe", {"channel": "presence-x", **signed})
    presence = json.loads(client.event()["data"])["presence"]
    assert presence == {"count": 1, "ids": ["ada"], "hash": {"ada": member["user_info"]}}


def test_a_signature_for_one_socket_is_worth_nothing_to_another(library: Pusher, connect: Connect) -> None:
    owner, thief = connect(), connect()
    thief.send("pusher:subscribe", {"channel": "private-x", **library.authenticate("private-x", owner.socket_id)})
    assert json.loads(thief.event()["data"])["code"] == 4009


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_wrong_secret(library_with: Library) -> None:
    with pytest.raises(PusherBadAuth, match="Authentication signature invalid"):
        library_with(secret="wrong").trigger("news", "posted", "x")
    with pytest.raises(PusherBadAuth, match="Authentication signature invalid"):
        library_with(secret="wrong").channels_info()


def test_an_unknown_app(library_with: Library) -> None:
    with pytest.raises(PusherBadStatus, match=r"^404: .*No matching application for ID"):
        library_with(app_id="404").trigger("news", "posted", "x")


def test_a_body_over_the_limit(library: Pusher) -> None:
    with pytest.raises(PusherBadStatus, match=r"^413: "):
        library.trigger("news", "posted", "x" * 10_001)
