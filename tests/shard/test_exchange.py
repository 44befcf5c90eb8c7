"""A shard without its sockets: slow workers, hanging ones, broken frames, defects, counters."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from resonate.encoding import EncodingError, decode, encode
from resonate.messages import (
    Answer,
    Batch,
    Beat,
    Declaration,
    Event,
    Frame,
    Hello,
    Inspect,
    Mark,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Publication,
    Publish,
    Reply,
    Request,
    Stamped,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from resonate.shard.exchange import STRIDE, Exchange
from resonate.shard.ledger import NOTHING
from resonate.shard.outbox import HARD_BYTES, PATIENCE_S, SOFT_BYTES

MEGABYTE = b"x" * 1024 * 1024
ANN = Member("1", {"user_id": 1, "user_info": None})


class World:
    """A shard, and workers that read when they are told to."""

    def __init__(self, *workers: str, expected: tuple[str, ...] = ()) -> None:
        self.now = 0.0
        self.exchange = Exchange("s0-1-1", expected, self.now)
        self.inboxes: dict[str, list[Parcel]] = {}
        self.numbers: dict[str, int] = {}
        self.received: dict[str, int] = {}
        for worker in workers:
            self.hello(worker)

    def give(self, frame: Frame) -> str:
        return self.exchange.receive(encode(frame), self.now)

    def hello(self, worker: str, declaration: Declaration = NOTHING) -> None:
        self.numbers[worker], self.received[worker] = declaration.first - 1 + len(declaration.requests), 0
        self.give(Hello(worker, declaration))

    def ask(self, worker: str, *requests: Request) -> None:
        """Send requests with the next numbers, and what has been received."""
        first = self.numbers[worker] + 1
        self.numbers[worker] += len(requests)
        self.give(Batch(worker, self.received[worker], first, list(requests)))

    def read(self, worker: str) -> list[Parcel]:
        """All that has come for a worker, which it has then dealt with."""
        for receiver, data in self.exchange.take(self.now):
            parcel = decode(data)
            assert isinstance(parcel, Parcel)
            self.inboxes.setdefault(receiver, []).append(parcel)
        parcels = self.inboxes.pop(worker, [])
        self.received[worker] = max([self.received[worker], *(parcel.number for parcel in parcels)])
        return parcels

    def receipt(self, worker: str, counters: dict[str, Any] | None = None) -> None:
        self.give(Beat(worker, self.received[worker], counters))

    def events(self, worker: str) -> list[Event]:
        return told(self.read(worker))

    def settle(self, worker: str) -> list[Event]:
        """Let a worker read and say so until nothing more comes."""
        events: list[Event] = []
        while parcels := self.read(worker):
            events += told(parcels)
            self.receipt(worker)
        return events


def told(parcels: list[Parcel]) -> list[Event]:
    return [event for parcel in parcels for stamped in parcel.events for event in stamped.events]


def subscribe(channel: str = "a", ref: int = 1, member: Member | None = None) -> Subscribe:
    return Subscribe("app", channel, f"1.{ref}", ref, member)


def publish(ref: int, payload: bytes = b"e", channel: str = "a") -> Publish:
    return Publish(ref, "app", channel, payload, None, 0, info=True)


def refs(events: list[Event]) -> list[int]:
    return [event.ref for event in events if isinstance(event, Reply)]


# --- the ordinary course ---------------------------------------------------------------------------------------------


def test_a_worker_hears_that_it_is_known() -> None:
    world = World("a")
    (parcel,) = world.read("a")
    assert parcel == Parcel("s0-1-1", 1, 0, [], [], [])


def test_requests_of_a_turn_are_answered_in_one_parcel_each() -> None:
    world = World("a", "b")
    world.ask("b", subscribe())
    world.read("a")
    world.read("b")
    world.ask("a", publish(1, b"one"), publish(2, b"two"))
    (of_a,), (of_b,) = world.read("a"), world.read("b")
    assert refs(told([of_a])) == [1, 2]
    assert [(ack.seq, ack.place, ack.size) for ack in of_a.acks] == [(2, 3, 2)]
    assert [event.payload for event in told([of_b]) if isinstance(event, Publication)] == [b"one", b"two"]
    assert [(stamped.origin, stamped.seq, stamped.place) for stamped in of_b.events] == [("a", 1, 2), ("a", 2, 3)]
    assert of_b.marks == [Mark("a", 2, 3)]


def test_each_second_every_worker_is_told_that_the_shard_lives() -> None:
    world = World("a", "b")
    world.read("a")
    world.now = 1.0
    world.exchange.beat(world.now)
    assert [parcel.events for parcel in world.read("a")] == [[]]


def test_who_is_in_a_hurry_hears_as_soon_as_everybody_has_dealt_with_it() -> None:
    world = World("a", "b", "c")
    for worker in "abc":
        world.settle(worker)
    world.ask("b", subscribe())
    world.ask("a", publish(1))
    for worker in "abc":
        world.read(worker)
    world.give(Beat("a", world.received["a"], None, urgent=True))
    assert [parcel.urgent for worker in "abc" for parcel in world.read(worker)] == [True] * 3
    world.receipt("a")
    world.receipt("c")
    assert world.read("a") == []
    world.receipt("b")
    (parcel,) = world.read("a")
    assert (parcel.stable, parcel.urgent) == (2, False)
    world.receipt("a")
    assert world.read("a") == world.read("b") == []


def test_who_waits_for_one_that_dies_hears_of_it_at_once() -> None:
    world = World("a", "b")
    for worker in "ab":
        world.settle(worker)
    world.ask("a", publish(1))
    for worker in "ab":
        world.read(worker)
    world.give(Beat("a", world.received["a"], None, urgent=True))
    world.read("a")
    world.receipt("a")
    assert world.read("a") == []
    world.exchange.gone("b", world.now)
    assert [parcel.stable for parcel in world.read("a")] == [1]


def test_the_name_of_the_sender_is_told() -> None:
    world = World("a")
    assert world.give(Beat("a", 0, None)) == "a"
    assert world.give(Batch("b", 0, 1, [])) == "b"


# --- workers that are slow, or hang ----------------------------------------------------------------------------------


def congested() -> World:
    """`slow` has not read so many events of `fast` that requests are put off. Nobody else is on the channel."""
    world = World("fast", "slow")
    world.ask("slow", subscribe())
    world.settle("slow")
    world.settle("fast")
    for ref in range(1, 10):
        world.ask("fast", publish(ref, MEGABYTE))
    assert refs(world.events("fast")) == list(range(1, 10))
    return world


def test_requests_are_put_off_while_a_worker_is_slow_and_done_in_order_when_it_has_caught_up() -> None:
    world = congested()
    for ref in range(10, 16):
        world.ask("fast", publish(ref, b"%d" % ref))
    assert world.events("fast") == []
    got = world.settle("slow")
    assert [event.payload for event in got if isinstance(event, Publication)] == [
        *[MEGABYTE] * 9,
        *(b"%d" % ref for ref in range(10, 16)),
    ]
    assert refs(world.events("fast")) == list(range(10, 16))


def test_what_the_slow_one_asks_waits_its_turn_too() -> None:
    """One order for all: a request that has been put off is not overtaken."""
    world = congested()
    world.ask("fast", publish(10, b"before"))
    world.ask("slow", subscribe("b", 2), publish(11, b"after"))
    world.settle("slow")
    world.ask("slow", publish(12, b"last"))
    payloads = [event.payload for event in world.settle("slow") if isinstance(event, Publication)]
    assert payloads == [b"last"]
    world = congested()
    world.ask("fast", publish(10, b"before"))
    world.ask("slow", publish(11, b"after"))
    payloads = [event.payload for event in world.settle("slow") if isinstance(event, Publication)]
    assert payloads[-2:] == [b"before", b"after"]


def test_a_worker_that_hangs_is_not_waited_for() -> None:
    world = congested()
    world.ask("fast", publish(10))
    assert world.events("fast") == []
    world.now = PATIENCE_S
    world.exchange.beat(world.now)
    assert refs(world.events("fast")) == [10]
    world.ask("fast", publish(11))
    assert refs(world.events("fast")) == [11]
    assert not world.exchange.given_up(world.now, 30.0)


def test_a_worker_past_the_hard_bound_is_given_up() -> None:
    world = congested()
    world.now = PATIENCE_S
    world.exchange.beat(world.now)
    for ref in range(10, 10 + HARD_BYTES // len(MEGABYTE)):
        world.ask("fast", publish(ref, MEGABYTE))
        world.read("fast")
        world.receipt("fast")
    assert list(world.exchange.given_up(world.now, 30.0)) == ["slow"]
    world.exchange.gone("slow", world.now)
    assert not world.exchange.given_up(world.now, 30.0)
    assert world.exchange.workers == {"fast"}


def test_when_the_slow_one_dies_what_was_put_off_is_done() -> None:
    world = congested()
    world.ask("slow", publish(77, b"of the dead"))
    world.ask("fast", subscribe("a", 5), publish(10))
    world.exchange.gone("slow", world.now)
    events = world.events("fast")
    assert refs(events) == [10]
    assert [event.payload for event in events if isinstance(event, Publication)] == [b"e"]


def test_nothing_is_sent_to_the_dead() -> None:
    world = congested()
    world.exchange.gone("slow", world.now)
    assert {receiver for receiver, _ in world.exchange.take(world.now)} <= {"fast"}


def test_a_long_batch_is_bounded_too() -> None:
    """What one frame asks for is measured on the way: the rest of it waits like any other request."""
    world = World("fast", "slow")
    world.ask("slow", subscribe())
    world.settle("slow")
    payload = b"x" * (SOFT_BYTES // STRIDE + 1)
    world.ask("fast", *(publish(ref, payload) for ref in range(1, 4 * STRIDE + 1)))
    assert refs(world.events("fast")) == list(range(1, STRIDE + 1))
    assert len(world.settle("slow")) == 4 * STRIDE
    assert refs(world.settle("fast")) == list(range(STRIDE + 1, 4 * STRIDE + 1))
    assert world.exchange.counters["requests"] == 4 * STRIDE + 1


# --- workers that do not say what they hold --------------------------------------------------------------------------


def test_a_worker_that_does_not_declare_is_given_up_after_the_time_out() -> None:
    world = World("a", expected=("a", "b"))
    world.ask("a", publish(1))
    assert refs(world.events("a")) == [], "b may have something to say about it"
    assert not world.exchange.given_up(30.0, 30.0)
    assert list(world.exchange.given_up(30.1, 30.0)) == ["b"]
    world.exchange.gone("b", 31.0)
    assert not world.exchange.given_up(31.0, 30.0)
    assert refs(world.events("a")) == [1]


def test_nothing_is_stable_before_all_have_declared() -> None:
    world = World(expected=("a", "b"))
    world.hello("a", replace(NOTHING, seen=[("b", 3, 40)]))
    world.exchange.beat(1.0)
    assert {parcel.stable for parcel in world.read("a")} == {-1}
    world.hello("b")
    world.settle("b")
    world.receipt("a")
    world.exchange.beat(2.0)
    assert world.read("a")[-1].stable == 40


def test_who_is_there_includes_those_that_are_expected() -> None:
    world = World("c", expected=("a", "b"))
    assert world.exchange.workers == {"a", "b", "c"}
    world.hello("a")
    world.exchange.gone("b", 0.0)
    assert world.exchange.workers == {"a", "c"}


# --- what should not come --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\2[]",
        b"\xff" * 100,
        encode(Parcel("s0-1-1", 1, 1, [], [], [])),
        encode(Batch("a", 0, 1, [publish(1)]))[:-1],
        encode(Batch("a", 0, 1, [Answer(1, 1)])),  # type: ignore[list-item]
        encode(Hello("a", NOTHING)),
    ],
    ids=["empty", "no frame", "noise", "a shard's", "cut off", "an event", "hello again"],
)
def test_a_frame_that_cannot_be_used_is_counted_and_has_no_effect(data: bytes) -> None:
    world = World("a")
    world.ask("a", subscribe(), publish(1))
    world.settle("a")
    with pytest.raises(EncodingError):
        world.exchange.receive(data, 0.0)
    assert world.exchange.counters["undecodable"] == 1
    assert world.exchange.take(0.0) == []
    assert world.exchange.workers == {"a"}
    world.ask("a", publish(2))
    assert refs(world.events("a")) == [2]


def test_a_request_that_makes_the_shard_raise_is_reported_and_the_rest_is_done() -> None:
    world = World("a")
    world.ask("a", subscribe(), publish(1), Unsubscribe("app", "nowhere", None), publish(2))
    (parcel,) = world.read("a")[-1:]
    assert refs(told([parcel])) == [1, 2]
    assert [(ack.seq, ack.size) for ack in parcel.acks] == [(4, 4)]
    assert [type(error) for error in world.exchange.failures()] == [KeyError]
    assert world.exchange.failures() == []


def test_requests_of_who_has_been_given_up_are_dropped() -> None:
    world = World("a", "b")
    world.exchange.gone("b", 0.0)
    world.settle("a")
    world.ask("b", publish(1))
    world.receipt("b", {"publishes": 1})
    assert world.exchange.take(0.0) == []
    assert world.exchange.workers == {"a"}


# --- presence --------------------------------------------------------------------------------------------------------


def test_who_goes_with_a_worker_is_said_to_have_left() -> None:
    world = World("a", "b")
    world.ask("a", subscribe("p", 1, ANN))
    world.ask("b", subscribe("p", 2, Member("2", {"user_id": 2, "user_info": None})))
    assert [type(event) for event in world.events("a")] == [Subscribed, MemberAdded]
    world.exchange.gone("b", 0.0)
    (parcel,) = world.read("a")
    assert parcel.events == [Stamped("s0-1-1", 1, 3, [MemberRemoved("app", "p", 2)])]


# --- counters --------------------------------------------------------------------------------------------------------


def inspected(world: World, worker: str) -> list[dict[str, Any]]:
    world.ask(worker, Inspect(99))
    (answer,) = [event for event in world.events(worker) if isinstance(event, Reply)]
    found: list[dict[str, Any]] = answer.value
    return found


def test_counters_of_workers_are_told_to_who_inspects() -> None:
    world = World("a", "b")
    world.receipt("a", {"role": "worker", "publishes": 1})
    world.receipt("b", {"role": "worker", "publishes": 2})
    world.receipt("b", {"role": "worker", "publishes": 3})
    world.receipt("b")
    assert inspected(world, "a")[2:] == [{"role": "worker", "publishes": 1}, {"role": "worker", "publishes": 3}]


def test_counters_of_dead_workers_stay() -> None:
    world = World("a", "b", "c")
    for worker in "bc":
        world.receipt(worker, {"role": "worker", "publishes": 2, "errors": {"4009": 1, worker: 1}, "connections": 9})
        world.exchange.gone(worker, 0.0)
    own, gone, *living = inspected(world, "a")
    assert gone == {"publishes": 4, "errors": {"4009": 2, "b": 1, "c": 1}}, "what only grows, and nothing else"
    assert living == []
    assert own["workers_gone"] == 2


def test_a_shard_counts_what_it_does() -> None:
    world = World("a")
    world.ask("a", subscribe())
    with pytest.raises(EncodingError):
        world.exchange.receive(b"", 0.0)
    world.exchange.beat(1.0)
    own = inspected(world, "a")[0]
    assert (own["requests"], own["frames_in"], own["undecodable"], own["workers_gone"]) == (2, 4, 1, 0)
    assert own["frames_out"] == 3, "hello, what followed from the subscription, the beat"
    assert own["apps"] == {"app": [0, 1, 1]}
    assert own["queue_bytes"].keys() == {"a"}
