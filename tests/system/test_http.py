"""HTTP/1.1 over real sockets: connections that stay, requests in a row, bodies of every framing, clients that dawdle.

`/up` and the REST API are answered by the event loop, the start page at `/` by gunicorn's request handling; one
connection may mix them, as a reverse proxy does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.client import Client
from tests.support.rest import Answer, Rest, signed
from tests.support.server import HOSTS, ONE_APP, Server

UP = b'{"health":"OK"}' if HOSTS == 1 else b'{"health":"OK","scaling":"ok"}'


def request(method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def event(channel: str, number: int = 1) -> bytes:
    return f'{{"name":"e","channel":"{channel}","data":"{number}"}}'.encode()


def publication(channel: str, number: int = 1) -> bytes:
    body = event(channel, number)
    return request("POST", signed("POST", "/apps/app1/events", body), body=body)


def channels() -> bytes:
    return request("GET", signed("GET", "/apps/app1/channels"))


class Connection:
    """One TCP connection to a server; answers are taken off it one by one."""

    def __init__(self, server: Server, timeout: float = 20) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream: IO[bytes] = self.socket.makefile("rb")

    def send(self, data: bytes) -> Connection:
        self.socket.sendall(data)
        return self

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, without what comes after it."""
        status = int(self.stream.readline().split()[1])
        headers = {}
        while (line := self.stream.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, value = line.split(": ", 1)
            headers[name.lower()] = value
        size = 0 if head_only or status == 100 else int(headers["content-length"])
        return Answer(status, headers, self.stream.read(size))

    def statuses(self, count: int) -> list[int]:
        return [self.answer().status for _ in range(count)]

    def ended(self) -> bool:
        """Whether the server ends the connection, in good order and with nothing more to say."""
        return self.stream.read() == b""

    def half_close(self) -> Connection:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


Dial = Callable[..., Connection]


@pytest.fixture
def dial(server: Server) -> Iterator[Dial]:
    """Opens connections to the module's server, or to another; closes them after the test."""
    opened: list[Connection] = []

    def new(other: Server | None = None) -> Connection:
        opened.append(Connection(other or server))
        return opened[-1]

    yield new
    for connection in opened:
        connection.close()


# --- connections that stay -------------------------------------------------------------------------------------------


def test_keep_alive(dial: Dial) -> None:
    connection = dial()
    for _ in range(3):
        answer = connection.send(request("GET", "/up")).answer()
        assert (answer.status, answer.body) == (200, UP)
        assert answer.headers["content-type"] == "application/json"
        assert "connection" not in answer.headers
        assert connection.send(channels()).answer().json() == {"channels": {}}
        page = connection.send(request("GET", "/")).answer()
        assert page.status == 200
        assert b"<!doctype html>" in page.body[:100].lower()


@pytest.mark.parametrize("target", ["/up", "/"])
def test_connection_close(dial: Dial, target: str) -> None:
    connection = dial().send(request("GET", target, "Connection: close"))
    answer = connection.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert connection.ended()


def test_connection_close_of_a_request_with_a_body(dial: Dial) -> None:
    body = event("closing")
    target = signed("POST", "/apps/app1/events", body)
    connection = dial().send(request("POST", target, "Connection: close", body=body))
    assert connection.answer().headers["connection"] == "close"
    assert connection.ended()


@pytest.mark.parametrize("target", ["/up", "/"])
def test_http_1_0_is_closed_unless_it_asks_to_stay(dial: Dial, target: str) -> None:
    connection = dial().send(request("GET", target, version="1.0"))
    assert connection.answer().status == 200
    assert connection.ended()


def test_http_1_0_that_asks_to_stay(dial: Dial) -> None:
    connection = dial()
    for _ in range(2):
        answer = connection.send(request("GET", "/up", "Connection: keep-alive", version="1.0")).answer()
        assert (answer.status, answer.headers["connection"].lower()) == (200, "keep-alive")


def test_head(dial: Dial) -> None:
    connection = dial()
    for target in ("/up", "/", "/up"):
        whole = connection.send(request("GET", target)).answer()
        head = connection.send(request("HEAD", target)).answer(head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, whole.headers["content-length"])
    target = signed("HEAD", "/apps/app1/channels")
    assert connection.send(request("HEAD", target)).answer(head_only=True).status == 200
    assert connection.send(request("GET", "/up")).answer().body == UP


# --- requests in a row -----------------------------------------------------------------------------------------------


def mixture() -> list[bytes]:
    """Requests to the loop, to shards and to the hosted page, each to be told from the others by its answer."""
    return [
        channels(),
        request("GET", "/"),
        publication("pipeline"),
        request("GET", "/up"),
        request("GET", "/"),
        request("GET", "/nowhere"),
        request("POST", "/up", body=b"x" * 100),
        request("GET", "/"),
        request("POST", "/publish", "Content-Type: application/json", body=b"{}"),
        request("GET", signed("GET", "/apps/app1/connections")),
        request("GET", "/up"),
    ]


def described(answer: Answer) -> tuple[int, str]:
    if b"<!doctype html>" in answer.body[:100].lower():
        return answer.status, "page"
    return answer.status, answer.body.decode() if answer.status == 200 else "error"


EXPECTED = [
    (200, '{"channels":{}}'),
    (200, "page"),
    (200, "{}"),
    (200, UP.decode()),
    (200, "page"),
    (404, "error"),
    (405, "error"),
    (200, "page"),
    (403, "error"),
    (200, '{"connections":0}'),
    (200, UP.decode()),
]


@pytest.mark.parametrize("size", [100_000, 1000, 50, 7], ids=lambda size: f"{size} bytes at a time")
def test_pipelined_requests_are_answered_in_order(dial: Dial, size: int) -> None:
    connection, sent = dial(), b"".join(mixture())
    for start in range(0, len(sent), size):
        connection.send(sent[start : start + size])
    assert [described(connection.answer()) for _ in EXPECTED] == EXPECTED
    assert connection.send(request("GET", "/up")).answer().body == UP


def test_a_long_pipeline_of_publications(dial: Dial, connect: Callable[..., Client]) -> None:
    subscriber, connection = connect(), dial()
    subscriber.subscribed("in-order")
    connection.send(b"".join(publication("in-order", number) for number in range(200)))
    assert connection.statuses(200) == [200] * 200
    assert [subscriber.event()["data"] for _ in range(200)] == [str(number) for number in range(200)]


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_chunked_body(dial: Dial, connect: Callable[..., Client], size: int) -> None:
    subscriber, connection = connect(), dial()
    subscriber.subscribed("chunks")
    body = event("chunks", size)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nX: y\r\n\r\n"
    head = request("POST", signed("POST", "/apps/app1/events", body), "Transfer-Encoding: chunked")
    connection.send(head + framed + request("GET", "/up"))
    assert connection.answer().body == b"{}"
    assert connection.answer().body == UP
    assert subscriber.event()["data"] == str(size)


def test_a_chunked_body_with_an_upgrade_that_is_ignored(dial: Dial) -> None:
    """Java's HttpClient offers HTTP/2 with its first request."""
    body = event("java")
    target, offer = signed("POST", "/apps/app1/events", body), ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    head = request("POST", target, *offer, "HTTP2-Settings: AAEAAEAAAA", "Transfer-Encoding: chunked")
    assert dial().send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)).answer().body == b"{}"


def test_expect_continue(dial: Dial) -> None:
    connection, body = dial(), event("expect")
    target = signed("POST", "/apps/app1/events", body)
    head = request("POST", target, "Expect: 100-continue", f"Content-Length: {len(body)}")
    for _ in range(2):
        assert connection.send(head).answer().status == 100
        assert connection.send(body).answer().body == b"{}"


def test_expect_continue_of_the_hosted_application(dial: Dial) -> None:
    connection = dial()
    head = request("POST", "/publish", "Expect: 100-continue", "Content-Length: 2", "Content-Type: application/json")
    assert connection.send(head).answer().status == 100
    assert connection.send(b"{}").answer().status == 403  # no Origin: answered, not published
    assert connection.send(request("GET", "/up")).answer().body == UP


def test_a_body_that_is_too_large_is_not_asked_for(dial: Dial) -> None:
    head = request("POST", signed("POST", "/apps/app1/events"), "Expect: 100-continue", "Content-Length: 10001")
    connection = dial().send(head)
    answer = connection.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "10000" in answer.json()["error"]
    assert connection.ended()


def test_413_can_be_read_by_a_client_that_is_still_sending(dial: Dial) -> None:
    """A reset while the client sends would take the answer away from it."""
    connection = dial()
    connection.send(request("POST", signed("POST", "/apps/app1/events"), "Content-Length: 50000000"))
    for _ in range(32):
        connection.send(b"x" * 65536)
    assert connection.answer().status == 413
    assert connection.ended()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/up", 405),
        ("DELETE", "/apps/app1/events", 405),
        ("GET", "/apps/app1/events", 405),
        ("POST", "/apps/app1/channels", 405),
        ("POST", "/app/key1", 405),
        ("GET", "/app/key1", 426),
        ("GET", "/apps/app1/nothing", 404),
        ("GET", "/apps/nobody/channels", 404),
        ("GET", "/apps/app1/channels", 401),
        ("GET", "/nowhere", 404),
        ("GET", "/favicon.ico", 404),
        ("DELETE", "/", 405),
    ],
)
def test_refusals(dial: Dial, method: str, target: str, status: int) -> None:
    answer = dial().send(request(method, target)).answer()
    assert answer.status == status
    assert ("allow" in answer.headers) == (status == 405)


def test_a_refusal_does_not_end_the_connection(dial: Dial) -> None:
    connection = dial()
    for target, status in (("/apps/app1/channels", 401), ("/apps/app1/nothing", 404), ("/nowhere", 404), ("/up", 200)):
        assert connection.send(request("GET", target)).answer().status == status


def test_a_handshake_that_fails_ends_the_connection(dial: Dial) -> None:
    handshake = request("GET", "/app/key1", "Upgrade: websocket", "Connection: Upgrade")
    connection = dial().send(handshake + request("GET", "/up"))
    assert connection.answer().status == 426
    assert connection.ended()


SMUGGLED = request("GET", "/up", "X-Smuggled: 1")


@pytest.mark.parametrize(
    "head",
    [
        request("POST", "/apps/app1/events", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request("POST", "/", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request("POST", "/apps/app1/events", "Content-Length: 0", "Content-Length: 5"),
        request("POST", "/", "Content-Length: 0", "Content-Length: 5"),
        request("POST", "/apps/app1/events", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        request("POST", "/apps/app1/events", "Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n",
        request("GET", "/up", "A: b\r\n folded"),
        b"GET /up HTTP/1.1\nHost: test\n\n",
        b"rubbish\r\n\r\n",
    ],
)
def test_what_could_smuggle_a_request_is_400_and_the_end(dial: Dial, head: bytes) -> None:
    connection = dial().send(head + SMUGGLED)
    assert connection.answer().status == 400
    assert connection.ended()


def test_a_huge_head(dial: Dial) -> None:
    connection = dial().send(request("GET", "/up", "X-Large: " + "x" * 16384))
    assert connection.answer().status == 431
    assert connection.ended()


# --- clients that end their side -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        ([request("GET", "/up")], [200]),
        ([channels()], [200]),
        ([publication("half-closed")], [200]),
        ([request("GET", "/")], [200]),
        (mixture(), [status for status, _ in EXPECTED]),
        ([request("GET", "/up"), request("GET", "/up")[:-4]], [200]),
    ],
    ids=["up", "channels", "publication", "page", "mixture", "half a request"],
)
def test_the_answers_come_after_the_client_has_ended_its_side(
    dial: Dial, sent: list[bytes], statuses: list[int]
) -> None:
    connection = dial().send(b"".join(sent)).half_close()
    assert connection.statuses(len(statuses)) == statuses
    assert connection.ended()


def test_a_client_that_ends_its_side_and_says_nothing(dial: Dial) -> None:
    assert dial().half_close().ended()


LARGE_APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "16777216")])
    return [b"x" * 16777216]
"""


def test_a_client_that_ends_its_side_while_the_application_answers(
    start: Callable[..., Server], dial: Dial, tmp_path: Path
) -> None:
    """The answers are larger than what the kernel keeps: the end of the client's side is seen before theirs."""
    (tmp_path / "large.py").write_text(LARGE_APPLICATION)
    command = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "--pythonpath", str(tmp_path)]
    connection = dial(start(command=[*command, "large:app"]))
    connection.send(request("GET", "/large") * 2 + request("GET", "/up")).half_close()
    assert [len(connection.answer().body) for _ in range(2)] == [16777216, 16777216]
    assert connection.answer().json()["health"] == "OK"
    assert connection.ended()


# --- clients that dawdle ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """gunicorn with two seconds for a head and one for the next request."""
    command = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "--keep-alive", "1", "resonate:app"]
    with Server(tmp_path_factory.mktemp("impatient"), command=command, server={"handshake_timeout": 2}) as running:
        yield running


def test_a_head_that_does_not_end(dial: Dial, impatient: Server) -> None:
    connection = dial(impatient).send(b"GET /up HTTP/1.1\r\nHost:")
    answer = connection.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert connection.ended()


def test_a_head_that_does_not_end_behind_a_good_request(dial: Dial, impatient: Server) -> None:
    connection = dial(impatient).send(request("GET", "/up") + b"GET /up")
    assert connection.statuses(2) == [200, 408]
    assert connection.ended()


def test_a_client_that_never_says_anything(dial: Dial, impatient: Server) -> None:
    assert dial(impatient).ended()


@pytest.mark.parametrize("target", ["/up", "/"])
def test_a_connection_that_has_been_idle(dial: Dial, impatient: Server, target: str) -> None:
    connection = dial(impatient).send(request("GET", target))
    assert connection.answer().status == 200
    assert connection.ended()


# --- other configurations --------------------------------------------------------------------------------------------


def test_a_path_prefix_and_several_apps(start: Callable[..., Server], dial: Dial) -> None:
    other = {"app_id": "app2", "key": "key2", "secret": "secret2"}
    server = start(apps=[ONE_APP, other], server={"path": "/realtime"}, up="/realtime/up")
    connection = dial(server)
    for target, status in (("/realtime/up", 200), ("/up", 404), ("/apps/app1/channels", 404), ("/realtime/", 200)):
        assert connection.send(request("GET", target)).answer().status == status
    with (
        Client(server.host, server.port, "/realtime/app/key1") as first,
        Client(server.host, server.port, "/realtime/app/key2", secret="secret2") as second,
    ):
        for client in (first, second):
            client.established().subscribed("news")
        rests = [
            Rest(server.host, server.port, prefix="/realtime"),
            Rest(server.host, server.port, "app2", "key2", "secret2", prefix="/realtime"),
        ]
        for number, rest in enumerate(rests):
            assert rest.publish("news", "e", str(number)).json() == {}
            assert rest.call("GET", "/connections").json() == {"connections": 1}
            rest.close()
        assert [first.event()["data"], second.event()["data"]] == ["0", "1"]
        assert first.barrier() == second.barrier() == []
    wrong = Rest(server.host, server.port, "app2", "key1", "secret1", prefix="/realtime")
    assert wrong.call("GET", "/channels").status == 401
    wrong.close()
