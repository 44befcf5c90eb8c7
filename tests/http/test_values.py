"""How responses are written: a table of what goes in and the bytes that come out."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from resonate.errors import HttpError
from resonate.http import Response, encode, error_response, json_response

JSON = Response(200, b"{}")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
CLOSE, STAY = b"Connection: close\r\n", b"Connection: keep-alive\r\n"


@pytest.mark.parametrize(
    ("response", "keep_alive", "version", "head_only", "expected"),
    [
        (JSON, True, "1.1", False, HEAD + b"\r\n{}"),
        (JSON, False, "1.1", False, HEAD + CLOSE + b"\r\n{}"),
        (JSON, True, "1.0", False, HEAD + STAY + b"\r\n{}"),
        (JSON, False, "1.0", False, HEAD + CLOSE + b"\r\n{}"),
        (JSON, True, "1.1", True, HEAD + b"\r\n"),
        (JSON, False, "1.1", True, HEAD + CLOSE + b"\r\n"),
        (JSON._replace(close=True), True, "1.1", False, HEAD + CLOSE + b"\r\n{}"),
        (JSON._replace(close=True), True, "1.0", False, HEAD + CLOSE + b"\r\n{}"),
        (JSON._replace(headers=(("Allow", "GET"),)), True, "1.1", False, HEAD + b"Allow: GET\r\n\r\n{}"),
        (
            Response(404, b"Not found.", "text/plain"),
            True,
            "1.1",
            False,
            b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nNot found.",
        ),
    ],
)
def test_encode(response: Response, keep_alive: bool, version: str, head_only: bool, expected: bytes) -> None:
    assert encode(response, keep_alive=keep_alive, version=version, head_only=head_only) == expected


@pytest.mark.parametrize("status", [400, 401, 404, 405, 408, 413, 422, 426, 431, 500, 503])
def test_every_status_that_is_used_has_its_phrase(status: int) -> None:
    line = encode(Response(status), keep_alive=True).split(b"\r\n")[0]
    assert line == f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()


def test_json_keeps_characters_and_their_number_of_bytes() -> None:
    data = encode(json_response({"name": "é/"}, 422), keep_alive=True)
    assert data.endswith('\r\nContent-Length: 14\r\n\r\n{"name":"é/"}'.encode())
    assert data.startswith(b"HTTP/1.1 422 ")


def test_an_error_says_what_was_wrong() -> None:
    error = HttpError(405, 'No "POST".', headers=(("Allow", "GET"),), close=True)
    expected = Response(405, b'{"error":"No \\"POST\\"."}', "application/json", (("Allow", "GET"),), True)
    assert error_response(error) == expected
