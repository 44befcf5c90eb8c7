"""Properties of the reader that hold for whatever a client sends, found by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.http import Continue, Foreign, Refused, Request, RequestReader
from tests.http.corpus import ACCEPTED, GET, REFUSED

MAX_BODY = 300
#: What the buffers may hold beyond what one feed brings: a head, and a body.
BOUND = 16 * 1024 + MAX_BODY

paths = st.text("abc/%-.", max_size=10).map(lambda text: f"/ours/{text}")
queries = st.text("abc=&%?/", max_size=10)
values = st.text("abc \t,;=\xe9", max_size=10).map(lambda text: text.strip(" \t"))
#: Bodies that look like framing are the ones that could mislead the reader.
misleading = st.sampled_from([b"\r", b"\n", b"0", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"3\r\n", b"x", GET])
bodies = st.one_of(st.binary(max_size=60), st.lists(misleading, max_size=9).map(b"".join))


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in chunks of any size, with extensions and trailers now and then."""
    parts = []
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from(["", "", ";a", ";a=b", ';a="b c"']))
        form = draw(st.sampled_from(["x", "X", "03x"]))
        parts.append(f"{size:{form}}{extension}\r\n".encode() + body[:size] + b"\r\n")
        body = body[size:]
    trailers = draw(st.sampled_from(["", "", "A: b\r\n", "A: b\r\nC: 0\r\n"]))
    return b"".join(parts) + f"0\r\n{trailers}\r\n".encode()


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, Request]:
    """The bytes of a request, and the request."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]))
    path, query, body = draw(paths), draw(queries), draw(bodies)
    headers = draw(st.dictionaries(st.sampled_from(["Host", "X-One", "x-two", "Accept"]), values, max_size=3))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        body = encoded = b""
    elif framing == "length":
        headers["Content-Length"], encoded = str(len(body)), body
    else:
        headers["Transfer-Encoding"], encoded = "chunked", draw(chunked(body))
    target = f"{path}?{query}" if query else path
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sent = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + encoded
    fields = {name.lower(): value for name, value in headers.items()}
    return sent, Request(method, path, query, "1.1", fields, body, True, path)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted(place % (len(data) + 1) for place in at)
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def read(parts: list[bytes], claim: str = "/") -> list[object]:
    reader = RequestReader(lambda path: path if path.startswith(claim) else None, MAX_BODY)
    items: list[object] = []
    for part in parts:
        reader.feed(part)
        while (item := reader.next()) is not None:
            items.append(item)
            if isinstance(item, Refused | Foreign):
                return items
        assert len(reader._buffer) <= BOUND
    return items


cuts = st.lists(st.integers(0, 10_000), max_size=15)


@given(st.lists(exchanges(), max_size=6), cuts)
def test_requests_come_as_they_were_sent(sent: list[tuple[bytes, Request]], at: list[int]) -> None:
    stream = b"".join(data for data, _ in sent)
    assert read(cut(stream, at)) == [request for _, request in sent]


@given(st.lists(exchanges(), max_size=3), exchanges(), st.binary(max_size=50))
def test_a_foreign_request_is_handed_over_with_all_that_follows(
    sent: list[tuple[bytes, Request]], foreign: tuple[bytes, Request], behind: bytes
) -> None:
    theirs = foreign[0].replace(b" /ours", b" /theirs", 1) + behind
    stream = b"".join(data for data, _ in sent) + theirs
    assert read([stream], "/ours") == [*(request for _, request in sent), Foreign(theirs)]


def acted_upon(items: list[object]) -> list[object]:
    """What must not depend on the cuts: when a client is told to go on does, and so does the wording of a refusal."""
    return [Refused if isinstance(item, Refused) else item for item in items if not isinstance(item, Continue)]


rows = st.sampled_from([*(row.sent[:2000] for row in ACCEPTED), *(row.sent[:2000] for row in REFUSED)])
sent_bytes = exchanges().map(lambda pair: pair[0])
rubbish = st.lists(st.one_of(rows, st.binary(max_size=30), sent_bytes), max_size=5).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stream in which a few bytes have been replaced."""
    data = bytearray(draw(rubbish))
    for place, octet in draw(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3)):
        if data:
            data[place % len(data)] = octet
    return bytes(data)


@given(st.one_of(st.binary(max_size=400), damaged()), cuts)
def test_arbitrary_bytes_never_raise_and_cuts_are_not_seen(data: bytes, at: list[int]) -> None:
    assert acted_upon(read(cut(data, at))) == acted_upon(read([data]))
