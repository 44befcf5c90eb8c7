"""The opening handshake: what is accepted, and with which status everything else is refused."""

from __future__ import annotations

import pytest

from resonate.errors import HttpError
from resonate.websocket import accept_upgrade

PROPER = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def test_the_example_of_the_rfc() -> None:
    """Section 1.3, to the byte of the accept key."""
    head, _, body = accept_upgrade("GET", "1.1", PROPER).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (headers["Upgrade"].lower(), headers["Connection"].lower(), body) == ("websocket", "upgrade", b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": "WebSocket"},
        {"upgrade": "h2c, websocket"},
        {"connection": "upgrade"},
        {"connection": "keep-alive, Upgrade"},
        {"connection": "keep-alive ,UPGRADE"},
        {"sec-websocket-protocol": "chat, superchat"},
        {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"},
        {"origin": "null"},
        {"sec-websocket-key": "A" * 21 + "Q=="},
    ],
    ids=str,
)
def test_accepted(headers: dict[str, str]) -> None:
    answer = accept_upgrade("GET", "1.1", {**PROPER, **headers})
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol" not in answer.lower()
    assert b"sec-websocket-extensions" not in answer.lower()


MISSING = ""  # stands for a header that is left out


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"upgrade": MISSING}, 426),
        ({"upgrade": "h2c"}, 426),
        ({"upgrade": "websockets"}, 426),
        ({"connection": MISSING}, 400),
        ({"connection": "keep-alive"}, 400),
        ({"connection": "upgraded"}, 400),
        ({"host": MISSING}, 400),
        ({"sec-websocket-version": MISSING}, 426),
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-version": "13, 13"}, 426),
        ({"sec-websocket-version": "013"}, 426),
        ({"sec-websocket-key": MISSING}, 400),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="}, 400),
        ({"sec-websocket-key": "c2hvcnQ="}, 400),
        ({"sec-websocket-key": "A" * 24}, 400),
        ({"sec-websocket-key": "dGhlIHNhbXBsZSBub25j!Q=="}, 400),
        ({"sec-websocket-key": "\u00e9" * 24}, 400),
    ],
    ids=str,
)
def test_refused(headers: dict[str, str], status: int) -> None:
    given = {name: value for name, value in {**PROPER, **headers}.items() if value != MISSING}
    with pytest.raises(HttpError) as refusal:
        accept_upgrade("GET", "1.1", given)
    assert (refusal.value.status, refusal.value.close) == (status, True)
    if status == 426:  # RFC 9110 section 15.5.22, RFC 6455 section 4.4
        assert {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}.items() <= dict(refusal.value.headers).items()


@pytest.mark.parametrize(
    ("method", "version", "status"),
    [("POST", "1.1", 405), ("DELETE", "1.1", 405), ("HEAD", "1.1", 426), ("GET", "1.0", 400)],
)
def test_wrong_method_or_version(method: str, version: str, status: int) -> None:
    with pytest.raises(HttpError) as refusal:
        accept_upgrade(method, version, PROPER)
    assert refusal.value.status == status
