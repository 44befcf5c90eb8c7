"""The logs that this shard follows: who needs each, how far it has come, and what its entries mean for the workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import Final

from resonate.shard.cluster.appends import Echo
from resonate.shard.cluster.entries import EntryError, Expelled, Joined, Left, LogEntry, Published, Seal, field_of
from resonate.shard.cluster.feed import PER_MS, Feed, Numbered, State
from resonate.shard.cluster.names import log_name
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.store import Arrived, Follow, Order, Page, Read
from resonate.shard.cluster.waiting import Signal
from resonate.shard.shard import Outgoing

#: How far ahead of the store's clock an entry may be, in milliseconds: after a failover that may be another.
AHEAD_MS: Final = 3_600_000
#: From how far on it is looked whether the log has it: until then whoever says so may keep others from being heard.
DOUBTED_MS: Final = 3_000
#: How long a log is followed that nobody needs any more, in seconds: reconnects must not make it flap.
LINGER_S: Final = 1.0


class Log:
    """The log of a channel; of an app, where `channel` is empty. `presence`: it has members.

    `claims` are users who are about to be on it, `coming` counts all who are.
    """

    __slots__ = (
        "app",
        "backlog",
        "behind",
        "channel",
        "claims",
        "coming",
        "doubted",
        "doubtful_until",
        "feed",
        "idle_since",
        "indexed",
        "leaving",
        "live",
        "presence",
        "reaching",
        "reading",
        "wanted_at",
    )

    def __init__(self, app: str, channel: str, presence: bool, position: int | None) -> None:
        self.app = app
        self.channel = channel
        self.presence = presence
        self.feed = Feed(log_name(app, channel), position)
        self.claims: Counter[str] = Counter()
        self.coming = 0
        self.wanted_at = 0  # where it most likely was when somebody began to listen
        self.live = Signal()
        self.reaching: list[tuple[int, Signal]] = []
        self.reading = 0  # the reference of the order by which it is read
        self.indexed = False  # whether the store knows that this party has members in it
        self.leaving: set[str] = set()  # users who are being taken out
        self.idle_since: float | None = None
        self.doubted = 0  # the latest position that may be none
        self.doubtful_until: float | None = None  # who is not in it by then has gone
        self.behind: dict[str, int] | None = None  # how far each worker was, while this shard recovers
        self.backlog: list[tuple[int, LogEntry]] = []  # what is for them

    @property
    def name(self) -> str:
        """As the store knows it."""
        return self.feed.log

    def interrupt(self) -> None:
        """What was being done by it goes on when it is live again, or is given up."""
        self.leaving.clear()
        if self.live.fired:
            self.live = Signal()

    def reach(self, position: int) -> Signal:
        """What happens when it has come there."""
        signal = Signal()
        if (self.feed.position or 0) >= position:
            signal.fire()
        else:
            self.reaching.append((position, signal))
        return signal


class Following:
    """`parties` says what of whom counts on this host. What is found out gathers in `outgoing`.

    `wall_ms` is what must be added to the clock of all times for the time of day, in milliseconds.
    """

    def __init__(self, shard: SharedShard, seal: Seal, parties: Parties, wall_ms: int) -> None:
        self._shard = shard
        self._wall_ms = wall_ms
        self._seal = seal
        self._parties = parties
        self.logs: dict[str, Log] = {}
        self.outgoing: Outgoing = []
        self.refusals = 0  # entries that were dropped
        self.refused = ""  # why the last one was
        self.loose: set[str] = set()  # logs that nobody may need any more
        self._doubted: set[str] = set()  # those of which it has to be looked again who is there
        self.missed = 0  # logs of which entries are missing
        self.gaps = 0  # how many of those nobody has been told of
        self.unclaimed: list[tuple[Log, str]] = []  # users who were about to join, and have not
        self.echoes: list[Echo] = []  # what this host has published and has come back
        self.joined: list[tuple[Log, str]] = []  # users of this party who have just come in
        self.entries = 0
        self._latest = 0  # the last position that has been seen in any log, and when
        self._latest_at = 0.0
        self._whole_at = math.inf  # when all are back whom the store may have lost

    def log(self, app: str, channel: str, presence: bool, now: float) -> Log:
        """The log of a channel, made if nobody has needed it before."""
        log = self.logs.get(log_name(app, channel))
        if log is None:
            log = self.logs[log_name(app, channel)] = Log(app, channel, presence, None)
            log.wanted_at = self._position_at(now)
            self.loose.add(log.name)
        log.presence |= presence
        return log

    def want(self, app: str, channel: str, presence: bool, now: float, away: bool = False) -> tuple[Log, list[Order]]:
        """The same, and what to order if it is followed only now.

        While the store is `away` nobody can follow it: what is published from now on is to be read once it is back.
        """
        log = self.log(app, channel, presence, now)
        if away:
            log.feed.guess(log.wanted_at)
            return log, []
        return log, self.begin(log) if log.feed.state is State.ABSENT else []

    def _position_at(self, now: float) -> int:
        """Where the store's logs most likely are by now, without what comes in the same millisecond.

        Its clock goes as ours, and shows the same while it is unseen.
        """
        if not self._latest:
            return (int(now * 1000) + self._wall_ms) * PER_MS - 1
        return (self._latest // PER_MS + int((now - self._latest_at) * 1000)) * PER_MS - 1

    def is_ahead(self, position: int, now: float, by_ms: int = AHEAD_MS) -> bool:
        """Whether it cannot be a position of now: all after it would seem to have been before."""
        return position > self._position_at(now) + by_ms * PER_MS

    def arriving(self) -> None:
        """It is not known yet how old the store's memory is."""
        self._whole_at = math.inf

    def arrived(self, arrived: Arrived, now: float) -> None:
        """So late it is in the store, whose clock may be another than before; and so long it remembers."""
        self._latest, self._latest_at = arrived.now, now
        age_s = max(0, arrived.now - arrived.since) / PER_MS / 1000
        self._whole_at = now + self._parties.lease_s - age_s

    def believes(self, log: Log, now: float) -> bool:
        """Whether somebody may leave because he is not among the members of that log."""
        return log.presence and log.feed.position is not None and now >= self._whole_at

    def seen(self, position: int, now: float) -> None:
        """The store's logs have come so far."""
        if position > self._latest:
            self._latest, self._latest_at = position, now

    def begin(self, log: Log) -> list[Order]:
        """Follow it, from where it was."""
        log.feed.begin()
        log.indexed = False
        log.interrupt()
        return [Follow(log.name)]

    def lost(self) -> None:
        """Nothing of the logs comes any more."""
        for log in self.logs.values():
            log.feed.lost()

    def give_up(self, own: str) -> None:
        """The store is away, or another than before. Whom only this host had is here if a worker has him."""
        for log in self.logs.values():
            log.feed.guess(log.wanted_at)
            log.reaching.clear()
            log.interrupt()
            if log.presence and log.behind is None:
                self.outgoing += self._shard.alone(log.app, log.channel, own, +log.claims)

    def followed(self, name: str, refs: Iterator[int]) -> Read | None:
        """What is to be read, now that a log is followed."""
        log = self.logs.get(name)
        if log is None:
            return None
        after = log.feed.followed()
        if after is not None and log.behind is not None:
            after = log.feed.look_back()
        return Read(next(refs), name, after, log.presence)

    def entry(self, name: str, position: int, data: bytes, now: float) -> list[Order]:
        """A new entry. What to order, to know whether it is one: then it is read with the log."""
        log = self.logs.get(name)
        if self.is_ahead(position, now):
            self._refuse(name)
        elif log is not None and self.is_ahead(position, now, DOUBTED_MS):
            log.doubted = max(log.doubted, position)
            return self.begin(log)
        else:
            self.seen(position, now)
            if log is not None:
                self._apply(log, log.feed.entry(position, data), now)
                self._reached(log)
        return []

    def _refuse(self, name: str) -> None:
        self.refusals += 1
        self.refused = f"{name}: an entry of a time to come"

    def page(self, log: Log, page: Page, now: float) -> int | None:
        """What a log held. From where to read on; None when it has been read."""
        step = log.feed.read(page)
        if page.last:
            self.seen(page.last, now)
        if log.doubted > page.last:
            self._refuse(log.name)
        log.doubted = 0
        if step.gap:
            self.missed += 1
            self.gaps += 1
        for _, data in step.known:
            entry = self._opened(log, data)
            if entry is not None:
                self._shard.known(log.app, log.channel, entry)
        before = [each for each in step.fresh if each[0] <= page.last]
        self._apply(log, before, now, presence=False)
        if step.after is not None:
            return step.after
        if log.channel:
            self._shard.follow(log.app, log.channel, page.last, log.presence)
            self._shard.keep(log.app, log.channel, page.cached, now)
        if log.presence and page.members is not None:
            self._reconcile(log, page, now)
        self._apply(log, step.fresh[len(before) :], now)
        if log.channel and log.behind is None:
            self.outgoing += self._shard.reached(log.app, log.channel)
        log.live.fire()
        self._reached(log)
        return None

    def _reconcile(self, log: Log, page: Page, now: float) -> None:
        """Where the store has lost what it had, others are coming back as this host is: they have a lease's time."""
        forgotten = log.feed.broken or now < self._whole_at
        log.doubtful_until = now + self._parties.lease_s if forgotten else None
        if forgotten:
            self._doubted.add(log.name)
        members = []
        for field, value in page.members or ():
            entry = self._opened(log, value)
            if isinstance(entry, Joined) and field == field_of(entry.party, entry.user):
                self._parties.saw(entry.party, log.name)
                if self._parties.counts(entry.party):
                    members.append(entry)
        edges = self._shard.reconcile(log.app, log.channel, members, +log.claims, forgotten)
        if log.behind is None:  # else workers are told who is present
            self.outgoing += edges

    def _apply(self, log: Log, numbered: list[Numbered], now: float, presence: bool = True) -> None:
        for position, data in numbered:
            entry = self._opened(log, data)
            if entry is None or (isinstance(entry, Joined | Left) and not (presence and self._matters(entry))):
                continue
            if isinstance(entry, Published | Expelled) and self._shard.is_ours(entry.origin):
                self.echoes.append((log.name, entry.origin, entry.seq))
            if log.behind is not None:
                log.backlog.append((position, entry))
            else:
                self.outgoing += self._shard.apply(log.app, log.channel, position, entry, now)
            if isinstance(entry, Joined):
                self._parties.saw(entry.party, log.name)  # it may be over: what a dead process has sent arrives late
                self.joined.append((log, entry.user))

    def _matters(self, entry: Joined | Left) -> bool:
        return isinstance(entry, Left) or self._parties.counts(entry.party)

    def _opened(self, log: Log, data: bytes) -> LogEntry | None:
        self.entries += 1
        try:
            return self._seal.open(log.name, data)
        except EntryError as error:
            self.refusals += 1
            self.refused = f"{log.name}: {error}"
            return None

    def _reached(self, log: Log) -> None:
        if log.reaching:
            at = log.feed.position or 0
            reached = [signal for position, signal in log.reaching if position <= at]
            log.reaching = [each for each in log.reaching if each[0] > at]
            for signal in reached:
                signal.fire()

    # --- a successor -------------------------------------------------------------------------------------------------

    def resume(self, app: str, channel: str, presence: bool, behind: dict[str, int]) -> None:
        """Workers have been on this channel, and were so far in its log."""
        log = Log(app, channel, presence, min(behind.values(), default=None))
        log.behind = behind
        self.logs[log.name] = log
        self._shard.came_from[app, channel] = behind

    def release(self, now: float) -> None:
        """All have said what they hold: what they have missed goes to them, to each from where it was."""
        for log in self.logs.values():
            if log.behind is not None:
                for position, entry in log.backlog:
                    self.outgoing += self._shard.apply(log.app, log.channel, position, entry, now, log.behind)
                log.behind = None
                log.backlog.clear()
        self._shard.came_from.clear()

    def will_hear(self, name: str, position: int) -> bool:
        """Whether an entry of a log, at that position, is going to come."""
        log = self.logs.get(name)
        if log is None or log.feed.state is State.ABSENT or log.feed.position is None:
            return False
        return position > log.feed.position

    def doubtful(self, now: float) -> list[Log]:
        """Logs of which it is time to look again who is there."""
        found = []
        for name in list(self._doubted):
            log = self.logs.get(name)
            if log is None or log.doubtful_until is None:
                self._doubted.discard(name)
            elif now >= log.doubtful_until and log.feed.state is State.LIVE:
                self._doubted.discard(name)
                log.doubtful_until = None
                found.append(log)
        return found

    # --- who is not needed any more ----------------------------------------------------------------------------------

    def idle(self, needed: Callable[[Log], bool], delayed: Container[str], now: float) -> list[Log]:
        """Those that nobody has needed for a while; they are followed no longer.

        Of those for which something is `delayed` it is remembered what has been heard: it is still to come from there.
        """
        found = []
        for name in list(self.loose):
            log = self.logs.get(name)
            if log is None or log.coming or needed(log):
                self.loose.discard(name)
                if log is not None:
                    log.idle_since = None
            elif log.idle_since is None:
                log.idle_since = now
            elif now - log.idle_since < LINGER_S or log.leaving or name in delayed:
                continue
            elif log.feed.state in (State.LIVE, State.ABSENT):
                found.append(log)
                self.loose.discard(name)
                del self.logs[name]
        return found
