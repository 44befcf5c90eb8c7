"""Reads the requests of one connection, one after another.

llhttp (httptools) checks the syntax and refuses the shapes that smuggle a second request past a proxy; it knows no
limits, and does not say where a request ends. So a head is cut out of the buffer first, at its empty line, and given
to llhttp alone. A body of known length is cut out likewise. A chunked one can end only at an empty line: it is fed in
pieces that end at those. What lies behind a request is thus known to the byte, which is what handing it to somebody
else needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

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

    `route` says of a path what it means to us, None when the request is not ours; `max_body` is the longest body in
    bytes.
    """

    __slots__ = ("_buffer", "_chunked", "_continued", "_max_body", "_request", "_route")

    def __init__(self, route: Callable[[str], Any | None], max_body: int) -> None:
        self._route = route
        self._max_body = max_body
        self._buffer = bytearray()
        self._request: Request | None = None  # whose body is being read
        self._chunked: _ChunkedBody | None = None  # that body, when it is of unknown length
        self._continued = False

    @property
    def in_request(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._request is not None or bool(self._buffer)

    @property
    def in_body(self) -> bool:
        """Whether the head has been read and the body has not."""
        return self._request is not None

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    @property
    def unread(self) -> bytes:
        """What has not been consumed, and stays."""
        return bytes(self._buffer)

    def rest(self) -> bytes:
        """Take what has not been consumed: it belongs to another protocol now."""
        data, self._buffer = self._buffer, bytearray()
        return bytes(data)

    def next(self) -> Item | None:
        """The next thing to act upon, or None when more bytes are needed."""
        try:
            return self._read_head() if self._request is None else self._read_body(self._request)
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
        if version not in ("1.1", "1.0") or not buffer.startswith(b"HTTP/", buffer.find(b"\r\n") - 8):  # but RTSP
            raise HttpError(400, "Only HTTP/1.1 and HTTP/1.0 are spoken here.", close=True)
        path, query = _split(head.url)
        route = self._route(path)
        if route is None:
            return Foreign(self.rest())
        del buffer[:end]
        keep_alive = _keep_alive(version, head.headers.get("connection", ""))
        method = parser.get_method().decode()
        request = self._request = Request(method, path, query, version, head.headers, b"", keep_alive, route)
        if "transfer-encoding" in head.headers:
            self._chunked = _chunked_body(request)
        elif _length(request) > self._max_body:
            raise self._too_large(_length(request))
        return self._read_body(request)

    def _read_body(self, request: Request) -> Item | None:
        chunked = self._chunked
        body = self._cut(_length(request)) if chunked is None else self._cut_chunked(chunked)
        if body is None:
            if not self._continued and _expects_continue(request):
                self._continued = True
                return Continue()
            return None
        self._request, self._chunked, self._continued = None, None, False
        return request._replace(body=body) if body else request

    def _cut(self, length: int) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < length:
            return None
        body = bytes(buffer[:length])
        del buffer[:length]
        return body

    def _cut_chunked(self, chunked: _ChunkedBody) -> bytes | None:
        buffer = self._buffer
        while end := _end_of_piece(buffer):
            chunked.feed(bytes(buffer[:end]))
            del buffer[:end]
            size = len(chunked.data)
            if size > self._max_body or chunked.framed > self._max_body * CHUNK_OVERHEAD + MAX_HEAD:
                raise self._too_large(size)
            if chunked.complete:
                return bytes(chunked.data)
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
    """Collects what llhttp finds in a head."""

    __slots__ = ("headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text


class _ChunkedBody:
    """Undoes the chunked coding; what stands in trailers is dropped. `framed` counts its bytes as they came."""

    __slots__ = ("_parser", "complete", "data", "framed")

    def __init__(self) -> None:
        self.data = bytearray()
        self.framed = 0
        self.complete = False
        # The request's own parser does not read a body after `Upgrade:`, which we may well ignore. This one does.
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> None:
        self.framed += len(data)
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.complete = True


def _chunked_body(request: Request) -> _ChunkedBody:
    if request.headers["transfer-encoding"].lower() != "chunked" or request.version == "1.0":
        raise HttpError(400, "Of transfer codings only chunked is understood, and from HTTP/1.1 on.", close=True)
    return _ChunkedBody()


def _expects_continue(request: Request) -> bool:
    return request.version != "1.0" and request.headers.get("expect", "").lower() == "100-continue"


def _length(request: Request) -> int:
    return int(request.headers.get("content-length", 0))


def _keep_alive(version: str, connection: str) -> bool:
    """RFC 9112 section 9.3: later versions keep a connection unless told otherwise, HTTP/1.0 only if asked to."""
    options = [option.strip() for option in connection.lower().split(",")]
    return "close" not in options and (version == "1.1" or "keep-alive" in options)


def _split(url: bytes) -> tuple[str, str]:
    """Path and query of a request target; of the absolute form (RFC 9112 section 3.2.2) too."""
    if not url.startswith(b"/"):
        parsed = httptools.parse_url(url)
        return (parsed.path or b"/").decode("latin-1"), (parsed.query or b"").decode("latin-1")
    path, _, query = url.partition(b"?")
    return path.decode("latin-1"), query.decode("latin-1")
