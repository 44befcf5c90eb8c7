"""What waits for workers: parcels that are on their way, and what follows from there being many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.outbox import HARD_BYTES, HARD_PLACES, PATIENCE_S, SOFT_BYTES, Outbox


def with_workers(*names: str) -> Outbox:
    outbox = Outbox()
    for name in names:
        outbox.join(name, 0.0)
    return outbox


def test_parcels_are_numbered_for_each_worker() -> None:
    outbox = with_workers("a", "b")
    assert outbox.next("a") == 1
    outbox.sent("a", 1, 10, 0.0)
    outbox.sent("a", 2, 10, 0.0)
    assert (outbox.next("a"), outbox.next("b")) == (3, 1)


def test_a_worker_that_comes_again_begins_anew() -> None:
    outbox = with_workers("a")
    outbox.sent("a", 5, 10, 0.0)
    outbox.leave("a")
    outbox.join("a", 1.0)
    assert outbox.next("a") == 1
    assert outbox.waiting() == {"a": 0}


def test_bytes_wait_until_they_have_been_dealt_with() -> None:
    outbox = with_workers("a", "b")
    for size in (10, 20, 40):
        outbox.sent("a", 1, size, 0.0)
    assert outbox.waiting() == {"a": 70, "b": 0}
    outbox.received("a", 2, 0.0)
    assert outbox.waiting() == {"a": 40, "b": 0}
    outbox.received("a", 1, 0.0)  # comes late
    assert outbox.waiting() == {"a": 40, "b": 0}
    outbox.received("a", 3, 0.0)
    assert outbox.waiting() == {"a": 0, "b": 0}


def test_what_a_stranger_has_received_is_no_matter() -> None:
    outbox = with_workers("a")
    outbox.received("b", 7, 0.0)
    outbox.leave("b")
    assert outbox.waiting() == {"a": 0}


# --- stable places ---------------------------------------------------------------------------------------------------


def test_what_everybody_has_dealt_with_is_stable() -> None:
    outbox = with_workers("a", "b")
    assert outbox.stable(9) == 9, "nothing is on its way"
    outbox.sent("a", 3, 10, 0.0)
    outbox.sent("b", 5, 10, 0.0)
    outbox.sent("a", 7, 10, 0.0)
    assert outbox.stable(9) == 0
    outbox.received("a", 1, 0.0)
    assert outbox.stable(9) == 0, "b has had nothing"
    outbox.received("b", 1, 0.0)
    assert outbox.stable(9) == 3, "nothing is on its way to b; a has had its first"
    outbox.received("a", 2, 0.0)
    assert outbox.stable(9) == 9


def test_who_leaves_is_not_waited_for() -> None:
    outbox = with_workers("a", "b")
    outbox.sent("a", 3, 10, 0.0)
    outbox.leave("a")
    assert outbox.stable(4) == 4


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sent"), st.sampled_from("abc"), st.integers(0, 100)),
            st.tuples(st.just("received"), st.sampled_from("abc"), st.integers(0, 12)),
        ),
        max_size=60,
    )
)
def test_nobody_is_behind_the_stable_place(steps: list[tuple[str, str, int]]) -> None:
    """Places rise with time; each parcel tells what was done up to its place."""
    outbox, place = with_workers("a", "b", "c"), 0
    under_way: dict[str, list[tuple[int, int, int]]] = {name: [] for name in "abc"}
    for kind, worker, number in steps:
        if kind == "sent":
            place += 1
            under_way[worker].append((outbox.next(worker), place, number))
            outbox.sent(worker, place, number, 0.0)
        else:
            number = min(number, outbox.next(worker) - 1)
            outbox.received(worker, number, 0.0)
            under_way[worker] = [parcel for parcel in under_way[worker] if parcel[0] > number]
        assert outbox.waiting() == {name: sum(size for _, _, size in sent) for name, sent in under_way.items()}
        assert all(outbox.stable(place) < sent[0][1] for sent in under_way.values() if sent)


# --- slow workers ----------------------------------------------------------------------------------------------------


def test_publishers_wait_for_a_worker_that_is_slow() -> None:
    outbox = with_workers("a", "b")
    outbox.sent("a", 1, SOFT_BYTES, 0.0)
    assert not outbox.congested(0.0)
    outbox.sent("a", 2, 1, 0.0)
    assert outbox.congested(0.0)
    assert outbox.congested(PATIENCE_S - 0.01)
    outbox.received("a", 1, 2.0)
    assert not outbox.congested(2.0)


def test_they_do_not_wait_for_one_that_hangs() -> None:
    outbox = with_workers("a")
    outbox.sent("a", 1, 1, 0.0)
    outbox.sent("a", 2, SOFT_BYTES, PATIENCE_S - 1)
    assert outbox.congested(PATIENCE_S - 1)
    assert not outbox.congested(PATIENCE_S)
    outbox.received("a", 1, PATIENCE_S + 1)  # it does not hang after all
    outbox.sent("a", 3, 1, PATIENCE_S + 1)
    assert outbox.congested(PATIENCE_S + 1)


def test_a_worker_that_has_been_idle_does_not_hang() -> None:
    outbox = with_workers("a")
    outbox.sent("a", 1, 2 * SOFT_BYTES, 100.0)
    assert outbox.congested(100.0 + PATIENCE_S - 0.01)


def test_a_worker_for_which_too_much_waits_is_given_up() -> None:
    outbox = with_workers("a", "b")
    outbox.sent("a", 1, HARD_BYTES, 0.0)
    assert outbox.overdrawn(2, PATIENCE_S) == []
    outbox.sent("a", 2, 1, 0.0)
    assert outbox.overdrawn(2, PATIENCE_S - 0.01) == []  # it may read yet
    assert outbox.overdrawn(2, PATIENCE_S) == ["a"]
    outbox.leave("a")
    assert outbox.overdrawn(2, PATIENCE_S) == []


def test_a_worker_that_is_too_many_places_behind_is_given_up() -> None:
    outbox = with_workers("a", "b")
    outbox.sent("a", 5, 1, 0.0)
    assert outbox.overdrawn(5 + HARD_PLACES, PATIENCE_S) == []
    assert outbox.overdrawn(6 + HARD_PLACES, PATIENCE_S - 0.01) == []
    assert outbox.overdrawn(6 + HARD_PLACES, PATIENCE_S) == ["a"]
