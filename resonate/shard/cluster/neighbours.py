"""This party among the others: its lease is renewed, and who has gone is buried."""

from __future__ import annotations

from resonate.shard.cluster.burial import burial
from resonate.shard.cluster.desk import Desk
from resonate.shard.cluster.entries import Seal
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.store import Arrive, ListParties, Renew
from resonate.shard.cluster.waiting import Signal, Steps, Tasks


class Neighbours:
    """`unknown` is set when the store does not know this party any more: it has to arrive anew.

    What the operator should know gathers in `notices`.
    """

    def __init__(self, desk: Desk, parties: Parties, seal: Seal) -> None:
        self._desk = desk
        self._parties = parties
        self._seal = seal
        self._tasks = Tasks()
        self._look = False  # at once, rather than when the lease is renewed
        self._arriving = 0
        self._confirmed: Signal | None = None  # what happens when it has been asked whether this party is known
        self.unknown = False
        self.notices: list[str] = []

    def arrive(self, now: float) -> None:
        """The store can be used: a new party is there."""
        self._arriving = next(self._desk.refs)
        self._desk.order(Arrive(self._arriving, self._parties.arrive(now), self._parties.lease_s))
        self.unknown = False
        self._look = True

    def arrived(self, ref: int) -> bool:
        """Whether that is the answer to its arrival."""
        return ref == self._arriving

    def lost(self) -> None:
        """The store is away."""
        self._tasks.away()
        self._parties.burying.clear()

    def confirmed(self) -> Signal:
        """What happens when it is certain that the store has still known this party by now."""
        if self._confirmed is None:
            self._confirmed = Signal()
        return self._confirmed

    def confirm(self) -> None:
        """Ask for that, once for all who want to know."""
        asked, self._confirmed = self._confirmed, None
        if asked is not None:
            self._tasks.begin(self._telling(asked))

    def _telling(self, asked: Signal) -> Steps[None]:
        if (yield from self._renew()):
            asked.fire()

    def beat(self, now: float, returned: bool) -> None:
        """About a second has passed. `returned`: all that is held here is known to the store."""
        self._tasks.prune()
        if self._parties.due(now):
            self._tasks.begin(self._renewing(now, returned))
        elif self._look and returned:
            self._tasks.begin(self._looking(now, returned))

    def _renewing(self, now: float, returned: bool) -> Steps[None]:
        if (yield from self._renew()):
            yield from self._looking(now, returned)

    def _renew(self) -> Steps[bool]:
        known = (yield self._desk.ask(Renew, self._parties.name, self._parties.lease_s)) is not False  # None: refused
        if not known and not self.unknown:
            self.notices.append("Redis has lost its data, or this host was away for longer than scaling.lease")
        self.unknown |= not known
        return known

    def _looking(self, now: float, returned: bool) -> Steps[None]:
        if returned:
            self._look = False
        known = yield self._desk.ask(ListParties)
        known = known or {}
        for party in self._parties.dead(known, returned, now):
            self._parties.burying.add(party)
            if party in known and not party.startswith(self._parties.ours):
                self.notices.append(f"host {party.partition('.')[0]} has gone: its members leave")
            self._tasks.begin(self._burying(party))

    def _burying(self, party: str) -> Steps[None]:
        yield from burial(self._desk, self._seal, party, self._parties.seen(party))
        self._parties.buried(party)
