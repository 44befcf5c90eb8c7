"""How many connections go from whom to whom, and when nobody moves."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from resonate.server.balance import TRIFLE, Balance, Figure, Transfer, figures, plan

COUNTS = st.integers(0, 60) | st.integers(0, 100_000)
CLUSTERS = st.dictionaries(st.sampled_from([f"w-{pid}-1" for pid in range(1, 40)]), COUNTS, max_size=12)
SMALL = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 200), min_size=1)


def near(connections: dict[str, int]) -> bool:
    """Whether they differ by at most a fifth of their mean."""
    counts = connections.values()
    return (max(counts) - min(counts)) * len(counts) * 5 <= sum(counts)


def carried_out(connections: dict[str, int], transfers: list[Transfer]) -> dict[str, int]:
    after = Counter(connections)
    for giver, taker, count in transfers:
        after[giver] -= count
        after[taker] += count
    return {worker: after[worker] for worker in connections}


@given(CLUSTERS)
def test_they_are_equal_afterwards_or_were_nearly_so(connections: dict[str, int]) -> None:
    transfers = plan(connections)
    after = carried_out(connections, transfers)
    assert sum(after.values()) == sum(connections.values())
    if transfers:
        assert not near(connections)
        assert max(after.values()) - min(after.values()) <= 1
        assert all(count > 0 for *_, count in transfers)
    elif connections:
        assert near(connections) or max(connections.values()) - min(connections.values()) < TRIFLE
    assert plan(after) == [], "once is enough"


@given(CLUSTERS)
def test_nobody_gives_and_takes(connections: dict[str, int]) -> None:
    transfers = plan(connections)
    givers = {transfer.giver for transfer in transfers}
    assert not givers & {transfer.taker for transfer in transfers}
    assert len({transfer[:2] for transfer in transfers}) == len(transfers)
    assert len(transfers) <= max(0, len(connections) - 1)


@given(SMALL)
def test_as_few_move_as_can(connections: dict[str, int]) -> None:
    transfers = plan(connections)
    share, rest = divmod(sum(connections.values()), len(connections))
    goals = [share + 1] * rest + [share] * (len(connections) - rest)
    counts = list(connections.values())
    fewest = min(
        sum(max(0, count - goal) for count, goal in zip(counts, order, strict=True))
        for order in set(itertools.permutations(goals))
    )
    assert not transfers or sum(transfer.connections for transfer in transfers) == fewest


@given(CLUSTERS, st.randoms(use_true_random=False))
def test_all_come_to_the_same_in_whatever_order_they_hear_of_it(connections: dict[str, int], random: Random) -> None:
    shuffled = list(connections.items())
    random.shuffle(shuffled)
    assert plan(dict(shuffled)) == plan(connections)


def test_a_new_worker_gets_its_part_from_each() -> None:
    assert plan({"a": 100, "b": 100, "c": 100, "d": 0}) == [("a", "d", 25), ("b", "d", 25), ("c", "d", 25)]


def test_nobody_moves_for_trifles() -> None:
    assert plan({"a": 19, "b": 0}) == []
    assert plan({"a": 20, "b": 0}) == [("a", "b", 10)]
    assert plan({"a": 1100, "b": 900}) == []
    assert plan({"a": 1101, "b": 900}) == [("a", "b", 100)]


def figure(worker: str, connections: int, leaving: bool = False, moving: bool = False) -> Figure:
    return Figure(worker, connections, leaving, moving)


TILTED = [figure("a", 300), figure("b", 100)]
LEVELLED = [("a", "b", 100)]


def test_one_look_is_none() -> None:
    """Whether connections come or go is seen by two."""
    balance = Balance()
    assert balance.look(TILTED) == []
    assert balance.look(TILTED) == LEVELLED


def test_a_storm_of_connections_is_waited_for() -> None:
    balance = Balance()
    counts = [100, 200, 400, 800, 1600, 1650, 1650]
    looks = [balance.look([figure("a", count), figure("b", 0)]) for count in counts]
    assert [bool(look) for look in looks] == [False] * 5 + [True, True]
    assert balance.look([figure("a", 400), figure("b", 0)]) == [], "many have gone"


def test_figures_are_of_no_use_while_somebody_moves() -> None:
    balance = Balance()
    balance.look(TILTED)
    assert balance.look([*TILTED[:1], figure("b", 100, moving=True)]) == []
    assert balance.look(TILTED) == LEVELLED


def test_who_leaves_neither_gives_nor_takes() -> None:
    balance = Balance()
    figures = [*TILTED, figure("c", 50, leaving=True)]
    balance.look(figures)
    assert balance.look(figures) == LEVELLED


@given(st.lists(CLUSTERS.filter(bool), min_size=2, max_size=6))
def test_all_come_to_the_same_look_by_look(looks: list[dict[str, int]]) -> None:
    balances = [Balance(), Balance()]
    for look in looks:
        plans = [balance.look([figure(*item) for item in look.items()]) for balance in balances]
        assert plans[0] == plans[1]
        assert plans[0] in ([], plan(look))


def test_figures_are_looked_for_among_all_snapshots() -> None:
    good = figure("w-1-2", 7)._asdict()
    strange = [{}, {"apps": {}}, {**good, "worker": 1}, {**good, "connections": "7"}, {**good, "moving": None}]
    assert figures([*strange, {**good, "deliveries": 3}]) == [figure("w-1-2", 7)]
    assert figures([{**good, "connections": -1}]) == [figure("w-1-2", 0)]
