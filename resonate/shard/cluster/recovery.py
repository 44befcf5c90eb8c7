"""How a shard begins: workers say what they hold and how far they are, and what they ask for again waits until then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resonate.messages import Declaration, Request, Subscribe
from resonate.shard.cluster.desk import Desk, Store
from resonate.shard.cluster.feed import State
from resonate.shard.cluster.following import Following
from resonate.shard.cluster.names import log_name
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.stage import Ticket

#: Requests of a worker, and the number of the first.
Batch = tuple[str, int, Sequence[Request]]


class Recovery:
    """`resumed`: all have declared, and their logs are followed. `released`: requests are handled as they come."""

    def __init__(self, shard: SharedShard, desk: Desk, following: Following) -> None:
        self._shard = shard
        self._desk = desk
        self._following = following
        self._declared: list[Ticket] = []
        self._behind: dict[tuple[str, str], dict[str, int]] = {}
        self._early: list[Batch] = []  # what has come before all had declared
        self.resumed = False
        self.released = False

    def declare(self, worker: str, declaration: Declaration) -> list[Ticket]:
        """What a worker has held since before this shard began. What it asks for again is in the tickets."""
        for app, channel, position in declaration.positions:
            self._behind.setdefault((app, channel), {})[worker] = position
        tickets = [Ticket(worker, seq, request) for seq, request in enumerate(declaration.requests, declaration.first)]
        self._declared += tickets
        return tickets

    def postpone(self, batch: Batch) -> None:
        """That is to come when all have declared."""
        self._early.append(batch)

    def gone(self, worker: str) -> None:
        """It wants nothing any more."""
        self._declared = [ticket for ticket in self._declared if ticket.worker != worker]
        for positions in self._behind.values():
            positions.pop(worker, None)
        self._early = [batch for batch in self._early if batch[0] != worker]

    def resume(self) -> tuple[list[Ticket], list[Batch]]:
        """All have declared: from here on their logs are wanted. Everything that has waited for this."""
        self.resumed = True
        for app, channel in self._shard.holdings():
            behind = self._behind.get((app, channel), {})
            self._following.resume(app, channel, self._shard.has_members(app, channel), behind)
        subscribes = [each.request for each in self._declared if isinstance(each.request, Subscribe)]
        asked = {(request.app, request.channel) for request in subscribes}
        for (app, channel), behind in self._behind.items():
            if log_name(app, channel) not in self._following.logs and (app, channel) in asked:
                self._following.resume(app, channel, False, behind)
        early, self._early = self._early, []
        return list(self._declared), early

    @property
    def complete(self) -> bool:
        """Whether `release` may be called."""
        if not self.resumed or self._desk.store is Store.UNKNOWN:
            return False
        if self._desk.store is Store.AWAY:
            return True
        logs = [log for log in self._following.logs.values() if log.behind is not None]
        return all(log.feed.state is State.LIVE for log in logs) and all(ticket.ready for ticket in self._declared)

    def take(self) -> Iterable[Ticket]:
        """What has been asked for again, and is about to be handled."""
        declared, self._declared = self._declared, []
        return declared

    def release(self, now: float) -> None:
        """It has been handled: what workers have missed of the logs goes to them."""
        self.released = True
        self._behind.clear()
        self._following.release(now)
