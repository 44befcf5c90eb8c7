"""Several sessions on a real shard, its answers delayed as the network likes, against a model that knows no delay.

Two workers, each with clients of its own. What a session asks reaches the shard at once; what the shard says to a
worker waits in that worker's pipe until a rule delivers it. Seen from a session, late questions are late answers.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resonate.messages import (
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Describe,
    Disconnect,
    Event,
    Expel,
    ListChannels,
    ListUsers,
    MemberAdded,
    MemberRemoved,
    Publication,
    Publish,
    Reply,
    Request,
    Subscribed,
    Terminate,
)
from resonate.pusher import Close, Effect, Session, events
from resonate.settings import Server
from resonate.shard import Shard
from tests.pusher.support import app, message, subscription, told

CHANNELS = ("news", "cache-x", "private-cache-x", "presence-x", "presence-cache-x")
USERS = ("1", 1, 2)  # the first two are one user
WORKERS = ("worker-1", "worker-2")
MOST_CONNECTIONS, MOST_SUBSCRIPTIONS = 4, 3
APP = app(max_connections=MOST_CONNECTIONS)
SERVER = Server(max_subscriptions_per_connection=MOST_SUBSCRIPTIONS)

Entry = tuple[Any, ...]  # ("event", payload), ("added", id) or ("removed", id)


# --- the model -------------------------------------------------------------------------------------------------------


@dataclass
class Happened:
    """One thing on a channel, and the client that does not hear of it."""

    entry: Entry
    except_: str | None


@dataclass
class Place:
    """A client's subscription as the model sees it: when it was last asked for, and what was to be told then."""

    user: Any
    since: int
    members: list[Any]
    cached: str | None


@dataclass
class Model:
    """Everything happens the moment it is asked for."""

    admitted: set[str] = field(default_factory=set)
    places: dict[tuple[str, str], Place] = field(default_factory=dict)  # by client and channel
    users: dict[str, dict[str, list[Any]]] = field(default_factory=lambda: defaultdict(dict))  # [id, client, client...]
    log: dict[str, list[Happened]] = field(default_factory=lambda: defaultdict(list))
    cached: dict[str, str] = field(default_factory=dict)

    def held(self, client: str) -> list[str]:
        return [channel for who, channel in self.places if who == client]

    def subscribe(self, client: str, channel: str, user: Any) -> bool:
        """False when the client holds too many."""
        place = self.places.get((client, channel))
        if place is None and len(self.held(client)) >= MOST_SUBSCRIPTIONS:
            return False
        if place is None and user is not None:
            self._come(client, channel, user)
        held = user if place is None else place.user
        members = [entry[0] for entry in self.users[channel].values()]
        now = len(self.log[channel])
        self.places[client, channel] = Place(held, now, members, self.cached.get(channel))
        return True

    def _come(self, client: str, channel: str, user: Any) -> None:
        if str(user) not in self.users[channel]:
            self.users[channel][str(user)] = [user]
            self.log[channel].append(Happened(("added", user), client))
        self.users[channel][str(user)].append(client)

    def unsubscribe(self, client: str, channel: str) -> None:
        place = self.places.pop((client, channel), None)
        if place is None or place.user is None:
            return
        present = self.users[channel][str(place.user)]
        present.remove(client)
        if len(present) == 1:
            del self.users[channel][str(place.user)]
            self.log[channel].append(Happened(("removed", present[0]), None))

    def close(self, client: str) -> None:
        for channel in self.held(client):
            self.unsubscribe(client, channel)

    def publish(self, channel: str, payload: str, except_: str | None) -> None:
        self.log[channel].append(Happened(("event", payload), except_))
        if "cache" in channel:
            self.cached[channel] = payload

    def heard(self, client: str, channel: str, since: int) -> list[Entry]:
        """What a client that is on a channel since then has to hear of it, in order."""
        return [happened.entry for happened in self.log[channel][since:] if happened.except_ != client]


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """A session and what its client has been told; `on` is where its worker delivers, with what has come since."""

    session: Session
    worker: str
    told: list[dict[str, Any]] = field(default_factory=list)
    on: dict[str, tuple[int, list[Entry]]] = field(default_factory=dict)
    closed: bool = False

    @property
    def established(self) -> bool:
        return bool(self.told) and self.told[0]["event"] == "pusher:connection_established"


class Network(RuleBasedStateMachine):
    """The rules are what clients, back ends and the pipes may do."""

    def __init__(self) -> None:
        super().__init__()
        self.shard, self.model = Shard(), Model()
        self.pipes: dict[str, deque[Event]] = {worker: deque() for worker in WORKERS}
        self.clients: dict[str, Client] = {}
        self.number = 0
        for worker in WORKERS:
            self.shard.join(worker)

    def next(self) -> int:
        self.number += 1
        return self.number

    def open_clients(self) -> list[Client]:
        return [client for client in self.clients.values() if client.established and not client.closed]

    def send(self, worker: str, request: Request) -> None:
        for receiver, event in self.shard.handle(worker, request, 0):
            self.pipes[receiver].append(event)

    def ask(self, request: Request) -> Any:
        """A question by nobody in the game; answered at once."""
        ((_, event),) = self.shard.handle("observer", request, 0)
        return event.value if isinstance(event, Reply) else event

    def apply(self, client: Client, effects: list[Effect]) -> None:
        """What a worker does with the effects of a session."""
        for effect in told(effects):
            if isinstance(effect, bytes):
                client.told.append(json.loads(effect))
            elif isinstance(effect, Close):
                self.end(client)
            else:
                self.send(client.worker, effect)

    def end(self, client: Client) -> None:
        if client.closed:
            return
        client.closed = True
        for channel in list(client.on):
            self.off(client, channel)
        self.model.close(client.session.id)
        if client.established:
            self.model.admitted.discard(client.session.id)
        self.apply(client, client.session.close())

    def off(self, client: Client, channel: str) -> None:
        """Whoever leaves has heard everything up to some point."""
        since, got = client.on.pop(channel)
        assert got == self.model.heard(client.session.id, channel, since)[: len(got)]

    # --- what may happen ---------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS))
    def connect(self, worker: str) -> None:
        name = f"{self.next()}.1"
        client = self.clients[name] = Client(Session(APP, name, SERVER), worker)
        if len(self.model.admitted) < MOST_CONNECTIONS:
            self.model.admitted.add(name)
        self.apply(client, client.session.open())

    @precondition(lambda self: self.open_clients())
    @rule(data=st.data(), channel=st.sampled_from(CHANNELS), user=st.sampled_from(USERS))
    def subscribe(self, data: st.DataObject, channel: str, user: Any) -> None:
        client = data.draw(st.sampled_from(self.open_clients()))
        presence = channel.startswith("presence")
        text = json.dumps({"user_id": user}) if presence else None
        before = len(client.told)
        allowed = self.model.subscribe(client.session.id, channel, user if presence else None)
        self.apply(client, client.session.receive(subscription(channel, text, client.session.id), 0))
        errors = [told["event"] for told in client.told[before:]]
        assert errors == ([] if allowed else ["pusher:error"])

    @precondition(lambda self: self.open_clients())
    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, data: st.DataObject, channel: str) -> None:
        client = data.draw(st.sampled_from(self.open_clients()))
        if channel in client.on:
            self.off(client, channel)
        self.model.unsubscribe(client.session.id, channel)
        self.apply(client, client.session.receive(message("pusher:unsubscribe", {"channel": channel}), 0))

    @precondition(lambda self: self.open_clients())
    @rule(data=st.data(), channel=st.sampled_from(CHANNELS[2:]))
    def whisper(self, data: st.DataObject, channel: str) -> None:
        client = data.draw(st.sampled_from(self.open_clients()))
        name = f"client-{self.next()}"
        if channel in client.session.subscriptions:  # also while the shard has not answered
            self.model.publish(channel, name, client.session.id)
        self.apply(client, client.session.receive(message(name, {}, channel=channel), 0))

    @rule(data=st.data(), worker=st.sampled_from(WORKERS), channel=st.sampled_from(CHANNELS))
    def publish(self, data: st.DataObject, worker: str, channel: str) -> None:
        name = f"event-{self.next()}"
        except_ = data.draw(st.sampled_from([None, *self.clients]))
        self.model.publish(channel, name, except_)
        payload = events.published(name, channel, "x")
        self.send(worker, Publish(self.number, "app1", channel, payload, except_, 60 if "cache" in channel else 0))

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(list(self.clients.values()))))

    @rule(worker=st.sampled_from(WORKERS), user=st.sampled_from(["1", "2"]))
    def terminate(self, worker: str, user: str) -> None:
        self.send(worker, Terminate(self.next(), "app1", user))

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 5))
    def deliver(self, worker: str, count: int) -> None:
        pipe = self.pipes[worker]
        for _ in range(min(count, len(pipe))):
            self.receive(worker, pipe.popleft())

    @rule()
    def settle(self) -> None:
        """Everything arrives; now everybody has heard everything."""
        while any(self.pipes.values()):
            for worker in WORKERS:
                self.deliver(worker, 1)
        on = {(name, channel) for name, client in self.clients.items() for channel in client.on}
        assert on == set(self.model.places)
        for name, client in self.clients.items():
            for channel, (since, got) in client.on.items():
                assert got == self.model.heard(name, channel, since)

    # --- a worker and the shard's stream -----------------------------------------------------------------------------

    def receive(self, worker: str, event: Event) -> None:
        if isinstance(event, Connected):
            self.connected(self.clients[event.socket], event)
        elif isinstance(event, Subscribed):
            self.subscribed(self.clients[event.socket], event)
        elif isinstance(event, Expel):
            self.expel(worker, event.user)
        elif isinstance(event, Publication):
            self.spread(worker, event.channel, ("event", json.loads(event.payload)["event"]), event.except_)
        elif isinstance(event, MemberAdded):
            told = json.loads(json.loads(events.member_added(event.channel, event.data))["data"])
            self.spread(worker, event.channel, ("added", told["user_id"]), event.except_)
        elif isinstance(event, MemberRemoved):
            told = json.loads(json.loads(events.member_removed(event.channel, event.id))["data"])
            self.spread(worker, event.channel, ("removed", told["user_id"]), None)

    def connected(self, client: Client, answer: Connected) -> None:
        assert answer.admitted == (client.session.id in self.model.admitted)
        if not client.closed:
            self.apply(client, client.session.connected(answer))
        elif answer.admitted:  # nobody waits for the place any more
            self.model.admitted.discard(client.session.id)
            self.send(client.worker, Disconnect("app1"))

    def subscribed(self, client: Client, answer: Subscribed) -> None:
        effects = client.session.subscribed(answer)
        if effects is None:
            return
        before = len(client.told)
        self.apply(client, effects)
        place = self.model.places[client.session.id, answer.channel]
        check_success(client.told[before:], answer.channel, place)
        client.on.setdefault(answer.channel, (place.since, []))

    def spread(self, worker: str, channel: str, entry: Entry, except_: str | None) -> None:
        for name, client in self.clients.items():
            if client.worker == worker and name != except_ and channel in client.on:
                client.on[channel][1].append(entry)

    def expel(self, worker: str, user: str) -> None:
        for client in self.clients.values():
            if client.worker == worker and not client.closed:
                name = client.session.id
                users = {str(self.model.places[name, channel].user) for channel in self.model.held(name)}
                assert client.session.is_user(user) == (user in users)
                if client.session.is_user(user):
                    self.end(client)

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def the_quota_holds(self) -> None:
        assert len(self.model.admitted) <= MOST_CONNECTIONS
        for limit in (len(self.model.admitted), len(self.model.admitted) + 1):
            answer = self.ask(Connect("app1", "probe", limit))
            assert answer.admitted == (limit > len(self.model.admitted))
            if answer.admitted:
                self.shard.handle("observer", Disconnect("app1"), 0)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        assert self.ask(CountConnections(1, "app1")) == len({client for client, _ in self.model.places})
        expected = {}
        for channel in CHANNELS:
            subscriptions = sum(on == channel for _, on in self.model.places)
            if subscriptions:
                cached = self.model.cached.get(channel)
                expected[channel] = (subscriptions, len(self.model.users[channel]), cached)
            assert named(self.ask(Describe(1, "app1", channel))) == expected.get(channel, (0, 0, None))
            users = [entry[0] for entry in self.model.users[channel].values()]
            assert self.ask(ListUsers(1, "app1", channel)) == (users if subscriptions else None)
        found = self.ask(ListChannels(1, "app1", "", True))
        assert {channel: named(about) for channel, about in found.items()} == expected

    def teardown(self) -> None:
        """All go; nothing may be left."""
        self.settle()
        for client in self.clients.values():
            self.end(client)
        self.settle()
        assert self.model.places == {}
        assert self.model.admitted == set()
        self.the_quota_holds()
        self.counts_are_those_of_the_model()


def named(about: ChannelInfo) -> tuple[int, int, str | None]:
    """What a shard says of a channel, the payload reduced to the event's name."""
    return about.subscriptions, about.users, None if about.cached is None else json.loads(about.cached)["event"]


def check_success(told: list[dict[str, Any]], channel: str, place: Place) -> None:
    """The success and what follows it are those of the moment at which the subscription was asked for."""
    success, *rest = told
    assert success["event"] == "pusher_internal:subscription_succeeded"
    data = json.loads(success["data"])
    if channel.startswith("presence"):
        assert data["presence"]["ids"] == place.members
        assert data["presence"]["count"] == len(place.members)
        assert list(data["presence"]["hash"]) == [str(member) for member in place.members]
    else:
        assert data == {}
    expected = [] if "cache" not in channel else [place.cached or "pusher:cache_miss"]
    assert [event["event"] for event in rest] == expected


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
