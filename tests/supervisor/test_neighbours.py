"""Two masters beside each other: who wants which processes, and who inherits from whom."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonate.supervisor.actions import Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.generation import Neighbour, Phase
from resonate.supervisor.process import Role, State
from resonate.supervisor.roster import YIELD_S

from tests.supervisor.world import HEALTH_S, World


class Pair:
    """The worlds of an old master, whose workers serve, and of a new one. Each is told of the other at once."""

    def __init__(self, old: int = 2, new: int = 2) -> None:
        self.old, self.new = World(old).running(), World(new)
        self.new.now, self.new.pids = self.old.now, iter(range(10**6, 10**7))
        self.old.roster.accompany()
        self.old.due()
        self.old.boots()  # the shards of one that had none
        senior = Neighbour(senior=True, workers=self.serving(self.old))
        number = self.old.roster.next_generation
        self.new.roster.join(senior, number, range(old), self.new.now, HEALTH_S)
        self.new.due()

    def serving(self, world: World) -> dict[int, int]:
        roster = world.roster
        return {process.pid: process.slot for process in roster.ready_workers(roster.serving.number)}

    def meet(self) -> None:
        for one, other in ((self.old, self.new), (self.new, self.old)):
            one.roster.meet(self.serving(other))

    def ready(self) -> Pair:
        """The new workers have booted; the old master does not know yet."""
        self.new.boots()
        self.new.due()
        self.meet()
        return self

    def given_way(self) -> Pair:
        self.ready()
        self.old.roster.give_way()
        return self


def roles(world: World) -> set[Role]:
    return {place.role for place in world.roster.wanted}


def of(actions: list[Any], kind: type[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


# --- as it should go -------------------------------------------------------------------------------------------------


def test_the_new_one_begins_with_heirs_and_touches_nothing_that_both_have() -> None:
    pair = Pair(old=3, new=2)
    new = pair.new
    assert [(it.role, it.slot, it.generation) for it in new.roster.processes.values()] == [
        (Role.WORKER, 0, 2),
        (Role.WORKER, 1, 2),
    ]
    assert new.roster.first == 2
    assert not of(new.due(), Spawn)
    assert not new.roster.over
    assert pair.old.due() == []


def test_the_old_one_gets_shards_that_others_can_reach() -> None:
    assert Pair(old=1, new=1).old.pid(Role.SHARD, 0)


def test_heirs_take_the_slots_of_those_who_are_there() -> None:
    world = World(2)
    world.roster.join(Neighbour(senior=True, workers={7: 4, 8: 6}), 9, [4, 6], world.now, HEALTH_S)
    world.due()
    assert {process.slot for process in world.workers()} == {4, 6}


def test_when_all_are_ready_new_connections_are_steered_to_them() -> None:
    pair = Pair(old=3, new=2)
    pair.new.boots()
    assert pair.new.due() == [Steer(frozenset({0, 1}))]
    assert pair.new.roster.reload is not None
    pair.new.due()
    assert pair.new.roster.reload.phase is Phase.DONE


def test_the_old_ones_hand_over_to_those_of_the_other_and_those_without_a_follower_yield_first() -> None:
    pair = Pair(old=3, new=2).given_way()
    old, heirs = pair.old, [pair.new.worker(slot, 2) for slot in (0, 1)]
    expected = [(old.worker(slot), heirs[slot]) for slot in (0, 1)]
    actions = old.due()
    assert actions == [
        action for pid, heir in expected for action in (Bequeath(pid, heir), Kill(pid, signal.SIGTERM))
    ]
    assert old.worker(2) in {process.pid for process in old.workers(State.YIELDING)}
    assert of(old.due(YIELD_S), Kill) == [Kill(old.worker(2), signal.SIGTERM)]
    assert roles(old) == {Role.SHARD}
    for process in old.workers():
        assert old.dies(process.pid).expected
        assert old.due() == []  # its sockets are the other's as well
    assert old.roster.over
    assert old.roster.processes  # the shards serve on


def test_the_shards_are_wanted_when_the_old_one_has_gone_and_sockets_that_nobody_has_are_closed() -> None:
    pair = Pair(old=3, new=2).given_way()
    assert pair.new.due() == []
    pair.new.roster.bereaved(pair.new.now)
    actions = pair.new.due()
    assert of(actions, Release) == [Release(2)]
    assert [action.place.role for action in of(actions, Spawn)] == [Role.SHARD]
    assert not pair.new.roster.over


def test_another_heir_is_named_when_one_of_the_other_master_dies() -> None:
    pair = Pair(old=1, new=1).given_way()
    old, victim = pair.old.worker(), pair.new.worker(0, 2)
    pair.old.due()
    pair.new.dies(victim)
    pair.meet()
    assert pair.old.due() == []
    pair.new.due()
    pair.new.boots()
    pair.meet()
    assert pair.old.due() == [Bequeath(old, pair.new.worker(0, 2))]
    assert pair.new.worker(0, 2) != victim


def test_afterwards_reloads_are_as_ever() -> None:
    pair = Pair().given_way()
    pair.new.roster.bereaved(pair.new.now)
    pair.new.due()
    pair.new.boots()
    assert pair.new.roster.at_rest
    assert pair.new.roster.begin_reload(pair.new.now, HEALTH_S).number == 3


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["death", "time", "told"])
def test_a_new_one_that_fails_gives_back_what_its_workers_have_accepted(cause: str) -> None:
    pair = Pair()
    new = pair.new
    first, second = new.worker(0, 2), new.worker(1, 2)
    new.roster.ready(first, new.now)
    if cause == "death":
        new.dies(second)
    elif cause == "told":
        new.roster.withdraw("it was told to", new.now)
    actions = new.due(HEALTH_S if cause == "time" else 0.0)
    assert actions[:2] == [Bequeath(first, pair.old.worker(0)), Kill(first, signal.SIGTERM)]
    assert not of(actions, Spawn)
    for process in new.workers():
        new.dies(process.pid)
    new.due()
    assert new.roster.over
    pair.old.roster.bereaved(pair.old.now)
    assert pair.old.due() == []
    assert pair.old.roster.serving.number == 1


def test_a_new_one_that_dies_when_it_serves_is_followed_by_new_workers_in_the_same_slots() -> None:
    pair = Pair().given_way()
    old = pair.old
    retiring = [old.worker(slot) for slot in (0, 1)]
    old.due()
    old.roster.bereaved(old.now)
    actions = old.due()
    assert actions[0] == Steer(frozenset({0, 1}))
    assert of(actions, Bequeath) == []  # nobody is there yet
    assert [action.place for action in of(actions, Spawn)] == [(Role.WORKER, slot, 2) for slot in (0, 1)]
    old.boots()
    assert of(old.due(), Bequeath) == [Bequeath(pid, old.worker(slot, 2)) for slot, pid in enumerate(retiring)]
    for pid in retiring:
        assert old.dies(pid).expected
    assert old.due() == []
    assert old.roster.next_generation == 3


def test_until_a_new_one_serves_its_workers_know_to_whom_they_turn_if_it_is_killed() -> None:
    pair = Pair()
    new, heirs = pair.new, [pair.new.worker(slot, 2) for slot in (0, 1)]
    old = [pair.old.worker(slot) for slot in (0, 1)]
    assert new.due() == [Bequeath(heirs[0], old[0]), Bequeath(heirs[1], old[1])]
    pair.old.dies(old[1])
    pair.meet()
    assert new.due() == [Bequeath(heirs[1], old[0])]
    new.boots()
    assert of(new.due(), Bequeath) == [Bequeath(heirs[0], 0), Bequeath(heirs[1], 0)]


def test_in_a_stop_they_turn_to_nobody() -> None:
    new = Pair(new=1).new
    new.due()
    new.roster.stop(new.now)
    heir = new.worker(0, 2)
    assert new.due() == [Bequeath(heir, 0), Kill(heir, signal.SIGTERM)]


def test_an_old_one_that_dies_before_leaves_it_all_to_the_new_one_ready_or_not() -> None:
    pair = Pair(new=1)
    new = pair.new
    new.roster.bereaved(new.now)
    assert [action.place.role for action in of(new.due(), Spawn)] == [Role.SHARD]
    assert new.roster.serving.number == 2
    new.dies(new.worker(0, 2))
    assert (Role.WORKER, 0) in new.spawns()


def test_in_a_stop_the_shards_stay_for_the_workers_of_the_other() -> None:
    pair = Pair().given_way()
    old = pair.old
    old.roster.stop(old.now)
    old.due()
    for process in old.workers():
        old.dies(process.pid)
    assert roles(old) == {Role.SHARD}
    assert old.due() == []
    old.roster.bereaved(old.now)
    assert of(old.due(), Kill) == [Kill(old.pid(Role.SHARD, 0), signal.SIGTERM)]


def test_a_stop_of_the_new_one_leaves_the_shards_alone() -> None:
    pair = Pair().given_way()
    pair.new.roster.stop(pair.new.now)
    assert not of(pair.new.due(), Spawn)
    assert of(pair.new.due(), Bequeath) == []


class Play:
    """Both masters, until one of them has gone: each is told, as the kernel would tell it."""

    def __init__(self, old: int, new: int) -> None:
        self.pair = Pair(old, new)
        self.worlds = {"old": self.pair.old, "new": self.pair.new}

    def end(self, name: str) -> None:
        """That master has gone, by itself or not."""
        if len(self.worlds) == 2:
            del self.worlds[name]
            for world in self.worlds.values():
                world.roster.bereaved(world.now)

    def turn(self, after: float) -> None:
        for world in self.worlds.values():
            world.due(after)
        reload, old = self.pair.new.roster.reload, self.pair.old.roster
        promoted = reload is not None and reload.phase in (Phase.DONE, Phase.HAND_OVER)
        if len(self.worlds) == 2 and promoted and old.serving.workers:
            old.give_way()
        for name in [name for name, world in self.worlds.items() if world.roster.over]:
            self.end(name)

    def happens(self, event: str, name: str, which: int) -> None:
        world = self.worlds.get(name)
        pids = sorted(world.roster.processes) if world is not None else []
        if event == "turn":
            self.turn(0.1)
        elif event == "meet":
            self.pair.meet()
        elif world is not None and pids:
            pid = pids[which % len(pids)]
            world.roster.ready(pid, world.now) if event == "boot" else world.dies(pid)

    def settle(self) -> World:
        """Everybody does as he should from now on, for longer than a crash loop pauses; the master that is left."""
        for _ in range(40):
            self.turn(1.0)
            for world in self.worlds.values():
                world.boots()
                for process in world.workers(State.RETIRING):
                    world.dies(process.pid)
            self.pair.meet()
        (left,) = self.worlds.values()
        return left


NAMES = st.sampled_from(["old", "new"])
EVENTS = st.lists(st.tuples(st.sampled_from(["boot", "die", "turn", "meet"]), NAMES, st.integers(0, 9)))


@given(EVENTS, EVENTS, st.integers(1, 3), st.integers(1, 3), NAMES | st.none())
def test_in_the_end_one_of_them_serves_and_has_the_shards(
    before: list[tuple[str, str, int]],
    after: list[tuple[str, str, int]],
    old: int,
    new: int,
    victim: str | None,
) -> None:
    """Whatever happens to processes, and whichever master is killed in the middle of it."""
    play = Play(old, new)
    for event in before:
        play.happens(*event)
    if victim is not None:
        play.end(victim)
    for event in after:
        play.happens(*event)
    world = play.settle()
    assert roles(world) == {Role.WORKER, Role.SHARD}
    serving = world.roster.ready_workers(world.roster.serving.number)
    assert len(serving) == world.roster.serving.workers == len(world.workers())
    assert len(world.roster.processes) == len(serving) + 1
