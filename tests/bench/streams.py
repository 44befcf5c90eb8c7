"""Numbered streams over several hosts, and what subscribers notice of a fault.

Each publisher, a REST connection to one host or a client that triggers events, numbers what it publishes on each
channel. A subscriber keeps what it has heard, in its order; at the end that is compared with what was published.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.support.cluster import Crowd, Peer, Stage
from tests.support.hosts import Hosts
from tests.support.rest import signed
from tests.support.server import Server

#: Kinds of channels, in turns.
KINDS: Final = ("chat", "private-room", "presence-room", "cache-news", "private-encrypted-room")
#: Whose events clients may trigger.
TALKING: Final = ("private-room", "presence-room")
#: Client events per event that comes by REST.
TALK: Final = 0.2
#: REST connections to each host, unless more are needed: one request at a time on each.
CALLERS: Final = 8
#: How long what has been published may take to arrive at the end, in seconds; and an answer.
LAST_S: Final = 30.0
#: How long it is waited for what is too much, in seconds.
SURPLUS_S: Final = 1.0
#: Seconds between two looks at what the hosts say of themselves.
LOOK_S: Final = 0.25
#: Of each complaint so many examples are told.
EXAMPLES: Final = 3

Key = tuple[str, int]  # publisher and number


class Heard(NamedTuple):
    """An event at a subscriber; times by the monotonic clock."""

    publisher: str
    number: int
    sent: float
    came: float


class Subscriber(Peer):
    """On one channel. `view` is who it believes to be present there."""

    def __init__(self, streams: Streams, server: Server, channel: str, user: str) -> None:
        self.streams, self.server, self.channel, self.user = streams, server, channel, user
        self.heard_all: list[Heard] = []
        self.subscribed = False
        self.view: set[str] = set()
        self.edges: Counter[str] = Counter()
        super().__init__(streams.crowd, server)

    def __str__(self) -> str:
        return f"{self.user} at {self.server.directory.name} on {self.channel}"

    @property
    def present(self) -> bool:
        """Whether it is a member of its channel."""
        return self.channel.startswith("presence") and self.stage is Stage.ESTABLISHED

    def established(self) -> None:
        self.subscribe(self.channel, self.user if self.channel.startswith("presence") else None)

    def heard(self, event: dict[str, Any]) -> None:
        name = event["event"]
        if name in ("numbered", "client-numbered"):
            data = json.loads(event["data"]) if isinstance(event["data"], str) else event["data"]
            self.heard_all.append(Heard(data["p"], data["n"], data["t"], time.monotonic()))
        elif name == "pusher_internal:subscription_succeeded":
            self.subscribed = True
            data = json.loads(event["data"])
            self.view = set(data["presence"]["ids"]) if "presence" in data else set()
        elif name.startswith("pusher_internal:member"):
            self._edge(name.endswith("added"), json.loads(event["data"])["user_id"])

    def _edge(self, added: bool, user: str) -> None:
        if self.streams.watching:
            self.edges["added" if added else "removed"] += 1
        if added == (user in self.view):
            self.streams.wrong("edge", f"{self} hears a second time that {user} has {'come' if added else 'gone'}")
        (self.view.add if added else self.view.discard)(user)

    def gone(self) -> None:
        self.streams.closed[self.server.directory.name] += 1
        self.streams.codes[self.code] += 1


class Caller(Peer):
    """A keep-alive REST connection to one host: one request at a time."""

    def __init__(self, streams: Streams, server: Server, name: str) -> None:
        super().__init__(streams.crowd, server)
        self._out.clear()
        streams.crowd.watch(self, False)  # else each turn finds it ready to write nothing
        self.streams, self.server, self.name = streams, server, name
        self.waiting: tuple[str, int, float] | None = None  # channel, number, when it was asked

    @property
    def free(self) -> bool:
        return self.waiting is None and self.stage is not Stage.CLOSED

    def publish(self, channel: str, number: int, now: float) -> None:
        text = json.dumps({"p": self.name, "n": number, "t": now})
        body = json.dumps({"name": "numbered", "channels": [channel], "data": text}).encode()
        target = signed("POST", "/apps/app1/events", body)
        head = f"POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        self.waiting = (channel, number, now)
        self._write(head.encode() + body)

    def _read(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._in += data
        if not data:
            self._answered("closed" if self.waiting else "closed, idle")
            self._end()
        elif b"\r\n\r\n" in self._in and self._in.endswith(b"}"):
            status = bytes(self._in[9:12]).decode()
            self._in.clear()
            self._answered(status)

    def _answered(self, status: str) -> None:
        self.streams.answers[status] += 1
        if self.waiting is not None:
            channel, number, asked = self.waiting
            self.waiting = None
            self.streams.longest_answer = max(self.streams.longest_answer, time.monotonic() - asked)
            if status in ("200", "202"):
                self.streams.answered[channel].add((self.name, number))


class Streams:
    """All of it. `turn` is one step of everything."""

    def __init__(
        self, hosts: Hosts, *, channels: int, subscribers: int, rate: float, callers: int = CALLERS
    ) -> None:
        self.hosts, self.rate = hosts, rate
        self._callers = callers
        self.crowd = Crowd(hosts.servers[0])
        self.channels = [f"{KINDS[number % len(KINDS)]}-{number}" for number in range(channels)]
        self.complaints: Counter[str] = Counter()
        self.examples: list[str] = []
        self.answers: Counter[str] = Counter()
        self.answered: defaultdict[str, set[Key]] = defaultdict(set)  # by channel
        self.talked: defaultdict[str, set[Key]] = defaultdict(set)
        self.longest_answer = self.longest_pause = 0.0  # the latter of this program itself: it sees nothing meanwhile
        self.closed: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.watching = self.publishing = False
        self.sent: Counter[tuple[str, str]] = Counter()  # by channel and publisher
        self.callers: list[Caller] = []
        self.published = self._talks = self._turns = 0
        self._due = self._look_at = 0.0
        self._last = self._looked = time.monotonic()
        self.degraded_s: Counter[str] = Counter()
        self.notes: dict[str, float] = {}
        self._alone: frozenset[str] = frozenset()
        self.subscribers = [
            Subscriber(self, server, channel, f"{server.directory.name}-{number}")
            for channel in self.channels
            for server in hosts.servers
            for number in range(subscribers)
        ]

    def wrong(self, what: str, example: str) -> None:
        self.complaints[what] += 1
        if self.complaints[what] <= EXAMPLES:
            self.examples.append(f"{what}: {example}")

    # The course of events

    def open(self) -> None:
        """Everybody is there, and watches from now on."""
        self.crowd.until(lambda: all(each.subscribed for each in self.subscribers) and self.agreed(), within=LAST_S)
        self.callers = [
            Caller(self, server, f"{server.directory.name}-rest-{number}")
            for number in range(self._callers)
            for server in self.hosts.servers
        ]
        self.watching = self.publishing = True
        self._last = time.monotonic()

    def turn(self) -> None:
        now = time.monotonic()
        if self.publishing:
            self._publish(now)
            self.longest_pause = max(self.longest_pause, now - self._last)
        self._last = now
        if now >= self._look_at:
            self._look(now)
        self.crowd.turn(0.002)

    def until(self, condition: Callable[[], bool], within: float) -> bool:
        """Go on until that is so; False when it does not come."""
        deadline, look_at = time.monotonic() + within, 0.0
        while time.monotonic() < deadline:
            self.turn()
            if time.monotonic() >= look_at:
                if condition():
                    return True
                look_at = time.monotonic() + 0.05
        return False

    def go_on(self, seconds: float) -> None:
        self.until(lambda: False, within=seconds)

    def close(self, within: float = LAST_S) -> None:
        """No more is published; wait so many seconds for what is on its way."""
        self.publishing = False
        self.until(lambda: not any(each.waiting for each in self.callers), within)
        due = [(each, len(self.wanted(each))) for each in self.subscribers if each.stage is not Stage.CLOSED]
        self.until(lambda: self.agreed() and all(len(each.heard_all) >= size for each, size in due), within)
        self.go_on(SURPLUS_S)
        for each in self.callers:
            if each.waiting is not None:
                self.answers["none"] += 1

    def agreed(self) -> bool:
        """Whether every view of a presence channel is the truth."""
        there: defaultdict[str, set[str]] = defaultdict(set)
        for each in self.subscribers:
            if each.present:
                there[each.channel].add(each.user)
        return all(each.view == there[each.channel] for each in self.subscribers if each.present)

    @property
    def alone(self) -> int:
        """How many hosts are on their own, by what they said last."""
        return len(self._alone)

    def _look(self, now: float) -> None:
        alone = frozenset(each.directory.name for each in self.hosts.degraded())
        for name in alone:
            self.degraded_s[name] += now - self._looked
        self._alone, self._looked, self._look_at = alone, now, now + LOOK_S

    # Publishing

    def _publish(self, now: float) -> None:
        """As many as are due, on one channel after another; what nobody can publish is not made up for."""
        self._due = min(self._due + (now - self._last) * self.rate, self.rate)
        while self._due >= 1:
            self._due -= 1
            channel = self.channels[self.published % len(self.channels)]
            caller = self._free_caller()
            if caller is not None:
                caller.publish(channel, self._number(channel, caller.name), now)
                self.published += 1
                if channel.startswith(TALKING) and self.published * TALK > self._talks:
                    self._talk(channel, now)

    def _free_caller(self) -> Caller | None:
        for _ in self.callers:
            self._turns = (self._turns + 1) % len(self.callers)
            caller = self.callers[self._turns]
            if caller.stage is Stage.CLOSED and caller.server in self.hosts.living():
                caller = self.callers[self._turns] = Caller(self, caller.server, caller.name)
            if caller.free:
                return caller
        return None

    def _talk(self, channel: str, now: float) -> None:
        """Whoever is next on the channel, so that all hosts talk."""
        talkers = [each for each in self.subscribers if each.channel == channel and each.stage is Stage.ESTABLISHED]
        self._talks += 1
        talker = talkers[self._talks % len(talkers)]
        name = f"{talker.user}-client"
        number = self._number(channel, name)
        self.talked[channel].add((name, number))
        talker.send("client-numbered", {"p": name, "n": number, "t": now}, channel=channel)

    def _number(self, channel: str, publisher: str) -> int:
        self.sent[channel, publisher] += 1
        return self.sent[channel, publisher]

    def wanted(self, subscriber: Subscriber) -> set[Key]:
        """What it has to have heard."""
        channel, own = subscriber.channel, f"{subscriber.user}-client"
        dead = {f"{each.user}-client" for each in self.subscribers if each.stage is Stage.CLOSED}
        return self.answered[channel] | {key for key in self.talked[channel] if key[0] != own and key[0] not in dead}
