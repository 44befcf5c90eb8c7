"""Each row of wire.md's tables that a session decides: what is asked of the shard, and what the client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from resonate.errors import Fault
from resonate.messages import Attach, Detach, Disconnect, Member, Publish, Refresh, Subscribe, Unsubscribe
from resonate.pusher import Close, Session
from resonate.settings import RateLimiting, Server
from tests.pusher.support import (
    APP,
    ID,
    SERVER,
    answer,
    app,
    asked,
    fault,
    info,
    joined,
    message,
    opened,
    read,
    say,
    signature,
    subscription,
    told,
)

INVALID = (4200, "Invalid message format")
UNAUTHORIZED = (4009, "Connection is unauthorized")
ANN = '{"user_id":"1","user_info":{"name":"Ann"}}'

# --- messages from the client ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, {}, [], "", "{}", {"x": 1}])
def test_ping(data: Any) -> None:
    assert say(opened(), message("pusher:ping", data)) == [b'{"event":"pusher:pong"}']


def test_pong_is_not_answered() -> None:
    assert say(opened(), message("pusher:pong", {})) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"[]",
        b'{"data":{}}',
        message("pusher:unknown", {}),
        message("pusher:", {}),
        message("pusher:connection_established", {}),
        message("pusher:error", {}),
        message("pusher:ping", "text"),
        message("pusher:ping", 5),
        message("pusher:subscribe"),
        message("pusher:subscribe", {}),
        message("pusher:subscribe", []),
        message("pusher:subscribe", ["news"]),
        message("pusher:subscribe", {"channel": None}),
        message("pusher:subscribe", {"channel": ""}),
        message("pusher:subscribe", {"channel": 5}),
        message("pusher:subscribe", {"channel": True}),
        message("pusher:subscribe", {"channel": ["news"]}),
        message("pusher:subscribe", {"channel": {"a": 1}}),
        message("pusher:subscribe", {"channel": "x" * 201}),
        message("pusher:subscribe", {"channel": "private-x", "auth": ["key:sig"]}),
        message("pusher:subscribe", {"channel": "private-x", "auth": {"a": 1}}),
        message("pusher:subscribe", {"channel": "news", "channel_data": {"user_id": 1}}),
        message("pusher:subscribe", {"channel": "news", "channel_data": "{broken"}),
        message("pusher:unsubscribe"),
        message("pusher:unsubscribe", {}),
        message("pusher:unsubscribe", {"channel": 5}),
        message("pusher:unsubscribe", {"channel": ""}),
        message("pusher:signin", {}),
        message("pusher:signin", {"auth": "key1:x"}),
        message("pusher:signin", {"auth": 5, "user_data": "{}"}),
        message("pusher:signin", {"auth": "key1:x", "user_data": {"id": 1}}),
        message("client-x"),
        message("client-x", {}, channel=5),
        message("client-x", {}, channel=""),
        message("client-x", 5, channel="private-x"),
        message("client-x", "text", channel="private-x"),
        message("client-x", True, channel="private-x"),
        message("client-x", "[" * 1000 + "]" * 1000, channel="private-x"),
        message("pusher:ping", "[" * 1000 + "]" * 1000),
        message("other"),
    ],
)
def test_invalid_messages(text: bytes) -> None:
    session = opened()
    assert fault(say(session, text)) == INVALID
    assert say(session, message("pusher:ping")) == [b'{"event":"pusher:pong"}']
    assert session.close() == [Disconnect("app1")]


def test_an_error_is_returned_as_a_value_whose_code_can_be_counted() -> None:
    (effect,) = opened().receive(b"hello", 0)
    assert effect == Fault(4200, "Invalid message format")
    assert isinstance(effect, Fault)


@pytest.mark.parametrize("name", ["other", "Client-x", "clientx", "pusher_internal:subscription_succeeded", "pusher"])
def test_other_events_are_ignored(name: str) -> None:
    session = opened()
    joined(session, "private-x")
    assert say(session, message(name, {}, channel="private-x")) == []


# --- subscriptions ---------------------------------------------------------------------------------------------------


def test_public_channel() -> None:
    session = opened()
    request, attach = say(session, subscription("news"))
    assert request == Subscribe("app1", "news", ID, 1, None)
    assert attach == Attach("app1")
    assert session.subscribed(answer(request)) == [
        b'{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"news"}'
    ]


def test_data_may_be_a_string_of_json() -> None:
    text = json.dumps({"event": "pusher:subscribe", "data": json.dumps({"channel": "news"})}).encode()
    assert say(opened(), text) == [Subscribe("app1", "news", ID, 1, None), Attach("app1")]


def test_only_the_first_subscription_attaches_and_only_the_last_detaches() -> None:
    session = opened()
    assert say(session, subscription("a"))[1:] == [Attach("app1")]
    assert say(session, subscription("b"))[1:] == []
    assert say(session, message("pusher:unsubscribe", {"channel": "a"})) == [Unsubscribe("app1", "a", None)]
    assert say(session, message("pusher:unsubscribe", {"channel": "b"})) == [
        Unsubscribe("app1", "b", None),
        Detach("app1"),
    ]


def test_unsubscribing_from_what_one_is_not_on_does_nothing() -> None:
    assert say(opened(), message("pusher:unsubscribe", {"channel": "news"})) == []


def test_longest_name() -> None:
    assert asked(opened(), "ü" * 200).channel == "ü" * 200


@pytest.mark.parametrize("channel", ["private-x", "privateer", "private-cache-x", "private-encrypted-x"])
def test_private_channels(channel: str) -> None:
    (success, *_) = joined(opened(), channel)
    assert read(success) == {"event": "pusher_internal:subscription_succeeded", "data": "{}", "channel": channel}


@pytest.mark.parametrize("channel", ["private-x", "private-cache-x", "presence-x", "presence-cache-x"])
@pytest.mark.parametrize(
    "auth",
    [
        None,
        "",
        5,
        True,
        "key1",
        "key1:",
        "key1:abc",
        signature(f"{ID}:private-y"),
        signature(f"9.9:private-x:{ANN}"),
        signature(f"{ID}:private-x:{ANN}", "other secret"),
    ],
)
def test_wrong_or_missing_auth(channel: str, auth: Any) -> None:
    session = opened()
    data = {"channel": channel, "channel_data": ANN, **({} if auth is None else {"auth": auth})}
    assert fault(say(session, message("pusher:subscribe", data))) == UNAUTHORIZED
    assert session.subscriptions == {}


def test_only_what_follows_the_colon_is_compared() -> None:
    text = f"{ID}:private-x"
    for auth in (signature(text).replace("key1", "other"), signature(text).removeprefix("key1:")):
        assert len(say(opened(), message("pusher:subscribe", {"channel": "private-x", "auth": auth}))) == 2


def test_channel_data_is_signed_as_the_raw_string_on_any_private_channel() -> None:
    data = '{ "user_id" : 1 }'
    auth = signature(f"{ID}:private-x:{data}")
    text = message("pusher:subscribe", {"channel": "private-x", "auth": auth, "channel_data": data})
    assert say(opened(), text) == [Subscribe("app1", "private-x", ID, 1, None), Attach("app1")]


# --- presence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel_data", "member"),
    [
        (ANN, Member("1", {"user_id": "1", "user_info": {"name": "Ann"}})),
        ('{"user_id":7}', Member("7", {"user_id": 7, "user_info": None})),
        ('{"user_id":7,"user_info":null}', Member("7", {"user_id": 7, "user_info": None})),
        ('{"user_id":1.5,"user_info":[]}', Member("1.5", {"user_id": 1.5, "user_info": []})),
        ('{"user_id":"é","user_info":{},"x":1}', Member("é", {"user_id": "é", "user_info": {}, "x": 1})),
    ],
)
def test_presence_member(channel_data: str, member: Member) -> None:
    assert asked(opened(), "presence-x", channel_data).member == member


@pytest.mark.parametrize(
    "channel_data",
    [
        None,
        "{}",
        "[]",
        '["user_id"]',
        '{"user_info":{}}',
        '{"user_id":null}',
        '{"user_id":true}',
        '{"user_id":[1]}',
        '{"user_id":{"a":1}}',
    ],
)
def test_presence_without_a_user_is_not_joined(channel_data: str | None) -> None:
    session = opened()
    assert fault(say(session, subscription("presence-x", channel_data))) == UNAUTHORIZED
    assert session.subscriptions == {}


@pytest.mark.parametrize("channel_data", ["{broken", "5", '"text"', "null"])
def test_channel_data_that_is_no_object(channel_data: str) -> None:
    assert fault(say(opened(), subscription("presence-x", channel_data))) in (INVALID, UNAUTHORIZED)


def test_presence_success_lists_users_in_the_types_in_which_they_came() -> None:
    session = opened()
    request = asked(session, "presence-x", ANN)
    (success,) = session.subscribed(answer(request, [("1", {"name": "Ann"}), (2, None), ("x", {})])) or []
    assert json.loads(read(success)["data"]) == {
        "presence": {"count": 3, "ids": ["1", 2, "x"], "hash": {"1": {"name": "Ann"}, "2": None, "x": {}}}
    }


def test_leaving_presence_names_the_user_as_compared() -> None:
    session = opened()
    joined(session, "presence-x", '{"user_id":7}')
    assert session.close() == [Unsubscribe("app1", "presence-x", "7"), Detach("app1"), Disconnect("app1")]


@pytest.mark.parametrize("levels", [300, 1000, 5000])
def test_deep_channel_data_is_refused(levels: int) -> None:
    """What is too deep to be written again would break the member list of everybody who joins later."""
    session = opened()
    deep = f'{{"user_id":1,"user_info":{"[" * levels}{"]" * levels}}}'
    assert fault(say(session, subscription("presence-x", deep)))[0] in (4009, 4200)


@pytest.mark.parametrize("levels", [1, 100, 198])
def test_channel_data_within_the_depth_limit_is_passed_on(levels: int) -> None:
    session = opened()
    deep = f'{{"user_id":1,"user_info":{"[" * levels}{"]" * levels}}}'
    assert len(joined(session, "presence-x", deep)) == 1


@pytest.mark.parametrize(
    ("user", "found"), [("7", True), ("8", True), ("07", False), ("", False), ("7.0", False), ("9", False)]
)
def test_whose_connection_it_is(user: str, found: bool) -> None:
    session = opened()
    joined(session, "presence-x", '{"user_id":7}')
    asked(session, "presence-y", '{"user_id":"8"}')  # not answered yet
    joined(session, "news")
    assert session.is_user(user) is found


# --- cache channels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["cache-x", "private-cache-x", "presence-cache-x"])
def test_the_last_event_of_a_cache_channel_follows_the_success(channel: str) -> None:
    session = opened()
    request = asked(session, channel, ANN if channel.startswith("presence") else None)
    members = None if request.member is None else [info(request.member)]
    success, cached = session.subscribed(answer(request, members, b'{"event":"e"}')) or []
    assert read(success)["event"] == "pusher_internal:subscription_succeeded"
    assert cached == b'{"event":"e"}'


def test_a_cache_miss_is_told() -> None:
    (_, miss) = joined(opened(), "cache-x")
    assert read(miss) == {"event": "pusher:cache_miss", "channel": "cache-x"}


# --- subscribing again -----------------------------------------------------------------------------------------------


def test_subscribing_again_is_answered_again_and_counted_once() -> None:
    session = opened()
    joined(session, "presence-x", ANN)
    (again,) = say(session, subscription("presence-x", ANN))
    assert again == Refresh("app1", "presence-x", ID, 2)
    assert len(session.subscribed(answer(again, [("1", None)])) or []) == 1
    assert session.close() == [Unsubscribe("app1", "presence-x", "1"), Detach("app1"), Disconnect("app1")]


def test_the_first_member_data_holds_until_the_user_unsubscribes() -> None:
    session = opened()
    joined(session, "presence-x", ANN)
    say(session, subscription("presence-x", '{"user_id":"2"}'))
    assert session.is_user("1")
    assert not session.is_user("2")
    assert say(session, message("pusher:unsubscribe", {"channel": "presence-x"})) == [
        Unsubscribe("app1", "presence-x", "1"),
        Detach("app1"),
    ]


def test_an_answer_from_before_the_last_subscription_is_dropped() -> None:
    session = opened()
    first = asked(session, "news")
    say(session, message("pusher:unsubscribe", {"channel": "news"}))
    second = asked(session, "news")
    assert session.subscribed(answer(first)) is None
    assert len(session.subscribed(answer(second)) or []) == 1
    assert session.subscribed(answer(second)) is None


def test_subscribing_twice_before_the_answer_succeeds() -> None:
    session = opened()
    first = asked(session, "news")
    (again,) = say(session, subscription("news"))
    answered = [effects for given in (first, again) if (effects := session.subscribed(answer(given)))]
    assert answered


def test_limit_of_subscriptions() -> None:
    session = opened(server=Server(max_subscriptions_per_connection=2))
    joined(session, "a")
    joined(session, "b")
    assert fault(say(session, subscription("c"))) == (4301, "A connection may hold 2 subscriptions.")
    assert isinstance(say(session, subscription("a"))[0], Refresh)  # held already
    say(session, message("pusher:unsubscribe", {"channel": "a"}))
    assert len(joined(session, "c")) == 1


# --- client events ---------------------------------------------------------------------------------------------------


def whisper(data: Any = None, channel: str = "private-x", name: str = "client-typing", **more: Any) -> bytes:
    return message(name, data, channel=channel, **more)


def payload(session: Session, text: bytes) -> tuple[Publish, dict[str, Any]]:
    (publish,) = say(session, text)
    assert isinstance(publish, Publish)
    return publish, json.loads(publish.payload)


@pytest.mark.parametrize("data", [{"a": {}}, {}, [], [1, {"b": 1.0}], None, ""])
def test_client_event_on_a_private_channel(data: Any) -> None:
    session = opened()
    joined(session, "private-x")
    publish, sent = payload(session, whisper(data))
    assert replace(publish, payload=b"") == Publish(0, "app1", "private-x", b"", ID, 0)
    assert sent == {"event": "client-typing", "channel": "private-x", "data": data}


def test_client_event_on_a_presence_channel_names_the_sender() -> None:
    session = opened()
    joined(session, "presence-x", '{"user_id":7}')
    _, sent = payload(session, whisper({"a": 1}, "presence-x", user_id="forged"))
    assert sent == {"event": "client-typing", "channel": "presence-x", "data": {"a": 1}, "user_id": 7}


def test_client_event_is_kept_on_a_cache_channel() -> None:
    session = opened(server=Server(cache_ttl=77))
    joined(session, "private-cache-x")
    assert payload(session, whisper({}, "private-cache-x"))[0].keep_s == 77


def test_data_of_a_client_event_that_is_a_string_of_json_is_decoded() -> None:
    session = opened()
    joined(session, "private-x")
    assert payload(session, whisper('{"a":{}}'))[1]["data"] == {"a": {}}


def test_client_event_by_a_non_subscriber() -> None:
    expected = (4009, "The client is not a member of the specified channel.")
    session = opened()
    assert fault(say(session, whisper({}))) == expected


def test_client_event_right_behind_the_subscription() -> None:
    """The shard has not answered yet, but it does first what was asked first."""
    session = opened()
    asked(session, "private-x")
    (publish,) = say(session, whisper({}))
    assert isinstance(publish, Publish)


@pytest.mark.parametrize("channel", ["news", "cache-x"])
@pytest.mark.parametrize("policy", ["members", "all"])
def test_client_event_elsewhere(channel: str, policy: str) -> None:
    session = opened(app(accept_client_events_from=policy))
    joined(session, channel)
    expected = (4009, "Client events are only allowed on private and presence channels.")
    assert fault(say(session, whisper({}, channel))) == expected


def test_client_events_switched_off() -> None:
    session = opened(app(accept_client_events_from="none"))
    joined(session, "private-x")
    assert fault(say(session, whisper({}))) == (4301, "The app does not have client messaging enabled.")


def test_client_events_of_members_where_all_may_send() -> None:
    session = opened(app(accept_client_events_from="all"))
    joined(session, "presence-x", '{"user_id":7}')
    assert payload(session, whisper({}, "presence-x"))[1]["user_id"] == 7


# --- signing in ------------------------------------------------------------------------------------------------------


def signin(user_data: str, auth: str | None = None) -> bytes:
    given = signature(f"{ID}::user::{user_data}") if auth is None else auth
    return message("pusher:signin", {"auth": given, "user_data": user_data})


def test_signin_subscribes_silently_to_the_channel_of_the_user() -> None:
    session = opened()
    request, attach, success = say(session, signin('{"id":7,"name":"Ann"}'))
    assert read(success)["event"] == "pusher:signin_success"
    assert json.loads(read(success)["data"]) == {"user_data": '{"id":7,"name":"Ann"}'}
    assert request == Subscribe("app1", "#server-to-user-7", ID, 1, None)
    assert attach == Attach("app1")
    assert session.subscribed(answer(request)) == []
    assert session.is_user("7")


@pytest.mark.parametrize("user_data", ["{}", '{"id":null}', '{"id":[1]}', '{"id":true}', "[]", "5", "{broken"])
def test_signin_without_a_user_is_refused(user_data: str) -> None:
    error, close = say(opened(), signin(user_data))
    assert fault([error]) == UNAUTHORIZED
    assert close == Close(*UNAUTHORIZED)


@pytest.mark.parametrize("auth", ["", "key1:", "key1:abc", signature(f'{ID}:{{"id":"7"}}')])
def test_signin_with_a_wrong_signature_is_refused(auth: str) -> None:
    session = opened()
    error, close = say(session, signin('{"id":"7"}', auth))
    assert fault([error]) == UNAUTHORIZED
    assert close == Close(*UNAUTHORIZED)
    assert session.user is None


def test_signin_again_as_the_same_user_and_as_another() -> None:
    session = opened()
    request, _, _ = say(session, signin('{"id":"7"}'))
    session.subscribed(answer(request))
    (again,) = say(session, signin('{"id":7}'))
    assert read(again)["event"] == "pusher:signin_success"
    error, close = say(session, signin('{"id":"8"}'))
    assert fault([error]) == UNAUTHORIZED
    assert close == Close(*UNAUTHORIZED)
    assert session.is_user("7")
    assert not session.is_user("8")


def test_the_channel_of_a_user_is_for_that_user_only() -> None:
    session = opened()
    assert fault(say(session, subscription("#server-to-user-7"))) == UNAUTHORIZED
    say(session, signin('{"id":"7"}'))
    assert fault(say(session, subscription("#server-to-user-8"))) == UNAUTHORIZED
    assert isinstance(say(session, subscription("#server-to-user-7"))[0], Refresh)


# --- limits of one client --------------------------------------------------------------------------------------------


def test_oversized_message_leaves_the_connection_open() -> None:
    session = opened()
    assert fault(told(session.oversized())) == (4019, "Message size exceeded")
    assert say(session, message("pusher:ping")) == [b'{"event":"pusher:pong"}']


def limited(*, terminate: bool = False) -> Session:
    rule = RateLimiting(enabled=True, max_attempts=2, decay_seconds=10, terminate_on_limit=terminate)
    return opened(app(rate_limiting=rule))


def test_rate_limit() -> None:
    session = limited()
    for now in (0, 9):
        assert say(session, message("pusher:ping"), now) == [b'{"event":"pusher:pong"}']
    assert fault(say(session, message("pusher:ping"), 9)) == (4301, "Rate limit exceeded")
    assert say(session, message("pusher:ping"), 10) == [b'{"event":"pusher:pong"}']


def test_rate_limit_comes_before_everything_but_the_size() -> None:
    session = limited()
    assert [fault(say(session, b"no json")) for _ in range(3)] == [INVALID, INVALID, (4301, "Rate limit exceeded")]
    assert fault(told(session.oversized())) == (4019, "Message size exceeded")


def test_rate_limit_that_terminates() -> None:
    session = limited(terminate=True)
    for _ in range(2):
        say(session, message("pusher:ping"))
    error, close = say(session, message("pusher:ping"))
    assert fault([error]) == (4301, "Rate limit exceeded")
    assert isinstance(close, Close)
    assert 4100 <= close.code < 4200  # the client is to come back, after a while


def test_each_connection_has_its_own_window() -> None:
    first, second = limited(), limited()
    for _ in range(3):
        say(first, message("pusher:ping"))
    assert say(second, message("pusher:ping")) == [b'{"event":"pusher:pong"}']


def test_activity_timeout_and_quota_are_the_apps_own() -> None:
    session = Session(app(activity_timeout=7, max_connections=3), ID, SERVER)
    (connect,) = session.open()
    assert connect.limit == 3  # type: ignore[union-attr]
    assert APP.max_connections is None
