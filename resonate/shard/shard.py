"""The shard: puts everything that happens on a channel into one order, and says who is to hear of it.

It knows workers by name and never sees a client. Each request returns what is to be sent, in order; messages to one
worker must reach it in that order, and that is all the order there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from resonate.counters import add
from resonate.messages import (
    Answer,
    Attach,
    ChannelHolding,
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Declaration,
    Describe,
    Described,
    Detach,
    Disconnect,
    Event,
    Expel,
    HandedOver,
    HandOver,
    Inherit,
    Inspect,
    ListChannels,
    Listed,
    ListUsers,
    MemberAdded,
    MemberRemoved,
    Present,
    Publication,
    Publish,
    Refresh,
    Request,
    Subscribe,
    Subscribed,
    Superseded,
    Terminate,
    Unsubscribe,
)
from resonate.shard.cache import EventCache
from resonate.shard.channel import Channel

Outgoing = list[tuple[str, Event]]


class _App:
    """What a shard keeps of one app; the counters are by worker."""

    __slots__ = ("attached", "channels", "connected", "subscriptions")

    def __init__(self) -> None:
        self.channels: dict[str, Channel] = {}
        self.subscriptions = 0
        self.connected: Counter[str] = Counter()
        self.attached: Counter[str] = Counter()


class Shard:
    """One home of channels. `now` is always in seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._apps: dict[str, _App] = {}
        self._workers: dict[str, None] = {}
        self._cache = EventCache()
        self._knowers: dict[tuple[str, str], set[str]] = {}  # of each event in it, the workers that remember it
        self.counters: dict[str, Any] = {}  # of the process around it, for who inspects
        self._reports: dict[str, dict[str, Any]] = {}
        self._retired: dict[str, Any] = {}  # what workers had counted that are gone
        self._place = 0  # of the request that is being handled

    def join(self, worker: str) -> None:
        """A worker has come; messages for all workers reach it from now on."""
        self._workers[worker] = None

    def leave(self, worker: str) -> Outgoing:
        """A worker has gone, and with it all that it held; the others hear of the members who left."""
        self._workers.pop(worker, None)
        outgoing: Outgoing = []
        self._retired = add(self._retired, self._reports.pop(worker, {}))
        for app_id, app in self._apps.items():
            app.connected.pop(worker, None)
            app.attached.pop(worker, None)
            for name, channel in [item for item in app.channels.items() if worker in item[1].interest]:
                app.subscriptions -= channel.interest[worker]
                removed = [MemberRemoved(app_id, name, user.id) for user in channel.forget(worker)]
                outgoing += [(other, event) for event in removed for other in channel.interest]
                if channel.idle:
                    del app.channels[name]
        return outgoing

    def declare(self, worker: str, declaration: Declaration, now: float) -> None:
        """What a worker has held since before this shard began. Nobody is told: to the clients it is not news."""
        self.hold(worker, declaration.apps, declaration.channels)
        for app_id, name, payload, keep_s, place in declaration.cached:
            self._cache.put((app_id, name), payload, now, keep_s, place or -1)  # 0: from when there was no order
            self._knowers.setdefault((app_id, name), set()).add(worker)

    def hold(self, worker: str, apps: list[tuple[str, int, int]], channels: list[ChannelHolding]) -> None:
        """Count that for a worker."""
        for app_id, connected, attached in apps:
            app = self._app(app_id)
            app.connected[worker] += connected
            app.attached[worker] += attached
        for holding in channels:
            app = self._app(holding.app)
            app.subscriptions += holding.subscriptions
            app.channels.setdefault(holding.channel, Channel()).declare(worker, holding)

    def declaration(self, worker: str, now: float) -> Declaration:
        """What a worker holds here, to be declared to another shard: the opposite of `declare`."""
        apps = [(app_id, app.connected[worker], app.attached[worker]) for app_id, app in self._apps.items()]
        channels = [
            channel.holding(app_id, name, worker)
            for app_id, app in self._apps.items()
            for name, channel in app.channels.items()
            if worker in channel.interest
        ]
        cached = [(*key, payload, left, place) for key, payload, left, place in self._cache.items(now)]
        return Declaration(apps, channels, cached, [], 1, [])

    def present(self) -> Outgoing:
        """Who is on each presence channel, for every worker that has somebody there."""
        return [
            (worker, Present(app_id, name, members))
            for app_id, app in self._apps.items()
            for name, channel in app.channels.items()
            if (members := channel.members()) is not None
            for worker in channel.interest
        ]

    def report(self, worker: str, counters: dict[str, Any]) -> None:
        """What a worker has counted since it began; told to who inspects."""
        self._reports[worker] = counters

    def counts(self) -> dict[str, list[int]]:
        """By app: connections, subscriptions, occupied channels."""
        return {
            app_id: [app.connected.total(), app.subscriptions, sum(map(_occupied, app.channels.values()))]
            for app_id, app in self._apps.items()
        }

    def _app(self, app_id: str) -> _App:
        app = self._apps.get(app_id)
        if app is None:
            app = self._apps[app_id] = _App()
        return app

    def handle(self, worker: str, request: Request, now: float, place: int = 0, seq: int = 0) -> Outgoing:
        """Act upon a request of `worker`, its number is `seq`; what is to be sent to whom, in order.

        `place` is that which the request had under a shard that has died, 0 for a new one.
        """
        self._place = place
        if isinstance(request, Inspect):
            return self._inspect(worker, request)
        if isinstance(request, HandOver):
            return self._hand_over(worker, request)
        return _HANDLERS[type(request)](self, self._app(request.app), worker, request, now)

    def prune(self, now: float) -> None:
        """Forget cached events whose time is over. To be called every now and then."""
        self._cache.prune(now)
        self._knowers = {key: workers for key, workers in self._knowers.items() if key in self._cache}

    # --- connections of an app ---------------------------------------------------------------------------------------

    def _connect(self, app: _App, worker: str, request: Connect, now: float) -> Outgoing:
        admitted = request.limit is None or app.connected.total() < request.limit
        if admitted:
            app.connected[worker] += 1
        return [(worker, Connected(request.app, request.socket, admitted))]

    def _disconnect(self, app: _App, worker: str, request: Disconnect, now: float) -> Outgoing:
        app.connected[worker] -= 1
        return []

    def _attach(self, app: _App, worker: str, request: Attach, now: float) -> Outgoing:
        app.attached[worker] += 1
        return []

    def _detach(self, app: _App, worker: str, request: Detach, now: float) -> Outgoing:
        app.attached[worker] -= 1
        return []

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def _subscribe(self, app: _App, worker: str, request: Subscribe, now: float) -> Outgoing:
        name, member = request.channel, request.member
        channel = app.channels.get(name)
        if channel is None:
            channel = app.channels[name] = Channel()
        others = list(channel.interest)
        app.subscriptions += 1
        outgoing: Outgoing = []
        if channel.join(worker, member) and member is not None:
            added = MemberAdded(request.app, name, member.data, request.socket)
            outgoing = [(other, added) for other in others]
        outgoing.append((worker, self._subscribed(channel, request, now)))
        return outgoing

    def _refresh(self, app: _App, worker: str, request: Refresh, now: float) -> Outgoing:
        channel = app.channels[request.channel]
        return [(worker, self._subscribed(channel, request, now))]

    def _subscribed(self, channel: Channel, request: Subscribe | Refresh, now: float) -> Subscribed:
        cached = self._cache.get((request.app, request.channel), now)
        at = channel.position or 0
        return Subscribed(request.app, request.channel, request.socket, request.ref, channel.members(), cached, at)

    def _unsubscribe(self, app: _App, worker: str, request: Unsubscribe, now: float) -> Outgoing:
        channel = app.channels[request.channel]
        gone = channel.leave(worker, request.user)
        app.subscriptions -= 1
        if channel.idle:
            del app.channels[request.channel]
        if gone is None:
            return []
        removed = MemberRemoved(request.app, request.channel, gone.id)
        return [(other, removed) for other in channel.interest]

    # --- from one worker to another ----------------------------------------------------------------------------------

    def _hand_over(self, worker: str, request: HandOver) -> Outgoing:
        """Count connections for the heir instead: nobody else hears of it.

        Where it has been done before, by a shard that has died, the heir has declared them (and stands in the request
        no more), or has died with them.
        """
        ref, heir, number, apps, channels = request.ref, request.heir, request.shard, request.apps, request.channels
        if heir not in self._workers and not request.certain:
            return [(worker, HandedOver(ref, number, False, []))]
        outgoing: Outgoing = [(worker, HandedOver(ref, number, True, []))]
        if heir in self._workers:
            moved = [self._at_its_position(worker, holding) for holding in channels]
            outgoing.append((heir, Inherit(worker, ref, number, apps, moved, self._news(heir, channels))))
            self.hold(heir, apps, channels)
        for app_id, connected, attached in apps:
            app = self._app(app_id)
            app.connected[worker] -= connected
            app.attached[worker] -= attached
        for holding in channels:
            app = self._app(holding.app)
            app.subscriptions -= holding.subscriptions
            channel = app.channels[holding.channel]
            channel.release(worker, holding)
            if channel.idle:
                del app.channels[holding.channel]
        return outgoing

    def _at_its_position(self, worker: str, holding: ChannelHolding) -> ChannelHolding:
        """With how far the log has come; where it has been told before, by a shard that has died, it stays so."""
        at = self._app(holding.app).channels[holding.channel].position
        return replace(holding, position=at) if at and not holding.position else holding

    def _news(self, heir: str, channels: list[ChannelHolding]) -> list[tuple[str, str, list[Any]]]:
        """Who is on the presence channels among these of which the heir has known nothing before."""
        news = []
        for holding in channels:
            channel = self._app(holding.app).channels[holding.channel]
            if holding.members and heir not in channel.interest and channel.users is not None:
                news.append((holding.app, holding.channel, [user.id for user in channel.users.values()]))
        return news

    # --- events ------------------------------------------------------------------------------------------------------

    def _publish(self, app: _App, worker: str, request: Publish, now: float) -> Outgoing:
        app_id, name, payload, keep_s = request.app, request.channel, request.payload, request.keep_s
        channel = app.channels.get(name)
        outgoing: Outgoing = []
        if channel is not None:
            publication = Publication(app_id, name, payload, request.except_, keep_s)
            outgoing = [(holder, publication) for holder in channel.interest]
        if keep_s:
            self._cache.put((app_id, name), payload, now, keep_s, self._place)
            outgoing += self._superseded(app_id, name, {worker, *(holder for holder, _ in outgoing)})
        if request.ref and request.info:
            outgoing.append((worker, Described(request.ref, self._info(app, app_id, name, now))))
        elif request.ref:
            outgoing.append((worker, Answer(request.ref, None)))
        return outgoing

    def _superseded(self, app_id: str, name: str, knowers: set[str]) -> Outgoing:
        """Who remembers an earlier event, and does not hear of this one, must not tell a successor of that."""
        before = self._knowers.get((app_id, name), set())
        self._knowers[app_id, name] = knowers
        event = Superseded(app_id, name)
        return [(worker, event) for worker in sorted(before - knowers) if worker in self._workers]

    # --- questions ---------------------------------------------------------------------------------------------------

    def _info(self, app: _App, app_id: str, name: str, now: float) -> ChannelInfo:
        channel = app.channels.get(name)
        if channel is None:
            return ChannelInfo(0, 0, None)
        return channel.info(self._cache.get((app_id, name), now))

    def _describe(self, app: _App, worker: str, request: Describe, now: float) -> Outgoing:
        return [(worker, Described(request.ref, self._info(app, request.app, request.channel, now)))]

    def _list_channels(self, app: _App, worker: str, request: ListChannels, now: float) -> Outgoing:
        found = {
            name: channel.info(self._cache.get((request.app, name), now) if request.cached else None)
            for name, channel in app.channels.items()
            if name.startswith(request.prefix) and channel.interest
        }
        return [(worker, Listed(request.ref, found))]

    def _list_users(self, app: _App, worker: str, request: ListUsers, now: float) -> Outgoing:
        channel = app.channels.get(request.channel)
        occupied = channel is not None and channel.interest
        ids = [user.id for user in (channel.users or {}).values()] if channel is not None and occupied else None
        return [(worker, Answer(request.ref, ids))]

    def _count_connections(self, app: _App, worker: str, request: CountConnections, now: float) -> Outgoing:
        return [(worker, Answer(request.ref, app.attached.total()))]

    def _terminate(self, app: _App, worker: str, request: Terminate, now: float) -> Outgoing:
        expel = Expel(request.app, request.user)
        return [*((other, expel) for other in self._workers), (worker, Answer(request.ref, None))]

    def _inspect(self, worker: str, request: Inspect) -> Outgoing:
        return [(worker, Answer(request.ref, self._inspected({})))]

    def _inspected(self, more: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**self.counters, "apps": self.counts(), **more}, self._retired, *self._reports.values()]


def _occupied(channel: Channel) -> bool:
    return bool(channel.interest)


_HANDLERS: dict[type, Callable[[Shard, _App, str, Any, float], Outgoing]] = {
    Attach: Shard._attach,
    Connect: Shard._connect,
    CountConnections: Shard._count_connections,
    Describe: Shard._describe,
    Detach: Shard._detach,
    Disconnect: Shard._disconnect,
    ListChannels: Shard._list_channels,
    ListUsers: Shard._list_users,
    Publish: Shard._publish,
    Refresh: Shard._refresh,
    Subscribe: Shard._subscribe,
    Terminate: Shard._terminate,
    Unsubscribe: Shard._unsubscribe,
}
