"""A worker's end of the bus: its inbox, and for each shard the requests that are on their way to it.

It runs on the loop that it is given. Requests leave when there is nothing else to do, in one frame for each shard: a
frame costs more than what is in it, and the busier a worker is the more go together. What shards say goes to `receive`
in order. A shard that dies or hangs is followed by another, which is told what this worker holds.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from logging import Logger
from time import perf_counter
from typing import Any, Final, Protocol

from resonate.bus.directory import RunDirectory, alive, pid_of
from resonate.bus.pipes import READ, Inbox, Outlet
from resonate.encoding import EncodingError, decode, encode
from resonate.messages import Beat, Declaration, Event, Hello, Parcel, Question, Request
from resonate.shard.homes import homes
from resonate.shard.ledger import Ledger
from resonate.shard.resharding import resharded

#: How long one turn may take frames in, in seconds.
SLICE_S: Final = 0.005
#: Seconds between two looks for a shard that is away.
SEARCH_S: Final = 0.02
#: Seconds after which requests are sent although there is other work to do, in the next turn of the loop.
LATEST_S: Final = 0.002
#: How long what has been sent may take to leave when a worker ends, in seconds.
LINGER_S: Final = 1.0
#: Bytes of a shard that are dealt with before it is told so, at the latest.
RECEIPT_BYTES: Final = 256 * 1024
#: Silent seconds after which a shard is said to be away: it beats each second.
SILENT_S: Final = 5


class State(Enum):
    """AWAY: there is no shard. GREETED: it has been told what is held. LINKED: it has answered."""

    AWAY = auto()
    GREETED = auto()
    LINKED = auto()


class Receiver(Protocol):
    """Takes what the shards say."""

    clogged: bool  #: set here: so many requests are under way that clients should not be listened to

    @property
    def full(self) -> bool:
        """Whether nothing more should be taken in now."""

    def pause(self, resume: Callable[[], None]) -> None:
        """Call `resume` when that is over."""

    def receive(self, events: list[Event]) -> None:
        """Events in order."""


class _Peer:
    """One shard, as this worker knows it."""

    def __init__(self, index: int, ledger: Ledger) -> None:
        self.index = index
        self.ledger = ledger
        self.state = State.AWAY
        self.name = ""
        self.outlet: Outlet | None = None
        self.pidfd = -1
        self.watcher: Any = None
        self.silent_s = 0
        self.unreceipted = 0  # bytes dealt with and not told
        self.unreachable = ""  # a shard that is there, and takes no connection


class BusLink:
    """`name` is this worker's; there is a ledger for each shard, which may tell what it holds already.

    `start_shard` is told the number of a shard that is not there, as long as it is not.
    """

    def __init__(
        self,
        loop: Any,
        log: Logger,
        directory: RunDirectory,
        name: str,
        ledgers: Sequence[Ledger],
        timeout_s: float,
        receiver: Receiver,
        start_shard: Callable[[int], None],
    ) -> None:
        self._inbox = Inbox(loop, directory, name, log, self._readable)
        self._loop = loop
        self._log = log
        self._directory = directory
        self._name = name
        self._timeout_s = timeout_s
        self._receiver = receiver
        self._start_shard = start_shard
        self._peers = [_Peer(index, ledger) for index, ledger in enumerate(ledgers)]
        self._holding = self._closed = False
        self._by_name: dict[str, _Peer] = {}
        self._search: Any = None
        self._again = loop.timer(0)
        self._idle = loop.idle()
        self._latest = loop.timer(LATEST_S, LATEST_S)
        self._scheduled = False
        self._given_up = False
        self.undecodable = 0
        self.successions = 0  # shards that have followed another
        self._look_for_shards()

    # --- to the shards -----------------------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        """Put a request on its way."""
        for index in homes(request, len(self._peers)):
            self._peers[index].ledger.add(request)
        if not (self._scheduled or self._closed):
            self._scheduled = True
            self._idle.start(self._flush)
            self._latest.again(self._flush)

    def answers(self, request: Question) -> int:
        """How many answers a question will have."""
        return len(homes(request, len(self._peers)))

    @property
    def trouble(self) -> str:
        """Why requests are not being answered; empty when they are."""
        away = [str(peer.index) for peer in self._peers if peer.state is not State.LINKED or peer.silent_s > SILENT_S]
        return f"shard {', '.join(away)} does not answer" if away else ""

    @property
    def settled(self) -> bool:
        """Whether nothing would have to be asked of a shard again, if it died now."""
        return all(peer.ledger.settled for peer in self._peers)

    def _flush(self) -> None:
        self._idle.stop()
        self._latest.stop()
        self._scheduled = False
        self._receiver.clogged = self._clogged()
        for peer in self._peers:
            if peer.outlet is None:
                continue
            batch = peer.ledger.batch()
            if batch is not None:
                peer.unreceipted = 0
                peer.outlet.send(encode(batch))

    def _clogged(self) -> bool:
        return any(peer.ledger.behind for peer in self._peers)

    def beat(self, counters: dict[str, Any]) -> None:
        """A second has passed. `counters` are told to the first shard."""
        for peer in self._peers:
            if peer.outlet is not None:
                self._receipt(peer, counters if peer.index == 0 else None)
                peer.ledger.prune(time.monotonic())
                peer.silent_s += self._inbox.active  # while it is not listened to its silence says nothing
                if peer.silent_s > self._timeout_s:
                    self._kill(peer, f"silent for {peer.silent_s} s")
                elif peer.outlet.hung_up:
                    self._kill(peer, "it has hung up, and lives")
            elif peer.unreachable:
                peer.silent_s += 1
                if peer.silent_s > self._timeout_s:
                    self._kill(peer, f"it has taken no connection for {peer.silent_s} s")
        self._inbox.mend(self._log)

    def hasten(self) -> None:
        """Ask those shards to see to it of which not everybody has dealt with what this worker has asked for."""
        self._flush()
        for peer in self._peers:
            if not peer.ledger.settled and peer.outlet is not None:
                self._receipt(peer, None, urgent=True)

    def _receipt(self, peer: _Peer, counters: dict[str, Any] | None, urgent: bool = False) -> None:
        assert peer.outlet is not None
        peer.unreceipted = 0
        peer.outlet.send(encode(Beat(self._name, peer.ledger.received, counters, urgent)))

    # --- from the shards ---------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Take frames in, until there are none, time is up, or the receiver has enough."""
        until = perf_counter() + SLICE_S
        while not self._receiver.full:
            data = self._inbox.receive()
            if data is None:
                return
            self._take(data)
            if perf_counter() > until:
                self._inbox.pause()  # no more is read before this is dealt with
                self._again.start(self._resume)
                return
        self._inbox.pause()
        self._receiver.pause(self._resume)

    def _resume(self) -> None:
        if self._closed:
            return
        self._inbox.resume()
        self._readable()

    def _take(self, data: bytes) -> None:
        try:
            parcel = decode(data)
            if not isinstance(parcel, Parcel):
                raise EncodingError(f"{type(parcel).__name__} is not for a worker")
        except EncodingError as error:
            self.undecodable += 1
            self._log.error("dropped a frame of a shard: %s", error)
            return
        peer = self._by_name.get(parcel.shard)
        if peer is None:
            return  # of a shard that has died
        peer.silent_s = 0
        peer.unreceipted += len(data)
        if peer.state is State.GREETED and parcel.stable >= 0:
            self._linked(peer)
        try:
            events = peer.ledger.receive(parcel, time.monotonic())
        except Exception as error:  # what is left cannot be trusted: half a worker is worse than none
            self._give_up(str(error) or repr(error))
            return
        if self._receiver.clogged:
            self._receiver.clogged = self._clogged()
        self._receiver.receive(events)
        if (parcel.urgent or peer.unreceipted > RECEIPT_BYTES) and peer.outlet is not None:
            self._receipt(peer, None)

    # --- another number of shards ------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Look for no other shards, until `release` or `reshard`."""
        self._holding = True

    def release(self) -> None:
        """Go on."""
        self._holding = False
        self._receiver.clogged = self._clogged()
        self._look_for_shards()
        self._receiver.receive([])  # who waits may be listened to

    def dissolve(self) -> Declaration:
        """Leave the bus, on which no shard is any more; all that this worker holds. To be called while settled."""
        now = time.monotonic()
        (ledger,) = resharded(self._name, [peer.ledger for peer in self._peers], 1, now)
        for peer in self._peers:
            self._part(peer)
        self.close()
        return ledger.declaration(now)

    def reshard(self, shards: int) -> None:
        """Go on with so many shards, in place of those that have gone. To be called while settled."""
        ledgers = resharded(self._name, [peer.ledger for peer in self._peers], shards, time.monotonic())
        for peer in self._peers:
            self._part(peer)
        self._by_name.clear()
        self._peers = [_Peer(index, ledger) for index, ledger in enumerate(ledgers)]
        self.release()

    # --- shards come and go ------------------------------------------------------------------------------------------

    def _look_for_shards(self) -> None:
        """Greet the shards that are there; look again in a moment where one is not."""
        if self._search is not None:
            self._search.close()
            self._search = None
        if self._holding:
            return
        missing = False
        for peer in self._peers:
            if peer.state is State.AWAY:
                found = self._directory.shard(peer.index)
                if found is None:
                    peer.unreachable = ""
                    self._start_shard(peer.index)
                missing = found is None or not self._greet(peer, found) or missing
        if missing:
            self._search = self._loop.timer(SEARCH_S)  # a fresh one: libev resumes one that has fired
            self._search.start(self._look_for_shards)

    def _linked(self, peer: _Peer) -> None:
        peer.state = State.LINKED
        self._log.info("linked to shard %d (pid %d)", peer.index, pid_of(peer.name))

    def _give_up(self, reason: str) -> None:
        """Come to an end: the master starts another worker, and the clients find it."""
        if not self._given_up:
            self._given_up = True
            self._log.critical("this worker gives up: %s", reason)
            os.kill(os.getpid(), signal.SIGTERM)

    def _greet(self, peer: _Peer, name: str) -> bool:
        """Tell a shard what is held; False where it has gone already, takes no connection, or no file can be opened."""
        try:
            pidfd = os.pidfd_open(pid_of(name))
        except OSError:
            return False
        try:
            if not alive(name):
                raise ProcessLookupError(name)
            outlet = Outlet(self._loop, str(self._directory.file(name)))
        except OSError as error:
            os.close(pidfd)
            if isinstance(error, ConnectionRefusedError | BlockingIOError) and peer.unreachable != name:
                peer.unreachable, peer.silent_s = name, 0
            return False
        self.successions += bool(peer.name)
        self._by_name.pop(peer.name, None)
        self._by_name[name] = peer
        peer.name, peer.pidfd, peer.state, peer.silent_s, peer.unreachable = name, pidfd, State.GREETED, 0, ""
        peer.watcher = self._loop.io(pidfd, READ)
        peer.watcher.start(self._lost, peer)
        peer.outlet = outlet
        outlet.send(encode(Hello(self._name, peer.ledger.declaration(time.monotonic()))))
        return True

    def _lost(self, peer: _Peer) -> None:
        """A shard's process has ended. What it has said is taken in first; requests wait for the next one."""
        self._part(peer)
        level = logging.INFO if self._holding else logging.ERROR  # then it was to be expected
        self._log.log(level, "shard %d (pid %d) has died; requests wait for another", peer.index, pid_of(peer.name))
        self._inbox.drain(pid_of(peer.name))
        while (data := self._inbox.receive()) is not None:
            self._take(data)
        self._look_for_shards()

    def _part(self, peer: _Peer, until: float | None = None) -> None:
        """Nothing is said to a shard any more; what is on its way still goes out, until that time if there is one."""
        if peer.outlet is None:
            return
        peer.watcher.stop()
        peer.watcher.close()
        os.close(peer.pidfd)
        peer.outlet.close(until)
        peer.outlet, peer.watcher, peer.state, peer.pidfd = None, None, State.AWAY, -1

    def _kill(self, peer: _Peer, reason: str) -> None:
        """A shard that hangs is worse than none."""
        name = peer.unreachable or peer.name
        self._log.error("killing shard %d (pid %d): %s", peer.index, pid_of(name), reason)
        peer.silent_s = 0
        with suppress(ProcessLookupError):
            if peer.outlet is not None:
                signal.pidfd_send_signal(peer.pidfd, signal.SIGKILL)
            elif alive(name):
                os.kill(pid_of(name), signal.SIGKILL)

    def close(self) -> None:
        """The worker ends: what it has sent still goes out."""
        self._closed = True
        self._flush()
        for watcher in (self._search, self._again, self._idle, self._latest):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        until = time.monotonic() + LINGER_S
        for peer in self._peers:
            self._part(peer, until)
        self._inbox.close()
        self._directory.forget(self._name)
