"""The ways from a worker to the shards: one contract for all of them, and what is true of the bus alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import pytest
import zmq
from msgspec.structs import replace

from resonate.bus.client import BusLink
from resonate.bus.directory import alive, pid_of
from resonate.encoding import decode
from resonate.messages import (
    Answer,
    Attach,
    Batch,
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Describe,
    Detach,
    Disconnect,
    Event,
    Expel,
    Hello,
    Inspect,
    ListChannels,
    ListUsers,
    Member,
    MemberAdded,
    MemberRemoved,
    Present,
    Publication,
    Publish,
    Refresh,
    Reply,
    Request,
    Subscribe,
    Subscribed,
    Terminate,
    Unsubscribe,
)
from resonate.server.link import LocalLink, Way
from resonate.shard import Shard
from resonate.shard.ledger import NOTHING, Ledger
from tests.bus.support import Bystander, Place, RawWorker, Receiver, ShardProcess, Turns
from tests.support.eventually import eventually

LOG = logging.getLogger("test")
Value = TypeVar("Value")


class Rig:
    """A way, and what has come back on it."""

    way: Way

    def __init__(self) -> None:
        self.receiver = Receiver()
        self._refs = count(1)
        self._closed = False

    @property
    def events(self) -> list[Event]:
        return self.receiver.events

    def until(self, condition: Callable[[], Value]) -> Value:
        """Let happen what has to, until it is so."""
        raise NotImplementedError

    def ask(self, make: Callable[[int], Any]) -> Any:
        """The answers to a question, put together as there are several shards; all before it has been handled."""
        ref = next(self._refs)
        request = make(ref)
        self.way.send(request)
        found = self.until(lambda: len(answers := self.answers(ref)) == self.way.answers(request) and answers)
        assert isinstance(found, list)
        return found

    def answers(self, ref: int) -> list[Any]:
        return [event.value for event in self.events if isinstance(event, Reply) and event.ref == ref]

    def settle(self, app: str = "app", channel: str = "a") -> list[Event]:
        """What has come before the answer to a last question about a channel; nothing is left."""
        self.ask(lambda ref: Describe(ref, app, channel))
        events: list[Event] = [event for event in self.events if not isinstance(event, Reply | Present)]
        self.events.clear()
        return events

    def end(self) -> None:
        """The worker ends."""
        if not self._closed:
            self.way.close()
        self._closed = True

    def close(self) -> None:
        self.end()


class LocalRig(Rig):
    """The shard is inside."""

    def __init__(self) -> None:
        super().__init__()
        way = LocalLink(Shard(), lambda: 0.0)
        way.connect(self.receiver.receive)
        self.way = way

    def until(self, condition: Callable[[], Value]) -> Value:
        value = condition()
        assert value
        return value


class BusRig(Rig):
    """Shards are processes, which the rig starts as a worker's starter would."""

    def __init__(self, place: Place, shards: int = 1) -> None:
        super().__init__()
        self.place = place
        self.turns = Turns()
        self.shards: dict[int, ShardProcess] = {}
        self.namesake: Bystander = place.bystander()
        self.bus = BusLink(
            self.turns.loop,
            LOG,
            place.directory,
            self.namesake.worker,
            [Ledger(self.namesake.worker) for _ in range(shards)],
            30,
            self.receiver,
            self._start,
        )
        self.way = self.bus

    def _start(self, index: int) -> None:
        if index not in self.shards or not self.shards[index].lives:
            self.shards[index] = self.place.shard(index)

    def until(self, condition: Callable[[], Value]) -> Value:
        return self.turns.until(condition)

    def linked(self) -> BusRig:
        self.until(lambda: not self.bus.trouble)
        return self

    @property
    def shard(self) -> str:
        """The name of the first shard."""
        found = self.until(lambda: self.place.directory.shard(0))
        assert found is not None
        return found

    def close(self) -> None:
        super().close()
        self.turns.close()


@pytest.fixture(params=["local", "one shard", "two shards"])
def rig(request: pytest.FixtureRequest, place: Place) -> Iterator[Rig]:
    """Each way."""
    found = LocalRig() if request.param == "local" else BusRig(place, 1 if request.param == "one shard" else 2)
    yield found
    found.close()


@pytest.fixture
def bus(place: Place) -> Iterator[BusRig]:
    """The bus with one shard, which has answered."""
    found = BusRig(place).linked()
    yield found
    found.close()


def subscribe(ref: int, channel: str = "a", user: int | None = None) -> Subscribe:
    member = None if user is None else Member(str(user), data(user))
    return Subscribe("app", channel, f"1.{ref}", ref, member)


def data(user: int) -> dict[str, Any]:
    return {"user_id": user, "user_info": {"name": f"user {user}"}}


def publish(payload: bytes, ref: int = 0, channel: str = "a", except_: str | None = None, keep_s: int = 0) -> Publish:
    return Publish(ref, "app", channel, payload, except_, keep_s)


def publication(payload: bytes, channel: str = "a", except_: str | None = None, keep_s: int = 0) -> Publication:
    return Publication("app", channel, payload, except_, keep_s)


def payloads(events: list[Event]) -> list[bytes]:
    return [event.payload for event in events if isinstance(event, Publication)]


# --- the contract ----------------------------------------------------------------------------------------------------


def test_events_come_in_order(rig: Rig) -> None:
    rig.way.send(subscribe(1))
    for number in range(1000):
        rig.way.send(publish(b"%d" % number))
    assert payloads(rig.settle()) == [b"%d" % number for number in range(1000)]


def test_a_subscriber_gets_what_is_published_later_and_nothing_else(rig: Rig) -> None:
    requests: list[Request] = [
        publish(b"before"),
        subscribe(1),
        publish(b"between"),
        Unsubscribe("app", "a", None),
        publish(b"after"),
    ]
    for request in requests:
        rig.way.send(request)
    assert rig.settle() == [Subscribed("app", "a", "1.1", 1, None, None), publication(b"between")]


def test_a_late_subscriber_gets_the_last_event_of_a_cache_channel(rig: Rig) -> None:
    requests: list[Request] = [publish(b"old", keep_s=60), publish(b"new", keep_s=60), subscribe(1), publish(b"not")]
    for request in requests:
        rig.way.send(request)
    assert rig.settle() == [Subscribed("app", "a", "1.1", 1, None, b"new"), publication(b"not")]
    rig.way.send(Refresh("app", "a", "1.1", 2))
    assert rig.settle() == [Subscribed("app", "a", "1.1", 2, None, b"new")]


def test_fields_and_bytes_come_as_they_went(rig: Rig) -> None:
    rig.way.send(subscribe(1, "ä 日本"))
    rig.way.send(publish(bytes(range(256)), 0, "ä 日本", "1.1", 5))
    assert rig.settle("app", "ä 日本")[1:] == [publication(bytes(range(256)), "ä 日本", "1.1", 5)]


def test_a_publication_is_acknowledged_behind_its_event(rig: Rig) -> None:
    rig.way.send(subscribe(1))
    assert rig.ask(lambda ref: publish(b"e", ref)) == [None]
    assert publication(b"e") in rig.events
    assert [type(event) for event in rig.events] == [Subscribed, Publication, Answer]


def test_a_publication_may_be_answered_with_what_is_known_of_the_channel(rig: Rig) -> None:
    rig.way.send(subscribe(1, "p", 1))
    found = rig.ask(lambda ref: replace(publish(b"kept", ref, "p", keep_s=60), info=True))
    assert found == [ChannelInfo(1, 1, b"kept")]


def test_what_nobody_wants_to_know_is_not_answered(rig: Rig) -> None:
    rig.way.send(publish(b"e"))
    assert rig.settle() == []


def test_quota(rig: Rig) -> None:
    for number in range(4):
        rig.way.send(Connect("app", f"1.{number}", 2))
    rig.way.send(Disconnect("app"))
    rig.way.send(Connect("app", "1.4", 2))
    rig.ask(lambda ref: CountConnections(ref, "app"))
    admitted = {event.socket: event.admitted for event in rig.events if isinstance(event, Connected)}
    assert admitted == {"1.0": True, "1.1": True, "1.2": False, "1.3": False, "1.4": True}


def test_counts(rig: Rig) -> None:
    for request in (
        Attach("app"),
        Attach("app"),
        Detach("app"),
        subscribe(1),
        subscribe(2),
        subscribe(3, "presence-p", 1),
    ):
        rig.way.send(request)
    assert rig.ask(lambda ref: CountConnections(ref, "app")) == [1]
    assert rig.ask(lambda ref: Describe(ref, "app", "a")) == [ChannelInfo(2, 0, None)]
    assert rig.ask(lambda ref: ListUsers(ref, "app", "presence-p")) == [[1]]
    assert rig.ask(lambda ref: ListUsers(ref, "app", "nowhere")) == [None]
    channels: dict[str, ChannelInfo] = {}
    for found in rig.ask(lambda ref: ListChannels(ref, "app", "", False)):
        assert not channels.keys() & found.keys()
        channels |= found
    assert channels == {"a": ChannelInfo(2, 0, None), "presence-p": ChannelInfo(1, 1, None)}


def test_counters(rig: Rig) -> None:
    """What this worker has counted is among what is found, once."""
    rig.until(lambda: not rig.way.trouble)
    rig.way.beat({"publishes": 3, "errors": {"4009": 1}})
    found = [snapshot for answer in rig.ask(Inspect) for snapshot in answer]
    assert found.count({"publishes": 3, "errors": {"4009": 1}}) == 1
    assert sum("apps" in snapshot for snapshot in found) == rig.way.answers(Inspect(1))


def test_users_come_and_go(rig: Rig) -> None:
    """Of several connections of a user the first and the last are told to those who are there."""
    rig.way.send(subscribe(1, "p", 1))
    rig.way.send(subscribe(2, "p", 2))
    rig.way.send(subscribe(3, "p", 2))
    both = [(1, {"name": "user 1"}), (2, {"name": "user 2"})]
    assert rig.settle("app", "p") == [
        Subscribed("app", "p", "1.1", 1, both[:1], None),
        MemberAdded("app", "p", data(2), "1.2"),
        Subscribed("app", "p", "1.2", 2, both, None),
        Subscribed("app", "p", "1.3", 3, both, None),
    ]
    rig.way.send(Unsubscribe("app", "p", "2"))
    assert rig.settle("app", "p") == []
    rig.way.send(Unsubscribe("app", "p", "2"))
    assert rig.settle("app", "p") == [MemberRemoved("app", "p", 2)]


def test_terminating_a_user(rig: Rig) -> None:
    assert rig.ask(lambda ref: Terminate(ref, "app", "1")) == [None]
    assert [event for event in rig.events if not isinstance(event, Answer)] == [Expel("app", "1")]


def test_it_says_when_it_is_well(rig: Rig) -> None:
    assert rig.until(lambda: not rig.way.trouble)


def open_files() -> list[str]:
    """What the descriptors of this process are of."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return found


def test_closing_gives_everything_back(rig: Rig, place: Place) -> None:
    rig.way.send(subscribe(1))
    rig.settle()
    rig.end()
    assert place.directory.workers() == []
    assert not [each for each in open_files() if "pidfd" in each or str(place.directory.path) in each]


# --- several workers -------------------------------------------------------------------------------------------------


def other_worker(bus: BusRig, of: Bystander | None = None) -> RawWorker:
    """Another worker that the shard knows."""
    other = bus.place.worker(bus.shard, of)
    other.send(Hello(other.name, NOTHING))
    assert other.receive().number == 1
    return other


def test_workers_hear_of_each_others_users(bus: BusRig) -> None:
    mortal = bus.place.bystander()
    other = other_worker(bus, mortal)
    bus.way.send(subscribe(1, "p", 1))
    bus.settle("app", "p")
    other.send(Batch(other.name, 1, 1, [subscribe(1, "p", 2), subscribe(2, "p", 1)]))
    assert bus.until(lambda: bus.events) == [MemberAdded("app", "p", data(2), "1.1")]
    bus.events.clear()
    bus.way.send(Unsubscribe("app", "p", "1"))
    assert bus.settle("app", "p") == [], "another connection of that user is still there"
    bus.way.send(subscribe(3, "p", 3))
    bus.settle("app", "p")
    mortal.die()
    assert bus.until(lambda: len(bus.events) == 2 and bus.events) == [
        MemberRemoved("app", "p", 1),
        MemberRemoved("app", "p", 2),
    ]


def test_workers_have_one_order(bus: BusRig) -> None:
    other = other_worker(bus)
    other.send(Batch(other.name, 1, 1, [subscribe(1)]))
    bus.way.send(subscribe(1))
    bus.settle()
    assert isinstance(other.event(), Subscribed)
    for number in range(50):
        bus.way.send(publish(b"mine %d" % number))
        other.send(Batch(other.name, 1, 2 + number, [publish(b"theirs %d" % number)]))
        bus.turns.turn()
    bus.until(lambda: len(bus.events) == 100)
    heard: list[bytes] = []
    while len(heard) < 100:
        heard += payloads([event for stamped in other.receive().events for event in stamped.events])
    assert heard == payloads(bus.events)
    assert [payload for payload in heard if payload.startswith(b"mine")] == [b"mine %d" % n for n in range(50)]


# --- the bus alone ---------------------------------------------------------------------------------------------------


def test_requests_wait_until_there_is_a_shard(place: Place) -> None:
    rig = BusRig(place)
    rig.way.send(subscribe(1))
    assert rig.way.trouble == "shard 0 does not answer"
    assert rig.settle() == [Subscribed("app", "a", "1.1", 1, None, None)]
    assert rig.way.trouble == ""
    rig.close()


def test_a_receiver_that_is_full_pauses_and_resumes_without_loss(bus: BusRig) -> None:
    other = other_worker(bus)
    bus.way.send(subscribe(1))
    bus.settle()
    bus.receiver.room = 10
    numbers = range(500)
    for number in numbers:
        other.send(Batch(other.name, 1, number + 1, [publish(b"%d" % number, number + 1)]))
    done = 0
    while done < len(numbers):  # all has been sent to both
        done += sum(ack.size for ack in other.receive().acks)
    bus.until(lambda: bus.receiver.resume)
    paused = len(bus.events)
    for _ in range(10):
        bus.turns.turn()
    assert len(bus.events) == paused < len(numbers)
    assert bus.receiver.resume is not None
    bus.receiver.room = 10**9
    bus.receiver.resume()
    bus.until(lambda: len(bus.events) == len(numbers))
    assert payloads(bus.events) == [b"%d" % number for number in numbers]


def test_when_too_much_is_under_way_clients_are_to_wait(bus: BusRig) -> None:
    os.kill(pid_of(bus.shard), signal.SIGSTOP)
    for _ in range(20_000):
        bus.way.send(publish(b"e"))
    bus.until(lambda: bus.receiver.clogged)
    assert not bus.receiver.full, "it is those who ask that have to wait"
    os.kill(pid_of(bus.shard), signal.SIGCONT)
    bus.until(lambda: not bus.receiver.clogged)
    assert not bus.bus.trouble


def test_a_shard_is_killed_with_requests_under_way(bus: BusRig, caplog: pytest.LogCaptureFixture) -> None:
    """All are done once, by the successor; who was subscribed is so still."""
    bus.way.send(subscribe(1, "p", 1))
    bus.way.send(publish(b"done", 1000, "p"))
    bus.until(lambda: bus.answers(1000))
    first = bus.shard
    os.kill(pid_of(first), signal.SIGSTOP)
    for ref in range(1001, 1101):
        bus.way.send(publish(b"%d" % ref, ref, "p"))
        bus.turns.turn()
    bus.way.send(subscribe(2, "p", 2))
    os.kill(pid_of(first), signal.SIGKILL)
    bus.until(lambda: any(isinstance(event, Subscribed) and event.ref == 2 for event in bus.events))
    assert bus.shard != first
    assert bus.bus.successions == 1
    assert payloads(bus.events) == [b"done", *(b"%d" % ref for ref in range(1001, 1101))]
    assert [event.ref for event in bus.events if isinstance(event, Answer)] == list(range(1000, 1101))
    assert bus.ask(lambda ref: ListUsers(ref, "app", "p")) == [[1, 2]]
    assert f"shard 0 (pid {pid_of(first)}) has died; requests wait for another" in caplog.text


def test_shards_die_again_and_again(bus: BusRig) -> None:
    bus.way.send(subscribe(1))
    for ref in (1001, 1002, 1003, 1004):
        os.kill(pid_of(bus.shard), signal.SIGKILL)
        bus.way.send(publish(b"%d" % ref))
        bus.ask(lambda ref: Describe(ref, "app", "a"))
    assert payloads(bus.settle()) == [b"1001", b"1002", b"1003", b"1004"]
    assert bus.bus.successions == 4


def test_what_was_published_on_a_cache_channel_survives_its_shard(bus: BusRig) -> None:
    for payload in (b"0", b"1", b"2"):
        bus.way.send(publish(payload, 0, "cache-a", keep_s=60))
    bus.settle()
    os.kill(pid_of(bus.shard), signal.SIGKILL)
    assert bus.ask(lambda ref: Describe(ref, "app", "cache-a")) == [ChannelInfo(0, 0, None)]
    bus.way.send(subscribe(1, "cache-a"))
    assert bus.settle("app", "cache-a") == [Subscribed("app", "cache-a", "1.1", 1, None, b"2")]


@pytest.mark.parametrize("frame", [b"", b"garbage", b"\xff" * 70_000, b"\0\0\0\7[1,2,3]", b'\0\0\0\x0d[2,"w",1,null]'])
def test_a_frame_of_a_shard_that_cannot_be_decoded_is_counted(bus: BusRig, frame: bytes) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    shard = context.socket(zmq.PUSH)
    shard.connect(bus.place.directory.address(bus.namesake.worker))
    shard.send(frame)
    bus.until(lambda: bus.bus.undecodable == 1)
    context.destroy(linger=0)
    bus.way.send(subscribe(1))
    assert bus.settle() == [Subscribed("app", "a", "1.1", 1, None, None)]


def test_a_shard_that_hangs_is_killed_and_another_takes_its_place(place: Place) -> None:
    rig = BusRig(place).linked()
    first = rig.shard
    os.kill(pid_of(first), signal.SIGSTOP)
    for _ in range(31):  # seconds, to it
        rig.way.beat({})
    followed(rig, first)


def followed(rig: BusRig, name: str) -> None:
    """That shard is killed, and another takes its place."""
    rig.until(lambda: not alive(name))
    rig.linked()
    assert rig.shard != name
    rig.close()


def test_a_shard_that_hangs_up_and_lives_is_killed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is sent would reach it, and it would not seem silent."""
    name = f"s0-{place.bystander().worker[2:]}"
    with socket.socket(socket.AF_UNIX) as inbox:
        inbox.bind(str(place.directory.file(name)))
        inbox.listen()
        rig = BusRig(place)
        inbox.accept()[0].close()
    for _ in range(10):
        rig.turns.turn()
    rig.way.beat({})
    followed(rig, name)
    assert "it has hung up, and lives" in caplog.text


def test_a_shard_that_takes_no_connection_is_killed_in_time(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """And is not taken for one that is not there."""
    name = f"s0-{place.bystander().worker[2:]}"
    with socket.socket(socket.AF_UNIX) as inbox:
        inbox.bind(str(place.directory.file(name)))  # and does not listen
        rig = BusRig(place)
        for _ in range(30):
            rig.way.beat({})
        assert alive(name)
        for _ in range(2):
            rig.way.beat({})
        followed(rig, name)
    assert "it has taken no connection for 31 s" in caplog.text


def test_what_a_shard_said_before_it_died_is_taken_in_by_who_is_full(bus: BusRig) -> None:
    """What waits for room is not lost with it."""
    bus.way.send(subscribe(1))
    bus.settle()
    bus.receiver.room = 1
    for number in range(100):
        bus.way.send(publish(b"%d" % number))
        bus.turns.turn()
    bus.until(lambda: bus.receiver.resume)
    os.kill(pid_of(bus.shard), signal.SIGKILL)
    bus.until(lambda: bus.bus.trouble)
    bus.receiver.room = 10**9
    assert bus.receiver.resume is not None
    bus.receiver.resume()
    bus.until(lambda: len(bus.events) >= 100)
    assert payloads(bus.settle()) == [b"%d" % number for number in range(100)]


def test_an_inbox_that_has_vanished_is_made_anew(bus: BusRig, caplog: pytest.LogCaptureFixture) -> None:
    inbox = bus.place.directory.file(bus.namesake.worker)
    inbox.unlink()
    bus.way.beat({})
    assert inbox.is_socket()
    assert "had vanished, and has been made anew" in caplog.text
    os.kill(pid_of(bus.shard), signal.SIGKILL)  # the next one has to find it
    bus.way.send(subscribe(1))
    assert bus.settle() == [Subscribed("app", "a", "1.1", 1, None, None)]


def test_what_has_been_sent_goes_out_when_the_worker_ends(bus: BusRig) -> None:
    other = other_worker(bus)
    other.send(Batch(other.name, 1, 1, [subscribe(1)]))
    assert isinstance(other.event(), Subscribed)
    for payload in (b"first", b"second"):
        bus.way.send(publish(payload))
        bus.turns.turn()
    bus.way.send(publish(b"third"))
    bus.end()
    heard: list[bytes] = []

    def all_is_heard() -> bool:
        heard.extend(payloads([event for stamped in other.receive().events for event in stamped.events]))
        return heard == [b"first", b"second", b"third"]

    eventually(all_is_heard, within=3)


def test_requests_of_one_turn_leave_together(bus: BusRig) -> None:
    requests: list[Request] = [subscribe(1), publish(b"1"), publish(b"2")]
    before = bus.ask(Inspect)[0][0]["frames_in"]
    bus.events.clear()
    for request in requests:
        bus.way.send(request)
    after = bus.ask(Inspect)[0][0]["frames_in"]
    assert after - before == 1


def test_what_a_shard_is_still_at_work_on_holds_nothing_up(place: Place) -> None:
    """It may be waiting for other hosts, for long."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = context.socket(zmq.PULL)
    inbox.bind(place.directory.address(f"s0-{place.bystander().worker[2:]}"))
    rig = BusRig(place)

    def sent() -> list[Request]:
        frame = decode(inbox.recv()) if inbox.poll(0) else None
        return frame.requests if isinstance(frame, Batch) else []

    for request in (publish(b"1"), publish(b"2"), publish(b"3")):
        rig.way.send(request)
        assert rig.until(sent) == [request]
    rig.close()
    context.destroy(linger=0)


def test_a_worker_that_is_never_idle_sends_all_the_same(bus: BusRig) -> None:
    more = bus.turns.loop.timer(0)

    def busy() -> None:
        more.start(busy)

    busy()
    bus.way.send(publish(b"e", 1000))
    assert bus.until(lambda: bus.answers(1000)) == [None]
    more.stop()
    more.close()


def test_what_is_asked_after_the_end_is_asked_of_nobody(bus: BusRig) -> None:
    bus.end()
    idle = bus.turns.loop.activecnt
    bus.way.send(publish(b"e"))
    assert bus.turns.loop.activecnt == idle
