"""This party's members in the logs of presence channels: users come in before their subscription, and go after it."""

from __future__ import annotations

from resonate.messages import Member
from resonate.shard.cluster.desk import Desk, Store
from resonate.shard.cluster.entries import Joined, Left, Seal, field_of
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.store import Index, Join, Leave
from resonate.shard.cluster.waiting import Signal, Steps, Tasks


class Membership:
    """Who waits here is given up when this party is over, so its name is the same throughout.

    `wall_ms` is what must be added to the clock of all times for the time of day, in milliseconds."""

    def __init__(
        self, desk: Desk, shard: SharedShard, following: Following, parties: Parties, seal: Seal, wall_ms: int
    ) -> None:
        self._desk = desk
        self._shard = shard
        self._following = following
        self._parties = parties
        self._seal = seal
        self._wall_ms = wall_ms
        self._leaving = Tasks()

    def joining(self, log: Log, member: Member, socket: str, now: float) -> Steps[None]:
        """Put a user into the log's members, and come to where that was done."""
        yield from self._indexing(log)
        position = yield self._join(log, member, socket, now)
        yield log.reach(position or 0)

    def _indexing(self, log: Log) -> Steps[None]:
        """First the store must know that this party has members there: else they would outlive it."""
        if not log.indexed:
            yield self._desk.ask(Index, self._parties.name, log.name)
            log.indexed = True

    def _join(self, log: Log, member: Member, socket: str, now: float) -> Signal:
        party = self._parties.name
        entry = Joined(party, member.user, member.data, socket, int(now * 1000) + self._wall_ms)
        sealed = self._seal.close(log.name, entry)
        return self._desk.ask(Join, log.name, field_of(party, member.user), sealed, sealed)

    def rejoining(self, log: Log, now: float) -> Steps[None]:
        """Put in whom workers have, and who is not in it for this party."""
        if any(self._parties.name not in user.parties for _, user in self._shard.held_users(log.app, log.channel)):
            yield from self._indexing(log)
        for key, user in self._shard.held_users(log.app, log.channel):
            if self._parties.name not in user.parties:
                self._join(log, Member(key, {"user_id": user.id, "user_info": user.info}), "", now)

    def come_in(self) -> None:
        """Users of this party have come in: whom nobody wants any more is taken out again."""
        joined, self._following.joined = self._following.joined, []
        for log, user in joined:
            known = self._shard.user(log.app, log.channel, user)
            if known is not None and self._parties.name in known.parties:
                self.take_out(log, user)

    def take_out(self, log: Log, user: str) -> None:
        """Take a user out of the log's members, if nobody here has him any more, or is about to."""
        known = self._shard.user(log.app, log.channel, user)
        if (known is not None and known.holders) or log.claims[user] > 0 or user in log.leaving:
            return
        if self._desk.store is Store.READY:
            log.leaving.add(user)
            self._leaving.begin(self._taking_out(log, user))

    def _taking_out(self, log: Log, user: str) -> Steps[None]:
        party = self._parties.name
        entry = self._seal.close(log.name, Left(party, user))
        yield self._desk.ask(Leave, log.name, field_of(party, user), entry)
        log.leaving.discard(user)

    def gone(self) -> None:
        """A worker has gone: whom nobody else has leaves."""
        for log in self._following.logs.values():
            if log.presence:
                for user in self._shard.users_of(log.app, log.channel, self._parties.name):
                    self.take_out(log, user)

    def lost(self) -> None:
        """The store is away."""
        self._leaving.away()

    def beat(self) -> None:
        """About a second has passed."""
        self._leaving.prune()
