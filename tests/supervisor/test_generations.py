"""Reloads: one generation of workers follows another, or does not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from resonate.supervisor import diagram
from resonate.supervisor.actions import Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.generation import PHASES, Phase, Reload, Turn
from resonate.supervisor.process import Limits, Role, State
from resonate.supervisor.roster import HURRY_S, YIELD_S

from tests.supervisor.world import GRACEFUL_S, HEALTH_S, TIMEOUT_S, World


def promoted(world: World) -> World:
    """All heirs are ready."""
    world.boots()
    return world


def phase(world: World) -> tuple[Phase, str]:
    assert world.roster.reload is not None
    return world.roster.reload.phase, world.roster.reload.reason


# --- the tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "turn"), [(it, turn) for it in Phase for turn in Turn if turn not in PHASES[it]])
def test_what_the_table_does_not_have_is_an_error(before: Phase, turn: Turn) -> None:
    with pytest.raises(KeyError):
        Reload(2, 0.0, HEALTH_S, phase=before).take(turn, 1.0)


def test_the_diagrams_are_those_of_the_tables() -> None:
    text = (Path(__file__).parents[2] / "docs/flows/processes.md").read_text()
    assert all(figure in text for figure in diagram.DIAGRAMS.values())
    assert diagram.renewed(text) == text


# --- success ---------------------------------------------------------------------------------------------------------


def test_heirs_come_beside_those_who_serve_and_nobody_is_touched() -> None:
    world = World(2).running()
    world.roster.begin_reload(world.now, HEALTH_S)
    assert world.spawns() == [(Role.WORKER, 0), (Role.WORKER, 1)]
    world.roster.ready(world.worker(0, 2), world.now)
    assert world.due(HEALTH_S - 0.1) == []
    assert world.roster.serving.number == 1


def test_when_all_are_ready_each_old_one_goes_in_favour_of_the_heir_in_its_slot() -> None:
    world = promoted(World(2).running().reload())
    old, heirs = [world.worker(slot) for slot in (0, 1)], [world.worker(slot, 2) for slot in (0, 1)]
    assert world.due() == [
        Bequeath(old[0], heirs[0]),
        Kill(old[0], signal.SIGTERM),
        Bequeath(old[1], heirs[1]),
        Kill(old[1], signal.SIGTERM),
    ]
    assert world.due() == []
    assert world.dies(old[0]).retry_in_s is None
    world.due()
    assert phase(world) == (Phase.HAND_OVER, "")
    world.dies(old[1])
    assert world.due(0.5) == []
    assert phase(world) == (Phase.DONE, "")
    assert world.roster.restarts[Role.WORKER] == 0


def test_one_worker_and_its_heir_need_shards_which_stay() -> None:
    world = World(1).running()
    world.roster.begin_reload(world.now, HEALTH_S)
    assert world.spawns() == [(Role.SHARD, 0), (Role.WORKER, 0)]
    promoted(world).due()
    world.dies(world.worker(0))
    world.dies(world.pid(Role.SHARD, 0))
    assert world.spawns() == [(Role.SHARD, 0)]


def test_an_old_worker_that_does_not_go_is_killed_in_its_own_time() -> None:
    limits = Limits(graceful_timeout_s=1, worker_timeout_s=TIMEOUT_S)
    world = promoted(World(1).running().reload(limits=limits))
    old = world.worker()
    world.due()
    world.now += GRACEFUL_S - 1
    world.boots()
    assert world.due() == []
    assert world.due(1) == [Kill(old, signal.SIGKILL)]
    assert world.roster.serving.limits == limits


def test_silence_is_not_borne_in_any_generation() -> None:
    world = promoted(World(1).running().reload())
    old, heir = world.worker(), world.worker(0, 2)
    world.due()
    world.now += TIMEOUT_S + 0.1
    assert world.kills() == [Kill(old, signal.SIGABRT), Kill(heir, signal.SIGABRT)]


# --- another number of workers ---------------------------------------------------------------------------------------


def test_more_workers() -> None:
    world = World(2).running()
    world.roster.begin_reload(world.now, HEALTH_S, workers=3)
    assert world.spawns() == [(Role.WORKER, slot) for slot in range(3)]
    assert world.roster.workers == 3
    assert promoted(world).due()[0] == Steer(frozenset({0, 1, 2}))


def test_a_slot_that_only_heirs_have_gets_no_connections_yet() -> None:
    world = World(1).running()
    world.roster.begin_reload(world.now, HEALTH_S, workers=2)
    world.due()
    world.roster.ready(world.worker(1, 2), world.now)
    assert world.due() == []


def test_fewer_workers_the_slot_that_is_given_up_yields_first() -> None:
    world = promoted(World(3).running().reload(workers=2))
    last, heirs = world.worker(2), {world.worker(slot, 2) for slot in (0, 1)}
    first = world.due()
    assert first[0] == Steer(frozenset({0, 1}))
    assert last not in {action.pid for action in first if isinstance(action, Kill)}
    inherits, killed = world.due(YIELD_S)
    assert isinstance(inherits, Bequeath)
    assert inherits.pid == last
    assert inherits.heir in heirs
    assert killed == Kill(last, signal.SIGTERM)
    world.dies(last)
    assert world.due() == [Release(2)]


def test_those_without_an_heir_of_their_own_are_spread() -> None:
    world = promoted(World(4).running().reload(workers=2))
    world.due()
    inherited = [action.heir for action in world.due(YIELD_S) if isinstance(action, Bequeath)]
    assert sorted(inherited) == sorted(world.worker(slot, 2) for slot in (0, 1))


def test_one_more_during_a_reload_is_one_more_whatever_comes_of_it() -> None:
    for fails, expected in ((False, 4), (True, 3)):
        world = World(2).running().reload(workers=3)
        assert world.roster.resize(world.roster.workers + 1) == 4
        world.due()
        if fails:
            world.dies(world.worker(0, 2))
        promoted(world)
        world.due()
        assert world.roster.workers == expected
        assert len(world.roster.serving.slots) == expected


def test_one_less_during_a_reload() -> None:
    world = World(3).running().reload()
    assert world.roster.resize(2) == 2
    world.due()
    promoted(world).due()
    assert world.roster.serving.number == 2
    assert world.roster.serving.slots == {0, 1}


# --- no success ------------------------------------------------------------------------------------------------------


def test_an_heir_that_ends_is_the_end_of_the_reload() -> None:
    world = World(2).running().reload()
    first, second = world.worker(0, 2), world.worker(1, 2)
    world.roster.ready(first, world.now)
    assert world.roster.exited(second, world.now, "exited with code 3").retry_in_s is None
    assert phase(world) == (Phase.ROLLED_BACK, f"worker 1 (pid {second}) exited with code 3 before all were ready")
    assert world.due() == [Bequeath(first, world.worker(0)), Kill(first, signal.SIGTERM)]  # it may have served already
    world.now += GRACEFUL_S
    world.boots()
    assert world.due() == [Kill(first, signal.SIGKILL)]
    assert [world.roster.processes[world.worker(slot)].state for slot in (0, 1)] == [State.READY] * 2
    assert world.roster.workers == 2


def test_an_heir_that_nobody_has_seen_ready_has_an_heir_too() -> None:
    """It may have accepted somebody since."""
    world = World(1).running().reload()
    heir = world.worker(0, 2)
    assert world.due(HEALTH_S) == [Bequeath(heir, world.worker(0)), Kill(heir, signal.SIGTERM)]


def test_an_heir_that_is_not_needed_serves_on_while_nobody_else_does() -> None:
    world = World(2).running().reload()
    first, old = world.worker(0, 2), [world.worker(slot) for slot in (0, 1)]
    for pid in (*old, world.worker(1, 2)):
        world.dies(pid)
    actions = world.due()
    assert phase(world)[0] is Phase.ROLLED_BACK
    assert [type(action) for action in actions] == [Spawn, Spawn]
    world.roster.ready(first, world.now)
    assert world.due() == [Steer(frozenset({0}))]
    world.roster.ready(world.worker(1), world.now)
    assert world.due() == [Steer(frozenset({1})), Bequeath(first, world.worker(1)), Kill(first, signal.SIGTERM)]


def test_what_cannot_be_started_is_the_end_of_the_reload() -> None:
    world = World(1).running()
    world.roster.begin_reload(world.now, HEALTH_S)
    spawn = next(it for it in world.roster.due(world.now) if isinstance(it, Spawn) and it.place.role is Role.WORKER)
    assert world.roster.failed(spawn, world.now, "no memory") is None
    assert phase(world) == (Phase.ROLLED_BACK, "worker 0 cannot be started: no memory")
    assert spawn.place not in world.roster.wanted


def test_time_is_up() -> None:
    world = World(2).running().reload(workers=3)
    world.roster.ready(world.worker(2, 2), world.now)
    actions = world.due(HEALTH_S)
    assert phase(world) == (Phase.ROLLED_BACK, "after 10 s 2 of 3 are not ready")
    assert Kill(world.worker(0, 2), signal.SIGTERM) in actions
    assert world.roster.workers == 2
    (inherits, killed) = world.due(YIELD_S)  # the third had a slot of its own
    assert inherits.pid == killed.pid == world.worker(2, 2)  # type: ignore[union-attr]


def test_a_reload_after_one_that_failed_has_a_generation_of_its_own() -> None:
    world = World(1).running().reload()
    world.dies(world.worker(0, 2))
    world.due()
    assert world.reload().worker(0, 3)
    promoted(world).due()
    assert world.roster.serving.number == 3


# --- deaths on the way -----------------------------------------------------------------------------------------------


def test_an_old_worker_that_crashes_before_is_replaced_in_its_generation_and_the_reload_goes_on() -> None:
    world = World(2).running().reload()
    assert world.dies(world.worker(1)).retry_in_s == 0
    assert world.spawns() == [(Role.WORKER, 1)]
    assert world.worker(1, 1)
    promoted(world).due()
    assert world.roster.serving.number == 2


def test_an_old_worker_that_crashes_after_is_not_replaced() -> None:
    world = promoted(World(2).running().reload())
    world.due()
    assert world.dies(world.worker(1)).retry_in_s is None
    assert world.spawns() == []


def test_another_heir_is_named_when_one_dies() -> None:
    world = promoted(World(2).running().reload())
    old, heirs = [world.worker(slot) for slot in (0, 1)], [world.worker(slot, 2) for slot in (0, 1)]
    world.due()
    assert world.dies(heirs[1]).retry_in_s == 0
    actions = world.due()
    assert Bequeath(old[1], heirs[0]) in actions
    assert [action.place[:2] for action in actions if isinstance(action, Spawn)] == [(Role.WORKER, 1)]
    assert world.roster.restarts[Role.WORKER] == 1


def test_whose_only_heir_has_died_waits_for_the_next() -> None:
    world = promoted(World(1).running().reload())
    old, heir = world.worker(), world.worker(0, 2)
    world.due()
    world.dies(heir)
    assert [type(action) for action in world.due()] == [Spawn]
    assert world.roster.processes[old].heir == heir
    promoted(world)
    assert world.due()[-1] == Bequeath(old, world.worker(0, 2))


def test_who_goes_because_there_are_too_many_has_an_heir_as_well() -> None:
    world = World(2).running()
    world.roster.resize(1)
    world.due()
    assert world.due(YIELD_S)[0] == Bequeath(world.worker(1), world.worker(0))


# --- stops -----------------------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_heirs() -> None:
    world = World(2).running().reload()
    world.roster.stop(world.now)
    told = world.due()
    assert {action.pid for action in told if isinstance(action, Kill)} == {it.pid for it in world.workers()}
    assert len(told) == 4
    assert phase(world) == (Phase.STOPPED, "the server stops")


def test_a_stop_in_the_hand_over_takes_the_heirs_away() -> None:
    world = promoted(World(1).running().reload())
    old, heir = world.worker(), world.worker(0, 2)
    world.due()
    world.roster.stop(world.now)
    assert world.due() == [Bequeath(old, 0), Kill(heir, signal.SIGTERM)]
    world.roster.hurry(world.now)
    assert world.due(HURRY_S) == [Kill(old, signal.SIGKILL), Kill(heir, signal.SIGKILL)]


def test_one_at_a_time() -> None:
    world = World(1).running().reload()
    with pytest.raises(RuntimeError):
        world.roster.begin_reload(world.now, HEALTH_S)
    world.roster.stop(world.now)
    with pytest.raises(RuntimeError):
        world.roster.begin_reload(world.now, HEALTH_S)
