"""ØMQ's wire protocol, ZMTP 3.0 (RFC 23), as far as PUSH and PULL need it; without I/O.

Both sides say a greeting and READY at once, for nothing in them depends on the other. RFC 23 lets frames follow
at once. libzmq 4.3.5 drops such a connection, for it wants to have said READY itself by then: so PUSH waits for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from resonate.errors import ResonateError

#: Bytes of a frame at most: no peer of ours sends as many.
LONGEST: Final = 2**30
#: The same for commands and before READY: what a stranger may say is short.
LONGEST_COMMAND: Final = 4096

#: Eight bytes of padding, which nobody may look at, and what tells it from ZMTP 1.
_SIGNATURE: Final = b"\xff" + bytes(8) + b"\x7f"
#: The version, the mechanism, that it is no server (NULL knows none), and filler.
_GREETING: Final = _SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEAD, _LONG_HEAD = 2, 9


class WireError(ResonateError):
    """The other side is no ØMQ socket that fits."""


def opening(kind: bytes) -> bytes:
    """All that a socket of that kind, PUSH or PULL, has to say before its first frame."""
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return _GREETING + bytes((_COMMAND, len(ready))) + ready


def head(size: int) -> bytes:
    """What goes before a frame of so many bytes."""
    return bytes((0, size)) if size < 256 else b"\x02" + size.to_bytes(8, "big")


class Reader:
    """What the other side says, of which `kind` it has to be: pieces in, frames out."""

    def __init__(self, kind: bytes) -> None:
        self._kind = kind
        self._rest = bytearray()  # of what has come, not taken in yet
        self._size = 0  # of what is being taken in
        self._step: Callable[[bytes, int, list[bytes]], int] = self._greeting
        self._needed = len(_GREETING)  # bytes without which that step cannot be taken
        self.ready = False  # whether it has said so

    def feed(self, piece: bytes) -> list[bytes]:
        """The frames that are complete with it. Raises WireError; there is no going on then."""
        data, rest = piece, self._rest
        if rest:
            rest += piece
            if len(rest) < self._needed:
                return []
            data = bytes(rest)
            rest.clear()
        self._size = len(data)
        frames: list[bytes] = []
        at = 0
        while self._size - at >= self._needed:
            at = self._step(data, at, frames)
        if at < self._size:
            rest += data[at:]
        return frames

    def _greeting(self, data: bytes, at: int, frames: list[bytes]) -> int:
        """Higher versions are to be taken: who speaks one speaks this one with us."""
        if (data[0], data[9]) != (_SIGNATURE[0], _SIGNATURE[9]) or data[10] < 3:
            raise WireError("it does not speak ZMTP 3")
        if data[12:32] != _GREETING[12:32]:
            raise WireError("it wants a mechanism of security")
        self._step, self._needed = self._frame, _SHORT_HEAD
        return len(_GREETING)

    def _frame(self, data: bytes, at: int, frames: list[bytes]) -> int:
        """Take one in, or find out how many bytes it needs; where the next one begins."""
        flags, size = data[at], data[at + 1]
        start = at + _SHORT_HEAD
        if flags & _MORE or flags > _COMMAND | _LONG:
            raise WireError(f"the flags {flags} are none of a frame of ours")
        if flags & _LONG:
            if self._size - at < _LONG_HEAD:
                self._needed = _LONG_HEAD
                return at
            start = at + _LONG_HEAD
            size = int.from_bytes(data[at + 1 : start], "big")
        if size > (LONGEST if self.ready and not flags & _COMMAND else LONGEST_COMMAND):
            raise WireError(f"a frame of {size} bytes is too long")
        end = start + size
        if end > self._size:
            self._needed = end - at
            return at
        self._needed = _SHORT_HEAD
        if flags & _COMMAND:
            self._command(data[start:end])
        elif self.ready:
            frames.append(data[start:end])
        else:
            raise WireError("a frame came before READY")
        return end

    def _command(self, body: bytes) -> None:
        """Others than these are heartbeats and the like; who speaks 3.0 is sent none."""
        name, rest = body[1 : 1 + body[0]] if body else b"", body[6:]
        if name == b"ERROR":
            raise WireError(f"it refuses: {rest[1:]!r}")
        if self.ready:
            return
        if name != b"READY":
            raise WireError(f"it says {name!r} in place of READY")
        kind = _properties(rest).get(b"socket-type", b"")
        if kind != self._kind:
            raise WireError(f"it is a socket of the kind {kind!r}, not {self._kind!r}")
        self.ready = True


def _properties(data: bytes) -> dict[bytes, bytes]:
    """What READY says of its sender, by names in lower case. What is cut off is found short."""
    found: dict[bytes, bytes] = {}
    while data:
        name, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        size = int.from_bytes(data[:4], "big")
        found[name.lower()], data = data[4 : 4 + size], data[4 + size :]
    return found
