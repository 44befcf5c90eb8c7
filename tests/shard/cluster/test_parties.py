"""Who is buried, and when."""

from __future__ import annotations

from resonate.shard.cluster.parties import RENEWALS, Parties


def test_a_name_is_never_used_twice_and_tells_host_and_seat() -> None:
    parties = Parties("h1", 0, "s0-1-2", 9.0)
    names = {parties.arrive(0.0) for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith(f"{parties.ours}0.") for name in names)


def test_a_lease_is_renewed_three_times_within_it() -> None:
    parties = Parties("h1", 0, "s0", 9.0)
    parties.arrive(100.0)
    assert [parties.due(100.0 + second) for second in range(10)].count(True) == RENEWALS


def test_only_the_present_party_of_this_host_counts() -> None:
    parties = Parties("h1", 0, "s0", 9.0)
    before, name = parties.arrive(0.0), parties.arrive(1.0)
    assert parties.counts(name)
    assert not parties.counts(before)
    assert not parties.counts("h1.1.s1.1")
    assert parties.counts("h2.0.s0.1")
    assert parties.counts("h11.0.s0.1")


def test_whose_lease_has_run_out_is_buried_and_who_had_the_seat_when_all_are_in_again() -> None:
    parties = Parties("h1", 0, "s0-9-9", 9.0)
    before = parties.arrive(1.0)
    parties.arrive(100.0)
    name = parties.name
    known = {before: True, name: True, "h1.0.s0-1-1.1": True, "h1.1.s1.1": True, "h2.0.s0.1": False, "h3.0.s0.1": True}
    assert parties.dead(known, returned=False, now=109.0) == ["h2.0.s0.1"]
    assert parties.dead(known, returned=True, now=109.0) == ["h1.0.s0-1-1.1", before, "h2.0.s0.1"]
    parties.burying.add("h2.0.s0.1")
    assert parties.dead(known, returned=False, now=109.0) == []


def test_after_an_outage_all_have_a_lease_to_come_back() -> None:
    parties = Parties("h1", 0, "s0-9-9", 9.0)
    known = {parties.arrive(100.0): True, "h2.0.s0.1": False}
    assert parties.dead(known, returned=True, now=108.9) == []
    assert parties.dead(known, returned=True, now=109.0) == ["h2.0.s0.1"]


def test_who_has_members_and_is_not_known_is_buried_too() -> None:
    parties = Parties("h1", 0, "s0-9-9", 9.0)
    known = {parties.arrive(100.0): True, "h2.0.s0.1": True}
    for party, log in (("h3.0.s0.1", "app/p"), ("h3.0.s0.1", "app/q"), ("h2.0.s0.1", "app/p"), (parties.name, "app/p")):
        parties.saw(party, log)
    assert parties.dead(known, returned=True, now=108.9) == []
    assert parties.dead(known, returned=True, now=109.0) == ["h3.0.s0.1"]
    assert parties.seen("h3.0.s0.1") == {"app/p", "app/q"}
    assert parties.seen("h2.0.s0.1") == set()


def test_who_is_not_known_himself_buries_nobody() -> None:
    parties = Parties("h1", 0, "s0-9-9", 9.0)
    parties.arrive(0.0)
    parties.arrive(1.0)
    parties.saw("h2.0.s0.1", "app/p")
    assert parties.dead({"h3.0.s0.1": False}, returned=True, now=100.0) == []
    assert parties.dead({"h3.0.s0.1": False, parties.name: False}, returned=True, now=100.0) == []


def test_who_has_just_come_is_no_stranger() -> None:
    """It may have been seen before it was known to whom was asked."""
    parties = Parties("h1", 0, "s0-9-9", 9.0)
    me = parties.arrive(0.0)
    for party in ("h2.0.s0.1", "h3.0.s0.1"):
        parties.saw(party, "app/a")
    assert parties.dead({me: True}, True, 100.0) == []
    assert parties.dead({me: True, "h2.0.s0.1": True}, True, 101.0) == ["h3.0.s0.1"]
    assert parties.dead({me: True, "h2.0.s0.1": True}, True, 102.0) == ["h3.0.s0.1"], "until it is being buried"
