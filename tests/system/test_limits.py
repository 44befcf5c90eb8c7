"""The limits of apps and connections, in a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.client import CLOSE, TEXT, Client, Frame, frame
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

Start = Callable[..., Server]


def app(name: str, **options: object) -> dict[str, object]:
    """An app `name`, with key `key-name` and the usual secret."""
    return {"app_id": name, "key": f"key-{name}", "secret": "secret1", **options}


RATE = {"enabled": True, "max_attempts": 3, "decay_seconds": 60}
APPS = (
    app("quota", max_connections=2),
    app("small", max_message_size=100),
    app("unlimited", max_message_size=0),
    app("origins", allowed_origins=["example.com", "*.example.org"]),
    app("rate", rate_limiting=RATE),
    app("terminate", rate_limiting={**RATE, "terminate_on_limit": True}),
    app("idle", ping_interval=1),
    app("all", accept_client_events_from="all"),
    app("members"),
    app("none", accept_client_events_from="none"),
)
LIMITS = {
    "max_subscriptions_per_connection": 3,
    "cache_ttl": 1,
    "max_send_buffer": 4096,
    "max_request_size": 2_000_000,
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all limits: each app has its own."""
    with Server(tmp_path_factory.mktemp("limits"), apps=APPS, server=LIMITS) as running:
        yield running


@contextmanager
def client(server: Server, name: str, headers: str = "", **options: Any) -> Iterator[Client]:
    with Client(server.host, server.port, f"/app/key-{name}", headers, **options) as connected:
        yield connected


@contextmanager
def api(server: Server, name: str) -> Iterator[Rest]:
    rest = Rest(server.host, server.port, name, f"key-{name}")
    try:
        yield rest
    finally:
        rest.close()


def error(event: Mapping[str, Any]) -> tuple[int, str]:
    assert event["event"] == "pusher:error", event
    data = json.loads(event["data"])
    return data["code"], data["message"]


# --- connections -----------------------------------------------------------------------------------------------------


def test_max_connections(limited: Server) -> None:
    with client(limited, "quota") as first, client(limited, "quota") as second:
        first.established()
        second.established()
        with client(limited, "quota") as third:
            assert third.status == 101
            assert error(third.event()) == (4004, "Application is over connection quota")
            assert third.closed() == 4004
        assert first.barrier() == []

    def free() -> bool:
        with client(limited, "quota") as fourth:
            return bool(fourth.event()["event"] == "pusher:connection_established")

    assert eventually(free)


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Origin: https://example.com\r\n", True),
        ("Origin: http://EXAMPLE.com:8080\r\n", True),
        ("Origin: https://a.b.example.org\r\n", True),
        ("Origin: https://example.org\r\n", False),
        ("Origin: https://evil-example.com\r\n", False),
        ("Origin: https://example.com.evil.net\r\n", False),
        ("Origin: null\r\n", False),
        ("Origin: \r\n", False),
        ("", False),
    ],
)
def test_origins(limited: Server, header: str, allowed: bool) -> None:
    with client(limited, "origins", header) as page:
        if allowed:
            page.established()
        else:
            assert error(page.event()) == (4009, "Origin not allowed")
            assert page.closed() == 4009


def test_unknown_key(limited: Server) -> None:
    with client(limited, "nobody") as lost:
        assert lost.status == 101
        assert error(lost.event()) == (4001, "Application does not exist")
        assert lost.closed() == 4001


# --- messages --------------------------------------------------------------------------------------------------------


def ping_of(size: int) -> str:
    text = '{"event":"pusher:ping","data":{"x":""}}'
    return text.replace('""', '"' + "y" * (size - len(text)) + '"')


def test_max_message_size(limited: Server) -> None:
    with client(limited, "small") as talker:
        talker.established()
        talker.send_text(ping_of(100))
        assert talker.event() == {"event": "pusher:pong"}
        for size in (101, 1600):
            talker.send_text(ping_of(size))
            assert error(talker.event()) == (4019, "Message size exceeded")
        half = ping_of(120).encode()
        talker.send_raw(frame(half[:60], fin=False) + frame(half[60:], opcode=0))
        assert error(talker.event()) == (4019, "Message size exceeded")
        assert talker.barrier() == []


def test_a_frame_that_declares_far_too_much_is_refused_unread(limited: Server) -> None:
    with client(limited, "small") as talker:
        talker.established()
        talker.send_raw(frame(b"x" * 1601)[:8])  # the head and the mask: the payload never comes
        assert talker.closed() == 1009


def test_max_message_size_0_is_unlimited(limited: Server) -> None:
    with client(limited, "unlimited") as talker:
        talker.established()
        talker.send_text(ping_of(1_000_000))
        assert talker.event() == {"event": "pusher:pong"}


def test_rate_limit_leaves_the_connection_open(limited: Server) -> None:
    with client(limited, "rate") as talker:
        talker.established()
        for _ in range(5):
            talker.send("pusher:ping")
        answers = [talker.event() for _ in range(5)]
        assert answers[:3] == [{"event": "pusher:pong"}] * 3
        assert [error(answer) for answer in answers[3:]] == [(4301, "Rate limit exceeded")] * 2
        with client(limited, "rate") as other:
            assert other.established().barrier() == []


def test_rate_limit_that_terminates(limited: Server) -> None:
    with client(limited, "terminate") as talker:
        talker.established()
        for _ in range(4):
            talker.send("pusher:ping")
        answers = [talker.event() for _ in range(4)]
        assert error(answers[3]) == (4301, "Rate limit exceeded")
        assert 4100 <= talker.closed() < 4200


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("none", (4301, "The app does not have client messaging enabled.")),
        ("members", (4009, "The client is not a member of the specified channel.")),
        ("all", None),
    ],
)
def test_client_events_of_who_is_not_subscribed(limited: Server, name: str, refused: tuple[int, str] | None) -> None:
    with client(limited, name) as member, client(limited, name) as stranger:
        member.established().subscribed("private-x")
        stranger.established().send("client-x", {"a": 1}, channel="private-x")
        if refused is None:
            assert member.event() == {"event": "client-x", "channel": "private-x", "data": {"a": 1}}
        else:
            assert error(stranger.event()) == refused
            assert member.barrier() == []


def test_max_subscriptions(limited: Server) -> None:
    with client(limited, "members") as greedy:
        greedy.established()
        for channel in "abc":
            greedy.subscribed(channel)
        greedy.subscribe("d")
        assert error(greedy.event())[0] == 4301
        greedy.subscribed("a")  # held already
        greedy.send("pusher:unsubscribe", {"channel": "a"})
        greedy.subscribed("d")


# --- time ------------------------------------------------------------------------------------------------------------


def test_cache_ttl(limited: Server) -> None:
    with api(limited, "members") as rest, client(limited, "members") as late:
        late.established()

        def cached() -> dict[str, Any]:
            late.subscribed("cache-x")
            event = late.event()
            late.send("pusher:unsubscribe", {"channel": "cache-x"})
            return event

        def fresh() -> bool:
            rest.publish("cache-x", "e", "x")
            return cached() == {"event": "e", "data": "x", "channel": "cache-x"}

        assert eventually(fresh)
        assert eventually(lambda: cached() == {"event": "pusher:cache_miss", "channel": "cache-x"})


def test_who_is_silent_is_pinged_and_then_closed(limited: Server) -> None:
    with client(limited, "idle") as silent:
        silent.established()
        assert silent.event() == {"event": "pusher:ping"}
        assert error(silent.event()) == (4201, "Pong reply not received in time")
        assert silent.closed() == 4201


def test_who_answers_pings_stays(limited: Server) -> None:
    with client(limited, "idle") as alive:
        alive.established()
        for _ in range(3):
            assert alive.event() == {"event": "pusher:ping"}
            alive.send("pusher:pong")
        assert alive.barrier() == []


def test_who_has_sent_control_frames_is_pinged_with_them(limited: Server) -> None:
    with client(limited, "idle") as alive:
        alive.established()
        alive.send_raw(frame(b"hello", opcode=9))
        assert alive.frame() == Frame(10, b"hello")
        ping = alive.frame()
        assert ping.opcode == 9
        alive.send_raw(frame(ping.payload, opcode=10))
        assert alive.frame().opcode == 9


# --- a consumer that does not read -----------------------------------------------------------------------------------


def last_words(consumer: Client) -> tuple[int, list[int]]:
    """Read what a slow consumer finds when it reads at last: the close code, and the numbers of its events."""
    numbers: list[int] = []
    while True:
        got = consumer.frame()
        if got.opcode == CLOSE:
            return got.code, numbers
        assert got.opcode == TEXT
        numbers.append(int(got.json()["event"]))


def test_a_slow_consumer_is_closed_and_nobody_waits_for_it(limited: Server) -> None:
    published = 0
    with (
        client(limited, "members", receive_buffer=4096) as slow,
        client(limited, "members") as quick,
        api(limited, "members") as rest,
    ):
        slow.established().subscribed("news")
        quick.established().subscribed("news")

        def closed() -> bool:
            nonlocal published
            assert rest.publish("news", str(published), "x" * 500_000).status == 200
            assert quick.event()["event"] == str(published)
            published += 1
            return "closed a slow consumer" in limited.log()

        assert eventually(closed, within=60)
        code, numbers = last_words(slow)
        assert code == 4100
        assert numbers == list(range(len(numbers)))
        assert 0 < len(numbers) <= published
        assert quick.barrier() == []
        assert eventually(lambda: rest.call("GET", "/connections").json() == {"connections": 1})
