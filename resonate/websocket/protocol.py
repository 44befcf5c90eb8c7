"""The server's end of one WebSocket (RFC 6455 sections 5 to 7): bytes in, events out.

The parser looks at complete frames only. What is incomplete waits in one buffer, whose size is bounded: a frame that
declares more than `refuse` bytes fails the connection before any of its payload is read, and the payload of a message
that has outgrown `limit` is dropped as it comes instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from resonate.errors import WebSocketError
from resonate.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_CONTROL,
    PING,
    PONG,
    TEXT,
    unmask,
    valid_close_code,
)

PROTOCOL_ERROR = 1002
INVALID_PAYLOAD = 1007
TOO_BIG = 1009

#: A frame this many times longer than the limit is refused unread; up to there it is read and dropped.
REFUSE_FACTOR = 16
#: What a message may measure where the limit is 0, which means "unlimited" to Reverb: nothing here is without a bound.
UNLIMITED = 64 * 1024 * 1024


class Message(NamedTuple):
    """A whole message, text or binary; text has been checked to be UTF-8."""

    data: bytes


class Oversized(NamedTuple):
    """A message that was longer than the limit; it has been dropped, and the connection goes on."""


class Ping(NamedTuple):
    """To be answered with a pong that carries the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """A pong, asked for or not (section 5.5.3 allows both)."""

    payload: bytes


class Close(NamedTuple):
    """The peer's close frame; `code` None when it had no body. To be echoed."""

    code: int | None
    reason: str


class Fail(NamedTuple):
    """The peer has violated the protocol: close with this code (section 7.1.7)."""

    code: int
    reason: str


Event = Message | Oversized | Ping | Pong | Close | Fail


class WebSocket:
    """Parses what one client sends.

    `limit` is the longest message in bytes, 0 for none but the built-in bound of 64 MiB.
    """

    __slots__ = ("_buffer", "_fragments", "_skip", "_utf8", "limit", "refuse")

    def __init__(self, limit: int) -> None:
        self.limit = limit or UNLIMITED
        self.refuse = self.limit * REFUSE_FACTOR if limit else UNLIMITED
        self._buffer: bytearray | None = None  # the start of a frame whose end has not come
        self._fragments: bytearray | None = None  # a fragmented message so far; its length counts even when dropped
        self._utf8 = True  # whether the fragmented message is text
        self._skip: _Skip | None = None  # a message over the limit, being dropped

    def snapshot(self) -> dict[str, Any]:
        """What has begun and not ended, as JSON can carry it (bytes as latin-1), for `restore`."""
        skip = self._skip
        return {
            "buffer": _text(self._buffer),
            "fragments": _text(self._fragments),
            "utf8": self._utf8,
            "skip": None if skip is None else [skip.seen, skip.payload, skip.final],
        }

    @classmethod
    def restore(cls, limit: int, snapshot: dict[str, Any]) -> WebSocket:
        """Go on where another has stopped, perhaps with another limit. Raises `UNFIT` for what is no snapshot."""
        made = cls(limit)
        made._buffer = _bytes(snapshot["buffer"])
        made._fragments = _bytes(snapshot["fragments"])
        made._utf8 = bool(snapshot["utf8"])
        if snapshot["skip"] is not None:
            seen, payload, final = snapshot["skip"]
            skip = made._skip = _Skip(int(seen))
            skip.payload, skip.final = int(payload), bool(final)
            if made._fragments is not None or not 0 <= skip.payload <= skip.seen:
                raise ValueError("a message is kept and dropped at once, or shorter than a part of it")
        return made

    def receive(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes, in order. After `Fail` the connection must be closed and not fed."""
        source: bytes | bytearray = data
        if self._buffer is not None:
            source, self._buffer = self._buffer, None
            source += data
        events: list[Event] = []
        end = len(source)
        position = 0 if self._skip is None else self._drop(0, end, events)
        try:
            while position < end:
                following = self._frame(source, position, end, events)
                if following is None:
                    self._keep(source, position)
                    break
                position = following
        except WebSocketError as error:
            events.append(Fail(error.code, error.reason))
        return events

    def _keep(self, source: bytes | bytearray, position: int) -> None:
        """Keep what is incomplete. The buffer grows in place: a message in many pieces costs no more than in one."""
        if isinstance(source, bytes):
            source = bytearray(source)
        del source[:position]
        self._buffer = source

    def _frame(self, source: bytes | bytearray, start: int, end: int, events: list[Event]) -> int | None:
        """Take one frame; return where the next begins, or None when this one is not complete."""
        if end - start < 2:
            return None
        first, second = source[start], source[start + 1]
        opcode, final, size, head = first & 0x0F, first & 0x80, second & 0x7F, start + 2
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit is set and no extension was negotiated")
        if not second & 0x80:
            raise WebSocketError(PROTOCOL_ERROR, "a client must mask its frames")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise WebSocketError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
            if not final or size > MAX_CONTROL:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        else:
            self._check_order(opcode)
            if size >= 126:
                width = 2 if size == 126 else 8
                if end - head < width:
                    return None
                size = int.from_bytes(source[head : head + width], "big")
                head += width
                if size >> 63 or size < (126 if width == 2 else 0x10000):
                    raise WebSocketError(PROTOCOL_ERROR, "a length is not in its shortest form")
        payload = head + 4
        if opcode < CLOSE and not self._fits(size):
            return self._oversize(payload, bool(final), size, end, events) if end >= payload else None
        after = payload + size
        if end < after:
            return None
        self._accept(opcode, bool(final), unmask(source[payload:after], source[head:payload]), events)
        return after

    def _check_order(self, opcode: int) -> None:
        """Section 5.4: a continuation needs a beginning, and a beginning must wait for the last end."""
        if opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        open_message = self._fragments is not None or self._skip is not None
        if (opcode == CONTINUATION) != open_message:
            raise WebSocketError(PROTOCOL_ERROR, "a fragment is out of place")

    def _fits(self, size: int) -> bool:
        """Whether a data frame may be kept. Raises when the message grows past what is even read."""
        total = size
        if self._fragments is not None:
            total += len(self._fragments)
        elif self._skip is not None:
            total += self._skip.seen
        if total > self.refuse:
            raise WebSocketError(TOO_BIG, f"a message of {total} bytes is over the limit of {self.limit}")
        return self._skip is None and total <= self.limit

    def _oversize(self, start: int, final: bool, size: int, end: int, events: list[Event]) -> int:
        """Begin to drop a frame whose payload begins at `start`: forget what was kept, count what passes."""
        if self._skip is None:
            self._skip = _Skip(0 if self._fragments is None else len(self._fragments))
            self._fragments = None
        self._skip.seen += size
        self._skip.payload = size
        self._skip.final = final
        return self._drop(start, end, events)

    def _drop(self, position: int, end: int, events: list[Event]) -> int:
        """Pass over dropped payload; report the message when its last byte has gone by."""
        skip = self._skip
        assert skip is not None
        taken = min(skip.payload, end - position)
        skip.payload -= taken
        if skip.final and not skip.payload:
            self._skip = None
            events.append(Oversized())
        return position + taken

    def _accept(self, opcode: int, final: bool, payload: bytes, events: list[Event]) -> None:
        """A complete frame that fits."""
        if opcode >= CLOSE:
            events.append(_control(opcode, payload))
        elif opcode == CONTINUATION:
            assert self._fragments is not None
            self._fragments += payload
            if final:
                whole, self._fragments = bytes(self._fragments), None
                events.append(_message(whole, self._utf8))
        elif final:
            events.append(_message(payload, opcode == TEXT))
        else:
            self._fragments, self._utf8 = bytearray(payload), opcode == TEXT


class _Skip:
    """A message that is being dropped: bytes seen so far, bytes of the present frame still to come, and its end."""

    __slots__ = ("final", "payload", "seen")

    def __init__(self, seen: int) -> None:
        self.seen = seen
        self.payload = 0
        self.final = False


def _text(data: bytearray | None) -> str | None:
    return None if data is None else data.decode("latin-1")


def _bytes(text: str | None) -> bytearray | None:
    return None if text is None else bytearray(text, "latin-1")


def to_json(events: list[Event]) -> list[list[Any]]:
    """Events that have been parsed and not acted upon, as JSON can carry them, for `from_json`."""
    return [
        [type(event).__name__, *(item.decode("latin-1") if isinstance(item, bytes) else item for item in event)]
        for event in events
    ]


def from_json(rows: list[list[Any]]) -> list[Event]:
    """The opposite. Raises `UNFIT` for what is none."""
    return [_READERS[name](*fields) for name, *fields in rows]


#: Events by the names under which they travel.
_READERS: Final[dict[str, Callable[..., Event]]] = {
    "Message": lambda data: Message(data.encode("latin-1")),
    "Oversized": Oversized,
    "Ping": lambda payload: Ping(payload.encode("latin-1")),
    "Pong": lambda payload: Pong(payload.encode("latin-1")),
    "Close": lambda code, reason: Close(None if code is None else int(code), str(reason)),
    "Fail": lambda code, reason: Fail(int(code), str(reason)),
}


def _message(data: bytes, utf8: bool) -> Message:
    # Section 8.1. `isascii` answers for nearly all messages without a decoder.
    if utf8 and not data.isascii():
        _decode(data)
    return Message(data)


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WebSocketError(INVALID_PAYLOAD, "text is not UTF-8") from None


def _control(opcode: int, payload: bytes) -> Event:
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Close(None, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not valid_close_code(code):
        raise WebSocketError(PROTOCOL_ERROR, "a close frame has an invalid code")
    return Close(code, _decode(payload[2:]))
