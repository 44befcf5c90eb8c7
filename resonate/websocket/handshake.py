"""The opening handshake, the server's side (RFC 6455 section 4.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

from resonate.errors import HttpError

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_UPGRADE = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


def accept_upgrade(method: str, version: str, headers: Mapping[str, str]) -> bytes:
    """Return the whole 101 answer, or raise HttpError with the refusal.

    `version` is "1.1"; `headers` have lower-case names. No subprotocol and no extension is agreed to, as in Reverb.
    """
    if method not in ("GET", "HEAD"):  # HEAD is told what GET would be
        raise HttpError(405, "Method not allowed.", headers=(("Allow", "GET"),))
    if "websocket" not in _tokens(headers.get("upgrade", "")) or method == "HEAD":
        raise HttpError(426, "This path speaks WebSocket: an Upgrade header is required.", headers=_UPGRADE, close=True)
    if version != "1.1":
        raise HttpError(400, "A WebSocket handshake needs HTTP/1.1.", close=True)
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise HttpError(400, "The Connection header must hold the token Upgrade.", close=True)
    if "host" not in headers:
        raise HttpError(400, "The Host header is required.", close=True)
    if headers.get("sec-websocket-version") != "13":
        raise HttpError(426, "Sec-WebSocket-Version must be 13.", headers=_UPGRADE, close=True)
    key = headers.get("sec-websocket-key", "")
    if not _valid_key(key):
        raise HttpError(400, "Sec-WebSocket-Key must be 16 bytes in base64.", close=True)
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nX-Powered-By: Resonate\r\n\r\n"
    )


def _tokens(value: str) -> list[str]:
    return [token.strip() for token in value.lower().split(",")]


def _valid_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
