"""Requests and responses, and how a response is written (RFC 9112)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from resonate.errors import HttpError

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """A whole request. `path` and `query` are as they came, percent-encoded; header names are in lower case.

    `route` is what the reader was told that the path means.
    """

    method: str
    path: str
    query: str
    version: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    route: Any = None


class Response(NamedTuple):
    """An answer. `close`: the connection cannot go on after it."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(status, orjson.dumps(value))


def error_response(error: HttpError) -> Response:
    """The answer to a refused request: `{"error": "..."}`, or the error's own body."""
    body = orjson.dumps({"error": error.message}) if error.body is None else error.body
    return Response(error.status, body, JSON, error.headers, error.close)


_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


def encode(response: Response, *, keep_alive: bool, version: str = "1.1", head_only: bool = False) -> bytes:
    """The bytes of a response.

    `version` is the request's: HTTP/1.0 clients must be told that the connection stays, later ones that it does not.
    `head_only` leaves the body out but keeps its length (RFC 9110 section 9.3.2, HEAD).
    """
    body = response.body
    head = f"{_STATUS[response.status]}Content-Type: {response.content_type}\r\nContent-Length: {len(body)}\r\n"
    for name, value in response.headers:
        head += f"{name}: {value}\r\n"
    if not keep_alive or response.close:
        head += "Connection: close\r\n"
    elif version == "1.0":
        head += "Connection: keep-alive\r\n"
    return (head + "\r\n").encode("latin-1") + (b"" if head_only else body)
