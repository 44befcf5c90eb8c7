"""A worker that is alone, and one that stops being so."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from resonate.messages import (
    Attach,
    Batch,
    ChannelInfo,
    Connect,
    Connected,
    CountConnections,
    Describe,
    Described,
    Event,
    Hello,
    Inspect,
    ListUsers,
    Member,
    MemberAdded,
    MemberRemoved,
    Publication,
    Publish,
    Reply,
    Request,
    Standing,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.server.membership import Membership
from resonate.shard.ledger import NOTHING
from tests.bus.support import Place, RawWorker, Receiver, ShardProcess, Turns

LOG = logging.getLogger("test")
Value = TypeVar("Value")


class Worker:
    """This process as a worker. `wanted` are the numbers of the shards that it has missed."""

    def __init__(self, place: Place, *, sharded: bool = False, shards: int = 1) -> None:
        self.place = place
        self.turns = Turns()
        self.receiver = Receiver()
        self.wanted: list[int] = []
        self.now = 0.0
        self.membership = Membership(
            self.turns.loop, LOG, place.directory, sharded, shards, 30, lambda: self.now, self.wanted.append
        )
        self.membership.connect(self.receiver)

    @property
    def events(self) -> list[Event]:
        return self.receiver.events

    def send(self, *requests: Request) -> None:
        for request in requests:
            self.membership.link.send(request)

    def ask(self, request: Any) -> Any:
        """The answer; all other events are forgotten. Each question has a `ref` of its own."""
        self.send(request)

        def answers() -> list[Reply]:
            return [event for event in self.events if isinstance(event, Reply) and event.ref == request.ref]

        (answer,) = self.turns.until(answers)
        self.events.clear()
        return answer.value

    def second_worker(self) -> tuple[ShardProcess, RawWorker]:
        """Another one comes, and with it a shard."""
        other = self.place.worker()
        shard, name = self.place.ready_shard()
        other.connect(name)
        other.send(Hello(other.name, NOTHING))
        return shard, other

    def join(self) -> RawWorker:
        """It finds the shard of a second worker, who has been told so."""
        _, other = self.second_worker()
        self.membership.beat({})
        self.turns.until(lambda: not self.membership.link.trouble)
        return other

    def close(self) -> None:
        self.membership.close()
        self.turns.close()


@pytest.fixture
def place() -> Iterator[Place]:
    """A run directory with a living master."""
    with Place() as found:
        yield found


@pytest.fixture
def work(place: Place) -> Iterator[Callable[..., Worker]]:
    """Makes this process a worker."""
    workers: list[Worker] = []

    def new(**options: Any) -> Worker:
        workers.append(Worker(place, **options))
        return workers[-1]

    yield new
    for worker in workers:
        worker.close()


def subscribe(ref: int, channel: str = "a", user: int | None = None) -> Subscribe:
    member = None if user is None else Member(str(user), {"user_id": user, "user_info": None})
    return Subscribe("app", channel, f"1.{ref}", ref, member)


def publish(payload: bytes, channel: str = "a", keep_s: int = 0) -> Publish:
    return Publish(0, "app", channel, payload, None, keep_s)


# --- alone -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_alone_has_its_shard_inside(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(subscribe(1), publish(b"e"))
    assert worker.events == [Subscribed("app", "a", "1.1", 1, None, None), Publication("app", "a", b"e", None, 0)]
    worker.membership.beat({})
    assert worker.wanted == []
    assert worker.membership.link.trouble == ""
    assert worker.place.directory.shard(0) is None


def test_it_can_be_found_all_the_same(work: Callable[..., Worker]) -> None:
    worker = work()
    assert worker.place.directory.workers() == [worker.membership.name]
    assert worker.membership.name.split("-")[1] == str(os.getpid())


def test_it_can_be_found_again_when_the_directory_has_vanished(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.place.directory.remove()
    worker.membership.beat({})
    assert worker.place.directory.workers() == [worker.membership.name]


def test_what_it_has_counted_is_told(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.membership.beat({"publishes": 1})
    assert {"publishes": 1} in worker.ask(Inspect(1))


def test_cached_events_run_out(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(publish(b"kept", "cache-a", 60))
    worker.now = 60.0
    worker.membership.beat({})
    worker.send(subscribe(1, "cache-a"))
    assert worker.events == [Subscribed("app", "cache-a", "1.1", 1, None, None)]


def test_nothing_is_left_of_it(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.membership.close()
    assert os.listdir(worker.place.directory.path) == []


# --- one of several from the start -----------------------------------------------------------------------------------


def test_one_of_several_asks_for_its_shards(work: Callable[..., Worker]) -> None:
    worker = work(sharded=True, shards=2)
    assert worker.wanted == [0, 1]
    assert worker.membership.link.trouble == "shard 0, 1 does not answer"


def test_who_finds_another_worker_is_not_alone(work: Callable[..., Worker], place: Place) -> None:
    place.worker()
    worker = work()
    assert worker.wanted == [0]
    assert worker.membership.link.trouble


def test_who_finds_a_shard_is_not_alone(work: Callable[..., Worker], place: Place) -> None:
    place.ready_shard()
    worker = work()
    worker.turns.until(lambda: not worker.membership.link.trouble)
    assert worker.wanted == []
    assert worker.ask(Inspect(1))[0]["frames_in"]


def test_who_finds_a_dead_worker_is_alone(work: Callable[..., Worker], place: Place) -> None:
    dead = place.bystander()
    place.directory.file(dead.worker).touch()
    dead.die()
    worker = work()
    assert worker.wanted == []
    worker.send(subscribe(1))
    assert worker.events == [Subscribed("app", "a", "1.1", 1, None, None)]


# --- a second one comes ----------------------------------------------------------------------------------------------


def test_the_shard_waits_for_what_the_first_one_holds(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(subscribe(1, "p", 1))
    worker.events.clear()
    _, other = worker.second_worker()
    other.send(Batch(other.name, 1, 1, [subscribe(1, "p", 2)]))
    assert other.receive().events == [], "hello"
    worker.membership.beat({})
    assert worker.turns.until(lambda: worker.events) == [
        MemberAdded("app", "p", {"user_id": 2, "user_info": None}, "1.1")
    ]
    assert other.event() == Subscribed("app", "p", "1.1", 1, [(1, None), (2, None)], None)


def test_what_it_held_is_held_by_the_shard_and_its_clients_hear_nothing_of_it(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(Connect("app", "1.1", 3), Connect("app", "1.2", 3), Attach("app"))
    worker.send(subscribe(1, "p", 1), subscribe(2, "p", 2), subscribe(3), publish(b"kept", "cache-a", 60))
    worker.events.clear()
    other = worker.join()
    assert worker.ask(ListUsers(1, "app", "p")) == [1, 2]
    assert worker.ask(Describe(2, "app", "a")) == ChannelInfo(1, 0, None)
    assert worker.ask(CountConnections(3, "app")) == 1
    other.send(Batch(other.name, 1, 1, [subscribe(1, "cache-a")]))
    assert other.event() == Subscribed("app", "cache-a", "1.1", 1, None, b"kept")
    other.send(Batch(other.name, 1, 2, [Connect("app", "2.1", 3), Connect("app", "2.2", 3)]))
    told = [event for stamped in other.receive().events for event in stamped.events]
    assert told == [Connected("app", "2.1", True), Connected("app", "2.2", False)]


def test_no_edge_is_told(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(subscribe(1, "p", 1), subscribe(2, "p", 2))
    worker.events.clear()
    worker.join()
    worker.send(Describe(1, "app", "p"))
    worker.turns.until(lambda: worker.events)
    assert worker.events == [Described(1, ChannelInfo(2, 2, None))]


def test_life_goes_on(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(subscribe(1, "p", 1), subscribe(2, "p", 2))
    worker.events.clear()
    other = worker.join()
    other.send(Batch(other.name, 1, 1, [publish(b"from afar", "p")]))
    worker.turns.until(lambda: worker.events == [Publication("app", "p", b"from afar", None, 0)])
    worker.events.clear()
    worker.send(Unsubscribe("app", "p", "2"))
    assert worker.turns.until(lambda: worker.events) == [MemberRemoved("app", "p", 2)]
    worker.send(Unsubscribe("app", "p", "1"))
    assert worker.ask(Describe(1, "app", "p")) == ChannelInfo(0, 0, None)


def test_requests_of_the_same_turn_are_not_lost(work: Callable[..., Worker]) -> None:
    """Some went to the shard inside, the next to that outside."""
    worker = work()
    worker.second_worker()
    worker.send(subscribe(1), publish(b"inside"))
    worker.membership.beat({})
    worker.send(publish(b"outside"))
    worker.turns.until(lambda: len(worker.events) == 3)
    payloads = [event.payload for event in worker.events if isinstance(event, Publication)]
    assert payloads == [b"inside", b"outside"]


def test_what_it_held_survives_the_first_shard(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.send(subscribe(1, "p", 1), publish(b"kept", "cache-a", 60))
    worker.events.clear()
    shard, _ = worker.second_worker()
    worker.membership.beat({})
    worker.turns.until(lambda: not worker.membership.link.trouble)
    shard.kill()
    place = worker.place
    worker.turns.until(lambda: worker.wanted)
    for name in place.directory.workers():
        if name != worker.membership.name:
            place.directory.file(name).unlink()  # the second one has left meanwhile
    place.shard()
    assert worker.ask(ListUsers(1, "app", "p")) == [1]
    worker.send(subscribe(2, "cache-a"))
    told = [Subscribed("app", "cache-a", "1.2", 2, None, b"kept")]
    assert worker.turns.until(lambda: worker.events) == told


def test_what_the_bus_has_counted_is_told_too(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.join()
    worker.membership.beat({"publishes": 1})
    assert {"publishes": 1, "undecodable": 0, "successions": 0} in worker.ask(Inspect(1))


def test_who_has_joined_leaves_no_file(work: Callable[..., Worker]) -> None:
    worker = work()
    worker.join()
    worker.membership.close()
    assert worker.membership.name not in os.listdir(worker.place.directory.path)


def test_shards_that_are_not_there_any_more_have_no_trouble(work: Callable[..., Worker]) -> None:
    """One that has gone would be remembered as cut off from the other hosts for ever."""
    worker = work(sharded=True, shards=3)
    worker.membership.hold(1)
    worker.membership.reshard(1)
    assert worker.events == [Standing(1, ""), Standing(2, "")]
