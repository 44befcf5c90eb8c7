"""One client's Pusher life, without I/O.

Each call takes what happened and returns *effects*, in order: payloads for the client (bytes of JSON), faults that it
is to be told, requests for the shard (resonate.messages), and `Close`. Nothing is called back. A subscription is
pending from its request until the shard's answer with the same `ref`; an answer that nobody waits for any more is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple

from resonate.errors import Fault, PusherError
from resonate.messages import (
    Attach,
    Connect,
    Connected,
    Detach,
    Disconnect,
    Member,
    Publish,
    Refresh,
    Request,
    Subscribe,
    Subscribed,
    Unsubscribe,
    user_key,
)
from resonate.pusher import events, signatures
from resonate.pusher.channels import MAX_NAME, USER_PREFIX, kind_of, user_channel
from resonate.pusher.events import INVALID_FORMAT, UNAUTHORIZED
from resonate.pusher.limits import RateWindow
from resonate.settings import App, Server

OVER_QUOTA: Final = Fault(4004, "Application is over connection quota")
TOO_LONG: Final = Fault(4019, "Message size exceeded")
NO_PONG: Final = Fault(4201, "Pong reply not received in time")
TOO_FAST: Final = Fault(4301, "Rate limit exceeded")
NO_CLIENT_EVENTS: Final = Fault(4301, "The app does not have client messaging enabled.")
NOT_A_MEMBER: Final = Fault(4009, "The client is not a member of the specified channel.")
WRONG_KIND: Final = Fault(4009, "Client events are only allowed on private and presence channels.")

#: Close codes that are not an error's own: 4100 to 4199 let pusher-js come back after a second.
COME_BACK_LATER: Final = 4100


class State(Enum):
    """CONNECTING until the shard has given the connection a place, CLOSED for good."""

    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()


class Close(NamedTuple):
    """Close the connection with this code."""

    code: int
    reason: str


Effect = bytes | Fault | Close | Request


class Subscription(NamedTuple):
    """`ref`: the answer that is waited for, 0 for none. `silent`: the client has not asked for it itself."""

    member: Member | None
    ref: int
    silent: bool


_PLAIN: Final = Subscription(None, 0, False)  # shared by all plain subscriptions: there may be millions


class Session:
    """`id` is the socket id; `user` the id under which the client signed in."""

    __slots__ = ("_rate", "_ref", "_server", "app", "id", "state", "subscriptions", "user")

    def __init__(self, app: App, socket_id: str, server: Server) -> None:
        self.app = app
        self.id = socket_id
        self.state = State.CONNECTING
        self.user: str | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self._server = server
        self._ref = 0
        self._rate = RateWindow(app.rate_limiting) if app.rate_limiting.enabled else None

    # --- the life of the connection ----------------------------------------------------------------------------------

    def open(self) -> list[Effect]:
        """The handshake is done: ask for a place."""
        return [Connect(self.app.app_id, self.id, self.app.max_connections)]

    def connected(self, answer: Connected) -> list[Effect]:
        """The shard's answer to that."""
        if not answer.admitted:
            self.state = State.CLOSED
            return _refusal(OVER_QUOTA)
        self.state = State.OPEN
        return [events.established(self.id, self.app.activity_timeout)]

    def close(self) -> list[Effect]:
        """The connection has gone, however: give up everything it held. Harmless when repeated."""
        state, self.state = self.state, State.CLOSED
        if state is not State.OPEN:
            return []
        effects: list[Effect] = [self._leave(channel, held) for channel, held in self.subscriptions.items()]
        if self.subscriptions:
            effects.append(Detach(self.app.app_id))
            self.subscriptions = {}
        effects.append(Disconnect(self.app.app_id))
        return effects

    def holdings(self) -> list[tuple[str, Member | None]]:
        """The channels that it is on, as a member or not; for the shards, which count them."""
        return [(channel, held.member) for channel, held in self.subscriptions.items()]

    def forget(self) -> None:
        """The connection goes on in another worker, which holds from now on what it held."""
        self.state = State.CLOSED
        self.subscriptions = {}

    def snapshot(self, now: float) -> dict[str, Any]:
        """All of it, as JSON can carry it, for `restore`. It is open, and no subscription is unanswered."""
        return {
            "id": self.id,
            "user": self.user,
            "ref": self._ref,
            "subscriptions": [[channel, member and astuple(member)] for channel, member in self.holdings()],
            "rate": None if self._rate is None else self._rate.snapshot(now),
        }

    @classmethod
    def restore(cls, app: App, server: Server, snapshot: dict[str, Any], now: float) -> Session:
        """Go on where another has stopped, by the rules of `app` as they are here. Raises `UNFIT` for what is no
        snapshot.
        """
        made = cls(app, _text(snapshot["id"]), server)
        made.state = State.OPEN
        made.user = None if snapshot["user"] is None else _text(snapshot["user"])
        made._ref = int(snapshot["ref"])
        for channel, member in snapshot["subscriptions"]:
            made.subscriptions[_text(channel)] = _PLAIN if member is None else _as_member(*member)
        rate = snapshot.get("rate")
        if made._rate is not None and rate is not None:
            made._rate = RateWindow.restore(app.rate_limiting, rate, now)
        return made

    def is_user(self, user: str) -> bool:
        """Whether this is a connection of `user`: by signing in, or as a member of a presence channel."""
        return self.user == user or any(
            held.member is not None and held.member.user == user for held in self.subscriptions.values()
        )

    # --- what the client says ----------------------------------------------------------------------------------------

    def receive(self, text: bytes, now: float) -> list[Effect]:
        """A message of acceptable size. `now` is in seconds."""
        if self.state is not State.OPEN:
            return []
        if self._rate is not None and not self._rate.admits(now):
            return self._too_fast()
        try:
            message = events.decode(text)
            name = message["event"]
            if name.startswith("pusher:"):
                return self._pusher_event(name, message.get("data"))
            return self._other_event(name, message.get("channel"), message.get("data"))
        except PusherError as error:
            return [error.fault]

    def oversized(self) -> list[Effect]:
        """A message over `max_message_size`, which has been dropped."""
        if self.state is not State.OPEN:
            return []
        return [TOO_LONG]

    def _too_fast(self) -> list[Effect]:
        if self.app.rate_limiting.terminate_on_limit:
            return [TOO_FAST, Close(COME_BACK_LATER, TOO_FAST.message)]
        return [TOO_FAST]

    def _pusher_event(self, name: str, data: Any) -> list[Effect]:
        handler = _HANDLERS.get(name)
        if handler is None or (data and not isinstance(data, dict | list)):
            raise PusherError(INVALID_FORMAT)
        return handler(self, data if isinstance(data, dict) else {})

    def _ping(self, data: dict[str, Any]) -> list[Effect]:
        return [events.PONG]

    def _pong(self, data: dict[str, Any]) -> list[Effect]:
        return []

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def _subscribe(self, data: dict[str, Any]) -> list[Effect]:
        channel, auth, channel_data = data.get("channel"), data.get("auth"), data.get("channel_data") or None
        if not isinstance(channel, str) or not 0 < len(channel) <= MAX_NAME or isinstance(auth, dict | list):
            raise PusherError(INVALID_FORMAT)
        content = {} if channel_data is None else _parse_channel_data(channel_data)
        kind = kind_of(channel)
        if kind.private:
            self._verify(signatures.subscription_text(self.id, channel, channel_data), auth)
        elif channel.startswith(USER_PREFIX) and (self.user is None or channel != user_channel(self.user)):
            raise PusherError(UNAUTHORIZED)
        member = _member(content) if kind.presence else None
        return self._request(channel, member, silent=False)

    def _request(self, channel: str, member: Member | None, *, silent: bool) -> list[Effect]:
        """Ask the shard for a subscription, or once more for the answer of one that is held already."""
        app = self.app.app_id
        self._ref += 1
        held = self.subscriptions.get(channel)
        if held is not None:
            self.subscriptions[channel] = held._replace(ref=self._ref, silent=silent)
            return [Refresh(app, channel, self.id, self._ref)]
        most = self._server.max_subscriptions_per_connection
        if len(self.subscriptions) >= most:
            raise PusherError(Fault(4301, f"A connection may hold {most} subscriptions."))
        self.subscriptions[channel] = Subscription(member, self._ref, silent)
        request = Subscribe(app, channel, self.id, self._ref, member)
        return [request] if len(self.subscriptions) > 1 else [request, Attach(app)]

    def subscribed(self, answer: Subscribed) -> list[bytes] | None:
        """The shard's answer: payloads for the client. None when that has left, and is not to be put on the channel."""
        channel = answer.channel
        held = self.subscriptions.get(channel)
        if held is None or held.ref != answer.ref:
            return None
        self.subscriptions[channel] = _PLAIN if held.member is None else held._replace(ref=0, silent=False)
        if held.silent:
            return []
        payloads = [events.succeeded(channel, answer.members)]
        if kind_of(channel).cache:
            payloads.append(events.cache_miss(channel) if answer.cached is None else answer.cached)
        return payloads

    def _unsubscribe(self, data: dict[str, Any]) -> list[Effect]:
        channel = data.get("channel")
        if not isinstance(channel, str) or not channel:
            raise PusherError(INVALID_FORMAT)
        held = self.subscriptions.pop(channel, None)
        if held is None:
            return []
        effects: list[Effect] = [self._leave(channel, held)]
        if not self.subscriptions:
            effects.append(Detach(self.app.app_id))
        return effects

    def _leave(self, channel: str, held: Subscription) -> Unsubscribe:
        return Unsubscribe(self.app.app_id, channel, None if held.member is None else held.member.user)

    def _verify(self, text: str, auth: Any) -> None:
        signature = signatures.of_auth(auth) if isinstance(auth, str) else ""
        if not signatures.matches(self.app.secret_bytes, text, signature):
            raise PusherError(UNAUTHORIZED)

    # --- signing in --------------------------------------------------------------------------------------------------

    def _signin(self, data: dict[str, Any]) -> list[Effect]:
        auth, user_data = data.get("auth"), data.get("user_data")
        if not isinstance(auth, str) or not isinstance(user_data, str):
            raise PusherError(INVALID_FORMAT)
        try:
            self._verify(signatures.signin_text(self.id, user_data), auth)
            user = _user_of(_parse_channel_data(user_data), "id")
            if self.user not in (None, user):
                raise PusherError(UNAUTHORIZED)
        except PusherError:
            return _refusal(UNAUTHORIZED)
        self.user = user
        success = events.signin_success(user_data)
        channel = user_channel(user)
        if channel in self.subscriptions:
            return [success]
        return [*self._request(channel, None, silent=True), success]  # told when the shard has answered

    # --- client events -----------------------------------------------------------------------------------------------

    def _other_event(self, name: str, channel: Any, data: Any) -> list[Effect]:
        """Reverb's rules for what does not begin with `pusher:`; only what begins with `client-` goes anywhere."""
        if not isinstance(channel, str) or not channel or not (data in (None, "") or isinstance(data, dict | list)):
            raise PusherError(INVALID_FORMAT)
        if not name.startswith("client-"):
            return []
        policy = self.app.accept_client_events_from
        if policy == "none":
            raise PusherError(NO_CLIENT_EVENTS)
        held = self.subscriptions.get(channel)
        if policy == "members" and held is None:  # also while the shard has not answered: it does so before the event
            raise PusherError(NOT_A_MEMBER)
        kind = kind_of(channel)
        if not kind.private:
            raise PusherError(WRONG_KIND)
        user = held.member.data["user_id"] if held is not None and held.member is not None else None
        payload = events.client_event(name, channel, data, user)
        keep = self._server.cache_ttl if kind.cache else 0
        return [Publish(0, self.app.app_id, channel, payload, self.id, keep)]


_HANDLERS: Final[dict[str, Callable[[Session, dict[str, Any]], list[Effect]]]] = {
    "pusher:ping": Session._ping,
    "pusher:pong": Session._pong,
    "pusher:subscribe": Session._subscribe,
    "pusher:unsubscribe": Session._unsubscribe,
    "pusher:signin": Session._signin,
}


def _refusal(fault: Fault) -> list[Effect]:
    return [fault, Close(fault.code, fault.message)]


def _parse_channel_data(text: Any) -> Any:
    """The value of a JSON string from a back end; 4200 when it is none."""
    if not isinstance(text, str):
        raise PusherError(INVALID_FORMAT)
    return events.parse(text.encode())


def _member(content: Any) -> Member:
    """A presence member from its signed `channel_data`; without `user_info` that is null."""
    if not isinstance(content, dict | list):
        raise PusherError(INVALID_FORMAT)
    user, data = _user_of(content, "user_id"), dict(content)
    data.setdefault("user_info", None)
    return Member(user, data)


def _as_member(user: Any, data: Any) -> Subscription:
    """A subscription that has been handed over."""
    return Subscription(Member(_text(user), dict(data)), 0, False)


def _text(value: Any) -> str:
    """What has to be one."""
    if not isinstance(value, str):
        raise TypeError(f"a string was expected, not {value!r}")
    return value


def _user_of(data: Any, key: str) -> str:
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise PusherError(UNAUTHORIZED)
    if isinstance(value, float) and abs(value) >= 2**53:  # a long integer, of which digits have been lost
        raise PusherError(UNAUTHORIZED)
    return user_key(value)
