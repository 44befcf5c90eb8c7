"""Requests as bytes, and what the reader makes of them.

Each row is fed whole and byte by byte. Paths below /ours are claimed; the longest body is MAX_BODY bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from resonate.http import Request

MAX_BODY = 100
MAX_HEAD = 16 * 1024


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"


def get(target: str = "/ours", version: str = "1.1", **headers: str) -> Request:
    """What is expected of a GET; the names of headers are written with underscores."""
    path, _, query = target.partition("?")
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", path, query, version, fields, b"", version == "1.1", path)


def post(body: bytes, **headers: str) -> Request:
    return get(**headers)._replace(method="POST", body=body)


def chunked(*parts: bytes) -> bytes:
    """A chunked request with these pieces as its body, as they are."""
    return head("POST /ours HTTP/1.1", "Transfer-Encoding: chunked") + b"".join(parts)


CHUNKED = {"transfer_encoding": "chunked"}
GET, POST = head("GET /ours HTTP/1.1"), head("POST /ours HTTP/1.1", "Content-Length: 3") + b"abc"


class Accepted(NamedTuple):
    name: str
    sent: bytes
    requests: list[Request]


ACCEPTED: list[Accepted] = [
    # heads
    Accepted("no headers", GET, [get()]),
    Accepted("nothing", b"", []),
    Accepted("half a head", GET[:-1], []),
    Accepted("half a body", POST[:-1], []),
    Accepted("query", head("GET /ours?a=b&c=%20 HTTP/1.1"), [get("/ours?a=b&c=%20")]),
    Accepted("query with a question mark and slashes", head("GET /ours?a=/b?c HTTP/1.1"), [get("/ours?a=/b?c")]),
    Accepted("path stays encoded", head("GET /ours/%2F%C3%A9 HTTP/1.1"), [get("/ours/%2F%C3%A9")]),
    Accepted("two slashes", head("GET /ours//x HTTP/1.1"), [get("/ours//x")]),
    Accepted("absolute form", head("GET http://h:80/ours?a=b HTTP/1.1", "Host: h"), [get("/ours?a=b", host="h")]),
    Accepted("absolute form, https", head("GET https://h/ours HTTP/1.1"), [get()]),
    Accepted(
        "header names in any case", head("GET /ours HTTP/1.1", "X-ONE: A", "x-Two: b"), [get(x_one="A", x_two="b")]
    ),
    Accepted("space around values", head("GET /ours HTTP/1.1", "A: \t b c \t"), [get(a="b c")]),
    Accepted("no space before a value", head("GET /ours HTTP/1.1", "A:b"), [get(a="b")]),
    Accepted("empty value", head("GET /ours HTTP/1.1", "A:", "B: "), [get(a="", b="")]),
    Accepted("a header twice", head("GET /ours HTTP/1.1", "A: b", "C: d", "a: e"), [get(a="b, e", c="d")]),
    Accepted("Latin-1 in a value", head("GET /ours HTTP/1.1", "A: \xe9"), [get(a="\xe9")]),
    Accepted("empty lines before", b"\r\n\r\n" + GET + b"\r\n" + GET, [get(), get()]),
    Accepted("only empty lines", b"\r\n" * 50, []),
    Accepted(
        "every method",
        b"".join(head(f"{method} /ours HTTP/1.1") for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")),
        [get()._replace(method=method) for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")],
    ),
    Accepted(
        "the longest head",
        head("GET /ours HTTP/1.1", "A: " + "x" * (MAX_HEAD - len(head("GET /ours HTTP/1.1", "A: ")))),
        [get(a="x" * (MAX_HEAD - len(head("GET /ours HTTP/1.1", "A: "))))],
    ),
    # whether the connection goes on
    Accepted(
        "close", head("GET /ours HTTP/1.1", "Connection: close"), [get(connection="close")._replace(keep_alive=False)]
    ),
    Accepted(
        "close in a list",
        head("GET /ours HTTP/1.1", "Connection: TE, Close"),
        [get(connection="TE, Close")._replace(keep_alive=False)],
    ),
    Accepted(
        "close with a body",
        head("POST /ours HTTP/1.1", "Connection: close", "Content-Length: 1") + b"x",
        [post(b"x", connection="close", content_length="1")._replace(keep_alive=False)],
    ),
    Accepted("keep-alive", head("GET /ours HTTP/1.1", "Connection: keep-alive"), [get(connection="keep-alive")]),
    Accepted("HTTP/1.0", head("GET /ours HTTP/1.0"), [get(version="1.0")]),
    Accepted(
        "HTTP/1.0 that stays",
        head("GET /ours HTTP/1.0", "Connection: keep-alive"),
        [get(version="1.0", connection="keep-alive")._replace(keep_alive=True)],
    ),
    Accepted(
        "HTTP/1.0 that stays, with a body",
        head("POST /ours HTTP/1.0", "Connection: Keep-Alive", "Content-Length: 1") + b"x",
        [post(b"x", version="1.0", connection="Keep-Alive", content_length="1")._replace(keep_alive=True)],
    ),
    # bodies of known length
    Accepted("a body", POST, [post(b"abc", content_length="3")]),
    Accepted("a body of nothing", head("POST /ours HTTP/1.1", "Content-Length: 0"), [post(b"", content_length="0")]),
    Accepted("no length is no body", head("POST /ours HTTP/1.1") + GET, [post(b""), get()]),
    Accepted("zeros before a length", POST.replace(b": 3", b": 003"), [post(b"abc", content_length="003")]),
    Accepted(
        "a body of a GET", POST.replace(b"POST", b"GET"), [post(b"abc", content_length="3")._replace(method="GET")]
    ),
    Accepted(
        "the longest body",
        head("POST /ours HTTP/1.1", f"Content-Length: {MAX_BODY}") + b"\r\n" * (MAX_BODY // 2),
        [post(b"\r\n" * (MAX_BODY // 2), content_length=str(MAX_BODY))],
    ),
    Accepted(
        "a request as a body",
        head("POST /ours HTTP/1.1", f"Content-Length: {len(GET)}") + GET + GET,
        [post(GET, content_length=str(len(GET))), get()],
    ),
    # chunked bodies
    Accepted("one chunk", chunked(b"3\r\nabc\r\n", b"0\r\n\r\n"), [post(b"abc", **CHUNKED)]),
    Accepted("two chunks", chunked(b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"), [post(b"abcde", **CHUNKED)]),
    Accepted("no chunks", chunked(b"0\r\n\r\n"), [post(b"", **CHUNKED)]),
    Accepted(
        "sizes in hexadecimal",
        chunked(b"a\r\n0123456789\r\n", b"0B\r\nabcdefghijk\r\n", b"0\r\n\r\n"),
        [post(b"0123456789abcdefghijk", **CHUNKED)],
    ),
    Accepted("zeros before a size", chunked(b"0003\r\nabc\r\n", b"000\r\n\r\n"), [post(b"abc", **CHUNKED)]),
    Accepted("extensions", chunked(b'3;a=b;c="d e"\r\nabc\r\n', b"0;last\r\n\r\n"), [post(b"abc", **CHUNKED)]),
    Accepted(
        "trailers are dropped",
        chunked(b"1\r\na\r\n", b"0\r\nExpires: now\r\nX: y\r\n\r\n") + GET,
        [post(b"a", **CHUNKED), get()],
    ),
    Accepted(
        "empty lines in a chunk",
        chunked(b"8\r\n\r\n\r\n\r\n\r\n\r\n", b"0\r\n\r\n") + GET,
        [post(b"\r\n" * 4, **CHUNKED), get()],
    ),
    Accepted(
        "the end of a body in a chunk",
        chunked(b"7\r\n\r\n0\r\n\r\n\r\n", b"0\r\n\r\n") + GET,
        [post(b"\r\n0\r\n\r\n", **CHUNKED), get()],
    ),
    Accepted(
        "the start of an empty line at the end",
        chunked(b"3\r\na\r\n\r\n", b"0\r\n\r\n") + GET,
        [post(b"a\r\n", **CHUNKED), get()],
    ),
    Accepted(
        "the name in capitals",
        chunked(b"0\r\n\r\n").replace(b"chunked", b"Chunked"),
        [post(b"", transfer_encoding="Chunked")],
    ),
    Accepted(
        "as much as is allowed, in single bytes",
        chunked(b"1\r\nx\r\n" * MAX_BODY, b"0\r\n\r\n"),
        [post(b"x" * MAX_BODY, **CHUNKED)],
    ),
    Accepted("half a chunk", chunked(b"3\r\nab"), []),
    Accepted("no end of the trailers", chunked(b"3\r\nabc\r\n", b"0\r\n"), []),
    # an upgrade that is not the parser's business
    Accepted(
        "an upgrade, and what follows it",
        head("GET /ours HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"),
        [get(connection="Upgrade", upgrade="websocket")],
    ),
    Accepted(
        "an upgrade that is ignored, with a body",
        head("POST /ours HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 3") + b"abc" + GET,
        [post(b"abc", connection="Upgrade", upgrade="h2c", content_length="3"), get()],
    ),
    Accepted(
        "an upgrade that is ignored, with a chunked body",  # as Java's HttpClient asks for HTTP/2
        head("POST /ours HTTP/1.1", "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked")
        + b"3\r\nabc\r\n0\r\n\r\n"
        + GET,
        [post(b"abc", connection="Upgrade", upgrade="h2c", **CHUNKED), get()],
    ),
    # pipelining
    Accepted("two", GET + GET, [get(), get()]),
    Accepted(
        "a mix",
        GET + POST + chunked(b"3\r\nabc\r\n0\r\n\r\n") + GET + POST + chunked(b"0\r\nA: b\r\n\r\n") + GET,
        [
            get(),
            post(b"abc", content_length="3"),
            post(b"abc", **CHUNKED),
            get(),
            post(b"abc", content_length="3"),
            post(b"", **CHUNKED),
            get(),
        ],
    ),
]


class Refusal(NamedTuple):
    """`after` are the requests before the one that is refused."""

    name: str
    sent: bytes
    status: int
    after: int = 0


def _length(*values: str) -> bytes:
    return head("POST /ours HTTP/1.1", *(f"Content-Length: {value}" for value in values)) + b"abc"


def _coding(*values: str) -> bytes:
    return head("POST /ours HTTP/1.1", *(f"Transfer-Encoding: {value}" for value in values)) + b"3\r\nabc\r\n0\r\n\r\n"


def _line(line: bytes) -> bytes:
    return b"GET /ours HTTP/1.1\r\n" + line + b"\r\n\r\n"


_END = b"3\r\nabc\r\n0\r\n\r\n"

REFUSED: list[Refusal] = [
    # which length holds?
    Refusal("both lengths", head("POST /ours HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: chunked") + _END, 400),
    Refusal(
        "both, the other way round",
        head("POST /ours HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 3") + _END,
        400,
    ),
    Refusal(
        "both, and after a good request",
        GET + head("POST /ours HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: chunked"),
        400,
        1,
    ),
    Refusal("two lengths", _length("3", "4"), 400),
    Refusal("the same length twice", _length("3", "3"), 400),
    Refusal("a list of lengths", _length("3, 3"), 400),
    *(
        Refusal(f"length {value!r}", _length(value), 400)
        for value in ("", "-3", "+3", "0x3", "3a", "3 3", "3.0", "3_0", "\xb3")
    ),
    Refusal("length over 64 bits", _length("9" * 30), 400),
    Refusal("space before the colon of a length", head("POST /ours HTTP/1.1", "Content-Length : 3") + b"abc", 400),
    # which coding holds?
    *(
        Refusal(f"coding {value!r}", _coding(value), 400)
        for value in (
            "identity",
            "gzip",
            "gzip, chunked",
            "chunked, gzip",
            "chunked, chunked",
            "xchunked",
            "chunkedx",
            "\x0bchunked",
            '"chunked"',
            "chunked;q=1",
            "chunked,",
            ",chunked",
            "chunked\x00",
        )
    ),
    Refusal("coding twice", _coding("chunked", "chunked"), 400),
    Refusal("identity, then chunked", _coding("identity", "chunked"), 400),
    Refusal("chunked, then identity", _coding("chunked", "identity"), 400),
    Refusal(
        "space before the colon of a coding", head("POST /ours HTTP/1.1", "Transfer-Encoding : chunked") + _END, 400
    ),
    Refusal("chunked in HTTP/1.0", head("POST /ours HTTP/1.0", "Transfer-Encoding: chunked") + _END, 400),
    # lines
    Refusal("a folded header", _line(b"A: b\r\n c"), 400),
    Refusal("a folded header, with a tab", _line(b"A: b\r\n\tc"), 400),
    Refusal("a folded coding", _line(b"Transfer-Encoding:\r\n chunked"), 400),
    Refusal("space before the first header", _line(b" A: b"), 400),
    Refusal("LF after the request line", b"GET /ours HTTP/1.1\nA: b\r\n\r\n", 400),
    Refusal("LF after a header", _line(b"A: b\nC: d"), 400),
    Refusal("LF only, and a request behind it", b"GET /ours HTTP/1.1\nA: b\n\n" + GET, 400),
    Refusal("an empty line of LF", b"GET /ours HTTP/1.1\r\nA: b\r\n\n" + GET, 400),
    Refusal("CR in a value", _line(b"A: b\rc"), 400),
    Refusal("CR only", b"GET /ours HTTP/1.1\rA: b\r\r\n\r\n", 400),
    Refusal("NUL in a value", _line(b"A: b\x00c"), 400),
    *(
        Refusal(f"header {line!r}", _line(line), 400)
        for line in (b": b", b"A", b"A b: c", b"A(: b", b"A\x00: b", b"\xe9: b", b"A[1]: b")
    ),
    # request lines
    *(
        Refusal(f"request line {line!r}", line + b"\r\n\r\n", 400)
        for line in (
            b"GET /ours",
            b"GET",
            b"GET /ours HTTP/0.9",
            b"GET /ours HTTP/1.2",
            b"GET /ours HTTP/2.0",
            b"GET /ours HTTP/11",
            b"GET /ours HTTP/1.1 x",
            b"GET /o urs HTTP/1.1",
            b"GET /o\x00 HTTP/1.1",
            b"GET ours HTTP/1.1",
            b"GET\t/ours HTTP/1.1",
            b"get /ours HTTP/1.1",
            b"FOO /ours HTTP/1.1",
            b"GET /ours http/1.1",
            b"PRI * HTTP/2.0",
            b"GET \\ours HTTP/1.1",
            b" GET /ours HTTP/1.1",
            b"CONNECT ours:443 HTTP/1.1",
            b"DESCRIBE /ours RTSP/1.0",
            b"SOURCE /ours ICE/1.0",
            b"GET /\xc3\xa9 HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"\x00",
            b"\x80\xff",
        )
    ),
    # chunks
    *(
        Refusal(f"chunk {chunk!r}", chunked(chunk, b"0\r\n\r\n"), 400)
        for chunk in (
            b"-1\r\nabc\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"\r\nabc\r\n",
            b"g\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b" 3\r\nabc\r\n",
            b"3\nabc\r\n",
            b"3\r\nabc\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc0\r\n",
            b"3\rabc\r\n",
            b"3\r\rabc\r\n",
            b"3;a\nb\r\nabc\r\n",
            b"3;\x00\r\nabc\r\n",
            b"1_0\r\nabc\r\n",
            b"f" * 17 + b"\r\nabc\r\n",
        )
    ),
    Refusal("an end of LF", chunked(b"3\r\nabc\r\n0\n\n") + GET, 400),
    Refusal("an end of CRLF and LF", chunked(b"3\r\nabc\r\n0\r\n\n") + GET, 400),
    Refusal("a trailer that is not a header", chunked(b"3\r\nabc\r\n0\r\nrubbish\r\n\r\n"), 400),
    Refusal("a request in place of trailers", chunked(b"3\r\nabc\r\n0\r\n") + GET, 400),
    # sizes
    Refusal("a head of a byte too many", head("GET /ours HTTP/1.1", "A: " + "x" * MAX_HEAD), 431),
    Refusal("a head without an end", b"GET /ours HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD // 6), 431),
    Refusal("an endless request line", b"GET /ours?" + b"x" * MAX_HEAD, 431),
    Refusal("a body of a byte too many", head("POST /ours HTTP/1.1", f"Content-Length: {MAX_BODY + 1}"), 413),
    Refusal("a huge body", head("POST /ours HTTP/1.1", "Content-Length: 18446744073709551615"), 413),
    Refusal(
        "a huge body, and the client asks",
        head("POST /ours HTTP/1.1", "Content-Length: 999999", "Expect: 100-continue"),
        413,
    ),
    Refusal("chunks of a byte too many", chunked(b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n"), 413),
    Refusal("single bytes, one too many", chunked(b"1\r\nx\r\n" * (MAX_BODY + 1)), 413),
    Refusal("endless chunk extensions", chunked(b"1;" + b"x" * (MAX_HEAD + 8 * MAX_BODY)), 413),
    Refusal("endless trailers", chunked(b"0\r\n" + b"A: b\r\n" * (MAX_HEAD // 6 + 8 * MAX_BODY)), 413),
    Refusal("a good one first", POST + GET + head("POST /ours HTTP/1.1", "Content-Length: 101"), 413, 2),
]
