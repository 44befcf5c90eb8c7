"""Frames of RFC 6455 section 5: encoding for the server's side (unmasked), unmasking for what clients send."""

from __future__ import annotations

from typing import Final

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

#: Section 5.5: control frames carry at most this many bytes, and a close reason two fewer.
MAX_CONTROL: Final = 125

_SMALL = {opcode: [bytes((0x80 | opcode, size)) for size in range(126)] for opcode in (TEXT, CLOSE, PING, PONG)}


def _encode(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return _SMALL[opcode][size] + payload
    if size < 0x10000:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def encode_text(payload: bytes) -> bytes:
    """A whole text message; `payload` is UTF-8."""
    return _encode(TEXT, payload)


def encode_ping(payload: bytes = b"") -> bytes:
    """A ping control frame; at most 125 bytes."""
    return _encode(PING, payload)


def encode_pong(payload: bytes = b"") -> bytes:
    """A pong control frame; at most 125 bytes."""
    return _encode(PONG, payload)


def encode_close(code: int, reason: str = "") -> bytes:
    """A close frame; a reason that is too long is cut at a character's border."""
    text = reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore")
    return _encode(CLOSE, code.to_bytes(2, "big") + text.encode())


def unmask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """Undo the client's masking (section 5.3) with one XOR of two big integers: linear, and in C."""
    size = len(payload)
    if not any(mask):
        return bytes(payload)
    stream = mask * (size // 4) + mask[: size % 4]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")).to_bytes(size, "little")


def valid_close_code(code: int) -> bool:
    """Whether a peer may send this code (section 7.4: reserved and unassigned ones may not be on the wire)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
