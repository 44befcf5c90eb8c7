"""The logs that are followed are read, page by page; then all that this party has of their members is told anew."""

from __future__ import annotations

from resonate.shard.cluster.appends import Appends
from resonate.shard.cluster.desk import Desk
from resonate.shard.cluster.feed import State
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.membership import Membership
from resonate.shard.cluster.neighbours import Neighbours
from resonate.shard.cluster.store import Page, Read
from resonate.shard.cluster.waiting import Steps, Tasks


class Reading:
    """`returning` are the logs in which this party's members are not yet. What is wrong gathers in `notices`."""

    def __init__(
        self, desk: Desk, following: Following, appends: Appends, neighbours: Neighbours, membership: Membership
    ) -> None:
        self._desk = desk
        self._following = following
        self._appends = appends
        self._neighbours = neighbours
        self._membership = membership
        self._asked: dict[int, Log] = {}
        self._tasks = Tasks()
        self.returning: set[str] = set()
        self.notices: list[str] = []

    def begin(self) -> None:
        """All logs are followed anew."""
        self._asked.clear()
        self.returning = set(self._following.logs)

    def followed(self, name: str) -> None:
        """A log is followed: what it holds is to be read."""
        read = self._following.followed(name, self._desk.refs)
        if read is not None:
            self._ask(self._following.logs[name], read)

    def _ask(self, log: Log, read: Read) -> None:
        self._asked[read.ref] = log
        log.reading = read.ref
        self._desk.order(read)

    def answered(self, ref: int, page: Page | None, now: float) -> bool:
        """Whether that was the answer to one of them."""
        log = self._asked.pop(ref, None)
        if log is None:
            return False
        if self._following.believes(log, now):
            self._tasks.begin(self._certain(ref, log, page, now))
        else:
            self._paged(ref, log, page, now)
        return True

    def _certain(self, ref: int, log: Log, page: Page | None, now: float) -> Steps[None]:
        """The store may have lost its members since it was asked first."""
        yield self._neighbours.confirmed()
        self._paged(ref, log, page, now)

    def _paged(self, ref: int, log: Log, page: Page | None, now: float) -> None:
        current = self._following.logs.get(log.name) is log and log.reading == ref
        if not current or log.feed.state is not State.READING:
            return
        if page is None or self._following.is_ahead(page.last, now):  # somebody has put something else there
            self.notices.append(f"the log {log.name} cannot be read: see what lies in Redis under that name")
            page = Page([], log.feed.position or 0, None, None)
        after = self._following.page(log, page, now)
        if after is not None:
            self._ask(log, Read(next(self._desk.refs), log.name, after, log.presence))
        else:
            self.applied()
            self._appends.passed(log.name, log.feed.position or 0)
            self._tasks.begin(self._returned(log, now))

    def _returned(self, log: Log, now: float) -> Steps[None]:
        if log.presence:
            yield from self._membership.rejoining(log, now)
        self.returning.discard(log.name)

    def applied(self) -> None:
        """Entries have come: what of them is from here is done with."""
        echoes, self._following.echoes = self._following.echoes, []
        for echo in echoes:
            self._appends.heard(echo)
        self._membership.come_in()

    def forget(self, log: Log) -> None:
        """It is not followed any more."""
        self.returning.discard(log.name)

    def lost(self) -> None:
        """No page will come."""
        self._asked.clear()
        self._tasks.away()

    def beat(self) -> None:
        """About a second has passed."""
        self._tasks.prune()
