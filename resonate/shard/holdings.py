"""What one worker holds on one shard, and what its clients have been told of presence there."""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Sequence
from typing import Any

from resonate.messages import (
    Attach,
    ChannelHolding,
    Connect,
    Declaration,
    Detach,
    Disconnect,
    Event,
    HandOver,
    Inherit,
    Member,
    MemberAdded,
    MemberRemoved,
    Present,
    Request,
    Subscribe,
    Subscribed,
    Unsubscribe,
    user_key,
)

Edge = MemberAdded | MemberRemoved


class _Channel:
    __slots__ = ("members", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions = 0
        self.members: dict[str, tuple[dict[str, Any], int]] = {}


class Holdings:
    """The sum of requests."""

    def __init__(self, past: Declaration) -> None:
        self._connected: Counter[str] = Counter()
        self._attached: Counter[str] = Counter()
        self._channels: dict[tuple[str, str], _Channel] = {}
        for app, connected, attached in past.apps:
            self._connected[app], self._attached[app] = connected, attached
        for held in past.channels:
            channel = self._channels[held.app, held.channel] = _Channel()
            channel.subscriptions = held.subscriptions
            channel.members = {user: (data, connections) for user, data, connections in held.members}

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: tuple[str, str]) -> bool:
        return channel in self._channels

    def apply(self, request: Request, granted: bool | None) -> None:
        """Add a request's effect. `granted` is the outcome of one that may be refused."""
        match request:
            case Connect(app):
                self._connected[app] += 1 if granted else 0
            case Disconnect(app):
                self._connected[app] -= 1
            case Attach(app):
                self._attached[app] += 1
            case Detach(app):
                self._attached[app] -= 1
            case Subscribe(app, name, _, _, member):
                self._join(app, name, member)
            case Unsubscribe(app, name, user):
                self._leave(app, name, user)
            case HandOver() if granted:
                self._move(request, -1)

    def inherit(self, event: Inherit) -> None:
        """Add what another worker has handed over."""
        self._move(event, 1)

    def _move(self, moved: HandOver | Inherit, sign: int) -> None:
        for app, connected, attached in moved.apps:
            self._connected[app] += sign * connected
            self._attached[app] += sign * attached
        for held in moved.channels:
            channel = self._channels.setdefault((held.app, held.channel), _Channel())
            channel.subscriptions += sign * held.subscriptions
            for user, data, connections in held.members:
                data, before = channel.members.pop(user, (data, 0))
                if before + sign * connections:
                    channel.members[user] = (data, before + sign * connections)
            if not channel.subscriptions:
                del self._channels[held.app, held.channel]

    def apps(self) -> list[tuple[str, int, int]]:
        """Connections by app: connected, attached."""
        return [(app, self._connected[app], self._attached[app]) for app in {*self._connected, *self._attached}]

    def channels(self) -> list[ChannelHolding]:
        """Each channel."""
        return [
            ChannelHolding(app, name, held.subscriptions, [(user, *member) for user, member in held.members.items()])
            for (app, name), held in self._channels.items()
        ]

    def _join(self, app: str, name: str, member: Member | None) -> None:
        channel = self._channels.setdefault((app, name), _Channel())
        channel.subscriptions += 1
        if member is not None:
            data, connections = channel.members.get(member.user, (member.data, 0))
            channel.members[member.user] = (data, connections + 1)

    def _leave(self, app: str, name: str, user: str | None) -> None:
        channel = self._channels[app, name]
        channel.subscriptions -= 1
        if user is not None:
            data, connections = channel.members.pop(user)
            if connections > 1:
                channel.members[user] = (data, connections - 1)
        if not channel.subscriptions:
            del self._channels[app, name]


class Views:
    """Who is on each presence channel, as this worker's clients have been told: user ids by how they are compared."""

    def __init__(self, past: Declaration) -> None:
        self._users: dict[tuple[str, str], dict[str, Any]] = {
            (held.app, held.channel): {user: data["user_id"] for user, data, _ in held.members}
            for held in past.channels
            if held.members
        }
        self._members: Counter[tuple[str, str]] = Counter()  # connections of ours, from the asking on
        for held in past.channels:
            if held.members:
                self._members[held.app, held.channel] = held.subscriptions

    def items(self) -> ItemsView[tuple[str, str], dict[str, Any]]:
        """Each channel, with its users."""
        return self._users.items()

    def believe(self, app: str, channel: str, users: dict[str, Any]) -> None:
        """That is what they have been told, whoever else is there."""
        self._users[app, channel] = users

    def asked(self, request: Subscribe) -> None:
        """A connection is about to join."""
        if request.member is not None:
            self._members[request.app, request.channel] += 1

    def left(self, request: Unsubscribe) -> None:
        """The shard has taken a connection off; while none of ours is on a channel nobody here is told of it."""
        if request.user is not None:
            self._less(request.app, request.channel, 1)

    def handed_over(self, request: HandOver) -> list[tuple[str, str, list[Any]]]:
        """From here on another worker tells them; what they have been told so far, as user ids by channel."""
        beliefs = []
        for held in request.channels:
            if held.members:
                users = self._users.get((held.app, held.channel), {})
                beliefs.append((held.app, held.channel, list(users.values())))
                self._less(held.app, held.channel, held.subscriptions)
        return beliefs

    def _inherited(self, event: Inherit) -> None:
        """What those who come with it have been told is the truth as of now, and so is what others here have been."""
        for held in event.channels:
            if held.members:
                self._members[held.app, held.channel] += held.subscriptions
        for app, channel, present in event.present:
            self._users[app, channel] = {user_key(id_): id_ for id_ in present}

    def _less(self, app: str, channel: str, connections: int) -> None:
        self._members[app, channel] -= connections
        if not self._members[app, channel]:
            del self._members[app, channel]
            self._users.pop((app, channel), None)

    def told(self, event: Event) -> list[Event]:
        """What clients are to hear of an event: edges that are news to them, and before the list that a newcomer gets
        those by which it differs from what the others believe.
        """
        match event:
            case MemberAdded(app, channel, data):
                user, users = user_key(data["user_id"]), self._users.get((app, channel), {})
                if user in users:
                    return []
                users[user] = data["user_id"]
            case MemberRemoved(app, channel, id_):
                return [] if self._users.get((app, channel), {}).pop(user_key(id_), None) is None else [event]
            case Subscribed(app, channel, _, _, members) if members is not None:
                return [*self._corrected(app, channel, members), event]
            case Present(app, channel, members):
                return [*self._corrected(app, channel, members), event] if (app, channel) in self._members else []
            case Inherit():
                self._inherited(event)
        return [event]

    def _corrected(self, app: str, channel: str, members: list[tuple[Any, Any]]) -> Sequence[Event]:
        """Believe this from now on; the edges between what clients have been told and the truth."""
        if (app, channel) not in self._members:
            return []
        before = self._users.get((app, channel))
        self._users[app, channel] = {user_key(id_): id_ for id_, _ in members}
        return [] if before is None else edges(app, channel, before, members)


def edges(app: str, channel: str, before: dict[str, Any], members: list[tuple[Any, Any]]) -> list[Edge]:
    """What tells those who believe in the users `before` (ids by how they are compared) who is present."""
    now = {user_key(id_) for id_, _ in members}
    gone: list[Edge] = [MemberRemoved(app, channel, id_) for user, id_ in before.items() if user not in now]
    come = [
        MemberAdded(app, channel, {"user_id": id_, "user_info": info}, "")
        for id_, info in members
        if user_key(id_) not in before
    ]
    return gone + come
