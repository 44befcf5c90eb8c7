"""Programs that are no hosts: what they say reaches each client once, and what hosts do is said to them once."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from resonate.messages import Connect, Event, Expel, Member, Publication, Publish, Subscribe, Subscribed, Terminate
from resonate.shard.cluster.outside import Here, Survey
from resonate.shard.cluster.store import Listen, Said, Say
from tests.shard.cluster.world import Host, Worker, ask, settle
from tests.support.memory_store import MemoryEnd, MemoryStore

NOW = 100.0


class Words:
    """A language as simple as can be: a list of what to do, `own` where a host has said it."""

    def __init__(self) -> None:
        self.refused = 0

    def heard(self, data: bytes) -> Iterator[Publish | Terminate | Survey]:
        kind, *words = orjson.loads(data)
        if kind == "publish":
            channel, text, keep_s = words
            return iter((Publish(0, "app", channel, text.encode(), None, keep_s),))
        if kind == "terminate":
            return iter((Terminate(0, "app", *words),))
        if kind == "survey":
            return iter((Survey("app", *words, {}),))
        self.refused += kind != "own"
        return iter(())

    def said(self, request: Publish | Terminate) -> bytes:
        text = request.payload.decode() if isinstance(request, Publish) else request.user
        return orjson.dumps(["own", text])

    def answer(self, survey: Survey, here: Here, now: float) -> bytes | None:
        words = [survey.key, here.occupied(survey.app), here.connections(survey.app)]
        users = [key for key, _ in here.held_users(survey.app, survey.about)]
        last = here.last(survey.app, survey.about, now)
        return orjson.dumps(["own", *words, users, None if last is None else last.decode()])

    def complaints(self) -> list[str]:
        return []


def listener(store: MemoryStore) -> MemoryEnd:
    """A program that is no host."""
    program = store.end()
    program.take(NOW)
    program.order([Listen()])
    program.take(NOW)
    return program


class World:
    """Two hosts of one worker each, with a client on `room` and on `cache-room`, and a program that listens."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore()
        self.words = [Words(), Words()]
        self.heard: list[list[Event]] = [[], []]
        self.hosts = [Host(f"h{number}", self.store, words) for number, words in enumerate(self.words)]
        self.workers: list[Worker] = []
        for number, host in enumerate(self.hosts):
            self.workers.append(host.add(f"w{number}", self.heard[number].append))
        self.program = listener(self.store)
        self.settle()
        for number, worker in enumerate(self.workers):
            ask(worker, Connect("app", f"{number}.1", None))
            ask(worker, *(Subscribe("app", name, f"{number}.1", 0, None) for name in ("room", "cache-room")))
        self.settle()
        self.events()

    def settle(self) -> None:
        self.now = settle(self.hosts, self.now)

    def events(self) -> list[list[bytes]]:
        """What both have heard of channels since this was last asked."""
        self.settle()
        found = [[event.payload for event in heard if isinstance(event, Publication)] for heard in self.heard]
        for heard in self.heard:
            heard.clear()
        return found

    def say(self, *words: object) -> None:
        self.program.order([Say(orjson.dumps(words))])
        self.program.take(self.now)

    def said(self) -> list[str]:
        """What the program has heard of hosts."""
        reports = self.program.take(self.now)
        heard = [orjson.loads(report.data) for report in reports if isinstance(report, Said)]
        return [text for kind, text, *_ in heard if kind == "own"]


def test_each_host_delivers_what_is_said_to_its_own() -> None:
    world = World()
    world.say("publish", "room", "1", 0)
    assert world.events() == [[b"1"], [b"1"]]
    world.say("publish", "nobody's", "2", 60)
    world.say("nonsense")
    assert world.events() == [[], []]
    assert [host.cluster.figures()["refused"] for host in world.hosts] == [1, 1]
    assert [host.cluster.figures()["overheard"] for host in world.hosts] == [1, 1]


def test_connections_are_closed_on_each_host() -> None:
    world = World()
    world.say("terminate", "ann")
    world.settle()
    assert [[event for event in heard if isinstance(event, Expel)] for heard in world.heard] == [
        [Expel("app", "ann")]
    ] * 2


def test_a_late_subscriber_gets_what_a_cache_channel_was_told() -> None:
    world = World()
    world.say("publish", "cache-room", "kept", 60)
    assert world.events() == [[b"kept"], [b"kept"]]
    heard: list[Event] = []
    third = Host("h2", world.store)
    world.hosts.append(third)
    late = third.add("w2", heard.append)
    world.settle()
    ask(late, Subscribe("app", "cache-room", "2.1", 0, None))
    world.settle()
    assert [event.cached for event in heard if isinstance(event, Subscribed)] == [b"kept"]


def test_what_is_in_the_log_is_said_once() -> None:
    world = World()
    ask(world.workers[0], Publish(1, "app", "room", b"1", None, 0), Terminate(2, "app", "ann"))
    ask(world.workers[1], Publish(1, "app", "nobody's", b"2", None, 0))
    assert world.events() == [[b"1"], [b"1"]]
    assert sorted(world.said()) == ["1", "2", "ann"]


def test_what_was_published_in_an_outage_is_said_after_it() -> None:
    world = World()
    for host in world.hosts:
        host.end.lose()
    world.settle()
    ask(world.workers[0], Publish(1, "app", "room", b"1", None, 0))
    assert world.events() == [[b"1"], []]
    assert world.said() == []
    for host in world.hosts:
        host.end.mend()
    assert world.events() == [[], [b"1"]]
    assert world.said() == ["1"]
    world.say("publish", "room", "2", 0)
    assert world.events() == [[b"2"], [b"2"]], "they listen again"


def test_each_host_says_what_it_has_itself() -> None:
    world = World()
    member = Member("ann", {"user_id": "ann", "user_info": None})
    ask(world.workers[1], Subscribe("app", "presence-a", "1.2", 0, member))
    ask(world.workers[0], Publish(1, "app", "cache-room", b"kept", None, 60))
    world.settle()
    world.said()
    world.say("survey", "k", "presence-a")
    world.settle()
    both = [orjson.loads(report.data)[1:] for report in world.program.take(world.now) if isinstance(report, Said)]
    here = {"room": 1, "cache-room": 1}
    assert sorted(both, key=str) == sorted(
        (["k", here, [1, 0], [], None], ["k", here | {"presence-a": 1}, [1, 0], ["ann"], None]), key=str
    )
    world.say("survey", "k", "cache-room")
    world.settle()
    lasts = [orjson.loads(report.data)[-1] for report in world.program.take(world.now) if isinstance(report, Said)]
    assert [last for last in lasts if last != "cache-room"] == ["kept", "kept"]


def test_nothing_is_said_where_nobody_is_told() -> None:
    store = MemoryStore()
    host = Host("h0", store)
    program = listener(store)
    now = settle([host], NOW)
    ask(host.add("w0", lambda event: None), Publish(1, "app", "room", b"1", None, 0))
    now = settle([host], now)
    assert program.take(now) == []
