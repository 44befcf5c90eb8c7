"""The corpus of requests, each row fed whole and byte by byte; what is handed over; who is told to go on."""

from __future__ import annotations

import pytest

from resonate.http import Continue, Foreign, Refused, Request, RequestReader
from tests.http.corpus import ACCEPTED, GET, MAX_BODY, POST, REFUSED, Accepted, Refusal, chunked, get, head, post

Item = Request | Continue | Foreign | Refused


def ours(path: str) -> str | None:
    """The route of what is claimed; the path itself will do."""
    return path if path.startswith("/ours") else None


def octets(data: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in data]


def read(parts: list[bytes]) -> list[Item]:
    """All that the reader finds in the parts; it is not fed any more after a refusal."""
    reader, items = RequestReader(ours, MAX_BODY), list[Item]()
    for part in parts:
        reader.feed(part)
        while (item := reader.next()) is not None:
            items.append(item)
            if isinstance(item, Refused):
                return items
    return items


@pytest.mark.parametrize("row", ACCEPTED, ids=[row.name for row in ACCEPTED])
def test_accepted(row: Accepted) -> None:
    assert read([row.sent]) == row.requests
    assert read(octets(row.sent)) == row.requests


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_refused(row: Refusal) -> None:
    for parts in ([row.sent], octets(row.sent)):
        items = read(parts)
        assert [type(item) for item in items] == [Request] * row.after + [Refused]
        refused = items[-1]
        assert isinstance(refused, Refused)
        assert (refused.error.status, refused.error.close) == (row.status, True)


def test_every_row_has_a_name_of_its_own() -> None:
    for rows in (ACCEPTED, REFUSED):
        assert len({row.name for row in rows}) == len(rows)


# --- requests of the hosted application ------------------------------------------------------------------------------

THEIRS = [
    head("GET / HTTP/1.1", "Host: h"),
    head("GET /our HTTP/1.1"),
    head("POST /theirs?a=/ours HTTP/1.1", "Content-Length: 5") + b"abcde",
    head("POST /theirs HTTP/1.1", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    head("POST /theirs HTTP/1.1", "Content-Length: 999999", "Expect: 100-continue"),
    head("GET http://h/theirs HTTP/1.1", "Host: h"),
    head("GET http://h HTTP/1.1", "Host: h"),
    head("OPTIONS * HTTP/1.1", "Host: h"),
    head("GET /chat HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x80mask",
    head("GET /theirs HTTP/1.0"),
]


@pytest.mark.parametrize("request_", THEIRS, ids=lambda data: data.split(b"\r")[0].decode())
def test_what_is_not_claimed_is_handed_over_to_the_byte(request_: bytes) -> None:
    behind = GET + b"GET /half"
    assert read([request_ + behind]) == [Foreign(request_ + behind)]
    assert read([GET + POST + request_ + behind])[2:] == [Foreign(request_ + behind)]


def test_the_reader_is_empty_after_a_hand_over_and_can_go_on() -> None:
    reader = RequestReader(ours, MAX_BODY)
    reader.feed(GET + THEIRS[0])
    assert [reader.next(), reader.next(), reader.next()] == [get(), Foreign(THEIRS[0]), None]
    assert not reader.in_request
    reader.feed(POST)
    assert reader.next() == post(b"abc", content_length="3")


def test_empty_lines_before_a_foreign_request_do_no_harm() -> None:
    handed_over = read([b"\r\n\r\n" + THEIRS[0]])
    assert [item.data.lstrip(b"\r\n") for item in handed_over if isinstance(item, Foreign)] == [THEIRS[0]]


def test_frames_behind_an_upgrade_are_left_for_the_websocket() -> None:
    reader = RequestReader(ours, MAX_BODY)
    reader.feed(head("GET /ours HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket") + b"\x81\x80mask")
    assert reader.next() == get(connection="Upgrade", upgrade="websocket")
    assert reader.rest() == b"\x81\x80mask"
    assert reader.rest() == b""


# --- Expect: 100-continue --------------------------------------------------------------------------------------------

EXPECTING = {
    "length": (head("POST /ours HTTP/1.1", "Content-Length: 3", "Expect: 100-Continue"), b"abc"),
    "chunked": (
        head("POST /ours HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue"),
        b"3\r\nabc\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("start", "body"), EXPECTING.values(), ids=EXPECTING)
class TestExpect:
    def test_the_client_is_told_once_to_go_on(self, start: bytes, body: bytes) -> None:
        first, *others = read([start, *octets(body), *octets(start), body])
        assert first == Continue()
        assert [type(item) for item in others] == [Request, Continue, Request]
        assert [item.body for item in others if isinstance(item, Request)] == [b"abc", b"abc"]

    def test_a_body_that_is_there_needs_no_word(self, start: bytes, body: bytes) -> None:
        assert [type(item) for item in read([start + body])] == [Request]


@pytest.mark.parametrize(
    "start",
    [
        head("POST /ours HTTP/1.0", "Content-Length: 3", "Expect: 100-continue"),  # RFC 9110 section 10.1.1: ignored
        head("POST /ours HTTP/1.1", "Content-Length: 3", "Expect: something"),
        head("POST /ours HTTP/1.1", "Content-Length: 3"),
    ],
    ids=["HTTP/1.0", "something else", "nothing"],
)
def test_nobody_else_is_told_to_go_on(start: bytes) -> None:
    assert [type(item) for item in read([start, b"abc"])] == [Request]


def test_nothing_is_expected_of_a_request_without_a_body() -> None:
    assert [type(item) for item in read([head("GET /ours HTTP/1.1", "Expect: 100-continue")])] == [Request]


# --- where the reader stands -----------------------------------------------------------------------------------------


def test_the_reader_knows_where_it_stands() -> None:
    reader = RequestReader(ours, MAX_BODY)
    steps = []
    body = (chunked(b"3\r\na"), b"bc\r\n0\r\n", b"\r\n")
    for part in (b"", b"\r\n", POST[:1], POST[1:-3], POST[-3:-1], POST[-1:], *body):
        reader.feed(part)
        reader.next()
        steps.append((reader.in_request, reader.in_body))
    nothing, in_head, in_body = (False, False), (True, False), (True, True)
    assert steps == [nothing, nothing, in_head, in_body, in_body, nothing, in_body, in_body, nothing]


# --- what another reader goes on with --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ACCEPTED, ids=[row.name for row in ACCEPTED])
def test_another_reader_may_go_on_between_bodies(row: Accepted) -> None:
    reader, items = RequestReader(ours, MAX_BODY), list[Item]()
    for octet in octets(row.sent):
        if not reader.in_body:
            unread, other = reader.unread, RequestReader(ours, MAX_BODY)
            assert reader.unread == unread  # it is not taken
            other.feed(unread)
            reader = other
        reader.feed(octet)
        while (item := reader.next()) is not None:
            items.append(item)
    assert items == row.requests
