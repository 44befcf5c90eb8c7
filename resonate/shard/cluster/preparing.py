"""What each kind of request waits for, before it is handled: steps whose value is its outcome.

Where the store is away the steps end without one, and the shard decides alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from resonate.messages import (
    Attach,
    ChannelInfo,
    Connect,
    CountConnections,
    Describe,
    Inspect,
    ListChannels,
    ListUsers,
    Member,
    Publish,
    Subscribe,
    Terminate,
)
from resonate.shard.cluster.appends import Appends
from resonate.shard.cluster.counts import Admissions, Counts
from resonate.shard.cluster.desk import Desk, Store
from resonate.shard.cluster.entries import EntryError, Expelled, Joined, Published, Seal
from resonate.shard.cluster.following import Following, Log
from resonate.shard.cluster.membership import Membership
from resonate.shard.cluster.names import log_name
from resonate.shard.cluster.outside import Outside
from resonate.shard.cluster.shared import Outcome, SharedShard
from resonate.shard.cluster.stage import Ticket
from resonate.shard.cluster.store import Channels, Look, Page, Say, Subscriptions, Sum, Tally
from resonate.shard.cluster.waiting import AwayError, Signal, Steps, Task

T = TypeVar("T")


class Preparing:
    """`outside` are those who are told of what is published, if there are any."""

    def __init__(
        self,
        desk: Desk,
        shard: SharedShard,
        following: Following,
        counts: Counts,
        appends: Appends,
        membership: Membership,
        seal: Seal,
        outside: Outside | None = None,
    ) -> None:
        self._desk = desk
        self._shard = shard
        self._following = following
        self._counts = counts
        self._appends = appends
        self._membership = membership
        self._seal = seal
        self._outside = outside
        self.admissions = Admissions(counts.connected)

    def steps(self, ticket: Ticket, now: float) -> Steps[Any] | None:
        """What it waits for; None for nothing."""
        kind = _STEPS.get(type(ticket.request))
        return None if kind is None else kind(self, ticket, ticket.request, now)

    # --- connections -------------------------------------------------------------------------------------------------

    def _connecting(self, ticket: Ticket, request: Connect, now: float) -> Steps[bool]:
        """The app's log is followed from the first connection on; its place is asked for where there is a quota."""
        app = request.app
        log = self._want(app, "", False, now)
        log.coming += 1
        counted = False

        def release(handled: bool) -> None:
            log.coming -= 1
            self._following.loose.add(log.name)
            if counted:
                self._counts.arrived(app, handled)

        ticket.release = release
        yield from self._desk.available()
        yield log.live
        granted = True
        if request.limit is not None:
            granted = yield self.admissions.ask(app, request.limit)
            if granted is None:  # the store has refused
                raise AwayError
        if granted:
            counted = True
            self._counts.connecting(app)
        return granted

    def admitted(self, ref: int, value: Any) -> bool:
        """Whether that was the answer to somebody who asks for places."""
        granted, others = value if isinstance(value, tuple) and len(value) == 2 else (None, None)
        app = self.admissions.answered(ref, granted)
        if app is not None and others is not None:
            self._shard.elsewhere[app] = others
        return app is not None

    def _attaching(self, ticket: Ticket, request: Attach, now: float) -> Steps[None]:
        self._counts.attaching(request.app)
        ticket.release = lambda handled: self._counts.attached(request.app, handled)
        yield from ()

    # --- channels ----------------------------------------------------------------------------------------------------

    def _subscribing(self, ticket: Ticket, request: Subscribe, now: float) -> Steps[Outcome]:
        """It is answered when the log is followed, the user is in it, and everybody can count the subscription."""
        app, channel, member = request.app, request.channel, request.member
        log = self._want(app, channel, member is not None, now)
        log.coming += 1
        if member is not None:
            log.claims[member.user] += 1
        ticket.release = lambda handled: self._subscribed(log, member, handled)
        counted = self._counts.subscribing(app, channel)
        yield from self._desk.available()
        yield log.live
        if member is not None:
            yield from self._membership.joining(log, member, request.socket, now)
        yield counted
        return Outcome()

    def _subscribed(self, log: Log, member: Member | None, handled: bool) -> None:
        log.coming -= 1
        self._following.loose.add(log.name)
        self._counts.subscribed(log.app, log.channel, handled)
        if member is not None:
            log.claims[member.user] -= 1
            if not log.claims[member.user]:
                del log.claims[member.user]
            if not handled:
                self._following.unclaimed.append((log, member.user))

    def _want(self, app: str, channel: str, presence: bool, now: float) -> Log:
        log, orders = self._following.want(app, channel, presence, now, self._desk.store is Store.AWAY)
        self._desk.order(*orders)
        return log

    # --- entries -----------------------------------------------------------------------------------------------------

    def _publishing(self, ticket: Ticket, request: Publish, now: float) -> Steps[Outcome]:
        log = log_name(request.app, request.channel)
        origin = self._shard.origin(ticket.worker)
        entry = Published(origin, ticket.seq, request.payload, request.except_, request.keep_s)
        appended = self._appends.add(log, entry, self._seal.close(log, entry), now)
        self._tell(appended, request)
        yield from self._desk.available()
        if (yield appended) is None:  # the store has refused it
            raise AwayError
        if not request.info:
            return Outcome()
        return Outcome((yield from self._info(request.app, request.channel)))

    def _terminating(self, ticket: Ticket, request: Terminate, now: float) -> Steps[Outcome]:
        log = log_name(request.app, "")
        entry = Expelled(self._shard.origin(ticket.worker), ticket.seq, request.user)
        appended = self._appends.add(log, entry, self._seal.close(log, entry), now)
        self._tell(appended, request)
        yield from self._desk.available()
        if (yield appended) is None:  # the store has refused it
            raise AwayError
        return Outcome()

    def _tell(self, appended: Signal, request: Publish | Terminate) -> None:
        """Those outside hear of it once it is in the log, whatever becomes of its worker until then."""
        if self._outside is not None:
            Task(self._telling(self._outside, appended, request))

    def _telling(self, outside: Outside, appended: Signal, request: Publish | Terminate) -> Steps[None]:
        if (yield appended) is not None:  # else the store has refused it
            self._desk.order(Say(outside.said(request)))

    # --- questions ---------------------------------------------------------------------------------------------------

    def _describing(self, ticket: Ticket, request: Describe, now: float) -> Steps[Outcome]:
        yield from self._desk.available()
        return Outcome((yield from self._info(request.app, request.channel)))

    def _info(self, app: str, channel: str) -> Steps[ChannelInfo]:
        subscriptions, page = yield from self._looking(app, channel)
        return self._channel_info(app, channel, subscriptions, page)

    def _looking(self, app: str, channel: str) -> Steps[tuple[int, Page]]:
        """How many subscriptions a channel has, and who is in it."""
        counted, look = self._desk.ask(Subscriptions, app, channel), self._desk.ask(Look, log_name(app, channel))
        subscriptions = yield from _answer(counted, int)
        page = yield from _answer(look, Page)
        return subscriptions, page

    def _channel_info(self, app: str, channel: str, subscriptions: int, page: Page) -> ChannelInfo:
        cached = page.cached[0] if page.cached is not None else None
        return ChannelInfo(subscriptions, len(self._users(log_name(app, channel), page)), cached)

    def _users(self, log: str, page: Page) -> dict[str, Joined]:
        """Who is in it, with how he joined first."""
        found: dict[str, Joined] = {}
        for _, value in page.members or ():
            try:
                entry = self._seal.open(log, value)
            except EntryError:
                continue  # who follows the log counts it
            if isinstance(entry, Joined):
                before = found.get(entry.user, entry)
                found[entry.user] = min(before, entry, key=lambda each: (each.since, each.party))
        return found

    def _listing_channels(self, ticket: Ticket, request: ListChannels, now: float) -> Steps[Outcome]:
        yield from self._desk.available()
        channels = yield from _answer(self._desk.ask(Channels, request.app, request.prefix), dict)
        if not (request.users or request.cached):
            return Outcome({name: ChannelInfo(count, 0, None) for name, count in channels.items()})
        asked = {name: self._desk.ask(Look, log_name(request.app, name)) for name in channels}
        found = {}
        for name, answer in asked.items():
            page = yield answer
            if isinstance(page, Page):
                found[name] = self._channel_info(request.app, name, channels[name], page)
        return Outcome(found)

    def _listing_users(self, ticket: Ticket, request: ListUsers, now: float) -> Steps[Outcome]:
        yield from self._desk.available()
        subscriptions, page = yield from self._looking(request.app, request.channel)
        if not subscriptions:
            return Outcome(None)
        users = sorted(self._users(log_name(request.app, request.channel), page).values(), key=lambda each: each.since)
        return Outcome([user.data["user_id"] for user in users])

    def _counting(self, ticket: Ticket, request: CountConnections, now: float) -> Steps[Outcome]:
        yield from self._desk.available()
        sum_ = yield from _answer(self._desk.ask(Tally, request.app), Sum)
        return Outcome(sum_.attached)

    def _inspecting(self, ticket: Ticket, request: Inspect, now: float) -> Steps[Outcome]:
        """With the apps of this host: connections, subscriptions and channels over all hosts."""
        yield from self._desk.available()
        asked = {app: self._desk.ask(Tally, app) for app in self._shard.apps()}
        totals = {}
        for app, answer in asked.items():
            sum_ = yield from _answer(answer, Sum)
            totals[app] = [sum_.connected, sum_.subscriptions, sum_.channels]
        return Outcome(totals)


def _answer(asked: Signal, kind: type[T]) -> Steps[T]:
    answer = yield asked
    if not isinstance(answer, kind):  # the store has refused
        raise AwayError
    return answer


_STEPS: Final[dict[type, Callable[[Preparing, Ticket, Any, float], Steps[Any]]]] = {
    Attach: Preparing._attaching,
    Connect: Preparing._connecting,
    CountConnections: Preparing._counting,
    Describe: Preparing._describing,
    Inspect: Preparing._inspecting,
    ListChannels: Preparing._listing_channels,
    ListUsers: Preparing._listing_users,
    Publish: Preparing._publishing,
    Subscribe: Preparing._subscribing,
    Terminate: Preparing._terminating,
}
