"""What a host holds is told as absolute numbers, before who is answered; places are asked for together."""

from __future__ import annotations

import itertools

from resonate.shard.cluster.counts import Admissions, Counts
from resonate.shard.cluster.store import SLICE, Admit, Count

HELD = {"app": (2, 1)}
ON = {("app", "a"): 1}


def counts() -> Counts:
    return Counts(lambda app: HELD.get(app, (0, 0)), lambda app, channel: ON.get((app, channel), 0))


def test_who_is_about_to_be_there_is_counted() -> None:
    counted, refs = counts(), itertools.count(1)
    told = counted.subscribing("app", "a")
    counted.attaching("app")
    counted.connecting("app")
    assert counted.orders(refs, "p") == [Count(1, "p", "app", 3, 2, {"a": 2})]
    assert counted.orders(refs, "p") == []
    assert not told.fired
    assert counted.answered(1)
    assert told.fired
    assert not counted.answered(1)


def test_who_has_come_changes_nothing_and_who_has_not_does() -> None:
    counted, refs = counts(), itertools.count(1)
    for _ in range(2):
        counted.subscribing("app", "a")
        counted.attaching("app")
        counted.connecting("app")
    counted.orders(refs, "p")
    counted.subscribed("app", "a", came=True)
    counted.attached("app", came=True)
    counted.arrived("app", came=True)
    assert counted.orders(refs, "p") == []
    counted.subscribed("app", "a", came=False)
    counted.attached("app", came=False)
    counted.arrived("app", came=False)
    assert counted.orders(refs, "p") == [Count(2, "p", "app", 2, 1, {"a": 1})]


def test_nothing_is_told_that_could_take_back_places_that_are_being_asked_for() -> None:
    counted, refs = counts(), itertools.count(1)
    told = counted.subscribing("app", "a")
    counted.changed("other")
    assert [order.app for order in counted.orders(refs, "p", {"app"})] == ["other"]
    assert [order.app for order in counted.orders(refs, "p")] == ["app"]
    counted.answered(2)
    assert told.fired


def test_who_has_many_channels_tells_them_in_slices() -> None:
    counted, refs = counts(), itertools.count(1)
    told = [counted.subscribing("app", str(number)) for number in range(2 * SLICE + 1)]
    orders = counted.orders(refs, "p")
    assert [len(order.channels) for order in orders] == [SLICE, SLICE, 1]
    assert {name: count for order in orders for name, count in order.channels.items()} == dict.fromkeys(
        map(str, range(2 * SLICE + 1)), 1
    )
    assert {order[2:5] for order in orders} == {("app", 2, 1)}
    for order in orders:
        assert not any(signal.fired for signal in told)
        assert counted.answered(order.ref)
    assert all(signal.fired for signal in told)


def test_one_question_for_each_app_at_a_time() -> None:
    admissions, refs = Admissions({"app": 3, "other": 0}.__getitem__), itertools.count(1)
    first = admissions.ask("app", 10)
    assert admissions.orders(refs, "p") == [Admit(1, "p", "app", 3, 1, 10)]
    later = [admissions.ask("app", 10) for _ in range(3)]
    other = admissions.ask("other", 5)
    assert admissions.orders(refs, "p") == [Admit(2, "p", "other", 0, 1, 5)]
    assert admissions.answered(1, 1) == "app"
    assert (first.value, other.fired) == (True, False)
    assert admissions.orders(refs, "p") == [Admit(3, "p", "app", 3, 3, 10)]
    assert admissions.answered(3, 2) == "app"
    assert [signal.value for signal in later] == [True, True, False]
    assert admissions.answered(3, 2) is None


def test_nobody_is_answered_when_the_store_is_lost() -> None:
    admissions, refs = Admissions(lambda app: 0), itertools.count(1)
    lost = admissions.ask("app", 1)
    admissions.orders(refs, "p")
    admissions.lost()
    assert admissions.answered(1, 1) is None
    assert not lost.fired
    admissions.ask("app", 1)
    assert len(admissions.orders(refs, "p")) == 1
