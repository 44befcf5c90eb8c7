"""What the doctor sees of a proxy, from both of its sides."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from resonate.supervisor.doctor.handshake import Target
from resonate.supervisor.doctor.proxy import arriving, asked, proxy

from resonate.settings import AppOptions
from tests.supervisor.doctor.cases import case, levels, machine, only
from tests.support.proxy import Change, Proxy, forwarding, transparent, without_upgrade
from tests.support.server import free_port

PATH = "/app/key?mark=0123456789abcdef"


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Where the server would listen."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def seen(listening: socket.socket, change: Change) -> list[tuple[str, str]]:
    """What is found while the server is stopped."""
    with Proxy(listening.getsockname()[1], change) as way:
        found = list(arriving(listening, Target(("127.0.0.1", way.port), "ws.example.com"), PATH))
    return [(level, finding.what) for level, finding in zip(levels(found), found, strict=True)]


def test_a_good_proxy(listening: socket.socket) -> None:
    assert seen(listening, forwarding) == [
        ("ok", "ws.example.com passes WebSockets on to this server"),
        ("ok", "X-Forwarded-For and X-Forwarded-Proto arrive"),
    ]


def test_a_proxy_that_says_nothing_of_itself(listening: socket.socket) -> None:
    assert seen(listening, transparent)[1:] == [("note", "X-Forwarded-For and X-Forwarded-Proto: not there")]


def test_a_proxy_that_knows_no_websockets(listening: socket.socket) -> None:
    ((level, what),) = seen(listening, without_upgrade)
    assert level == "problem"
    assert what.startswith("ws.example.com does not pass WebSockets on: ")
    assert "Upgrade" in what


def test_strangers_come_first(listening: socket.socket) -> None:
    with (
        socket.create_connection(listening.getsockname()) as stranger,
        socket.create_connection(listening.getsockname()) as silent,
    ):
        stranger.sendall(b"GET /app/key HTTP/1.1\r\n\r\n")
        silent.shutdown(socket.SHUT_WR)
        assert [level for level, _ in seen(listening, forwarding)] == ["ok", "ok"]


def test_a_proxy_that_leads_elsewhere(listening: socket.socket) -> None:
    """Nothing arrives; the patience of the stand-in ends."""
    with Proxy(free_port(), forwarding) as way:
        finding = only(arriving(listening, Target(("127.0.0.1", way.port), "ws.example.com"), PATH, 0.1))
    assert finding.level.value == "warning"
    assert "answers HTTP/1.1 502 Bad Gateway" in finding.what


def test_a_server_that_is_none_of_ours(listening: socket.socket) -> None:
    with Proxy(free_port(), forwarding) as way:
        finding = only(asked(Target(("127.0.0.1", way.port), "ws.example.com"), PATH))
    assert finding.level.value == "problem"
    assert finding.what == "ws.example.com refuses a WebSocket by proxy: HTTP/1.1 502 Bad Gateway"


def test_nobody_there() -> None:
    finding = only(asked(Target(("127.0.0.1", free_port()), "ws.example.com"), PATH))
    assert finding.level.value == "warning"
    assert finding.what.startswith("ws.example.com cannot be reached from here: ")


def test_without_a_public_address_it_is_not_looked_at(tmp_path: Path) -> None:
    assert only(proxy(case(machine(tmp_path)))).level.value == "note"


def test_while_somebody_else_has_the_port_it_is_not_looked_at(tmp_path: Path, listening: socket.socket) -> None:
    options = AppOptions(host="127.0.0.1", port=free_port(), scheme="http")
    here = case(machine(tmp_path), {"options": options}, host="127.0.0.1", port=listening.getsockname()[1])
    assert only(proxy(here)).what.startswith("neither is the server here")
