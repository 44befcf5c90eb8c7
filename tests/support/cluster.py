"""Several workers: their processes, which of them holds a client, and a crowd of clients in one process."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import selectors
import signal
import socket
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from tests.support.client import CLOSE, TEXT, Client, frame
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

#: How long to try for a connection that a certain worker holds, in seconds.
SEARCH_S: Final = 60
#: Connections of one try.
BURST: Final = 8

_LINKED: Final = re.compile(r"\[(\d+)\] \[INFO\] linked to shard \d+ \(pid (\d+)\)")
_UPGRADE: Final = (
    "GET /app/{key}?protocol=7 HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


Made = TypeVar("Made", Client, Rest)


# --- servers ----------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A way to run several workers: whose master ("gunicorn" or "own"), and how many shards."""

    master: str
    shards: int

    def __str__(self) -> str:
        return f"{self.master}-{self.shards}"

    def command(self, workers: int, *more: str) -> list[str]:
        """The words for `Server`. `more` are options of gunicorn, or of `resonate start`."""
        if self.master == "own":
            return ["resonate", "start", "--host", "127.0.0.1", "--port", "{port}", "--workers", str(workers), *more]
        words = ["gunicorn", "-k", "resonate.worker", "-w", str(workers), "--bind", "127.0.0.1:{port}"]
        return [*words, *more, "resonate:app"]


#: What the tests run over: both masters, one shard and two.
KINDS: Final = (Kind("gunicorn", 1), Kind("own", 2))


@contextlib.contextmanager
def cluster(
    directory: Path,
    kind: Kind = KINDS[0],
    workers: int = 4,
    *more: str,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Server]:
    """A running server of that kind, all of whose workers are linked to all of its shards."""
    variables = {"RESONATE_BUS_SHARDS": str(kind.shards), **(env or {})}
    with Server(directory, command=kind.command(workers, *more), env=variables, **options) as server:
        eventually(lambda: spread(server, kind, workers), within=60)
        yield server


def run_directory(server: Server) -> Path | None:
    """The run directory of a server, while there is one."""
    settings = tomllib.loads((server.directory / "resonate.toml").read_text())["servers"]["reverb"]
    above = Path(settings.get("run_dir") or tempfile.gettempdir())
    return next(above.glob(f"resonate-*-{server.process.pid}-*-*"), None)


def named(server: Server, prefix: str) -> list[int]:
    """The living processes whose names in the run directory begin with `prefix`."""
    found = run_directory(server)
    names = [] if found is None else [path.name for path in found.glob(f"{prefix}-*-*")]
    return sorted(int(pid) for _, pid, started in (name.split("-") for name in names) if _started(pid) == started)


def workers_of(server: Server) -> list[int]:
    """The living workers."""
    return named(server, "w")


def shards_of(server: Server) -> list[int]:
    """The living shard processes."""
    return named(server, "s[0-9]*")


def _started(pid: str) -> str:
    """When a living process was started, as the kernel counts; empty for one that does not live."""
    fields = _stat(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def _stat(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def linked(server: Server) -> set[tuple[int, int]]:
    """All pairs of a worker and a shard that have ever been linked, by the log."""
    return {(int(worker), int(shard)) for worker, shard in _LINKED.findall(server.log())}


def settled(server: Server, workers: int, shards: int) -> bool:
    """Whether all are there, and every worker is linked to every shard."""
    here, homes = workers_of(server), shards_of(server)
    if len(here) != workers or len(homes) != shards:
        return False
    pairs = linked(server)
    return all((worker, shard) in pairs for worker in here for shard in homes)


def spread(server: Server, kind: Kind, workers: int) -> bool:
    """Whether all are there, and new connections go to all: our own master sees a worker's readiness a little later."""
    ready = kind.master != "own" or "Resonate is ready" in server.log()
    return ready and (workers == kind.shards == 1 or settled(server, workers, kind.shards))  # one has its shard inside


def processes(server: Server) -> list[int]:
    """All living processes of the server's session: master, workers and shards."""
    session = str(server.process.pid)
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(entry) if entry.isdigit() else []
        if fields and fields[3] == session and fields[0] not in "ZX":
            found.append(int(entry))
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may have gone by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def hup(server: Server) -> None:
    """Ask for a reload."""
    server.process.send_signal(signal.SIGHUP)


def replaced(server: Server, old: Sequence[int], workers: int) -> bool:
    """Whether so many workers are there, and none of the old ones."""
    there = set(workers_of(server))
    return len(there) == workers and not there & set(old) and not set(processes(server)) & set(old)


# --- who holds a connection -------------------------------------------------------------------------------------------


def holders(server: Server, sockets: Sequence[socket.socket]) -> list[int | None]:
    """The workers that hold the server's ends of connections; None while none has accepted one."""
    inodes = _inodes(server.port)
    owners = {inode: pid for pid in workers_of(server) for inode in _sockets(pid)}
    return [owners.get(inodes.get(sock.getsockname()[1], "")) for sock in sockets]


def _inodes(local: int) -> dict[int, str]:
    """By the client's port: the inodes of connections to a port of this machine."""
    found = {}
    ending = f":{local:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split(None, 10)
        if fields[1].endswith(ending) and fields[9] != "0":
            found[int(fields[2].rpartition(":")[2], 16)] = fields[9]
    return found


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{entry}")
                if target.startswith("socket:["):
                    yield target[8:-1]


def _on_each(
    server: Server, workers: Sequence[int], make: Callable[[], Made], socket_of: Callable[[Made], socket.socket]
) -> list[Made]:
    """Connections made until each worker has one, in that order; who gets the next is up to the kernel."""
    found: dict[int, Made] = {}

    def complete() -> bool:
        made = [make() for _ in range(BURST)]
        for connection, pid in zip(made, holders(server, [socket_of(each) for each in made]), strict=True):
            if pid is not None and pid in workers and pid not in found:
                found[pid] = connection
            else:
                connection.close()
        return len(found) == len(workers)

    try:
        eventually(complete, within=SEARCH_S)
    except BaseException:
        for connection in found.values():
            connection.close()
        raise
    return [found[worker] for worker in workers]


def clients_on(server: Server, *workers: int) -> list[Client]:
    """An established client on each of these workers."""
    return _on_each(
        server, workers, lambda: Client(server.host, server.port).established(), lambda client: client.socket
    )


def rests_on(server: Server, *workers: int) -> list[Rest]:
    """A connection to the REST API on each of these workers."""

    def make() -> Rest:
        rest = Rest(server.host, server.port)
        rest.connection.request("GET", "/up")
        rest.connection.getresponse().read()
        return rest

    return _on_each(server, workers, make, lambda rest: rest.connection.sock)


class Everywhere:
    """One client and one REST connection on each worker, in the order of `workers`."""

    def __init__(self, server: Server) -> None:
        self.workers = workers_of(server)
        self.clients = clients_on(server, *self.workers)
        self.rests = rests_on(server, *self.workers)

    def __enter__(self) -> Everywhere:
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients:
            client.close()
        for rest in self.rests:
            rest.close()


# --- a crowd ----------------------------------------------------------------------------------------------------------


class Stage(Enum):
    """OPENING until the connection is established, CLOSED for good."""

    OPENING = auto()
    ESTABLISHED = auto()
    CLOSED = auto()


class Peer:
    """One client of a crowd. Subclasses say what they do when it is `established`, has `heard` an event, is `gone`.

    It connects to the crowd's server, or to another that is given.
    """

    def __init__(self, crowd: Crowd, server: Server | None = None) -> None:
        self.stage = Stage.OPENING
        self.socket_id = ""
        self.code = 1006  # of the server's close frame
        self.error = 0  # the code of the last pusher:error
        self._crowd = crowd
        self._in = bytearray()
        self._out = bytearray(_UPGRADE.format(key=crowd.key).encode())
        self._upgraded = False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((server.host, server.port) if server else (crowd.host, crowd.port))
        crowd.watch(self, True)

    # What subclasses fill in

    def established(self) -> None:
        """The server has given this client its socket id."""

    def heard(self, event: dict[str, Any]) -> None:
        """An event of a channel."""

    def gone(self) -> None:
        """The server has ended the connection, or has died."""

    # What it can do

    def send(self, event: str, data: Any, **more: Any) -> None:
        """Send an event."""
        self._write(frame(json.dumps({"event": event, "data": data, **more}).encode()))

    def subscribe(self, channel: str, user: str | None = None) -> None:
        """Ask for a subscription, as a member where `user` is given."""
        member = {} if user is None else {"channel_data": json.dumps({"user_id": user, "user_info": {}})}
        text = ":".join([self.socket_id, channel, *member.values()])
        signature = hmac.new(b"secret1", text.encode(), hashlib.sha256).hexdigest()
        auth = {"auth": f"key1:{signature}"} if channel.startswith(("private", "presence")) else {}
        self.send("pusher:subscribe", {"channel": channel, **auth, **member})

    def unsubscribe(self, channel: str) -> None:
        """Leave a channel."""
        self.send("pusher:unsubscribe", {"channel": channel})

    def leave(self, politely: bool = False) -> None:
        """End the connection, with a close frame or without a word."""
        if politely:
            with contextlib.suppress(OSError):
                self.socket.send(frame(b"\x03\xe8", CLOSE))
        self._end()

    # How it is done

    def ready(self, mask: int) -> None:
        """The socket can be read or written."""
        if mask & selectors.EVENT_WRITE:
            self._write(b"")
        if mask & selectors.EVENT_READ and self.stage is not Stage.CLOSED:
            self._read()

    def _write(self, data: bytes) -> None:
        waited = bool(self._out)
        self._out += data
        try:
            del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            return  # it is over: reading tells
        if waited or self._out:
            self._crowd.watch(self, bool(self._out))

    def _read(self) -> None:
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not self._upgraded:
            self._upgraded = (end := self._in.find(b"\r\n\r\n")) >= 0
            if self._upgraded:
                del self._in[: end + 4]
        if self._upgraded:
            self._frames()
        if not data and self.stage is not Stage.CLOSED:
            self._end()
            self.gone()

    def _frames(self) -> None:
        data, at = self._in, 0
        while self.stage is not Stage.CLOSED and len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                width = 2 if size == 126 else 8
                start += width
                size = int.from_bytes(data[start - width : start], "big")
            if len(data) < start + size:
                break
            opcode, at = data[at] & 15, start + size
            self._frame(opcode, bytes(data[start:at]))
        del data[:at]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.code = int.from_bytes(payload[:2], "big")
        elif opcode == TEXT:
            event = json.loads(payload)
            own = _OWN.get(event["event"])
            if own is None:
                self.heard(event)
            else:
                own(self, event)

    def _established(self, event: dict[str, Any]) -> None:
        self.socket_id = json.loads(event["data"])["socket_id"]
        self.stage = Stage.ESTABLISHED
        self.established()

    def _pinged(self, event: dict[str, Any]) -> None:
        self.send("pusher:pong", {})

    def _refused(self, event: dict[str, Any]) -> None:
        data = event["data"]
        self.error = (json.loads(data) if isinstance(data, str) else data)["code"]

    def _end(self) -> None:
        self.stage = Stage.CLOSED
        self._crowd.forget(self)
        self.socket.close()


_OWN: Final[dict[str, Callable[[Peer, dict[str, Any]], None]]] = {
    "pusher:connection_established": Peer._established,
    "pusher:ping": Peer._pinged,
    "pusher:error": Peer._refused,
}


class Crowd:
    """Many peers on one selector. Nothing happens but in `turn`, which `until` repeats."""

    def __init__(self, server: Server, key: str = "key1") -> None:
        self.host, self.port, self.key = server.host, server.port, key
        self.peers: set[Peer] = set()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        for peer in list(self.peers):
            peer.leave()
        self._selector.close()

    def watch(self, peer: Peer, writing: bool) -> None:
        """A peer is new, or has more or nothing to write."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if peer in self.peers:
            self._selector.modify(peer.socket, mask, peer)
        else:
            self._selector.register(peer.socket, mask, peer)
            self.peers.add(peer)

    def forget(self, peer: Peer) -> None:
        """It has closed."""
        self._selector.unregister(peer.socket)
        self.peers.discard(peer)

    def turn(self, within: float = 0.02) -> None:
        """Serve who is ready, or wait for one."""
        for key, mask in self._selector.select(within):
            peer: Peer = key.data
            if peer.stage is not Stage.CLOSED:
                peer.ready(mask)

    def until(self, condition: Callable[[], bool], within: float = 60.0) -> None:
        """Turn until it holds; AssertionError after `within` seconds."""

        def turned() -> bool:
            self.turn()
            return condition()

        eventually(turned, within, every=0)
