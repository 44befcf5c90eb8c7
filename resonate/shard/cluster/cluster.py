"""A shard among those of other hosts: takes requests, reports of the store and the time; gives orders for the store,
requests that may be handled, and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resonate.messages import (
    Connect,
    Declaration,
    Detach,
    Disconnect,
    Publish,
    Request,
    Standing,
    Subscribe,
    Unsubscribe,
)
from resonate.shard.cluster.appends import Appends
from resonate.shard.cluster.counts import Counts
from resonate.shard.cluster.desk import Desk, Store
from resonate.shard.cluster.entries import Left, Seal, field_of
from resonate.shard.cluster.feed import State
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.names import app_and_channel, log_name
from resonate.shard.cluster.neighbours import Neighbours
from resonate.shard.cluster.outside import Outside
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.preparing import Preparing
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.stage import Stage, Ticket
from resonate.shard.cluster.store import (
    Arrived,
    Entry,
    Followed,
    Keep,
    Leave,
    Listen,
    Lost,
    Order,
    Page,
    Read,
    Ready,
    Reply,
    Report,
    Said,
    Unfollow,
    Unindex,
)
from resonate.shard.cluster.waiting import Task
from resonate.shard.shard import Outgoing


@dataclass(frozen=True)
class Terms:
    """How this host and its shard take part. Times are seconds.

    `host` is the host's id, `process` the name of the shard process; `wall_ms` is what must be added to the clock of
    all times for the time of day, in milliseconds. The rest is as configured below `scaling`.
    """

    host: str
    index: int
    process: str
    wall_ms: int
    lease_s: float = 10.0
    queue_bytes: int = 16 * 1024 * 1024
    queue_s: float = 120.0
    secret: str | None = None


class Cluster:
    """`shard` is this one. It recovers until `release`: workers say what they hold, and requests wait.

    `outside` are programs that are no hosts, if there may be any.
    """

    def __init__(self, terms: Terms, outside: Outside | None = None) -> None:
        self.shard = SharedShard(terms.host)
        self._index = terms.index
        self._seal = Seal(terms.secret)
        self._desk = Desk()
        self._parties = Parties(terms.host, terms.index, terms.process, terms.lease_s)
        self._appends = Appends(terms.queue_bytes, terms.queue_s)
        self._following = Following(self.shard, self._seal, self._parties, terms.wall_ms)
        self._counts = Counts(self.shard.connections, self.shard.interested)
        self._preparing = Preparing(
            self._desk,
            self.shard,
            self._following,
            self._counts,
            self._appends,
            self._parties,
            self._seal,
            terms.wall_ms,
            outside,
        )
        self._outside = outside
        self._stage = Stage()
        self._reading: dict[int, Log] = {}
        self._tasks: set[Task[Any]] = set()  # rejoining, burying
        self._declared: list[Ticket] = []
        self._behind: dict[tuple[str, str], dict[str, int]] = {}
        self._released = False
        self._resumed = False
        self._early: list[tuple[str, int, Sequence[Request]]] = []  # what has come before all had declared
        self._returning: set[str] = set()  # logs in which this party's members are not yet
        self._neighbours = Neighbours(self._desk, self._parties, self._seal)
        self._notices: list[str] = []
        self.counters = dict.fromkeys(("lost", "missed", "entries_out", "overheard"), 0)

    # --- requests ----------------------------------------------------------------------------------------------------

    def stage(self, worker: str, first: int, requests: Sequence[Request], now: float) -> None:
        """Requests of a worker, numbered from `first` on: they wait for what they need."""
        if not self._resumed:
            self._early.append((worker, first, requests))
            return
        for seq, request in enumerate(requests, first):
            self._stage.add(self._ticket(worker, seq, request, now))

    def _ticket(self, worker: str, seq: int, request: Request, now: float) -> Ticket:
        ticket = Ticket(worker, seq, request)
        steps = self._preparing.steps(ticket, now)
        if steps is not None:
            ticket.task = Task(steps)
        return ticket

    def ready(self) -> Iterator[tuple[str, int, Sequence[Request]]]:
        """What may be handled by the shard now, in each worker's order: (worker, number of the first, requests)."""
        for worker, first, requests in self._stage.ready() if self._released else ():
            for seq in range(first, first + len(requests)):
                self._outcome(worker, seq)
            yield worker, first, requests

    def _outcome(self, worker: str, seq: int) -> None:
        outcome = self._stage.outcome(worker, seq)
        if outcome is not None:
            self.shard.outcomes[worker, seq] = outcome

    def handled(self, now: float) -> None:
        """To be called when the shard has handled some: what they have changed is told to the store."""
        handled, self.shard.handled = self.shard.handled, []
        for worker, seq, request in handled:
            self._stage.handled(worker, seq)
            match request:
                case Unsubscribe(app, channel, user):
                    self._counts.changed(app, channel)
                    log = self._following.logs.get(log_name(app, channel))
                    if log is not None:
                        self._following.loose.add(log.name)
                        if user is not None:
                            self._take_out(log, user)
                case Disconnect(app) | Detach(app):
                    self._counts.changed(app)
                    self._following.loose.add(log_name(app, ""))

    def gone(self, worker: str, now: float) -> None:
        """To be called when the shard knows that a worker has gone."""
        self._stage.gone(worker)
        self._declared = [ticket for ticket in self._declared if ticket.worker != worker]
        for positions in self._behind.values():
            positions.pop(worker, None)
        self._early = [each for each in self._early if each[0] != worker]
        self._following.outgoing = [each for each in self._following.outgoing if each[0] != worker]
        unclaimed, self._following.unclaimed = self._following.unclaimed, []
        for log, user in unclaimed:
            if self._desk.store is not Store.READY:
                self._following.outgoing += self.shard.recheck(log.app, log.channel, user)
        self._following.loose.update(self._following.logs)
        for log in self._following.logs.values():
            self._counts.changed(log.app, log.channel or None)
            if log.presence:
                for user in self.shard.users_of(log.app, log.channel, self._parties.name):
                    self._take_out(log, user)

    def _take_out(self, log: Log, user: str) -> None:
        """Take a user out of the log's members, if nobody here has him any more, or is about to."""
        known = self.shard.user(log.app, log.channel, user)
        if (known is not None and known.holders) or log.claims[user] > 0 or user in log.leaving:
            return
        if self._desk.store is Store.READY:
            log.leaving.add(user)
            self._task(self._taking_out(log, user))

    def _taking_out(self, log: Log, user: str) -> Any:
        party = self._parties.name
        entry = self._seal.close(log.name, Left(party, user))
        yield self._desk.ask(Leave, log.name, field_of(party, user), entry)
        log.leaving.discard(user)

    def _task(self, steps: Any) -> None:
        task: Task[Any] = Task(steps)
        if not task.done:
            self._tasks.add(task)

    # --- recovery ----------------------------------------------------------------------------------------------------

    def declare(self, worker: str, declaration: Declaration, now: float) -> None:
        """What a worker has held since before this shard began; to be called after the shard has been told.

        Its requests wait for what they need, and are handled when `release` is called, in an order of their own.
        """
        self._following.outgoing.append((worker, Standing(self._index, self._desk.trouble)))
        if self._released:
            self._hold(declaration, now)
            self.stage(worker, declaration.first, declaration.requests, now)
            return
        for app, channel, position in declaration.positions:
            self._behind.setdefault((app, channel), {})[worker] = position
        declared = [Ticket(worker, seq, request) for seq, request in enumerate(declaration.requests, declaration.first)]
        self._declared += declared
        if self._resumed:  # it has come while the others wait for the store
            self._hold(declaration, now)
            self._prepare(declared, now)

    def resume(self, now: float) -> None:
        """All have declared: follow what they hold, and prepare what they ask for again."""
        if self._resumed:
            return
        self._resumed = True
        for app, channel in self.shard.holdings():
            behind = self._behind.get((app, channel), {})
            self._following.resume(app, channel, self.shard.has_members(app, channel), behind)
        subscribes = [each.request for each in self._declared if isinstance(each.request, Subscribe)]
        asked = {(request.app, request.channel) for request in subscribes}
        for (app, channel), behind in self._behind.items():
            if log_name(app, channel) not in self._following.logs and (app, channel) in asked:
                self._following.resume(app, channel, False, behind)
        if self._desk.store is Store.READY:
            self._begin(now)
        self._prepare(self._declared, now)
        early, self._early = self._early, []
        for worker, first, requests in early:
            self.stage(worker, first, requests, now)

    def _prepare(self, declared: Sequence[Ticket], now: float) -> None:
        for ticket in declared:
            steps = self._preparing.steps(ticket, now)
            ticket.task = Task(steps) if steps is not None else None
            self._stage.add(ticket, queued=False)

    @property
    def recovered(self) -> bool:
        """Whether `release` may be called."""
        if not self._resumed or self._desk.store is Store.UNKNOWN:
            return False
        if self._desk.store is Store.AWAY:
            return True
        logs = [log for log in self._following.logs.values() if log.behind is not None]
        return all(log.feed.state is State.LIVE for log in logs) and all(ticket.ready for ticket in self._declared)

    def outcomes(self) -> None:
        """The declared requests are about to be handled."""
        for ticket in self._declared:
            self._outcome(ticket.worker, ticket.seq)
        self._declared = []

    def release(self, now: float) -> None:
        """They have been: what workers have missed of the logs goes to them."""
        self._released = True
        self._behind.clear()
        self._following.release(now)

    @property
    def released(self) -> bool:
        """Whether requests are handled as they come."""
        return self._released

    # --- the store ---------------------------------------------------------------------------------------------------

    def report(self, report: Report, now: float) -> None:
        """What the store says."""
        match report:
            case Entry(log, position, data):
                self._following.entry(log, position, data, now)
                self._applied()
            case Reply(ref, value):
                self._answered(ref, value, now)
            case Said(data):
                self._overheard(data, now)
            case Followed(log):
                self._read(self._following.followed(log, self._desk.refs))
            case Ready():
                self._desk.ready()
                self._standing()
                if self._outside is not None:
                    self._desk.order(Listen())
                if self._resumed:
                    self._begin(now)
            case Lost(reason):
                self._lost(reason, now)

    def _overheard(self, data: bytes, now: float) -> None:
        """It stands in no log: each host hears it by itself, and it is for those who are there now."""
        if self._outside is None or not self._released:
            return
        for request in self._outside.heard(data):
            outgoing = self.shard.overhear(request, now)
            self.counters["overheard"] += bool(outgoing)
            self._following.outgoing += outgoing
            if outgoing and isinstance(request, Publish) and request.keep_s:
                self._desk.order(Keep(log_name(request.app, request.channel), request.payload, request.keep_s))

    def _begin(self, now: float) -> None:
        """The store can be used: a new party arrives, and tells all that this shard holds."""
        self._neighbours.arrive(now)
        self._following.arriving()
        self._reading.clear()
        for app in self.shard.apps():
            self._following.log(app, "", False, now)
        for app, channel in self.shard.holdings():
            self._following.log(app, channel, self.shard.has_members(app, channel), now)
        for log in self._following.logs.values():
            self._desk.order(*self._following.begin(log))
            self._counts.changed(log.app, log.channel or None)
        self._returning = set(self._following.logs)

    def _hold(self, declaration: Declaration, now: float) -> None:
        """Follow the logs of all that a worker holds that has come late."""
        wanted = [(app, "", False) for app, *_ in declaration.apps]
        wanted += [(held.app, held.channel, bool(held.members)) for held in declaration.channels]
        for app, channel, presence in wanted:
            self._desk.order(*self._following.want(app, channel, presence, now)[1])
            self._counts.changed(app, channel or None)

    def _applied(self) -> None:
        """What has come back is done with. Whoever has come in while nobody wanted it any more is taken out again."""
        echoes, self._following.echoes = self._following.echoes, []
        for echo in echoes:
            self._appends.heard(echo)
        joined, self._following.joined = self._following.joined, []
        for log, user in joined:
            known = self.shard.user(log.app, log.channel, user)
            if known is not None and self._parties.name in known.parties:
                self._take_out(log, user)

    def _lost(self, reason: str, now: float) -> None:
        if self._desk.store is Store.READY:
            self.counters["lost"] += 1
        again = self._desk.store is Store.AWAY
        self._desk.lost(reason)
        self._following.lost()
        self._preparing.admissions.lost()
        self._give_up(self._stage.unfinished(), now)
        if not again:
            self._standing()

    def _anew(self, now: float) -> None:
        """This party is over, perhaps because the store has lost all: as after an outage, though the store is there.

        Only who asks for a place waits on: he is answered.
        """
        self._desk.forget()
        self._give_up([each for each in self._stage.unfinished() if not isinstance(each.request, Connect)], now)
        self._begin(now)

    def _give_up(self, tickets: Iterable[Ticket], now: float) -> None:
        """Nobody knows what is done of all that was ordered; these go on without."""
        for log, entry in self._appends.lost():  # they may be lost with it, and come from here then
            self._following.outgoing += self.shard.apply(*app_and_channel(log), 0, entry, now)
        self._counts.lost()
        self._reading.clear()
        self._neighbours.lost()
        self._following.give_up(self._parties.ours)
        tasks, self._tasks = self._tasks, set()
        for task in [*tasks, *(ticket.task for ticket in tickets if ticket.task is not None)]:
            task.away()

    def _standing(self) -> None:
        standing = Standing(self._index, self._desk.trouble)
        self._following.outgoing += [(worker, standing) for worker in self.shard.workers]

    def _read(self, read: Read | None) -> None:
        if read is not None:
            log = self._reading[read.ref] = self._following.logs[read.log]
            log.reading = read.ref
            self._desk.order(read)

    def _answered(self, ref: int, value: Any, now: float) -> None:
        if self._appends.answered(ref, value, self._following.will_hear):
            self.counters["entries_out"] += 1
        elif self._neighbours.arrived(ref):
            self._following.arrived(value or Arrived(0, 0), now)
        elif ref in self._reading:
            self._read_page(ref, self._reading.pop(ref), value, now)
        elif not self._counts.answered(ref) and not self._preparing.admitted(ref, value):
            self._desk.answered(ref, value)
            if self._neighbours.unknown:
                self._anew(now)

    def _read_page(self, ref: int, log: Log, page: Page | None, now: float) -> None:
        if self._following.believes(log, now):
            self._task(self._certain(ref, log, page, now))
        else:
            self._paged(ref, log, page, now)

    def _certain(self, ref: int, log: Log, page: Page | None, now: float) -> Any:
        """The store may have lost its members since it was asked first."""
        yield self._neighbours.known()
        self._paged(ref, log, page, now)

    def _paged(self, ref: int, log: Log, page: Page | None, now: float) -> None:
        current = self._following.logs.get(log.name) is log and log.reading == ref
        if not current or log.feed.state is not State.READING:
            return
        if page is None or self._following.is_ahead(page.last, now):  # somebody has put something else there
            self._notices.append(f"the log {log.name} cannot be read: see what lies in Redis under that name")
            page = Page([], log.feed.position or 0, None, None)
        after = self._following.page(log, page, now)
        if after is not None:
            self._read(Read(next(self._desk.refs), log.name, after, log.presence))
        else:
            self._applied()
            self._appends.passed(log.name, log.feed.position or 0)
            self._task(self._returned(log, now))

    def _returned(self, log: Log, now: float) -> Any:
        if log.presence:
            yield from self._preparing.rejoining(log, now)
        self._returning.discard(log.name)

    # --- time --------------------------------------------------------------------------------------------------------

    def beat(self, now: float) -> None:
        """To be called about once a second."""
        for log in self._following.idle(self._needed, self._appends.delayed, now):
            self._forget(log)
        if self._desk.store is Store.AWAY:
            self._counts.lost()  # all is told anew
            if dropped := self._appends.bound(now):
                self._notices.append(
                    f"{dropped} events for other hosts are dropped: past scaling.queue_bytes or scaling.queue_seconds"
                )
        if self._desk.store is not Store.READY or not self._resumed:
            return
        for log in self._following.doubtful(now):
            self._desk.order(*self._following.begin(log))
        self._tasks = {task for task in self._tasks if not task.done}
        self._neighbours.beat(now, not self._returning)

    def _forget(self, log: Log) -> None:
        """Nobody here is on that channel any more."""
        self._desk.order(Unfollow(log.name))
        if log.indexed and not self.shard.users_of(log.app, log.channel, self._parties.name):
            self._desk.order(Unindex(self._parties.name, log.name))
        if log.channel:
            self.shard.unfollow(log.app, log.channel)
        self._returning.discard(log.name)
        self._appends.passed(log.name)

    def _needed(self, log: Log) -> bool:
        if not log.channel:
            return bool(self.shard.connections(log.app)[0])
        return bool(self.shard.interested(log.app, log.channel))

    # --- what is to be done ------------------------------------------------------------------------------------------

    def orders(self) -> list[Order]:
        """What is to be ordered from the store."""
        desk = self._desk
        if desk.store is not Store.READY:
            return []
        self._neighbours.ask()
        orders, desk.orders = desk.orders, []
        admissions, party = self._preparing.admissions, self._parties.name
        counts = self._counts.orders(desk.refs, party, admissions.asking)  # first: who asks next tells all that it has
        return [*orders, *counts, *admissions.orders(desk.refs, party), *self._appends.orders(desk.refs)]

    def outgoing(self) -> Outgoing:
        """What workers are to be told, that follows from no request."""
        outgoing, self._following.outgoing = self._following.outgoing, []
        return outgoing

    def notices(self) -> list[str]:
        """What the operator should be told, since this was last asked."""
        notices, self._notices = self._notices + self._neighbours.notices, []
        self._neighbours.notices = []
        return notices

    def figures(self) -> dict[str, int]:
        """For the metrics."""
        if gaps := self._following.gaps:
            self.counters["missed"] += len(gaps)
            self._notices.append(f"the logs of {len(gaps)} channels did not reach back far enough: events are missing")
            gaps.clear()
        if self._following.refused:
            self._notices.append(f"dropped what is none of ours in Redis, the last in {self._following.refused}")
            self._following.refused = ""
        if self._outside is not None:
            self._notices += self._outside.complaints()
        return self.counters | {
            "degraded": int(self._desk.store is not Store.READY),
            "queue": len(self._appends),
            "queue_bytes": self._appends.bytes,
            "dropped": self._appends.dropped,
            "entries_in": self._following.entries,
            "refused": self._following.refusals + (self._outside.refused if self._outside is not None else 0),
        }
