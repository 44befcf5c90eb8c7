"""WebSocket routes of a hosted application: long messages cost it what they are long, and nobody else anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resonate.server.hosted_websocket import MAX_MESSAGE
from tests.support.client import BINARY, CLOSE, TEXT, Client, frame
from tests.support.server import Server

GUNICORN = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "echo:application"]
ECHO = """
def application(environ, start_response):
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []
"""


@pytest.fixture
def site(start: Callable[..., Server], tmp_path: Path) -> Server:
    """An application that echoes."""
    directory = tmp_path / "server-0"  # where `start` runs its first server
    directory.mkdir()
    (directory / "echo.py").write_text(ECHO)
    return start(command=GUNICORN)


def test_long_messages_are_echoed_and_others_are_served_meanwhile(site: Server) -> None:
    innocent = Client(site.host, site.port).established()
    echo = Client(site.host, site.port, "/echo")
    text = b"a" * (8 * 1024 * 1024)
    echo.send_raw(frame(text))
    assert innocent.barrier() == []
    assert echo.frame() == (TEXT, text)
    echo.send_raw(frame(text[:99], BINARY, fin=False) + frame(text, 0))
    assert echo.frame() == (BINARY, text[:99] + text)
    echo.close()
    innocent.close()


def test_a_message_without_end_is_refused(site: Server) -> None:
    with Client(site.host, site.port, "/echo") as echo:
        echo.send_raw(frame(b"x" * 65536, fin=False) + b"\x80\xff" + MAX_MESSAGE.to_bytes(8, "big") + b"mask")
        assert echo.closed() == 1009


def test_text_that_is_not_utf8_is_refused(site: Server) -> None:
    with Client(site.host, site.port, "/echo") as echo:
        echo.send_raw(frame(b"\xff\xfe"))
        got = echo.frame()
        assert (got.opcode, got.code) == (CLOSE, 1007)
