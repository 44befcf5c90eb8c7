"""Clients that break rules, say nothing, do not read or never end: they harm themselves, and nobody else.

A watcher in a process of its own pings, publishes and receives all the time; the figures are printed (`pytest -rP`).
The bounds are generous: they tell harm from noise, not fast from slow.
"""

from __future__ import annotations

import json
import random
import re
import resource
import socket
import struct
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from resonate.server.descriptors import KEPT, KEPT_FOR_SHARD
from tests.support.client import Client, frame
from tests.support.eventually import eventually
from tests.support.load import PATIENCE_S, Crowd, Watcher, cpu_s, descriptors, memory
from tests.support.rest import Rest, signed
from tests.support.server import ONE_APP, Server

MIB = 1024 * 1024
SERVER = {"handshake_timeout": 2, "max_send_buffer": 65536, "max_request_size": 200_000, "drain_timeout": 1}
HASTY = {"app_id": "hasty", "key": "hasty", "secret": "secret1", "ping_interval": 1}
LARGE = {"app_id": "large", "key": "large", "secret": "secret1", "max_message_size": 1_000_000}
SLOW_HEAD = b"POST /apps/app1/events HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with short patience and small buffers; all tests of this module must leave it whole."""
    with Server(tmp_path_factory.mktemp("abuse"), server=SERVER, apps=[ONE_APP, HASTY, LARGE]) as running:
        yield running


@contextmanager
def others_are_served(server: Server, title: str) -> Iterator[int]:
    """Watch that others are answered all the time and the worker does not fail; gives the worker's process id."""
    workers, log = server.workers(), len(server.log())
    with Watcher(server.host, server.port, title):
        yield workers[0]
    assert server.workers() == workers
    assert "Traceback" not in server.log()[log:], server.log()[log:][:5000]


def dial(server: Server, data: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
    """A plain connection that has sent `data`."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.connect((server.host, server.port))
    sock.sendall(data)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    """All that comes until the server closes; a reset is an end as well."""
    data = b""
    try:
        while received := sock.recv(65536):
            data += received
    except ConnectionError:
        pass
    sock.close()
    return data


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def gone(server: Server, worker: int, before: int) -> None:
    """Wait until nothing is left of a test's connections: no descriptor, no count, no channel."""
    eventually(lambda: descriptors(worker) <= before, within=20)
    for app in ("app1", "hasty", "large"):
        rest = Rest(server.host, server.port, app=app, key="key1" if app == "app1" else app)
        assert rest.call("GET", "/connections").json() == {"connections": 0}
        assert rest.call("GET", "/channels").json() == {"channels": {}}
        rest.close()


class Drip:
    """Sends `piece` on every connection each time it is called; true when the server has cut them all."""

    def __init__(self, sockets: Sequence[socket.socket], piece: bytes) -> None:
        self.answers: list[bytes] = []
        self._piece = piece
        self._open = list(sockets)
        for sock in sockets:
            sock.setblocking(False)

    def __call__(self) -> bool:
        for sock in list(self._open):
            try:
                answer = sock.recv(4096)
            except BlockingIOError:
                self._feed(sock)
                continue
            except ConnectionError:
                answer = b""
            self.answers.append(answer)
            self._open.remove(sock)
            sock.close()
        return not self._open

    def _feed(self, sock: socket.socket) -> None:
        try:
            sock.send(self._piece)
        except OSError:
            pass  # the next recv says what has happened

    def close(self) -> None:
        for sock in self._open:
            sock.close()


@pytest.fixture(scope="module", autouse=True)
def slow_bodies(server: Server) -> Iterator[Drip]:
    """Bodies that come byte by byte from the first test on: they have 30 seconds, which the others pass meanwhile."""
    drip = Drip([dial(server, SLOW_HEAD) for _ in range(5)], b"x")
    over = threading.Event()

    def run() -> None:
        while not drip() and not over.wait(0.5):
            pass

    thread = threading.Thread(target=run)
    thread.start()
    yield drip
    over.set()
    thread.join()
    drip.close()


# --- bytes that are no protocol, and bytes that do not come -----------------------------------------------------------


def test_garbage_is_answered_or_closed(server: Server) -> None:
    chance = random.Random(1)
    junk = [chance.randbytes(chance.randrange(1, 4096)) for _ in range(150)]
    junk += [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    junk += [
        b"GET /app/key1 HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"\0" * 100_000,
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    ]
    junk += [b"POST /apps/app1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"] * 20
    with others_are_served(server, "garbage") as worker:
        before = descriptors(worker)
        sockets = []
        for data in junk:
            sockets.append(dial(server))
            try:
                sockets[-1].sendall(data)
            except ConnectionError:
                pass  # refused before its end
        for sock in sockets:
            read_to_end(sock)
        for _ in range(150):
            client = Client(server.host, server.port).established()
            client.send_raw(bytes([chance.randrange(256) | 0x70]) + chance.randbytes(500))
            assert client.closed() in (1002, 1006)
            client.close()
        eventually(lambda: descriptors(worker) <= before)


def test_half_open_connections_are_given_up(server: Server) -> None:
    with others_are_served(server, "half-open") as worker:
        before = descriptors(worker)
        halves = [dial(server, head) for head in (b"", b"GET /app/key1 HTTP/1.1\r\nHost:", SLOW_HEAD + b"{") * 60]
        clients = [Client(server.host, server.port).established() for _ in range(60)]
        silent = [Client(server.host, server.port, "/app/hasty").established() for _ in range(60)]
        for sock in (*halves, *(client.socket for client in clients)):
            sock.shutdown(socket.SHUT_WR)
        for sock in halves:
            read_to_end(sock)
        for client in clients:
            assert client.closed() == 1006
            client.close()
        for client in silent:  # their peers are gone, but the kernel does not know it: no answer to a ping
            assert client.event() == {"event": "pusher:ping"}
            assert client.closed() == 4201
        eventually(lambda: descriptors(worker) <= before)  # although these have not closed their side
        for client in silent:
            client.close()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [(b"GET /app/key1 HTTP/1.1\r\nX-Slow: ", b"a"), (b"\r\n", b"\r\n"), (b"", b"")],
    ids=["head", "empty-lines", "silence"],
)
def test_slow_heads_are_cut(server: Server, begin: bytes, piece: bytes) -> None:
    with others_are_served(server, "slow heads"):
        drip = Drip([dial(server, begin) for _ in range(200)], piece)
        try:
            eventually(drip, within=8, every=0.2)
        finally:
            drip.close()


def test_slow_bodies_for_the_hosted_application_harm_no_client(server: Server) -> None:
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n"
    with others_are_served(server, "slow hosted bodies") as worker:
        before = descriptors(worker)
        sockets = [dial(server, head) for _ in range(1100)]
        client = Client(server.host, server.port).established()  # more than the application may serve at a time
        client.subscribed("news")
        client.close()
        for sock in sockets:
            sock.close()
        eventually(lambda: descriptors(worker) <= before)
        assert b" 200 " in read_to_end(dial(server, b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))


# --- many -------------------------------------------------------------------------------------------------------------


def test_ten_thousand_connections_that_say_nothing(start: Callable[..., Server]) -> None:
    server = start(server={"handshake_timeout": 60, "drain_timeout": 1})
    with others_are_served(server, "10,000 silent connections") as worker:
        quiet, sizes = descriptors(worker), []
        for kind in ("websocket", "websocket", "tcp", "websocket", "websocket"):  # two warm the allocator up
            with Crowd(server.host, server.port, kind, 10_000):
                eventually(lambda: descriptors(worker) >= 10_000)
                full = memory(worker)
            eventually(lambda: descriptors(worker) <= quiet, within=30)
            sizes.append(memory(worker))
            print(f"{kind}: {full / MIB:.1f} MiB with them, {sizes[-1] / MIB:.1f} MiB without")
    assert max(sizes[2:]) <= sizes[1] + 5 * MIB


def test_100_000_subscriptions_of_one_client(server: Server, connect: Callable[..., Client], rest: Rest) -> None:
    with others_are_served(server, "100,000 subscriptions") as worker:
        before = descriptors(worker)
        client = connect()
        granted = refused = 0
        for start in range(0, 100_000, 500):
            texts = [f'{{"event":"pusher:subscribe","data":{{"channel":"c{n}"}}}}' for n in range(start, start + 500)]
            client.send_raw(b"".join(frame(text.encode()) for text in texts))
            for _ in texts:
                answer = client.text()
                granted += b"subscription_succeeded" in answer
                refused += b"A connection may hold 1000 subscriptions" in answer
        assert (granted, refused) == (1000, 99_000)
        assert len(rest.call("GET", "/channels", query={"filter_by_prefix": "c"}).json()["channels"]) == 1000
        rest.close()
        client.close()
        eventually(lambda: descriptors(worker) <= before)


# --- clients that do not read -----------------------------------------------------------------------------------------


def test_subscriber_that_stops_reading_is_closed_and_others_are_not(
    server: Server, connect: Callable[..., Client], rest: Rest
) -> None:
    with others_are_served(server, "a subscriber that does not read") as worker:
        readers = [connect() for _ in range(5)]
        idle = Client(server.host, server.port, receive_buffer=4096).established()
        for client in (*readers, idle):
            client.subscribed("news")
        size, padding = memory(worker), "x" * 50_000
        log = len(server.log())
        for number in range(200):
            assert rest.publish("news", "order", f"{number} {padding}").status == 200
            for client in readers:
                assert client.event()["data"].startswith(f"{number} ")
        growth = memory(worker) - size
        said = server.log()[log:]
        assert said.count("closed a slow consumer") == 1
        assert idle.socket_id in said
        assert idle.closed() == 4100
        print(f"grown by {growth / MIB:.1f} MiB")
        assert growth < 16 * MIB
        idle.close()


def hold_channels(clients: Sequence[Client]) -> None:
    """Each client subscribes to a thousand channels of its own, with long names."""
    for client in clients:
        for start in range(0, 1000, 100):
            for number in range(start, start + 100):
                client.subscribe(f"{client.socket_id}-{number}-".ljust(199, "x"))
            client.barrier()


def test_rest_client_that_does_not_read_is_cut(server: Server, connect: Callable[..., Client]) -> None:
    hold_channels([connect()])
    one = f"GET {signed('GET', '/apps/app1/channels')} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with others_are_served(server, "REST requests, answers not read") as worker:
        before, size = descriptors(worker), memory(worker)
        with dial(server, receive_buffer=4096) as greedy:
            greedy.setblocking(False)
            pending = one * 5000

            def cut_off() -> bool:
                nonlocal pending
                try:
                    pending = pending[greedy.send(pending) :]
                except BlockingIOError:
                    pass
                except ConnectionError:
                    return True
                return not pending and descriptors(worker) <= before

            eventually(cut_off, within=20)
        growth = memory(worker) - size
        print(f"grown by {growth / MIB:.1f} MiB")
        assert growth < 48 * MIB


def test_long_answer_is_not_taken_for_a_slow_consumer(
    server: Server, connect: Callable[..., Client], rest: Rest
) -> None:
    """A single answer is longer than what may wait for a client, and than what the kernel takes at once."""
    with others_are_served(server, "a long answer"):
        hold_channels([connect() for _ in range(40)])
        answer = rest.call("GET", "/channels")
        assert len(answer.body) > 8_000_000
        assert len(answer.json()["channels"]) >= 40_000


def test_pipelined_requests_with_long_answers_hold_nobody_up(start: Callable[..., Server]) -> None:
    """On a server of its own: a worker that does not answer for 30 seconds is killed by gunicorn."""
    server = start(server=SERVER)
    one = f"GET {signed('GET', '/apps/app1/channels')} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    with others_are_served(server, "long answers to pipelined requests"), ExitStack() as stack:
        holders = [stack.enter_context(Client(server.host, server.port)).established() for _ in range(20)]
        hold_channels(holders)
        stack.enter_context(dial(server, one * (65536 // len(one))))
        began = time.monotonic()
        stack.enter_context(Client(server.host, server.port)).established().barrier()
        assert time.monotonic() - began < PATIENCE_S


def test_resubscriptions_do_not_fill_the_memory(server: Server, connect: Callable[..., Client]) -> None:
    """Each answer lists all members: 64 KiB of requests want 300 MB of answers."""
    channel, data = "presence-large", '{"user_id":"me","user_info":null}'
    with others_are_served(server, "resubscriptions") as worker:
        members = [connect("/app/large") for _ in range(41)]
        for number, member in enumerate(members):
            text = data if number == 40 else json.dumps({"user_id": str(number), "user_info": "x" * 24_000})
            auth = member.auth(channel, text, key="large")
            member.send("pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": text})
            for earlier in members[: number + 1]:
                assert earlier.event()["channel"] == channel
        again = {"channel": channel, "auth": members[40].auth(channel, data, key="large"), "channel_data": data}
        one = frame(json.dumps({"event": "pusher:subscribe", "data": again}).encode())
        Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak is counted from here
        before = memory(worker)
        members[40].send_raw(one * (65536 // len(one)))
        connect().barrier()
        status = Path(f"/proc/{worker}/status").read_text()
        growth = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before
        print(f"grown by {growth / MIB:.1f} MiB")
    assert growth < 64 * MIB


def test_pipelined_rest_requests_are_all_answered(server: Server) -> None:
    body = b'{"name":"e","channels":["nobody"],"data":"x"}'
    one = f"POST {signed('POST', '/apps/app1/events', body)} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with others_are_served(server, "1,000 pipelined requests"):
        sock = dial(server, (one + body) * 1000)
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock).count(b"HTTP/1.1 200 ") == 1000


def test_flood_of_invalid_signatures(server: Server, connect: Callable[..., Client]) -> None:
    body = b'{"name":"e","channels":["nobody"],"data":"x"}'
    target = signed("POST", "/apps/app1/events", body, secret="wrong")
    one = f"POST {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    log = len(server.log())
    with others_are_served(server, "invalid signatures"):
        for _ in range(40):
            sock = dial(server, one * 250)
            sock.shutdown(socket.SHUT_WR)
            assert read_to_end(sock).count(b"HTTP/1.1 401 ") == 250
        client = connect()
        for number in range(5000):
            client.send("pusher:subscribe", {"channel": f"private-{number}", "auth": "key1:" + "0" * 64})
            assert b"Connection is unauthorized" in client.text()
    assert len(server.log()) - log < 1000  # a flood must not fill the disk


# --- messages that are heavy, or written to deceive -------------------------------------------------------------------


def bombs() -> Iterator[tuple[str, str]]:
    """Messages below 1 MB that are costly to parse, to hold or to write."""
    for depth in (190, 300, 1000, 5000, 400_000):
        yield f"{depth} arrays", "[" * depth
        nested = '{"a":' * depth + "1" + "}" * depth
        if len(nested) < 900_000:
            yield f"{depth} objects", nested
            for event in ("client-x", "pusher:subscribe", "pusher:signin"):
                yield f"{event}, {depth} deep", f'{{"event":"{event}","channel":"private-b","data":{nested}}}'
                text = json.dumps(nested)
                yield f"{event}, {depth} deep in text", f'{{"event":"{event}","channel":"private-b","data":{text}}}'
    for name, value in (
        ("array", "[" + "0," * 400_000 + "0]"),
        ("arrays", "[" + "[]," * 300_000 + "[]]"),
        ("digits", "[" + "9" * 900_000 + "]"),
        ("decimals", "[0." + "9" * 900_000 + "]"),
        ("overflow", "[1e999999999]"),
        ("escapes", '["' + "\\u0000" * 150_000 + '"]'),
        ("backslashes", '["' + "\\\\" * 400_000 + "[" * 300 + '"]'),
        ("duplicate keys", "{" + '"a":1,' * 100_000 + '"a":2}'),
        ("many keys", "{" + ",".join(f'"{n}":1' for n in range(60_000)) + "}"),
    ):
        yield name, f'{{"event":"client-x","channel":"private-b","data":{value}}}'
    yield "duplicate events", "{" + '"event":"pusher:subscribe",' * 30_000 + '"event":"pusher:ping"}'


def test_json_bombs_are_answered_and_the_connection_lives(server: Server, connect: Callable[..., Client]) -> None:
    slowest = (0.0, "")
    with others_are_served(server, "JSON bombs"):
        sender = connect("/app/large")
        receiver = connect("/app/large")
        for client in (sender, receiver):
            client.send("pusher:subscribe", {"channel": "private-b", "auth": client.auth("private-b", key="large")})
            assert client.event()["event"] == "pusher_internal:subscription_succeeded"
        for name, text in bombs():
            assert len(text) < 1_000_000
            began = time.perf_counter()
            sender.send_text(text)
            answers = sender.barrier()
            slowest = max(slowest, (time.perf_counter() - began, name))
            assert len(answers) <= 1, name
            assert all(answer["event"] in ("pusher:error", "pusher:pong") for answer in answers), name
            receiver.barrier()
    print(f"slowest: {slowest[1]}, {slowest[0] * 1000:.0f} ms")


def test_json_bombs_over_rest_are_refused(server: Server, rest: Rest) -> None:
    with others_are_served(server, "JSON bombs over REST"):
        for body in (
            "[" * 190_000,
            '{"a":' * 500 + "1" + "}" * 500,
            '{"name":"e","channel":"c","data":"x","socket_id":' + "[" * 500 + "]" * 500 + "}",
            '{"name":' + "9" * 150_000 + ',"data":"x","channel":"c"}',
            '{"batch":[' + "{}," * 50_000 + "{}]}",
        ):
            for path in ("/events", "/batch_events"):
                assert rest.call("POST", path, body.encode()).status in (400, 422), (path, body[:50])
        many = {"name": "e", "data": "x", "channels": [str(number) for number in range(20_000)]}  # as Reverb: no limit
        assert rest.call("POST", "/events", many).status == 200


def test_deeply_nested_user_info_does_not_spoil_its_channel(server: Server, connect: Callable[..., Client]) -> None:
    first, nested, last = connect(), connect(), connect()
    with others_are_served(server, "nested user_info"):
        first.subscribed("presence-x", {"user_id": "1"})
        deep = '{"user_id":"deep","user_info":' + '{"a":' * 300 + "1" + "}" * 300 + "}"
        auth = nested.auth("presence-x", deep)
        nested.send("pusher:subscribe", {"channel": "presence-x", "auth": auth, "channel_data": deep})
        assert len(nested.barrier()) == 1  # whether it may join or not: it is told
        assert {"1", "2"} <= set(last.subscribed("presence-x", {"user_id": "2"})["presence"]["ids"])


NASTY = "a\nb\r\n[2026-01-01 00:00:00 +0000] [1] [INFO] forged\x1b[31m\x00\x07\x7f\x85\x9b31m\u2028\u202e"


def test_control_characters_do_not_reach_the_log(start: Callable[..., Server]) -> None:
    server = start(arguments=["--debug"], server={"drain_timeout": 1, "handshake_timeout": 1})
    with others_are_served(server, "control characters"):
        client = Client(server.host, server.port).established()
        client.subscribe(NASTY)
        client.subscribe("private-" + NASTY)
        client.send("client-" + NASTY, {NASTY: NASTY}, channel="private-" + NASTY)
        client.send(NASTY, NASTY, channel=NASTY)
        client.send_text(NASTY)
        client.barrier()
        rest = Rest(server.host, server.port)
        for name, channel in ((NASTY, "c"), ("e", NASTY), (NASTY, NASTY)):
            rest.publish(channel, name, NASTY)
        rest.close()
        raw = NASTY.encode().replace(b"\n", b"").replace(b"\r", b"")
        for path in (b"/%s", b"/app/%s", b"/apps/%s/events", b"/a%%0a%%1b%s"):
            read_to_end(dial(server, b"GET " + path % raw + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"))
        client.send_raw(frame(b"\x03\xe8" + NASTY.encode(), 8))
        client.closed()
        client.close()
    lines = server.log().split("\n")[:-1]
    assert [line for line in lines if not re.match(r"\[\d{4}-\d\d-\d\d .{14}\] \[\d+\] \[[A-Z]+\] ", line)] == []
    assert [line for line in lines if any(unicodedata.category(sign) == "Cc" for sign in line)] == []


# --- ends in the middle of everything ---------------------------------------------------------------------------------


def stages(server: Server) -> dict[str, Callable[[], socket.socket]]:
    """Ways to be in the middle of something."""

    def upgraded(data: bytes = b"", channel: str = "", user: Any = None) -> socket.socket:
        client = Client(server.host, server.port).established()
        if channel:
            client.subscribed(channel, user)
        client.send_raw(data)
        return client.socket

    body = b'{"name":"e","channels":["crowded"],"data":"x"}'
    target = signed("POST", "/apps/app1/events", body)
    publish = f"POST {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    return {
        "connected": lambda: dial(server),
        "head": lambda: dial(server, b"GET /app/key1 HTT"),
        "body": lambda: dial(server, publish[:-3]),
        "answer": lambda: dial(server, publish * 20),
        "handshake": lambda: dial(
            server,
            b"GET /app/key1 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        ),
        "hosted": lambda: dial(server, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
        "frame": lambda: upgraded(frame(b'{"event":"pusher:ping"}')[:-5]),
        "pings": lambda: upgraded(frame(b"x", 9) * 1000),
        "subscribed": lambda: upgraded(b"", "crowded"),
        "presence": lambda: upgraded(b"", "presence-crowded", {"user_id": 1}),
        "closing": lambda: upgraded(frame(b"\x03\xe8", 8)),
    }


def test_resets_in_the_middle_of_everything(server: Server, rest: Rest) -> None:
    with others_are_served(server, "resets") as worker:
        before = descriptors(worker)
        for _ in range(25):
            sockets = [open_one() for open_one in stages(server).values() for _ in range(4)]
            assert rest.publish("crowded", "e", "x" * 9000).status == 200
            random.Random(2).shuffle(sockets)
            for sock in sockets:
                reset(sock)
            assert rest.publish("crowded", "e", "x" * 9000).status == 200
        rest.close()
        eventually(lambda: descriptors(worker) <= before)
    gone(server, worker, before)


def test_out_of_descriptors_is_said_once_and_survived(start: Callable[..., Server]) -> None:
    server = start(server={"handshake_timeout": 60, "drain_timeout": 1})
    with others_are_served(server, "out of descriptors") as worker:
        limit = descriptors(worker) + KEPT + KEPT_FOR_SHARD + 20
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, resource.prlimit(worker, resource.RLIMIT_NOFILE)[1]))
        sockets = [dial(server) for _ in range(100)]
        late = dial(server, b"GET /up HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        eventually(lambda: "cannot accept connections" in server.log())
        began, used = time.monotonic(), cpu_s(worker)
        eventually(lambda: time.monotonic() > began + 2.5)
        assert cpu_s(worker) - used < 1.0  # it waits instead of trying all the time
        said = [line for line in server.log().splitlines() if "cannot accept" in line]
        assert len(said) == 1
        assert "Too many open files" in said[0]
        assert "ulimit -n" in said[0]
        for sock in sockets:
            sock.close()
        assert b" 200 " in read_to_end(late)
        eventually(lambda: "accepting connections again" in server.log())
        with Client(server.host, server.port) as client:
            client.established()


def test_slow_bodies_are_cut(server: Server, slow_bodies: Drip) -> None:
    """The last test: theirs is the longest deadline."""
    eventually(lambda: len(slow_bodies.answers) == 5, within=45)
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in slow_bodies.answers)
    gone(server, server.workers()[0], descriptors(server.workers()[0]))
