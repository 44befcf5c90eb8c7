"""Replays what a genuine Reverb was asked, and wants its answers or, where we deviate on purpose, ours."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from tests.support.client import CLOSE, PING, PONG, TEXT, Client, Closed, Frame, frame
from tests.support.eventually import eventually
from tests.support.hosts import Hosts
from tests.support.rest import Answer, Rest
from tests.support.server import HOSTS, SHARDS, Server
from tests.transcripts import (
    Case,
    Step,
    app_number,
    cases,
    compact,
    differences,
    filled,
    head,
    message_text,
    request,
    sources,
    wanted_message,
)

CASES = tuple(cases())
DEADLINE_S = 5.0
#: Whether all channels have one order: not those at home on different shards, or in different logs.
ONE_ORDER = SHARDS == "1" and HOSTS == 1
EMPTY: dict[str, Any] = {"channels": {}}
USUAL_PATH = "/app/key1?protocol=7&client=js&version=8.4.0&flash=false"
SAMPLE_KEY, SAMPLE_ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


def assert_same(wanted: Any, got: Any) -> None:
    """Same JSON: the same types, and the same keys in the same order, also in text that holds JSON."""
    if isinstance(wanted, dict) and list(wanted) == ["$json"]:
        assert isinstance(got, str)
        assert_same(wanted["$json"], json.loads(got))
        return
    assert type(got) is type(wanted), f"{got!r} instead of {wanted!r}"
    if isinstance(wanted, dict):
        assert list(got) == list(wanted)
        for key, item in wanted.items():
            assert_same(item, got[key])
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), f"{got!r} instead of {wanted!r}"
        for item, other in zip(wanted, got, strict=True):
            assert_same(item, other)
    else:
        assert got == wanted


class Wire(Client):
    """A client that sends the bytes of the case, also as its handshake, and reads HTTP answers as well as frames."""

    def __init__(self, host: str, port: int, secret: str = "secret1") -> None:
        self.socket = socket.create_connection((host, port), timeout=DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.secret, self.socket_id = b"", secret, ""
        self.leaving = False
        self.early: list[Frame] = []  # of channels whose turn has not come

    def answer(self, method: str = "GET") -> Answer:
        """The next HTTP answer. A 101 and the answer to HEAD have no body."""
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        status = int(first.split(" ", 2)[1])
        size = 0 if method == "HEAD" or status < 200 else int(headers["content-length"])
        while len(self.buffer) < size:
            self._fill()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Answer(status, headers, body)

    def ended(self) -> None:
        """Nothing more comes but the end of the connection."""
        assert not self.buffer, self.buffer
        with pytest.raises(Closed):
            self._fill()

    def next_of(self, channel: Any) -> Frame:
        """The next frame, of that channel where each has an order of its own."""
        if ONE_ORDER or channel is None:
            return self.frame()
        for index, got in enumerate(self.early):
            if channel_of(got) == channel:
                return self.early.pop(index)
        while channel_of(got := self.frame()) not in (None, channel):
            self.early.append(got)
        return got

    def silent(self) -> bool:
        """Nothing has arrived that is still to be read."""
        self.socket.settimeout(0)
        try:
            return not self.buffer and not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(DEADLINE_S)

    def surplus(self) -> list[Any]:
        """All that comes before the answers to two pings, of which one is a frame: a pong too many is noticed, too."""
        self.send("pusher:ping")
        self.send_raw(frame(b"barrier", PING))
        found: list[Any] = list(self.early)
        while (got := self.frame()) != Frame(PONG, b"barrier"):
            found.append(got.json() if got.opcode == TEXT else got)
        found.remove({"event": "pusher:pong"})
        return found

    def closing(self) -> int | None:
        """Read the closing handshake, which must be next, and answer it. None: TCP ended without one."""
        try:
            got = self.frame()
        except Closed:
            return None
        assert got.opcode == CLOSE, got
        if not self.leaving:
            with contextlib.suppress(OSError):
                self.send_raw(frame(got.payload, CLOSE))
        self.ended()
        return got.code


def assert_answer(step: Step, got: Answer) -> None:
    """The status, and the body in one of its four forms: JSON, text, an error, messages by field."""
    wanted = step["status"] if isinstance(step["status"], list) else [step["status"]]
    assert got.status in wanted, (got.status, got.body)
    if {"json", "error", "fields"} & set(step):
        assert got.headers["content-type"].split(";")[0] == "application/json"
    if "json" in step:
        assert_same(*(arranged(each, step.get("any_order", not ONE_ORDER)) for each in (step["json"], got.json())))
    if "text" in step:
        assert got.body.decode() == step["text"]
    if "error" in step:
        assert list(got.json()) == ["error"], got.body
        message = got.json()["error"]
        assert message == step["error"] if isinstance(step["error"], str) else message
    if "fields" in step:
        assert got.json(), got.body
        assert all(isinstance(line, str) for lines in got.json().values() for line in lines)
    for name, value in step.get("answer_headers", {}).items():
        assert got.headers.get(name) == value, (name, got.headers)


class Player:
    """Plays the steps of one case against its servers. The first key of a step says of which kind it is."""

    def __init__(self, place: Place, settings: Mapping[str, Any]) -> None:
        self.server, self.place = place.servers[0], place
        self.clients: dict[str, Wire] = {}
        self.http_wire: Wire | None = None
        self.stopped = False
        self.kinds: dict[str, Callable[[Step], None]] = {
            "open": self.open,
            "send": self.send,
            "get": self.get,
            "quiet": self.quiet,
            "http": self.http,
            "packet": self.packet,
            "answer": self.answer,
            "stop": self.stop,
            "redis": self.redis,
        }
        prefix = settings.get("server", {}).get("path", "")
        numbers = range(1, len(settings.get("apps", "1")) + 1)
        self.rests = [
            Rest(server.host, server.port, f"app{n}", f"key{n}", f"secret{n}", prefix=prefix)
            for n in numbers
            for server in place.servers
        ]

    def play(self, case: Case) -> None:
        """All steps; then nothing more may have come, on any connection that is still open."""
        for number, step in enumerate(case.steps, 1):
            try:
                for turn in range(step.get("times", 1)):
                    ids = {name: client.socket_id for name, client in self.clients.items()}
                    self.kinds[next(iter(step))](filled(step, {**ids, "i": str(turn)}))
            except Exception as error:
                error.add_note(f"in step {number} of {case.name}: {compact(step)}")
                raise
        if case.barrier and not self.stopped:
            self.quiet({"quiet": list(self.clients)})

    def done(self) -> None:
        """Close everything and wait until the server has noticed, so that the next case finds it empty."""
        for client in self.clients.values():
            client.close()
        if self.http_wire:
            self.http_wire.close()
        if not self.stopped:
            eventually(self.empty, within=DEADLINE_S)
        for rest in self.rests:
            rest.close()

    def empty(self) -> bool:
        return all(rest.call("GET", "/channels").json() == EMPTY for rest in self.rests)

    def wire(self, step: Step, path: str = "") -> Wire:
        """To the first server, or to the one that the step is `on`."""
        server = self.place.servers[step.get("on", 1) - 1]
        return Wire(server.host, server.port, f"secret{app_number(path)}")

    def round_trip(self) -> None:
        """Ask for what the shard knows: what it had sent to the worker before has been handled when this returns."""
        for rest in self.rests:
            assert rest.call("GET", "/channels").status == 200

    # Connections

    def open(self, step: Step) -> None:
        """A handshake, and the greeting unless the case says otherwise."""
        if step.get("until") == "established":
            admitted = eventually(lambda: self.admitted(step), within=DEADLINE_S)
            assert admitted
            self.clients[step["open"]] = admitted
            return
        client = self.handshaken(step)
        if "status" in step:
            client.close()
            return
        if step.get("established", True):
            greet(client)
        self.clients[step["open"]] = client

    def admitted(self, step: Step) -> Wire | None:
        """A greeted client, or None when the app is full; the place of one that has left is not free at once."""
        client = self.handshaken(step)
        with contextlib.suppress(AssertionError):
            greet(client)
            return client
        client.close()
        return None

    def handshaken(self, step: Step) -> Wire:
        path = step.get("path", USUAL_PATH)
        headers = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": SAMPLE_KEY,
            "Sec-WebSocket-Version": "13",
        }
        client = self.wire(step, path)
        data = head(f"GET {path}", step, headers)
        if "at_once" in step:
            data += frame(compact(step["at_once"]).encode())
        self.transmit(client, data, step)
        answer = client.answer()
        assert_answer({"status": 101, **step}, answer)
        if answer.status == 101:
            assert answer.headers["sec-websocket-accept"] == SAMPLE_ACCEPT
            assert answer.headers["upgrade"].lower() == "websocket"
            assert answer.headers["connection"].lower() == "upgrade"
            assert not {"sec-websocket-protocol", "sec-websocket-extensions"} & set(answer.headers)
        if step.get("ends"):
            client.ended()
        return client

    def transmit(self, wire: Wire, data: bytes, step: Step) -> None:
        """In one packet, or in two of which the first must not be answered yet (but for an interim answer)."""
        split = step.get("split")
        if split is None:
            wire.send_raw(data * step.get("copies", 1))
            return
        blank = data.find(b"\r\n\r\n")
        at = {"head": blank + 4, "blank": blank + 2}.get(split, split)
        wire.send_raw(data[:at])
        self.round_trip()
        if "interim" in step:
            assert wire.answer().status == step["interim"]
        assert wire.silent()
        wire.send_raw(data[at:])

    # Messages

    def send(self, step: Step) -> None:
        client = self.clients[step["send"]]
        if "together" in step:
            client.send_raw(b"".join(frame(compact(message).encode()) for message in step["together"]))
            return
        payload = bytes.fromhex(step["hex"]) if "hex" in step else message_text(step, client.auth).encode()
        opcode = step.get("opcode", TEXT)
        client.leaving = opcode == CLOSE
        mask = b"\x01\x02\x03\x04" if step.get("mask", True) else None
        client.send_raw(frame(payload, opcode, step.get("fin", True), step.get("rsv", 0), mask))

    def get(self, step: Step) -> None:
        client = self.clients[step["get"]]
        if "closed" in step:
            assert_closed(step["closed"], client.closing())
            self.clients.pop(step["get"]).close()
            return
        got = client.next_of(step.get("json", {}).get("channel"))
        while step.get("pongs") and got.opcode == TEXT and got.json() == {"event": "pusher:ping"}:
            client.send("pusher:pong", {})
            got = client.frame()
        if "opcode" in step:
            assert got == Frame(step["opcode"], step["text"].encode())
            return
        assert got.opcode == TEXT, got
        assert_same(wanted_message(step), got.json())

    def quiet(self, step: Step) -> None:
        """Nothing has come to these, not even something that was still on its way."""
        names = [step["quiet"]] if isinstance(step["quiet"], str) else step["quiet"]
        self.round_trip()
        for name in names:
            assert self.clients[name].surplus() == [], name

    # HTTP

    def http(self, step: Step) -> None:
        if not step.get("same_connection"):
            self.renew(step)
        assert self.http_wire
        # A server that has refused a body need not wait for its end.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self.transmit(self.http_wire, request(step), step)
        self.answer({"answer": step["http"].split(" ")[0], **step})

    def packet(self, step: Step) -> None:
        self.renew(step)
        assert self.http_wire
        self.transmit(self.http_wire, step["packet"].encode("latin-1"), step)
        self.answer({"answer": "GET", **step})

    def answer(self, step: Step) -> None:
        """The next answer on the HTTP connection that was used last."""
        assert self.http_wire
        assert_answer(step, self.http_wire.answer(step["answer"]))
        if step.get("ends"):
            self.http_wire.ended()

    def renew(self, step: Step) -> None:
        if self.http_wire:
            self.http_wire.close()
        self.http_wire = self.wire(step)

    # The server

    def stop(self, step: Step) -> None:
        self.stopped = True
        self.server.send_signal(signal.Signals[step["stop"]])

    def redis(self, step: Step) -> None:
        assert self.place.hosts is not None
        if step["redis"] == "stop":
            self.place.hosts.redis.stop()
        else:
            self.place.hosts.redis.start()
            self.place.hosts.rejoined()


def arranged(answer: Any, by_name: bool) -> Any:
    """A list of channels may come from several shards: in the order of their names, to be compared.

    Of several hosts /up says that they are together.
    """
    if HOSTS > 1 and answer == {"health": "OK"}:
        return {**answer, "scaling": "ok"}
    channels = answer.get("channels") if isinstance(answer, dict) else None
    if not by_name or not isinstance(channels, dict):
        return answer
    return {**answer, "channels": dict(sorted(channels.items()))}


def channel_of(got: Frame) -> Any:
    """The channel of an event, None for everything else."""
    return got.json().get("channel") if got.opcode == TEXT else None


def greet(client: Wire) -> None:
    """The first message gives the socket id and the app's activity timeout."""
    event = client.event()
    assert list(event) == ["event", "data"], event
    assert event["event"] == "pusher:connection_established", event
    data = json.loads(event["data"])
    assert list(data) == ["socket_id", "activity_timeout"]
    assert data["activity_timeout"] == 30
    assert re.fullmatch(r"[1-9]\d{0,9}\.[1-9]\d{0,9}", data["socket_id"])
    client.socket_id = data["socket_id"]


def assert_closed(wanted: bool | int | list[int], code: int | None) -> None:
    """`wanted` is one code, a choice of codes, or true for any end at all."""
    if wanted is not True:
        assert code in (wanted if isinstance(wanted, list) else [wanted])


class Place(NamedTuple):
    """Where a case is played: one server, or several hosts."""

    servers: Sequence[Server]
    hosts: Hosts | None = None


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Case], Place]]:
    """Where to play a case: one place for all groups that ask for nothing, one for each group that does."""
    running: dict[str, Place] = {}
    with contextlib.ExitStack() as stack:

        def place(case: Case) -> Place:
            name = "default" if case.server is None and case.hosts == 1 else case.group
            if name not in running:
                directory = tmp_path_factory.mktemp("transcripts")
                if case.hosts == 1:
                    running[name] = Place([stack.enter_context(Server(directory, **(case.server or {})))])
                else:
                    hosts = stack.enter_context(Hosts(directory, case.hosts, workers=1))
                    running[name] = Place(hosts.servers, hosts)
            return running[name]

        yield place


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.slug)
def test_answers_as_recorded(case: Case, places: Callable[[Case], Place]) -> None:
    player = Player(places(case), case.server or {})
    try:
        player.play(case)
    finally:
        player.done()


def test_every_recorded_case_is_accounted_for() -> None:
    recorded = Counter(f"{group}/{number}" for group, count in sources().items() for number in range(1, count + 1))
    _, not_replayed = differences()
    assert Counter([*(case.name for case in CASES), *not_replayed]) == recorded


def test_every_deviation_has_a_reason_and_every_reason_a_case() -> None:
    rules, not_replayed = differences()
    assert {rule for case in CASES for rule in case.differs} == set(rules)
    assert all([*rules.values(), *not_replayed.values()])
