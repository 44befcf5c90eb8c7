"""A shard that agrees with those of other hosts: what is decided by a log happens where the log has it.

Requests are handled in order as ever. For what waits for the store there is an *outcome* by then; without one the store
could not be asked, and the shard decides alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from resonate.messages import (
    Answer,
    ChannelHolding,
    ChannelInfo,
    Connect,
    CountConnections,
    Describe,
    Described,
    Event,
    Expel,
    Inspect,
    ListChannels,
    Listed,
    ListUsers,
    MemberAdded,
    MemberRemoved,
    Publication,
    Publish,
    Reached,
    Request,
    Subscribe,
    Terminate,
)
from resonate.shard.channel import Channel, User
from resonate.shard.cluster.entries import Expelled, Joined, Left, LogEntry, Published
from resonate.shard.shard import Outgoing, Shard

#: Workers of all hosts of which it is remembered, for one channel, what they have published last.
ORIGINS: Final = 256

#: Where a log is that has no entry yet: workers know by it that there is a log.
BEGINNING: Final = 1

#: The last number of each origin that has been heard.
Heard = dict[str, int]


class Handled(NamedTuple):
    """A request that has been dealt with."""

    worker: str
    seq: int
    request: Request


class SharedShard(Shard):
    """`host` is this host's id. `outcomes` are by worker and number of the request; `handled` is for who takes it."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host
        self._heard: dict[tuple[str, str], Heard] = {}
        self.outcomes: dict[tuple[str, int], Any] = {}
        self.handled: list[Handled] = []
        self.came_from: dict[tuple[str, str], dict[str, int]] = {}  # while it recovers: how far the workers were
        self.elsewhere: dict[str, int] = {}  # connections that other hosts had of an app with a quota, when last asked

    def handle(self, worker: str, request: Request, now: float, place: int = 0, seq: int = 0) -> Outgoing:
        """See `Shard`. `seq` is the worker's number for the request."""
        outcome = self.outcomes.pop((worker, seq), None)
        self.handled.append(Handled(worker, seq, request))
        match request:
            case Publish():
                return self._shared_publish(worker, seq, request, now, place, outcome)
            case Connect():
                return super().handle(worker, self._decided(request, outcome), now, place)
            case Terminate():
                return self._shared_terminate(worker, seq, request, outcome)
            case Inspect() if outcome is not None:
                return [(worker, Answer(request.ref, self._inspected({"totals": outcome.value})))]
            case Describe() if outcome is not None:
                return [(worker, Described(request.ref, outcome.value))]
            case ListChannels() if outcome is not None:
                return [(worker, Listed(request.ref, outcome.value))]
            case ListUsers() | CountConnections() if outcome is not None:
                return [(worker, Answer(request.ref, outcome.value))]
        return super().handle(worker, request, now, place)

    def is_ours(self, origin: str) -> bool:
        """Whether that is a worker of this host."""
        return origin.startswith(f"{self._host}:")

    def leave(self, worker: str) -> Outgoing:
        """See `Shard`."""
        self.outcomes = {key: outcome for key, outcome in self.outcomes.items() if key[0] != worker}
        return super().leave(worker)

    def origin(self, worker: str) -> str:
        """What a worker of this host is called by all hosts."""
        return f"{self._host}:{worker}"

    # --- channels whose logs are followed ----------------------------------------------------------------------------

    def reached(self, app_id: str, name: str) -> Outgoing:
        """Tell the workers how far the log is: they have heard all of it that concerns them."""
        channel = self._app(app_id).channels[name]
        return _tell(channel, Reached(app_id, name, channel.position or BEGINNING))

    def follow(self, app_id: str, name: str, position: int, presence: bool) -> None:
        """From here on what happens on the channel is told by its log."""
        channel = self._app(app_id).channels.setdefault(name, Channel())
        channel.position = max(BEGINNING, position)
        if presence and channel.users is None:
            channel.users = {}

    def unfollow(self, app_id: str, name: str) -> None:
        """No longer. Nobody is on the channel."""
        channel = self._app(app_id).channels.get(name)
        self._heard.pop((app_id, name), None)
        self._cache.forget((app_id, name))
        if channel is not None:
            channel.position = None
            if channel.idle:
                del self._app(app_id).channels[name]

    def interested(self, app_id: str, name: str) -> int:
        """Subscriptions to the channel on this host."""
        channel = self._app(app_id).channels.get(name)
        return sum(channel.interest.values()) if channel is not None else 0

    def connections(self, app_id: str) -> tuple[int, int]:
        """Connections of an app on this host, and those with a subscription."""
        app = self._app(app_id)
        return app.connected.total(), app.attached.total()

    def holdings(self) -> Iterable[tuple[str, str]]:
        """The channels that somebody on this host is on, as (app, channel)."""
        return [
            (app_id, name)
            for app_id, app in self._apps.items()
            for name, channel in app.channels.items()
            if channel.interest
        ]

    def occupied(self, app_id: str) -> dict[str, int]:
        """Subscriptions on this host, by channel."""
        app = self._apps.get(app_id)
        held = {} if app is None else {name: sum(channel.interest.values()) for name, channel in app.channels.items()}
        return {name: count for name, count in held.items() if count}

    def last(self, app_id: str, name: str, now: float) -> bytes | None:
        """The event that is kept for a channel."""
        return self._cache.get((app_id, name), now)

    def apps(self) -> list[str]:
        """Those of which somebody is connected on this host."""
        return [app_id for app_id, app in self._apps.items() if app.connected.total()]

    def user(self, app_id: str, name: str, user: str) -> User | None:
        """A user who is on the channel."""
        return self._users(app_id, name).get(user)

    def _users(self, app_id: str, name: str) -> dict[str, User]:
        channel = self._app(app_id).channels.get(name)
        return (channel.users or {}) if channel is not None else {}

    def has_members(self, app_id: str, name: str) -> bool:
        """Whether it is a presence channel."""
        channel = self._app(app_id).channels.get(name)
        return channel is not None and channel.users is not None

    def users_of(self, app_id: str, name: str, party: str) -> list[str]:
        """Those whom the log has with that party."""
        return [key for key, user in self._users(app_id, name).items() if party in user.parties]

    @property
    def workers(self) -> list[str]:
        """Who is there."""
        return list(self._workers)

    def held_users(self, app_id: str, name: str) -> list[tuple[str, User]]:
        """Those whom workers of this host have."""
        return [(key, user) for key, user in self._users(app_id, name).items() if user.holders]

    def keep(self, app_id: str, name: str, cached: tuple[bytes, int] | None, now: float) -> None:
        """The cached event of a channel, as the store has it."""
        if cached is None:
            self._cache.forget((app_id, name))
        else:
            self._cache.put((app_id, name), cached[0], now, cached[1])

    # --- entries -----------------------------------------------------------------------------------------------------

    def known(self, app_id: str, name: str, entry: LogEntry) -> bool:
        """Whether it has been heard before; it has from now on. Only what is published is ever written twice."""
        if not isinstance(entry, Published | Expelled):
            return False
        heard = self._heard.setdefault((app_id, name), {})
        if heard.get(entry.origin, 0) >= entry.seq:
            return True
        heard.pop(entry.origin, None)
        heard[entry.origin] = entry.seq
        if len(heard) > ORIGINS:
            del heard[next(iter(heard))]
        return False

    def apply(
        self,
        app_id: str,
        name: str,
        position: int,
        entry: LogEntry,
        now: float,
        behind: Mapping[str, int] | None = None,
    ) -> Outgoing:
        """What an entry of a log means for the workers.

        `behind`: only for those who had come to positions before it: the others have heard it from a shard that has
        died.
        """
        channel = self._app(app_id).channels.get(name)
        if channel is not None and channel.position is not None:
            channel.position = max(channel.position, position)
        if self.known(app_id, name, entry):
            reached = Reached(app_id, name, position)  # they need not hear it from a successor either
            return _tell(channel, reached) if channel is not None and position else []
        match entry:
            case Published(_, _, payload, except_, keep_s):
                event = Publication(app_id, name, payload, except_, keep_s, position)
                if keep_s:
                    self._cache.put((app_id, name), payload, now, keep_s)
                    self._knowers[app_id, name] = set(channel.interest) if channel is not None else set()
                receivers = channel.interest if channel is not None else ()
                return [(each, event) for each in receivers if behind is None or position > behind.get(each, position)]
            case Expelled(_, _, user):
                return [(worker, Expel(app_id, user)) for worker in self._workers]
            case Joined() if channel is not None:
                return self._joined(app_id, name, channel, entry)
            case Left(party, user) if channel is not None and channel.users is not None:
                known = channel.users.get(user)
                if known is not None:
                    known.parties.discard(party)
                    return self._removed(app_id, name, channel, user, known)
        return []

    def overhear(self, request: Publish | Terminate, now: float) -> Outgoing:
        """What is asked for outside of any log: for those on this shard, and nothing is remembered of others."""
        app = self._apps.get(request.app)
        if app is None:
            return []
        if isinstance(request, Terminate):
            return [(worker, Expel(request.app, request.user)) for worker in self._workers if app.connected.total()]
        channel = app.channels.get(request.channel)
        if channel is None or not channel.interest:
            return []
        app_id, name, payload, keep_s = request.app, request.channel, request.payload, request.keep_s
        if keep_s:
            self._cache.put((app_id, name), payload, now, keep_s)
            self._knowers[app_id, name] = set(channel.interest)
        return _tell(channel, Publication(app_id, name, payload, request.except_, keep_s))

    def _joined(self, app_id: str, name: str, channel: Channel, entry: Joined) -> Outgoing:
        if channel.users is None:
            channel.users = {}
        user = channel.users.get(entry.user)
        if user is not None:
            user.parties.add(entry.party)
            return []
        user = channel.users[entry.user] = User(entry.data)
        user.parties.add(entry.party)
        return _tell(channel, MemberAdded(app_id, name, entry.data, entry.socket))

    def _removed(self, app_id: str, name: str, channel: Channel, key: str, user: User) -> Outgoing:
        if not user.gone or channel.users is None:
            return []
        del channel.users[key]
        return _tell(channel, MemberRemoved(app_id, name, user.id))

    # --- presence as a whole -----------------------------------------------------------------------------------------

    def reconcile(
        self, app_id: str, name: str, members: Iterable[Joined], claimed: Iterable[str], forgotten: bool
    ) -> Outgoing:
        """Who is with which party, as of now; the edges by which that differs. Who is `claimed` does not leave.

        `forgotten`: nor do those who are not among them; the store has lost some.
        """
        channel = self._app(app_id).channels[name]
        users = channel.users = {} if channel.users is None else channel.users
        outgoing: Outgoing = []
        for user in () if forgotten else users.values():
            user.parties.clear()
        for entry in sorted(members, key=lambda each: (each.since, each.party)):
            outgoing += self._joined(app_id, name, channel, entry)
        return outgoing + self._without(app_id, name, channel, set(claimed))

    def alone(self, app_id: str, name: str, own: str, claimed: Iterable[str]) -> Outgoing:
        """The store is away: parties whose names begin with `own` do not count, what workers hold does."""
        channel = self._app(app_id).channels.get(name)
        if channel is None or channel.users is None:
            return []
        for user in channel.users.values():
            user.parties = {party for party in user.parties if not party.startswith(own)}
        return self._without(app_id, name, channel, set(claimed))

    def recheck(self, app_id: str, name: str, user: str) -> Outgoing:
        """A user is not claimed any more, by somebody who has not come."""
        channel = self._app(app_id).channels.get(name)
        known = self._users(app_id, name).get(user)
        return [] if channel is None or known is None else self._removed(app_id, name, channel, user, known)

    def _without(self, app_id: str, name: str, channel: Channel, claimed: set[str]) -> Outgoing:
        outgoing: Outgoing = []
        for key, user in list((channel.users or {}).items()):
            if key not in claimed:
                outgoing += self._removed(app_id, name, channel, key, user)
        return outgoing

    # --- requests ----------------------------------------------------------------------------------------------------

    def _shared_publish(
        self, worker: str, seq: int, request: Publish, now: float, place: int, outcome: Any
    ) -> Outgoing:
        """What is in the log comes from there; the rest is delivered here, now."""
        published = Published(self.origin(worker), seq, request.payload, request.except_, request.keep_s)
        is_followed = request.channel in self._app(request.app).channels
        if outcome is None and not (is_followed and self.known(request.app, request.channel, published)):
            return super().handle(worker, request, now, place)
        if not request.ref:
            return []
        if not request.info:
            return [(worker, Answer(request.ref, None))]
        info = outcome.value if outcome is not None else None
        if info is None:
            info = self._info(self._app(request.app), request.app, request.channel, now)
        return [(worker, Described(request.ref, info))]

    def _shared_terminate(self, worker: str, seq: int, request: Terminate, outcome: Any) -> Outgoing:
        expelled = Expelled(self.origin(worker), seq, request.user)
        told: Outgoing = []
        if outcome is None and not self.known(request.app, "", expelled):
            told = [(other, Expel(request.app, request.user)) for other in self._workers]
        return [*told, (worker, Answer(request.ref, None))]

    def _at_its_position(self, worker: str, holding: ChannelHolding) -> ChannelHolding:
        behind = self.came_from.get((holding.app, holding.channel))
        if behind is not None and not holding.position:
            return replace(holding, position=behind.get(worker, 0))
        return super()._at_its_position(worker, holding)

    def _decided(self, request: Connect, outcome: bool | None) -> Connect:
        """With the limit that is left for this host."""
        if request.limit is None:
            return request
        if outcome is None:
            return replace(request, limit=max(0, request.limit - self.elsewhere.get(request.app, 0)))
        return replace(request, limit=None if outcome else 0)


def _tell(channel: Channel, event: Event) -> Outgoing:
    return [(worker, event) for worker in channel.interest]


class Outcome(NamedTuple):
    """The store has been asked; `value` is what is to be answered, where it is a question."""

    value: ChannelInfo | dict[str, Any] | list[Any] | int | None = None


def subscriber(request: Subscribe) -> str | None:
    """The user who subscribes, on presence channels."""
    return request.member.user if request.member is not None else None
