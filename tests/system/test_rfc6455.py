"""RFC 6455 over real sockets: what the corpus of tests/websocket shows of the codec, shown here of the server.

Close codes, the closing handshake and its time-out, pings, fragments, TCP segments of one octet, 16 MiB at once.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest

from tests.support.client import BINARY, CLOSE, PING, PONG, TEXT, Client, Closed, Frame, frame
from tests.support.eventually import eventually
from tests.support.server import ONE_APP, Server

Connect = Callable[..., Client]

PUSHER_PING = b'{"event":"pusher:ping"}'
PUSHER_PONG = {"event": "pusher:pong"}
MIB = 1024 * 1024
LIMIT = 10_000  # the default max_message_size
CONTINUATION = 0


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2, "big") + reason, CLOSE)


def remaining(client: Client) -> list[Frame]:
    """All frames to the end of the connection."""
    frames = []
    while True:
        try:
            frames.append(client.frame())
        except Closed:
            return frames


# --- violations ------------------------------------------------------------------------------------------------------

VIOLATIONS = {
    "no mask": (frame(PUSHER_PING, mask=None), 1002),
    "reserved bit": (frame(PUSHER_PING, rsv=4), 1002),
    "reserved bit of a ping": (frame(b"", PING, rsv=1), 1002),
    "reserved opcode 3": (frame(b"", 3), 1002),
    "reserved opcode 11": (frame(b"", 11), 1002),
    "fragmented ping": (frame(b"", PING, fin=False), 1002),
    "ping of 126": (frame(b"x" * 126, PING), 1002),
    "continuation of nothing": (frame(b"x", CONTINUATION), 1002),
    "message inside a message": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "length with the highest bit": (b"\x81\xff" + b"\xff" * 8 + b"mask", 1002),
    "close with one byte": (frame(b"\x03", CLOSE), 1002),
    "close code 999": (close(999), 1002),
    "close code 1005": (close(1005), 1002),
    "close code 2999": (close(2999), 1002),
    "text that is not UTF-8": (frame(b"\xce\xba\xed\xa0\x80"), 1007),
    "fragments that are not UTF-8": (frame(b"\xce", fin=False) + frame(b"", CONTINUATION), 1007),
    "close reason that is not UTF-8": (close(1000, b"\xff"), 1007),
    "declared over 16 times the limit": (b"\x81\xff" + (16 * LIMIT + 1).to_bytes(8, "big") + b"mask", 1009),
    "fragments over 16 times the limit": (
        frame(b"x" * 80_000, fin=False) + frame(b"x" * 80_000, CONTINUATION, fin=False) + frame(b"x", CONTINUATION),
        1009,
    ),
}


@pytest.mark.parametrize(("sent", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_ends_the_connection_with_its_code(connect: Connect, sent: bytes, code: int) -> None:
    client = connect()
    client.send_raw(sent)
    assert [(got.opcode, got.code) for got in remaining(client)] == [(CLOSE, code)]


def test_what_came_before_a_violation_is_answered(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(PUSHER_PING) + frame(b"a", PING) + frame(b"", 3) + frame(b"b", PING))
    assert client.event() == PUSHER_PONG
    assert client.frame() == Frame(PONG, b"a")
    assert [(got.opcode, got.code) for got in remaining(client)] == [(CLOSE, 1002)]


def test_others_do_not_notice(connect: Connect) -> None:
    good, bad = connect(), connect()
    bad.send_raw(frame(b"", 15))
    assert bad.closed() == 1002
    good.send_raw(frame(PUSHER_PING))
    assert good.event() == PUSHER_PONG


# --- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        (close(1000), (1000, b"")),
        (close(1000, b"Bye"), (1000, b"Bye")),
        (close(1001, "tschüß".encode()), (1001, "tschüß".encode())),
        (close(3000), (3000, b"")),
        (close(4999, b"*" * 123), (4999, b"*" * 123)),
        (frame(b"", CLOSE), (1000, b"")),
    ],
    ids=["1000", "with a reason", "with umlauts", "3000", "the longest", "no body"],
)
def test_close_is_echoed_and_the_connection_ends(connect: Connect, sent: bytes, echoed: tuple[int, bytes]) -> None:
    client = connect()
    client.send_raw(sent)
    assert [(got.opcode, got.code, got.payload[2:]) for got in remaining(client)] == [(CLOSE, *echoed)]


@pytest.mark.parametrize(
    "more", [frame(PUSHER_PING), frame(b"", PING), close(1001), b"\xff" * 20], ids=["text", "ping", "close", "rubbish"]
)
def test_nothing_is_answered_after_a_close(connect: Connect, more: bytes) -> None:
    client = connect()
    client.send_raw(close(1000) + more)
    assert [(got.opcode, got.code) for got in remaining(client)] == [(CLOSE, 1000)]


def test_close_inside_a_fragmented_message(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(b"x", fin=False) + close(1000) + frame(b"y", CONTINUATION))
    assert client.closed() == 1000


def cut_off(client: Client) -> bool:
    """Whether the server does not take any more: not seen at once, but when it has reset the connection."""
    try:
        client.send_raw(frame(b"", PING))
    except OSError:
        return True
    return False


def test_clients_that_do_not_hang_up_are_cut_off(connect: Connect) -> None:
    """Section 7.1.1 has the server close the TCP connection; who lingers on is reset after a few seconds."""
    failed, closed = connect(), connect()
    failed.send_raw(frame(b"", 3))
    closed.send_raw(close(1000))
    assert (failed.closed(), closed.closed()) == (1002, 1000)
    eventually(lambda: cut_off(failed) and cut_off(closed), within=20)


def test_a_client_that_ends_its_side_without_a_close_frame(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(PUSHER_PING))
    client.socket.shutdown(socket.SHUT_WR)
    assert client.event() == PUSHER_PONG
    assert [got.opcode for got in remaining(client)] in ([], [CLOSE])


# --- pings and pongs -------------------------------------------------------------------------------------------------


def test_pings_are_answered_in_order_with_their_payloads(connect: Connect) -> None:
    client = connect()
    payloads = [b"", b"Hello", bytes(range(125)), b"\xff", *(b"payload-%d" % index for index in range(10))]
    client.send_raw(b"".join(frame(payload, PING) for payload in payloads))
    assert [client.frame() for _ in payloads] == [Frame(PONG, payload) for payload in payloads]


def test_a_pong_that_was_not_asked_for_is_ignored(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(b"", PONG) + frame(b"x" * 125, PONG) + frame(b"a", PING))
    assert client.frame() == Frame(PONG, b"a")


# --- messages --------------------------------------------------------------------------------------------------------


def subscription(channel: str) -> bytes:
    return json.dumps({"event": "pusher:subscribe", "data": {"channel": channel}}).encode()


def succeeded(client: Client, channel: str) -> None:
    event = client.event()
    assert (event["event"], event["channel"]) == ("pusher_internal:subscription_succeeded", channel)


def test_a_fragmented_message_with_pings_between(connect: Connect) -> None:
    client, text = connect(), subscription("fragments")
    parts = [text[:1], b"", text[1:20], text[20:]]
    for index, part in enumerate(parts):
        client.send_raw(frame(part, CONTINUATION if index else TEXT, fin=index == 3))
        client.send_raw(frame(b"%d" % index, PING))
    assert [client.frame() for _ in parts[:3]] == [Frame(PONG, b"%d" % index) for index in range(3)]
    succeeded(client, "fragments")
    assert client.frame() == Frame(PONG, b"3")


def test_octets_one_by_one(connect: Connect) -> None:
    client = connect()
    sent = frame(PUSHER_PING) + frame(b"payload", PING) + frame(subscription("κόσμε")[:9], fin=False)
    sent += frame(subscription("κόσμε")[9:], CONTINUATION) + close(1000, b"Bye")
    for octet in sent:
        client.send_raw(bytes([octet]))
    assert client.event() == PUSHER_PONG
    assert client.frame() == Frame(PONG, b"payload")
    succeeded(client, "κόσμε")
    assert client.closed() == 1000


def test_many_frames_in_one_segment(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(PUSHER_PING) * 1000 + frame(b"end", PING))
    assert [client.event() for _ in range(1000)] == [PUSHER_PONG] * 1000
    assert client.frame() == Frame(PONG, b"end")


def test_binary_is_treated_as_text(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(PUSHER_PING, BINARY))
    assert client.event() == PUSHER_PONG


# --- sizes -----------------------------------------------------------------------------------------------------------


def refused(client: Client) -> bool:
    event = client.event()
    return (event["event"], json.loads(event["data"])["code"]) == ("pusher:error", 4019)


@pytest.mark.parametrize("size", [LIMIT + 1, 65535, 65536, 16 * LIMIT])
def test_a_message_over_the_limit_is_refused_and_the_connection_lives(connect: Connect, size: int) -> None:
    client = connect()
    client.send_raw(frame(b"x" * size) + frame(PUSHER_PING))
    assert refused(client)
    assert client.event() == PUSHER_PONG


def test_fragments_over_the_limit_are_refused_and_the_connection_lives(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(b"x" * LIMIT, fin=False) + frame(b"p", PING) + frame(b"x", CONTINUATION) + frame(PUSHER_PING))
    assert client.frame() == Frame(PONG, b"p")
    assert refused(client)
    assert client.event() == PUSHER_PONG


def test_a_message_of_exactly_the_limit(connect: Connect) -> None:
    client = connect()
    client.send_raw(frame(PUSHER_PING + b" " * (LIMIT - len(PUSHER_PING))))
    assert client.event() == PUSHER_PONG


@pytest.mark.parametrize("part", [16 * MIB, 64 * 1024], ids=["one frame", "fragments"])
def test_sixteen_mebibytes(start: Callable[..., Server], part: int) -> None:
    """A message of Autobahn's largest size, to the server and on to another client."""
    server = start(apps=[{**ONE_APP, "max_message_size": 16 * MIB}], server={"max_send_buffer": 64 * MIB})
    with Client(server.host, server.port) as sender, Client(server.host, server.port) as receiver:
        for client in (sender, receiver):
            client.established().subscribed("private-large")
        start_of, end = b'{"event":"client-large","channel":"private-large","data":{"x":"', b'"}}'
        data = b"0123456789abcdef" * MIB
        message = start_of + data[: 16 * MIB - len(start_of) - len(end)] + end
        for at in range(0, len(message), part):
            last = at + part >= len(message)
            sender.send_raw(frame(message[at : at + part], CONTINUATION if at else TEXT, fin=last))
        event = receiver.event()
        assert event["event"] == "client-large"
        assert event["data"] == json.loads(message)["data"]
        assert sender.barrier() == []
