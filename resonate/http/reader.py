"""Reads the requests of one connection, one after another.

llhttp (httptools) checks the syntax and refuses the shapes that smuggle a second request past a proxy; it knows no
limits, and does not say where a request ends. So a head is cut out of the buffer first, at its empty line, and given
to llhttp alone. A body of known length is cut out likewise. A chunked one can end only at an empty line: it is fed in
pieces that end at those. What lies behind a request is thus known to the byte, which is what handing it to somebody
else needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import httptools

from resonate.errors import HttpError
from resonate.http.values import Request

MAX_HEAD: Final = 16 * 1024
#: Framing that a chunked body may add: this many bytes for each byte of the limit, and as much as a head for trailers.
CHUNK_OVERHEAD: Final = 8

_END_OF_HEAD: Final = b"\r\n\r\n"


class Continue(NamedTuple):
    """The client waits for `100 Continue` before it sends the body (RFC 9110 section 10.1.1)."""


class Foreign(NamedTuple):
    """A request that is not claimed. `data` is everything from its first byte on; the reader is empty after it."""

    data: bytes


class Refused(NamedTuple):
    """The request cannot be served, and where the next one begins is not known."""

    error: HttpError


Item = Request | Continue | Foreign | Refused


class RequestReader:
    """Give it bytes with `feed`, take requests with `next` until it returns None.

    `claims` says of a path whether the request is ours; `max_body` is the longest body in bytes.
    """

    __slots__ = ("_body", "_buffer", "_claims", "_continued", "_head", "_max_body", "_parser")

    def __init__(self, claims: Callable[[str], bool], max_body: int) -> None:
        self._claims = claims
        self._max_body = max_body
        self._buffer = bytearray()
        self._head: _Head | None = None  # of the request whose body is being read
        self._parser: httptools.HttpRequestParser | None = None  # while its body is chunked
        self._body = 0  # framed bytes of the chunked body so far
        self._continued = False

    @property
    def in_request(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._head is not None or bool(self._buffer)

    @property
    def in_body(self) -> bool:
        """Whether the head has been read and the body has not."""
        return self._head is not None

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def rest(self) -> bytes:
        """Take what has not been consumed: it belongs to another protocol now."""
        data, self._buffer = self._buffer, bytearray()
        return bytes(data)

    def next(self) -> Item | None:
        """The next thing to act upon, or None when more bytes are needed."""
        try:
            return self._read_body() if self._head is not None else self._read_head()
        except HttpError as error:
            return Refused(error)
        except (httptools.HttpParserError, ValueError) as error:
            return Refused(HttpError(400, f"The request cannot be parsed: {error}", close=True))

    def _read_head(self) -> Item | None:
        buffer = self._buffer
        if buffer.startswith((b"\r", b"\n")):  # RFC 9112 section 2.2: empty lines before a request are ignored
            buffer = self._buffer = buffer.lstrip(b"\r\n")
        end = buffer.find(_END_OF_HEAD, 0, MAX_HEAD) + len(_END_OF_HEAD)
        if end < len(_END_OF_HEAD):
            if len(buffer) >= MAX_HEAD:
                raise HttpError(431, f"The head of a request may have {MAX_HEAD} bytes.", close=True)
            return None
        head = _Head()
        parser = httptools.HttpRequestParser(head)
        try:
            parser.feed_data(bytes(buffer[:end]))
        except httptools.HttpParserUpgrade:
            pass  # whether to upgrade is not the parser's decision
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise HttpError(400, f"HTTP/{version} is not spoken here.", close=True)
        path, query = _split(head.url)
        if not self._claims(path):
            return Foreign(self.rest())
        head.request = Request(
            parser.get_method().decode(), path, query, version, head.headers, b"", parser.should_keep_alive()
        )
        del buffer[:end]
        self._head = head
        if "transfer-encoding" in head.headers:
            self._begin_chunked(head, parser)
        elif head.length > self._max_body:
            raise self._too_large(head.length)
        return self._read_body()

    def _begin_chunked(self, head: _Head, parser: httptools.HttpRequestParser) -> None:
        if head.headers["transfer-encoding"].lower() != "chunked" or head.request.version == "1.0":
            raise HttpError(400, "Of transfer codings only chunked is understood, and from HTTP/1.1 on.", close=True)
        self._parser, self._body = parser, 0

    def _read_body(self) -> Item | None:
        head = self._head
        assert head is not None
        body = self._cut_chunked(head) if self._parser is not None else self._cut(head.length)
        if body is None:
            if not self._continued and head.headers.get("expect", "").lower() == "100-continue":
                self._continued = True
                return Continue()
            return None
        self._head, self._parser, self._continued = None, None, False
        return head.request._replace(body=body) if body else head.request

    def _cut(self, length: int) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < length:
            return None
        body = bytes(buffer[:length])
        del buffer[:length]
        return body

    def _cut_chunked(self, head: _Head) -> bytes | None:
        parser = self._parser
        assert parser is not None
        buffer = self._buffer
        while end := _end_of_piece(buffer):
            parser.feed_data(bytes(buffer[:end]))
            del buffer[:end]
            self._body += end
            if len(head.body) > self._max_body or self._body > self._max_body * CHUNK_OVERHEAD + MAX_HEAD:
                raise self._too_large(len(head.body))
            if head.complete:
                return bytes(head.body)
        return None

    def _too_large(self, size: int) -> HttpError:
        return HttpError(413, f"The body has {size} bytes or more; {self._max_body} are allowed.", close=True)


def _end_of_piece(buffer: bytearray) -> int:
    """How much of a chunked body may be fed at once: up to an empty line, and not into one that has only begun."""
    mark = buffer.find(_END_OF_HEAD)
    if mark >= 0:
        return mark + len(_END_OF_HEAD)
    begun = next((size for size in (3, 2, 1) if buffer.endswith(_END_OF_HEAD[:size])), 0)
    return len(buffer) - begun


class _Head:
    """Collects what llhttp finds. Fields that come after the head are trailers, and are dropped."""

    __slots__ = ("_done", "body", "complete", "headers", "request", "url")

    request: Request

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self._done = False

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._done:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self._done = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def _split(url: bytes) -> tuple[str, str]:
    """Path and query of a request target; of the absolute form (RFC 9112 section 3.2.2) too."""
    if not url.startswith(b"/"):
        parsed = httptools.parse_url(url)
        return (parsed.path or b"/").decode("latin-1"), (parsed.query or b"").decode("latin-1")
    path, _, query = url.partition(b"?")
    return path.decode("latin-1"), query.decode("latin-1")
