"""The line between two workers, over which connections go from one to the other: a unix socket with descriptors."""

from __future__ import annotations

import array
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from logging import Logger
from typing import Any, Final, TypeVar

import gevent
import orjson
from gevent import socket as gsocket
from gevent.socket import wait_read

from resonate.bus.directory import RunDirectory, alive, is_worker
from resonate.errors import SnapshotError
from resonate.server.context import Context
from resonate.server.descriptors import Descriptors
from resonate.server.http_connection import HttpConnection
from resonate.server.luggage import Bag, Luggage, packed
from resonate.server.moving import Group, Movers
from resonate.server.plugin_state import Left
from resonate.server.pusher_connection import PusherConnection
from resonate.server.stats import Reason
from resonate.server.transport import Transport
from resonate.websocket import encode_close

#: Connections that are handed over at a time: none of them is served until all of them are there.
BATCH: Final = 200
#: The same where the giver lives on: nobody is in a hurry, and those under way wait for less. And the pause after them,
#: in seconds, for all others.
FEW: Final = 50
PAUSE_S: Final = 0.01
#: Bytes of one message; the kernel takes some 200 KB. It takes 253 descriptors: those of a whole batch.
PIECE: Final = 64 * 1024
#: The longest luggage that an heir takes: so much may have been written to BATCH slow clients, and not been sent.
LONGEST: Final = 512 * 1024 * 1024
#: How long the other side may take, in seconds.
PATIENCE_S: Final = 10.0
#: Workers that may wait to be answered.
WAITING: Final = 64
#: How long to wait where no file can be opened, in seconds.
EXHAUSTED_PAUSE_S: Final = 1.0
#: Between two looks for connections that can go, where those that are left cannot, in seconds.
LOOK_S: Final = 0.02

_ROOM: Final = socket.CMSG_SPACE(4 * BATCH)
_MORE, _LAST = b"+", b"."
_TAKEN: Final = b"taken"

Connection = TypeVar("Connection", PusherConnection, HttpConnection)


class Sender:
    """The giver's end: hands over what can go to `heir`. `reason` is under what it is counted.

    `moved` have gone; `full`: the heir has no descriptors left for more.
    """

    def __init__(
        self, context: Context, movers: Movers, directory: RunDirectory, name: str, heir: str, reason: Reason
    ) -> None:
        self._context = context
        self._movers = movers
        self._directory = directory
        self._name = name
        self._heir = heir
        self._reason = reason
        self.full = False
        self.moved = 0
        self._line: Any = None
        self._left: Counter[Left] = Counter()

    def connect(self) -> str:
        """What the heir says: "ready", "wait", "full", "leaving", or nothing: it has not come so far, or is no more."""
        line = gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.settimeout(PATIENCE_S)
        try:
            line.connect(str(self._directory.line(self._heir)))
            with suppress(BrokenPipeError):  # who is full does not wait for that
                line.sendall(orjson.dumps({"origin": self._name}))
            said = str(line.recv(64), "latin-1")
        except OSError:
            said = ""
        if said == "ready":
            self._line = line
        else:
            line.close()
        return said

    def hand_over(self, goes_on: Callable[[], bool]) -> bool:
        """Hand over all that can go, as long as `goes_on`; False when the heir is not there any more, or is full."""
        while self._context.reactor.transports and goes_on():
            try:
                pushers = self._agreed(PusherConnection)
                if pushers and not self._move(pushers):
                    return False
                others = self._agreed(HttpConnection)
                if others:
                    self._send(0, [], [packed(http.transport, {"http": http.snapshot()}) for http in others])
            except (OSError, ValueError) as error:
                self._failed(error)
                return False
            if self.full:
                return False
            gevent.sleep(0 if pushers or others else LOOK_S)
        return True

    def give(self, most: int, goes_on: Callable[[], bool]) -> int:
        """Hand over up to so many Pusher connections, as long as `goes_on`; how many have gone. The others stay.

        Those go that cost the least: nothing waits to be sent to them.
        """
        given = 0
        while given < most and goes_on():
            try:
                idle = self._agreed(PusherConnection, min(FEW, most - given), lambda transport: not transport.waiting)
                if not idle or not self._move(idle):
                    break
            except (OSError, ValueError) as error:
                self._failed(error)
                break
            given += len(idle)
            gevent.sleep(PAUSE_S)
        return given

    def _failed(self, error: Exception) -> None:
        self._context.log.error("the heir %s does not take connections: %s", self._heir, error)

    def close(self) -> None:
        """No more will come. What plugins keep and could not go is told once for all."""
        if self._line is not None:
            self._line.close()
        for (plugin, reason), count in self._left.items():
            self._context.log.error(
                "the state that the plugin %r keeps of %d connections is not handed over: %s", plugin, count, reason
            )

    def _agreed(
        self, kind: type[Connection], most: int = BATCH, fit: Callable[[Transport], bool] = lambda _: True
    ) -> list[Connection]:
        """The next ones of that kind that are `fit`, for which the heir holds descriptors. They go before anything else
        happens.
        """
        wanted = len(self._movable(kind, most, fit))
        if self.full or not wanted:
            return []
        self._line.sendall(b"%d" % wanted)
        answer = self._line.recv(16)
        if not answer:
            raise ConnectionResetError("it has gone")
        room = int(answer)
        self.full = not room
        found = self._movable(kind, room, fit)
        if room and not found:
            self._send(0, [], [])  # they have gone meanwhile, and are waited for
        return found

    def _movable(self, kind: type[Connection], most: int, fit: Callable[[Transport], bool]) -> list[Connection]:
        found = (transport.protocol for transport in self._context.reactor.transports if fit(transport))
        return list(islice((each for each in found if isinstance(each, kind) and each.movable), most))

    def _move(self, connections: list[PusherConnection]) -> bool:
        group = self._movers.depart(self._heir, connections)
        while not group.decided.wait(1.0):
            pass  # a shard is away; requests wait for the next one
        if group.departure.refused:
            for passenger in group.passengers:
                self._context.hub.add(passenger.connection)
                passenger.unload()
            return False
        if not group.departure.granted:
            self._abandon(group)
            return False
        bags = [passenger.pack() for passenger in group.passengers]
        for passenger in group.passengers:
            passenger.session.forget()
        self._left.update(left for passenger in group.passengers for left in passenger.left)
        self._send(group.departure.ref, group.departure.beliefs, bags)
        return True

    def _abandon(self, group: Group) -> None:
        """The heir has died when some shards had handed over, and others had not: neither can serve these."""
        for request in group.departure.remains():
            self._context.link.send(request)
        for passenger in group.passengers:
            passenger.session.forget()
            passenger.transport.write(encode_close(4200, "Server is restarting"))
            passenger.transport.close()

    def _send(self, ref: int, beliefs: list[Any], packed: list[tuple[Bag, int | None]]) -> None:
        descriptors = [descriptor for _, descriptor in packed if descriptor is not None]
        bags = [bag | {"file": descriptor is not None} for bag, descriptor in packed]
        data = orjson.dumps({"ref": ref, "beliefs": beliefs, "bags": bags})
        try:
            for piece, files in _pieces(data, descriptors):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
                self._line.sendmsg([piece], rights)
            if self._line.recv(len(_TAKEN)) != _TAKEN:
                raise ConnectionAbortedError("it has ended")
            self.moved += len(bags)
            self._context.stats.handed_over[self._reason] += len(bags)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _pieces(data: bytes, descriptors: list[int]) -> Iterator[tuple[bytes, list[int]]]:
    """What travels as one message each."""
    if descriptors:
        yield _MORE, descriptors
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        yield (_LAST if start + PIECE >= len(data) else _MORE) + piece, []


class Recipient:
    """The heir's end: takes connections in from whoever hands them over, unless this worker goes itself.

    It says before how many it takes: a descriptor that finds no place is lost on the way, and its client with it.
    """

    def __init__(
        self,
        movers: Movers,
        directory: RunDirectory,
        name: str,
        log: Logger,
        ready: Callable[[], bool],
        descriptors: Descriptors,
    ) -> None:
        self._movers = movers
        self._ready = ready
        self._path = directory.line(name)
        self._log = log
        self._descriptors = descriptors
        self._full = False  # and it has been said
        self.leaving = False  # this worker goes itself: others are told so
        self._listening: Any = None
        self._greenlet: Any = None
        self._trouble = ""

    def open(self) -> None:
        """Where no file can be made nobody comes: then who goes closes its connections, as it would without an heir."""
        trouble = ""
        try:
            self._listening = gsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listening.bind(str(self._path))
            self._listening.listen(WAITING)
            self._greenlet = gevent.spawn(self._accept)
        except OSError as error:
            self._end()
            trouble = str(error.strerror)
        if trouble and trouble != self._trouble:
            self._log.error("no connections can be taken over from other workers: %s: %s", self._path, trouble)
        self._trouble = trouble

    def mend(self) -> None:
        """Make the file anew if it has vanished, or could not be made. To be called each second."""
        if not self._path.exists():
            self._end()
            self.open()

    def close(self) -> None:
        """Nobody is told anything any more."""
        self._end()
        self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:  # out of files: who waits is asked to wait on
                gevent.sleep(EXHAUSTED_PAUSE_S)
                continue
            descriptors = self._descriptors
            if descriptors.room() and line.fileno() < descriptors.ceiling:
                gevent.spawn(self._serve, line)
            else:
                self._note(full=True)
                self._turn_away(line)
            gevent.sleep(0)

    def _turn_away(self, line: Any) -> None:
        """At once, so that it does not take a descriptor while others come."""
        with suppress(OSError):  # it has gone already
            line.shutdown(socket.SHUT_RD)  # nothing more comes, and what has come is read:
            line.recv(512)  # what is unread when a line is closed takes along what has been said
            line.sendall(b"leaving" if self.leaving else b"full")
        line.close()

    def _note(self, *, full: bool) -> None:
        """Whether there was room is said where it has changed."""
        if full and not self._full:
            self._log.error(
                "no descriptors are left for connections of other workers. Raise the limit of open files "
                "(ulimit -n, LimitNOFILE=)"
            )
        self._full = full

    def _serve(self, line: Any) -> None:
        origin = ""
        try:
            line.settimeout(PATIENCE_S)
            origin = str(orjson.loads(line.recv(512))["origin"])
            if self.leaving or not self._welcome(origin):
                line.sendall(b"leaving" if self.leaving else b"wait")
            else:
                self._host(line, origin)
        except (OSError, LookupError, TypeError, ValueError, SnapshotError) as error:
            self._log.error("connections of another worker (%s) could not be taken over: %s", origin, error)
        finally:
            line.close()

    def _welcome(self, origin: str) -> bool:
        """Whether that worker may send. Not while an earlier line of it has not been read to its end, which says that
        nothing more comes from there.
        """
        return is_worker(origin) and alive(origin) and origin not in self._movers.origins and self._ready()

    def _host(self, line: Any, origin: str) -> None:
        self._movers.origins.add(origin)
        try:
            line.sendall(b"ready")
            line.settimeout(None)
            self._take(line, origin)
        finally:
            self._movers.origins.discard(origin)
            self._movers.abandoned(origin)

    def _take(self, line: Any, origin: str) -> None:
        """Until there is no more: so many are to come, as many have room, there they are, they are taken."""
        while wanted := line.recv(16):
            held = self._descriptors.held(min(int(wanted), BATCH))
            try:
                self._note(full=not held)
                line.sendall(b"%d" % len(held))
                if held and not self._bring(line, origin, held):
                    return
            finally:
                self._descriptors.release(held)
            gevent.sleep(0)

    def _bring(self, line: Any, origin: str, held: list[int]) -> bool:
        """Whether they have come."""
        wait_read(line.fileno())
        self._descriptors.release(held)  # for those that the kernel puts there now
        descriptors: list[int] = []
        text = b""
        try:
            text = self._received(line, descriptors)
        finally:
            if not text:  # it has broken off in the middle
                for descriptor in descriptors:
                    os.close(descriptor)
        if text:
            self._movers.brought(origin, Luggage(text, descriptors))
            line.sendall(_TAKEN)  # only then come the next ones: if this worker died, they would be gone with it
        return bool(text)

    def _received(self, line: Any, descriptors: list[int]) -> bytes:
        """The text of the next luggage, nothing at the end; descriptors are added to those. Raises SnapshotError."""
        text: list[bytes] = []
        size = 0
        while size <= LONGEST:
            piece, ancillary, flags, _ = line.recvmsg(PIECE + 1, _ROOM, socket.MSG_CMSG_CLOEXEC)
            if flags & socket.MSG_CTRUNC:  # somebody else in this process was quicker
                self._log.error("connections of another worker are lost: no descriptors were left for them")
            for _, _, files in ancillary:
                received = array.array("i")
                received.frombytes(files[: len(files) - len(files) % received.itemsize])
                descriptors += received
            if not piece:
                return b""
            text.append(piece[1:])
            size += len(piece)
            if piece[:1] == _LAST:
                return b"".join(text)
        raise SnapshotError(f"luggage of more than {LONGEST} bytes")
