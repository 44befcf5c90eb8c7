"""The protocol of Redis, its second version: commands and replies. No I/O.

redis-py makes connections; over one that is made we speak ourselves. So nothing waits for Redis but the shard's own
loop, and a reply costs half of what it costs there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from resonate.errors import ResonateError
from resonate.shard.cluster.entries import MAX_BYTES

#: Bytes of one string: an entry, and before it the id with which it is told.
LONGEST: Final = MAX_BYTES + 64
#: Bytes of a line that says what comes.
LONGEST_LINE: Final = 64 * 1024
#: What Redis says after these words are our own arguments: a password, where AUTH has another name.
_QUOTE: Final = re.compile(r",? with args beginning with.*", re.DOTALL)
#: Characters of an error that are told.
_LONGEST_TEXT: Final = 200


class ProtocolError(ResonateError):
    """What comes is not the protocol of Redis."""


class Refusal:
    """An error that Redis answers with."""

    def __init__(self, text: str) -> None:
        self.text = text


def plain(text: str) -> str:
    """An error of Redis without anything of ours."""
    return _QUOTE.sub("", text)[:_LONGEST_TEXT]


def pack(parts: Iterable[bytes]) -> bytes:
    """A command."""
    packed = [b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]
    return b"*%d\r\n%b" % (len(packed), b"".join(packed))


class Reader:
    """Bytes go in as they come, replies come out: bytes, int, None, Refusal, and lists of those."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0  # of all chunks
        self._needed = 0  # as long as there is less, nothing can be told
        self._open: list[tuple[list[Any], int]] = []  # lists whose end has not come, and their length

    def feed(self, data: bytes) -> list[Any]:
        """The replies that end with these bytes. Raises ProtocolError."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        buffer = b"".join(self._chunks) if len(self._chunks) > 1 else data
        replies: list[Any] = []
        try:
            at = self._parse(buffer, replies)
        except ValueError:
            raise ProtocolError("Redis has sent something else than its protocol") from None
        self._chunks = [buffer[at:]]
        self._size = len(buffer) - at
        self._needed -= at
        return replies

    def _parse(self, buffer: bytes, replies: list[Any]) -> int:
        """Put what is complete among the replies; where the rest begins. Raises ValueError."""
        at = 0
        while (end := buffer.find(b"\r\n", at)) >= 0:
            kind, line = buffer[at], buffer[at + 1 : end]
            begin = end + 2
            value: Any
            if kind == _STRING and line != b"-1":
                end = begin + _length(line)
                if end + 2 > len(buffer):
                    self._needed = end + 2
                    return at
                value, at = buffer[begin:end], end + 2
            elif kind == _LIST and (length := int(line)) > 0:
                self._open.append(([], length))
                at = begin
                continue
            else:
                value, at = _of_line(kind, line), begin
            if self._open:
                self._put(value, replies)
            else:
                replies.append(value)
        self._needed = len(buffer) + 1
        if len(buffer) - at > LONGEST_LINE:
            raise ValueError
        return at

    def _put(self, value: Any, replies: list[Any]) -> None:
        """In the innermost list that is open; those that are full by it are closed."""
        while self._open:
            items, length = self._open[-1]
            items.append(value)
            if len(items) < length:
                return
            self._open.pop()
            value = items
        replies.append(value)


_STRING: Final = ord("$")
_LIST: Final = ord("*")


def _length(line: bytes) -> int:
    length = int(line)
    if not 0 <= length <= LONGEST:
        raise ValueError
    return length


def _of_line(kind: int, line: bytes) -> Any:
    """The value of a reply that is one line."""
    if kind == ord(":"):
        return int(line)
    if kind == ord("+"):
        return line
    if kind == ord("-"):
        return Refusal(line.decode(errors="replace"))
    if kind == _LIST and line == b"0":
        return []
    if kind in (_LIST, _STRING) and line == b"-1":
        return None
    raise ValueError
