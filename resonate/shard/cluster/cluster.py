"""A shard among those of other hosts: takes requests, reports of the store and the time; gives orders for the store,
requests that may be handled, and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resonate.messages import (
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
from resonate.shard.cluster.entries import Seal
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.membership import Membership
from resonate.shard.cluster.names import app_and_channel, log_name
from resonate.shard.cluster.neighbours import Neighbours
from resonate.shard.cluster.outside import Outside, Survey
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.preparing import Preparing
from resonate.shard.cluster.reading import Reading
from resonate.shard.cluster.recovery import Recovery
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.stage import Stage, Ticket
from resonate.shard.cluster.store import (
    Arrived,
    Entry,
    Followed,
    Keep,
    Listen,
    Lost,
    Order,
    Ready,
    Reply,
    Report,
    Said,
    Say,
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
    lease_s: float
    queue_bytes: int
    queue_s: float
    secret: str | None = None


class Cluster:
    """`shard` is this one. It recovers until `release`: workers say what they hold, and requests wait.

    `outside` are programs that are no hosts, if there may be any.
    """

    def __init__(self, terms: Terms, outside: Outside | None = None) -> None:
        self.shard = SharedShard(terms.host)
        self._index = terms.index
        seal = Seal(terms.secret)
        self._desk = Desk()
        self._parties = Parties(terms.host, terms.index, terms.process, terms.lease_s)
        self._appends = Appends(terms.queue_bytes, terms.queue_s)
        self._following = Following(self.shard, seal, self._parties, terms.wall_ms)
        self._counts = Counts(self.shard.connections, self.shard.interested)
        self._neighbours = Neighbours(self._desk, self._parties, seal)
        self._membership = Membership(self._desk, self.shard, self._following, self._parties, seal, terms.wall_ms)
        self._reading = Reading(self._desk, self._following, self._appends, self._neighbours, self._membership)
        self._preparing = Preparing(
            self._desk,
            self.shard,
            self._following,
            self._counts,
            self._appends,
            self._membership,
            seal,
            outside,
        )
        self._outside = outside
        self._stage = Stage()
        self._recovery = Recovery(self.shard, self._desk, self._following)
        self._notices: list[str] = []
        self.counters = dict.fromkeys(("lost", "entries_out", "overheard"), 0)

    # --- requests ----------------------------------------------------------------------------------------------------

    def stage(self, worker: str, first: int, requests: Sequence[Request], now: float) -> None:
        """Requests of a worker, numbered from `first` on: they wait for what they need."""
        if not self._recovery.resumed:
            self._recovery.postpone((worker, first, requests))
            return
        for seq, request in enumerate(requests, first):
            self._take(Ticket(worker, seq, request), now)

    def _take(self, ticket: Ticket, now: float, queued: bool = True) -> None:
        steps = self._preparing.steps(ticket, now)
        ticket.task = Task(steps) if steps is not None else None
        self._stage.add(ticket, queued)

    def ready(self) -> Iterator[tuple[str, int, Sequence[Request]]]:
        """What may be handled by the shard now, in each worker's order: (worker, number of the first, requests)."""
        for worker, first, requests in self._stage.ready() if self._recovery.released else ():
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
                            self._membership.take_out(log, user)
                case Disconnect(app) | Detach(app):
                    self._counts.changed(app)
                    self._following.loose.add(log_name(app, ""))

    def gone(self, worker: str, now: float) -> None:
        """To be called when the shard knows that a worker has gone."""
        self._stage.gone(worker)
        self._recovery.gone(worker)
        self._following.outgoing = [each for each in self._following.outgoing if each[0] != worker]
        unclaimed, self._following.unclaimed = self._following.unclaimed, []
        for log, user in unclaimed:
            if self._desk.store is not Store.READY:
                self._following.outgoing += self.shard.recheck(log.app, log.channel, user)
        self._following.loose.update(self._following.logs)
        for log in self._following.logs.values():
            self._counts.changed(log.app, log.channel or None)
        self._membership.gone()

    # --- recovery ----------------------------------------------------------------------------------------------------

    def declare(self, worker: str, declaration: Declaration, now: float) -> None:
        """What a worker has held since before this shard began; to be called after the shard has been told.

        Its requests wait for what they need, and are handled when `release` is called, in an order of their own.
        """
        self._following.outgoing.append((worker, Standing(self._index, self._desk.trouble)))
        if self._recovery.released:
            self._hold(declaration, now)
            self.stage(worker, declaration.first, declaration.requests, now)
            return
        tickets = self._recovery.declare(worker, declaration)
        if self._recovery.resumed:  # it has come while the others wait for the store
            self._hold(declaration, now)
            for ticket in tickets:
                self._take(ticket, now, queued=False)

    def resume(self, now: float) -> None:
        """All have declared: follow what they hold, and prepare what they ask for again."""
        if self._recovery.resumed:
            return
        tickets, early = self._recovery.resume()
        if self._desk.store is Store.READY:
            self._begin(now)
        for ticket in tickets:
            self._take(ticket, now, queued=False)
        for worker, first, requests in early:
            self.stage(worker, first, requests, now)

    @property
    def recovered(self) -> bool:
        """Whether `release` may be called."""
        return self._recovery.complete

    def outcomes(self) -> None:
        """The declared requests are about to be handled."""
        for ticket in self._recovery.take():
            self._outcome(ticket.worker, ticket.seq)

    def release(self, now: float) -> None:
        """They have been: what workers have missed of the logs goes to them."""
        self._recovery.release(now)

    @property
    def released(self) -> bool:
        """Whether requests are handled as they come."""
        return self._recovery.released

    # --- the store ---------------------------------------------------------------------------------------------------

    def report(self, report: Report, now: float) -> None:
        """What the store says."""
        match report:
            case Entry(log, position, data):
                self._desk.order(*self._following.entry(log, position, data, now))
                self._reading.applied()
            case Reply(ref, value):
                self._answered(ref, value, now)
            case Said(data):
                self._overheard(data, now)
            case Followed(log):
                self._reading.followed(log)
            case Ready():
                self._desk.ready()
                self._standing()
                if self._outside is not None:
                    self._desk.order(Listen())
                if self._recovery.resumed:
                    self._begin(now)
            case Lost(reason):
                self._lost(reason, now)

    def _overheard(self, data: bytes, now: float) -> None:
        """It stands in no log: each host hears it by itself, and it is for those who are there now."""
        if self._outside is None or not self.released:
            return
        for request in self._outside.heard(data):
            if isinstance(request, Survey):
                self._tell_what_is_here(self._outside, request, now)
                continue
            outgoing = self.shard.overhear(request, now)
            self.counters["overheard"] += bool(outgoing)
            self._following.outgoing += outgoing
            if outgoing and isinstance(request, Publish) and request.keep_s:
                self._desk.order(Keep(log_name(request.app, request.channel), request.payload, request.keep_s))

    def _tell_what_is_here(self, outside: Outside, survey: Survey, now: float) -> None:
        answer = outside.answer(survey, self.shard, now)
        if answer is not None:
            self._desk.order(Say(answer))

    def _begin(self, now: float) -> None:
        """The store can be used: a new party arrives, and tells all that this shard holds."""
        self._neighbours.arrive(now)
        self._following.arriving()
        for app in self.shard.apps():
            self._following.log(app, "", False, now)
        for app, channel in self.shard.holdings():
            self._following.log(app, channel, self.shard.has_members(app, channel), now)
        for log in self._following.logs.values():
            self._desk.order(*self._following.begin(log))
            self._counts.changed(log.app, log.channel or None)
        self._reading.begin()

    def _hold(self, declaration: Declaration, now: float) -> None:
        """Follow the logs of all that a worker holds that has come late."""
        wanted = [(app, "", False) for app, *_ in declaration.apps]
        wanted += [(held.app, held.channel, bool(held.members)) for held in declaration.channels]
        for app, channel, presence in wanted:
            self._desk.order(*self._following.want(app, channel, presence, now)[1])
            self._counts.changed(app, channel or None)

    def _lost(self, reason: str, now: float) -> None:
        if self._desk.store is Store.READY:
            self.counters["lost"] += 1
        again = self._desk.store is Store.AWAY
        self._desk.lost(reason)
        self._following.lost()
        self._preparing.admissions.lost()
        for log, entry in self._appends.lost():  # they may be lost with it, and come from here then
            self._following.outgoing += self.shard.apply(*app_and_channel(log), 0, entry, now)
        self._start_over(self._stage.unfinished())
        if not again:
            self._standing()

    def _anew(self, now: float) -> None:
        """This party is over, perhaps because the store has lost all. It is there, and goes on answering.

        So what is being published keeps its place in the order. Who is about to be a member is one of the next party.
        """
        self._start_over([each for each in self._stage.unfinished() if isinstance(each.request, Subscribe)])
        self._begin(now)

    def _start_over(self, tickets: Iterable[Ticket]) -> None:
        """All that is held has to be told anew, and the logs to be read; these go on without."""
        self._counts.lost()
        self._neighbours.lost()
        self._following.give_up(self._parties.ours)
        self._reading.lost()
        self._membership.lost()
        for ticket in tickets:
            if ticket.task is not None:
                ticket.task.away()

    def _standing(self) -> None:
        standing = Standing(self._index, self._desk.trouble)
        self._following.outgoing += [(worker, standing) for worker in self.shard.workers]

    def _answered(self, ref: int, value: Any, now: float) -> None:
        if self._appends.answered(ref, value, self._following.will_hear):
            self.counters["entries_out"] += 1
        elif self._neighbours.arrived(ref):
            self._following.arrived(value or Arrived(0, 0), now)
        elif not (
            self._reading.answered(ref, value, now)
            or self._counts.answered(ref)
            or self._preparing.admitted(ref, value)
        ):
            self._desk.answered(ref, value)
            if self._neighbours.unknown:
                self._anew(now)

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
        if self._desk.store is not Store.READY or not self._recovery.resumed:
            return
        for log in self._following.doubtful(now):
            self._desk.order(*self._following.begin(log))
        self._reading.beat()
        self._membership.beat()
        self._neighbours.beat(now, not self._reading.returning)

    def _forget(self, log: Log) -> None:
        """Nobody here is on that channel any more."""
        self._desk.order(Unfollow(log.name))
        if log.indexed and not self.shard.users_of(log.app, log.channel, self._parties.name):
            self._desk.order(Unindex(self._parties.name, log.name))
        if log.channel:
            self.shard.unfollow(log.app, log.channel)
        self._reading.forget(log)
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
        self._neighbours.confirm()
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
        found = self._notices + self._neighbours.notices + self._reading.notices
        for notices in (self._notices, self._neighbours.notices, self._reading.notices):
            notices.clear()
        if gaps := self._following.gaps:
            found.append(f"the logs of {gaps} channels did not reach back far enough: events are missing")
            self._following.gaps = 0
        if self._following.refused:
            found.append(f"dropped what is none of ours in Redis, the last in {self._following.refused}")
            self._following.refused = ""
        return found + (self._outside.complaints() if self._outside is not None else [])

    def figures(self) -> dict[str, int]:
        """For the metrics."""
        return self.counters | {
            "degraded": int(self._desk.store is not Store.READY),
            "queue": len(self._appends),
            "queue_bytes": self._appends.bytes,
            "dropped": self._appends.dropped,
            "entries_in": self._following.entries,
            "missed": self._following.missed,
            "refused": self._following.refusals + (self._outside.refused if self._outside is not None else 0),
        }
