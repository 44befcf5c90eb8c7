"""One occupied channel at its home: which workers care, and who is present."""

from __future__ import annotations

from collections import Counter
from typing import Any

from resonate.messages import ChannelHolding, ChannelInfo, Member


class User:
    """A presence user: the id and user_info as they first came, and how many connections each worker holds.

    `parties` are the shards of this and other hosts that have him, as the log of the channel tells; empty without one.
    """

    __slots__ = ("holders", "id", "info", "parties")

    def __init__(self, data: dict[str, Any]) -> None:
        self.id = data["user_id"]
        self.info = data["user_info"]
        self.holders: Counter[str] = Counter()
        self.parties: set[str] = set()

    @property
    def gone(self) -> bool:
        """Whether nobody has him any more."""
        return not self.holders and not self.parties


class Channel:
    """`interest` counts each worker's subscriptions; `users` are kept in the order of their joining.

    `position` is how far its log has come, if it has one that all hosts share: None without.
    """

    __slots__ = ("interest", "position", "users")

    def __init__(self) -> None:
        self.interest: dict[str, int] = {}
        self.users: dict[str, User] | None = None
        self.position: int | None = None

    @property
    def idle(self) -> bool:
        """Whether nobody needs it: it may be forgotten."""
        return not self.interest and self.position is None

    def join(self, worker: str, member: Member | None) -> bool:
        """Count a subscription; True when a user has come with it."""
        self.interest[worker] = self.interest.get(worker, 0) + 1
        if member is None:
            return False
        if self.users is None:
            self.users = {}
        user = self.users.get(member.user)
        came = user is None
        if user is None:
            user = self.users[member.user] = User(member.data)
        user.holders[worker] += 1
        return came

    def leave(self, worker: str, key: str | None) -> User | None:
        """Give a subscription up; the user who has gone with it, if one has."""
        self.interest[worker] -= 1
        if not self.interest[worker]:
            del self.interest[worker]
        if key is None or self.users is None:
            return None
        user = self.users[key]
        user.holders[worker] -= 1
        if not user.holders[worker]:
            del user.holders[worker]
        return self.users.pop(key) if user.gone else None

    def declare(self, worker: str, holding: ChannelHolding) -> None:
        """What a worker holds, and somebody has counted before."""
        self.interest[worker] = self.interest.get(worker, 0) + holding.subscriptions
        for key, data, connections in holding.members:
            self.users = {} if self.users is None else self.users
            user = self.users.setdefault(key, User(data))
            user.holders[worker] += connections

    def release(self, worker: str, holding: ChannelHolding) -> None:
        """The opposite, for a part of what it holds; nobody is to be told. Another may hold the same by now."""
        self.interest[worker] -= holding.subscriptions
        if not self.interest[worker]:
            del self.interest[worker]
        for key, _, connections in holding.members:
            user = (self.users or {})[key]
            user.holders[worker] -= connections
            if not user.holders[worker]:
                del user.holders[worker]
            if user.gone and self.users is not None:
                del self.users[key]

    def holding(self, app: str, name: str, worker: str) -> ChannelHolding:
        """What a worker holds of it."""
        users = (self.users or {}).items()
        members = [
            (key, {"user_id": user.id, "user_info": user.info}, user.holders[worker])
            for key, user in users
            if user.holders[worker]
        ]
        return ChannelHolding(app, name, self.interest[worker], members)

    def forget(self, worker: str) -> list[User]:
        """Drop all that a worker held; the users who have gone with it."""
        del self.interest[worker]
        gone = []
        for key, user in list((self.users or {}).items()):
            if user.holders.pop(worker, 0) and user.gone and self.users is not None:
                gone.append(self.users.pop(key))
        return gone

    def members(self) -> list[tuple[Any, Any]] | None:
        """The users as (id, user_info); None when this is no presence channel."""
        return None if self.users is None else [(user.id, user.info) for user in self.users.values()]

    def info(self, cached: bytes | None) -> ChannelInfo:
        """What REST may ask about it."""
        return ChannelInfo(sum(self.interest.values()), len(self.users or ()), cached)
