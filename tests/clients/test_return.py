"""When pusher-js comes back by itself, when it stays, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clients.node import Watcher
from tests.support.client import Client
from tests.support.rest import Rest
from tests.support.server import ONE_APP, Server

Start = Callable[..., Server]
PLAIN = ["news", "private-news", "presence-news", "cache-news"]
CHANNELS = [*PLAIN, "private-encrypted-news"]
ADA: dict[str, Any] = {"signin": True, "member": {"user_id": "ada"}, "user": {"id": "ada"}}


def started_again(directory: Path, port: int) -> Server:
    """A server on a port that is known already; `Server` itself takes a free one."""
    return Server(directory, command=["resonate", "start", "--host", "127.0.0.1", "--port", "{port}"], port=port)


def expect_ready(watcher: Watcher) -> str:
    """Connected, on all channels and signed in; the socket id."""
    socket: str = watcher.expect(state="connected")["socket"]
    for channel in CHANNELS:
        watcher.expect(what="event", event="pusher:subscription_succeeded", channel=channel)
    watcher.expect(what="message", event="pusher_internal:subscription_succeeded", channel="#server-to-user-ada")
    return socket


def expect_delivery(watcher: Watcher, server: Server, text: str) -> None:
    """What is published to the channels and to the user arrives."""
    rest = Rest(server.host, server.port)
    for channel in PLAIN:
        assert rest.publish(channel, "posted", text).status == 200
        watcher.expect(what="event", channel=channel, event="posted", data=text)
    assert rest.publish("#server-to-user-ada", "notice", text).status == 200
    watcher.expect(what="user", event="notice", data=text)
    rest.close()


def test_a_client_comes_back_by_itself_after_a_restart(tmp_path: Path, start: Start) -> None:
    first = start()
    with Watcher(first, tmp_path, channels=CHANNELS, **ADA) as watcher:
        before = expect_ready(watcher)
        expect_delivery(watcher, first, "before")
        first.stop()
        watcher.expect(what="error", code=4200)
        watcher.expect(state="connecting")
        with started_again(tmp_path / "again", first.port) as again:
            assert expect_ready(watcher) != before
            expect_delivery(watcher, again, "after")


def test_a_client_stays_while_it_answers_pings(tmp_path: Path, start: Start) -> None:
    server = start(apps=[{**ONE_APP, "ping_interval": 1}])
    with Watcher(server, tmp_path, channels=PLAIN, **ADA) as watcher:
        for _ in range(4):
            watcher.expect(event="pusher:ping")
        assert states(watcher.reports()) == ["connected"]


def test_a_client_with_an_unknown_key_gives_up(tmp_path: Path, server: Server) -> None:
    assert refusal(server, tmp_path, key="nobody") == {4001}


def test_a_client_without_an_allowed_origin_gives_up(tmp_path: Path, start: Start) -> None:
    server = start(apps=[{**ONE_APP, "allowed_origins": ["example.com"]}])
    assert refusal(server, tmp_path) == {4009}


def test_a_client_too_many_gives_up(tmp_path: Path, start: Start) -> None:
    server = start(apps=[{**ONE_APP, "max_connections": 1}])
    with Client(server.host, server.port).established():
        assert refusal(server, tmp_path) == {4004}


def refusal(server: Server, directory: Path, key: str = "key1") -> set[int]:
    """The error codes that a client was given, which then never tried again."""
    with Watcher(server, directory, key=key, channels=["news"]) as watcher:
        reports = watcher.ended()
    assert states(reports) == ["disconnected"]
    return {report["code"] for report in reports if report["what"] == "error"}


def states(reports: list[dict[str, Any]]) -> list[str]:
    return [report["state"] for report in reports if report["what"] == "state"]
