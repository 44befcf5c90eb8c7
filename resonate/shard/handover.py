"""Connections on their way from one worker to another, without I/O: what is before the cut, and what is after it.

The old worker asks each shard to count what the connections hold there for the heir (`HandOver`). The shard does so at
one place of its order, and tells both. The old worker delivers what comes before that place, the heir what follows. The
heir cannot deliver before it has the connections: until then it keeps what it hears, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from resonate.messages import (
    ChannelHolding,
    Detach,
    Disconnect,
    Expel,
    HandedOver,
    HandOver,
    Inherit,
    Member,
    MemberAdded,
    MemberRemoved,
    Present,
    Publication,
    Request,
    Unsubscribe,
    user_key,
)
from resonate.shard.holdings import edges
from resonate.shard.homes import home_of_app, home_of_channel

#: Bytes that an heir keeps for connections that it does not have yet; with more it listens to no shard until it has.
BACKLOG_BYTES: Final = 64 * 1024 * 1024

#: What an event without a payload counts for.
SMALL_BYTES: Final = 256

Luggage = TypeVar("Luggage")
#: What connections may miss.
Heard = Publication | MemberAdded | MemberRemoved | Present | Expel


class Holder(NamedTuple):
    """What one connection holds: an app's place, and channels, as a member or not."""

    app: str
    channels: list[tuple[str, Member | None]]


class Holding(NamedTuple):
    """What several hold on one shard, as in `HandOver`."""

    apps: list[tuple[str, int, int]]
    channels: list[ChannelHolding]


def holdings(holders: Iterable[Holder], shards: int) -> list[Holding]:
    """What they hold on each shard."""
    apps: dict[str, list[int]] = {}
    channels: dict[tuple[str, str], tuple[list[int], dict[str, tuple[dict[str, Any], int]]]] = {}
    for holder in holders:
        counts = apps.setdefault(holder.app, [0, 0])
        counts[0] += 1
        counts[1] += bool(holder.channels)
        for name, member in holder.channels:
            subscriptions, members = channels.setdefault((holder.app, name), ([0], {}))
            subscriptions[0] += 1
            if member is not None:
                data, before = members.get(member.user, (member.data, 0))
                members[member.user] = (data, before + 1)
    found = [Holding([], []) for _ in range(shards)]
    for app, (connected, attached) in apps.items():
        found[home_of_app(app, shards)].apps.append((app, connected, attached))
    for (app, name), (subscriptions, members) in channels.items():
        held = ChannelHolding(app, name, subscriptions[0], [(user, *member) for user, member in members.items()])
        found[home_of_channel(app, name, shards)].channels.append(held)
    return found


def given_up(holding: Holding) -> Iterator[Request]:
    """The requests by which that is given up."""
    for held in holding.channels:
        for user, _, connections in held.members:
            yield from [Unsubscribe(held.app, held.channel, user)] * connections
        others = held.subscriptions - sum(count for *_, count in held.members)
        yield from [Unsubscribe(held.app, held.channel, None)] * others
    for app, connected, attached in holding.apps:
        yield from [Detach(app)] * attached
        yield from [Disconnect(app)] * connected


class Departure:
    """Some connections of this worker that go to `heir`. `ref` tells them from others."""

    def __init__(self, ref: int, heir: str, holders: Iterable[Holder], shards: int) -> None:
        self.ref = ref
        self.heir = heir
        self._holdings = holdings(holders, shards)
        self._outcomes: dict[int, bool] = {}
        self.beliefs: list[tuple[str, str, list[Any]]] = []  # to be sent with them

    def requests(self) -> list[HandOver]:
        """One for each shard, also where nothing is held: so the heir knows when it has heard of all."""
        return [HandOver(self.ref, self.heir, shard, False, *held) for shard, held in enumerate(self._holdings)]

    def channels(self, shard: int) -> set[tuple[str, str]]:
        """Those that have their home there."""
        return {(held.app, held.channel) for held in self._holdings[shard].channels}

    def answered(self, answer: HandedOver) -> None:
        """A shard has done it, or not."""
        self._outcomes[answer.shard] = answer.done
        self.beliefs += answer.beliefs

    @property
    def decided(self) -> bool:
        """Whether all shards have answered."""
        return len(self._outcomes) == len(self._holdings)

    @property
    def granted(self) -> bool:
        """Whether all have done it."""
        return self.decided and all(self._outcomes.values())

    @property
    def refused(self) -> bool:
        """Whether none has: then everything is as before."""
        return self.decided and not any(self._outcomes.values())

    def remains(self) -> list[Request]:
        """Where the heir has gone in the middle, the connections cannot go on: what gives up the part that is ours."""
        return [
            request
            for shard, held in enumerate(self._holdings)
            if not self._outcomes.get(shard)
            for request in given_up(held)
        ]


class Arrival(Generic[Luggage]):
    """Connections that another worker sends: `luggage` is what it has sent, None until it has come.

    They miss events meanwhile, which are kept: those of the channels that they are on, and of their apps.
    """

    def __init__(self, origin: str, ref: int) -> None:
        self.origin = origin
        self.ref = ref
        self.luggage: Luggage | None = None
        self.inherited: dict[int, Holding] = {}
        self.size = 0  # bytes in the backlog
        self._backlog: list[Heard] = []
        self._subjects: set[tuple[str, str]] = set()
        self._doubtful: set[tuple[str, str]] = set()  # channels of which they may believe what is not so
        self._unsure: set[tuple[str, str]] = set()  # those where it is not known yet what is so
        self._cuts: dict[tuple[str, str], int] = {}  # positions in the channels' logs: what is not behind them is known

    def inherit(self, event: Inherit) -> None:
        """From here on what a shard says of these channels concerns them."""
        self.inherited[event.shard] = Holding(event.apps, event.channels)
        self._subjects.update((held.app, held.channel) for held in event.channels)
        self._subjects.update((app, "") for app, *_ in event.apps)
        self._cuts |= {(held.app, held.channel): held.position for held in event.channels if held.position}
        if event.recovered:
            doubtful = {(held.app, held.channel) for held in event.channels if held.members}
            self._doubtful |= doubtful
            self._unsure |= doubtful

    def concerns(self, subject: tuple[str, str]) -> bool:
        """Whether it is for them."""
        return subject in self._subjects

    def hear(self, event: Heard) -> None:
        """It has happened, and is for them, unless they have heard it where they were."""
        if isinstance(event, Publication) and 0 < event.position <= self._cuts.get((event.app, event.channel), 0):
            return
        self._backlog.append(event)
        if isinstance(event, Present):
            self._unsure.discard((event.app, event.channel))

    def complete(self, shards: int) -> bool:
        """Whether they can begin to live here."""
        return self.luggage is not None and len(self.inherited) == shards and not self._unsure

    def missed(self, beliefs: list[tuple[str, str, list[Any]]]) -> Iterator[Heard]:
        """What they have to be told first, in order.

        `beliefs` are those of the `HandedOver`s that came with them. Where they may be wrong, edges are left out until
        it is known who is present, and what differs is told.
        """
        believed = {
            (app, channel): {user_key(id_): id_ for id_ in ids}
            for app, channel, ids in beliefs
            if (app, channel) in self._doubtful
        }
        for event in self._backlog:
            if isinstance(event, Present):
                users = believed.pop((event.app, event.channel), None)
                if users is not None:
                    yield from edges(event.app, event.channel, users, event.members)
            elif isinstance(event, Publication | Expel) or (event.app, event.channel) not in believed:
                yield event

    def given_up(self) -> list[Request]:
        """What gives up all that has been inherited with them."""
        return [request for held in self.inherited.values() for request in given_up(held)]


class Arrivals(Generic[Luggage]):
    """What an heir expects. `shards` is their number."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._expected: dict[tuple[str, int], Arrival[Luggage]] = {}
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._expected)

    @property
    def full(self) -> bool:
        """Whether so much is kept that no more should be listened to."""
        return self._size > BACKLOG_BYTES

    def inherit(self, event: Inherit) -> Arrival[Luggage] | None:
        """A shard counts them for this worker now. Returns those who are complete with it."""
        arrival = self._of(event.origin, event.ref)
        arrival.inherit(event)
        return self._completed(arrival)

    def brought(self, origin: str, ref: int, luggage: Luggage) -> Arrival[Luggage] | None:
        """They are here. Returned if they are complete."""
        arrival = self._of(origin, ref)
        arrival.luggage = luggage
        return self._completed(arrival)

    def heard(self, event: Heard) -> list[Arrival[Luggage]]:
        """Something has happened. Returns those who are complete with it."""
        subject = (event.app, "" if isinstance(event, Expel) else event.channel)
        size = len(event.payload) if isinstance(event, Publication) else SMALL_BYTES
        completed = []
        for arrival in self.expected:
            if arrival.concerns(subject):
                arrival.hear(event)
                arrival.size += size
                self._size += size
                if arrival.complete(self._shards):
                    completed.append(arrival)
                    self.forget(arrival)
        return completed

    def abandoned(self, origin: str) -> list[Arrival[Luggage]]:
        """That worker has gone. Those who have not come will not come any more; those who have are complete soon."""
        lost = [arrival for arrival in self._expected.values() if arrival.origin == origin and arrival.luggage is None]
        for arrival in lost:
            self.forget(arrival)
        return lost

    @property
    def expected(self) -> list[Arrival[Luggage]]:
        """Who has not come, or not all of what is theirs."""
        return list(self._expected.values())

    def forget(self, arrival: Arrival[Luggage]) -> None:
        """They are not expected any longer."""
        del self._expected[arrival.origin, arrival.ref]
        self._size -= arrival.size

    def _of(self, origin: str, ref: int) -> Arrival[Luggage]:
        return self._expected.setdefault((origin, ref), Arrival(origin, ref))

    def _completed(self, arrival: Arrival[Luggage]) -> Arrival[Luggage] | None:
        if not arrival.complete(self._shards):
            return None
        self.forget(arrival)
        return arrival
