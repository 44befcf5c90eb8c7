"""TLS in the worker: WebSocket, REST and hosted pages, whichever way the certificate was configured."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.support.client import CLOSE, Client, frame
from tests.support.eventually import eventually
from tests.support.rest import Answer, Rest, signed
from tests.support.server import ONE_APP, Server

MIB = 1024 * 1024
APPS = [{**ONE_APP, "max_message_size": MIB}]
#: A handshake must fit into it on a busy machine too.
HANDSHAKE_TIMEOUT_S = 3
SETTINGS: dict[str, object] = {
    "handshake_timeout": HANDSHAKE_TIMEOUT_S,
    "max_request_size": MIB,
    "max_send_buffer": 8 * MIB,
}


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A client's context that trusts nobody but our authority, and the directory with the server's files."""
    authority, directory = trustme.CA(), tmp_path_factory.mktemp("certificates")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for index, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(directory / "cert.pem", append=index > 0)
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    return context, directory


@pytest.fixture(scope="module", params=["options.tls", "gunicorn"])
def server(
    request: pytest.FixtureRequest, trust: tuple[ssl.SSLContext, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The same server with TLS from resonate.toml, and from gunicorn's options."""
    cert, key = str(trust[1] / "cert.pem"), str(trust[1] / "key.pem")
    command, settings = None, SETTINGS
    if request.param == "gunicorn":
        command = ["gunicorn", "-k", "resonate.worker", "--bind", "127.0.0.1:{port}", "resonate:app"]
        command += ["--certfile", cert, "--keyfile", key]
    else:
        settings = {**SETTINGS, "options": {"tls": {"local_cert": cert, "local_pk": key}}}
    directory = tmp_path_factory.mktemp("tls")
    with Server(directory, apps=APPS, server=settings, command=command, scheme="https") as running:
        yield running


@pytest.fixture
def connect(server: Server, trust: tuple[ssl.SSLContext, Path]) -> Iterator[Callable[[], Client]]:
    """Makes established wss clients."""
    clients: list[Client] = []

    def new() -> Client:
        clients.append(Client(server.host, server.port, tls=trust[0]).established())
        return clients[-1]

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def rest(server: Server, trust: tuple[ssl.SSLContext, Path]) -> Iterator[Rest]:
    """A REST connection over TLS."""
    caller = Rest(server.host, server.port)
    caller.connection = http.client.HTTPSConnection(server.host, server.port, timeout=20, context=trust[0])
    yield caller
    caller.close()


@pytest.fixture
def bystander(connect: Callable[[], Client]) -> Iterator[Client]:
    """A client that must not notice what the test does to others."""
    client = connect()
    yield client
    assert client.barrier() == []


Connect = Callable[[], Client]


def get(rest: Rest, path: str) -> Answer:
    rest.connection.request("GET", path)
    response = rest.connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def dial(server: Server) -> socket.socket:
    """A connection without TLS."""
    sock = socket.create_connection((server.host, server.port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def to_the_end(sock: socket.socket) -> bytes:
    """All that comes until the server ends the connection, by a reset or not."""
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


# --- what works without TLS works with it ----------------------------------------------------------------------------


def test_publications_reach_subscribers(connect: Connect, rest: Rest) -> None:
    one, two = connect(), connect()
    for client in (one, two):
        assert client.subscribed("private-news") == {}
    for number in range(3):
        assert rest.publish("private-news", "e", str(number)).json() == {}
        expected = {"event": "e", "data": str(number), "channel": "private-news"}
        assert one.event() == two.event() == expected
    one.send("client-typing", {"x": 1}, channel="private-news")
    assert two.event() == {"event": "client-typing", "channel": "private-news", "data": {"x": 1}}
    assert rest.call("GET", "/connections").json() == {"connections": 2}


def test_http_and_the_start_page_on_one_connection(rest: Rest) -> None:
    eventually(lambda: get(rest, "/up").status == 200)  # it may be that of a worker that has just begun
    for _ in range(2):
        assert get(rest, "/up").json() == {"health": "OK"}
        page = get(rest, "/")
        assert page.status == 200
        assert len(page.body) == int(page.headers["content-length"])
        assert page.body.rstrip().lower().endswith(b"</html>")
        assert rest.call("GET", "/channels").json() == {"channels": {}}


@pytest.mark.parametrize("size", [16_000, 16_384, 16_385, 65_536, 200_000, 1_000_000])
def test_messages_over_the_size_of_a_record(connect: Connect, rest: Rest, size: int) -> None:
    """TLS carries at most 16 KiB in one record, and OpenSSL may take less than it is given."""
    sender, receiver = connect(), connect()
    for client in (sender, receiver):
        client.subscribed("private-large")
    data = "0123456789abcdef" * (size // 16)
    sender.send("client-large", {"x": data}, channel="private-large")
    assert receiver.event()["data"] == {"x": data}
    assert rest.publish("private-large", "e", data).json() == {}
    assert receiver.event()["data"] == sender.event()["data"] == data


def test_many_messages_in_one_record(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(b'{"event":"pusher:ping"}') * 1000)
    assert [client.event()["event"] for _ in range(1000)] == ["pusher:pong"] * 1000


def test_the_end_is_announced(connect: Connect) -> None:
    """Without a close_notify the client could not tell the end from an attack; Python raises SSLEOFError then."""
    client = connect()
    client.send_raw(frame((1000).to_bytes(2, "big"), CLOSE))
    assert client.closed() == 1000


def test_pings_over_tls_are_answered_octet_by_octet(connect: Connect) -> None:
    client = connect()
    for octet in frame(b'{"event":"pusher:ping"}'):
        client.send_raw(bytes([octet]))
    assert client.event() == {"event": "pusher:pong"}


def test_http_1_1_is_what_is_negotiated(server: Server, trust: tuple[ssl.SSLContext, Path]) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(dial(server)) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"


# --- a client's end of the connection, byte by byte ------------------------------------------------------------------


class Tls:
    """The client's side of TLS without a socket: says what would be sent, and takes what was received."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def shake_hands(self, sock: socket.socket) -> Tls:
        while True:
            try:
                self.object.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing.read())
                self.incoming.write(sock.recv(65536))
        sock.sendall(self.outgoing.read())
        return self

    def hello(self) -> bytes:
        """The first flight of a handshake."""
        with pytest.raises(ssl.SSLWantReadError):
            self.object.do_handshake()
        return self.outgoing.read()

    def encrypted(self, data: bytes) -> bytes:
        self.object.write(data)
        return self.outgoing.read()

    def close_notify(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.object.unwrap()
        return self.outgoing.read()

    def decrypted(self, data: bytes) -> bytes:
        """All that was sent, up to the close_notify, which must be there."""
        self.incoming.write(data)
        found = b""
        while True:
            try:
                plain = self.object.read(65536)
            except ssl.SSLZeroReturnError:
                return found
            if not plain:
                return found
            found += plain


def test_records_and_handshakes_in_pieces(server: Server, trust: tuple[ssl.SSLContext, Path]) -> None:
    with dial(server) as sock:
        tls = Tls(trust[0])
        for octet in tls.hello():
            sock.sendall(bytes([octet]))
        tls.incoming.write(sock.recv(65536))
        tls.shake_hands(sock)
        for octet in tls.encrypted(b"GET /up HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"):
            sock.sendall(bytes([octet]))
        assert tls.decrypted(to_the_end(sock)).endswith(b'\r\n\r\n{"health":"OK"}')


@pytest.mark.parametrize("target", ["/up", "/", "channels"])
def test_answers_come_after_the_client_has_ended_its_side(
    server: Server, trust: tuple[ssl.SSLContext, Path], target: str
) -> None:
    """Three requests and the close_notify at once: TLS 1.3 (RFC 8446 section 6.1) lets the server go on."""
    with dial(server) as sock:
        tls = Tls(trust[0]).shake_hands(sock)
        path = signed("GET", "/apps/app1/channels") if target == "channels" else target
        request = f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
        sock.sendall(tls.encrypted(request * 3) + tls.close_notify())
        sock.shutdown(socket.SHUT_WR)
        assert tls.decrypted(to_the_end(sock)).count(b"HTTP/1.1 200 OK\r\n") == 3


# --- clients that break rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /up HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\x00" * 100,
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        b"\x16\x03\x01\x00\x05hello",
    ],
    ids=["plain HTTP", "zeros", "a long record", "no ClientHello"],
)
def test_what_is_not_tls_is_closed(server: Server, bystander: Client, sent: bytes) -> None:
    with dial(server) as sock:
        sock.sendall(sent)
        assert b"HTTP/1.1 200" not in to_the_end(sock)


def test_rubbish_after_the_handshake_is_closed(
    server: Server, trust: tuple[ssl.SSLContext, Path], bystander: Client
) -> None:
    with dial(server) as sock:
        Tls(trust[0]).shake_hands(sock)
        sock.sendall(b"rubbish" * 10)
        to_the_end(sock)


def test_a_client_that_does_not_trust_the_server(server: Server, bystander: Client) -> None:
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        ssl.create_default_context().wrap_socket(dial(server), server_hostname="localhost"),
    ):
        pass


def test_handshakes_that_do_not_end_are_cut(
    server: Server, trust: tuple[ssl.SSLContext, Path], bystander: Client
) -> None:
    """Clients that stop after nothing, one octet, some octets, and after the whole handshake, all at once."""
    hello = Tls(trust[0]).hello()
    with ExitStack() as stack:
        unfinished = [stack.enter_context(dial(server)) for _ in range(3)]
        for sock, octets in zip(unfinished, (0, 1, 100), strict=True):
            sock.sendall(hello[:octets])
        silent = stack.enter_context(dial(server))
        tls = Tls(trust[0]).shake_hands(silent)
        assert [to_the_end(sock) for sock in unfinished] == [b"", b"", b""]
        assert tls.decrypted(to_the_end(silent)) == b""


def test_a_client_that_vanishes_gives_its_place_back(connect: Connect, rest: Rest) -> None:
    client = connect()
    client.subscribed("gone")
    assert rest.call("GET", "/channels/gone").json()["occupied"]
    client.socket.close()
    eventually(lambda: not rest.call("GET", "/channels/gone").json()["occupied"])


def test_nothing_has_gone_wrong_in_the_worker(server: Server) -> None:
    """The last test of the module, on purpose: what has been done above must not have left a traceback."""
    log = server.log()
    assert "Traceback" not in log, log
