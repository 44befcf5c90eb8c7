"""Which processes should live, as a table and against a naive model."""

from __future__ import annotations

import signal

import pytest
from resonate.supervisor.actions import Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.backoff import LONGEST_PAUSE_S, LONGEST_SHARD_PAUSE_S, QUICK_DEATH_S, Backoffs
from resonate.supervisor.process import BOOT_S, TRANSITIONS, Place, Process, Role, State, Step
from resonate.supervisor.roster import ABORT_GRACE_S, HURRY_S, SHARD_GRACE_S, YIELD_S

from resonate.settings import MAX_WORKERS
from tests.supervisor.world import GRACEFUL_S, LIMITS, TIMEOUT_S, World

WORKERS = [(Role.WORKER, slot) for slot in range(3)]
SHARDS = [(Role.SHARD, index) for index in range(2)]


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_state_says_what_may_follow() -> None:
    assert set(TRANSITIONS) == set(State)
    reachable = {state for steps in TRANSITIONS.values() for state in steps.values()}
    assert reachable == set(State) - {State.STARTING}
    assert all(Step.EXIT in steps for state, steps in TRANSITIONS.items() if state is not State.GONE)


@pytest.mark.parametrize(
    ("state", "step"), [(state, step) for state in State for step in Step if step not in TRANSITIONS[state]]
)
def test_what_the_table_does_not_have_is_an_error(state: State, step: Step) -> None:
    process = Process(Place(Role.WORKER, 0, 1), 100, LIMITS, started_at=0.0, since=0.0, state=state)
    with pytest.raises(KeyError):
        process.take(step, 1.0)


# --- who is wanted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "shards", "expected"),
    [(1, 1, WORKERS[:1]), (2, 1, [*SHARDS[:1], *WORKERS[:2]]), (1, 2, [*SHARDS, *WORKERS[:1]])],
)
def test_at_the_start_shards_come_first_and_one_worker_needs_none(
    workers: int, shards: int, expected: list[tuple[Role, int]]
) -> None:
    assert World(workers, shards).spawns() == expected


def test_with_other_hosts_one_worker_has_its_shard_beside_it() -> None:
    assert World(1, 1, sharded=True).spawns() == [*SHARDS[:1], *WORKERS[:1]]


def test_what_was_not_done_is_asked_for_again() -> None:
    roster = World(2).roster
    first = [action for action in roster.due(0.0) if isinstance(action, Spawn)]
    assert [action for action in roster.due(1.0) if isinstance(action, Spawn)] == first


def test_shards_come_with_the_second_worker_and_stay() -> None:
    world = World(1).running()
    world.roster.resize(2)
    assert world.spawns() == [(Role.SHARD, 0), (Role.WORKER, 1)]
    world.roster.resize(1)
    assert world.kills(YIELD_S) == []
    assert world.kills(YIELD_S) == [Kill(world.worker(1), signal.SIGTERM)]
    world.dies(world.pid(Role.SHARD, 0))
    assert world.spawns() == [(Role.SHARD, 0)]


def test_who_has_served_does_not_go_before_there_is_somebody_to_inherit() -> None:
    world = World(2).running()
    going, staying = world.worker(1), world.worker(0)
    world.roster.resize(1)
    world.due()
    world.dies(staying)
    assert world.kills(YIELD_S) == []
    assert world.kills(10 * YIELD_S) == []
    world.boots()
    assert world.due()[-2:] == [Bequeath(going, world.worker(0)), Kill(going, signal.SIGTERM)]


def test_a_stop_waits_for_nobody_to_inherit() -> None:
    world = World(2).running()
    world.roster.resize(1)
    world.due()
    world.dies(world.worker(0))
    world.roster.stop(world.now)
    assert Kill(world.worker(1), signal.SIGTERM) in world.due()


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (-5, 1), (MAX_WORKERS, MAX_WORKERS), (1000, MAX_WORKERS)])
def test_the_number_of_workers_has_bounds(asked: int, given: int) -> None:
    world = World(3)
    assert world.roster.resize(asked) == given
    assert len([place for place in world.spawns() if place[0] is Role.WORKER]) == given


def test_the_highest_slot_is_given_up() -> None:
    world = World(3).running()
    world.roster.resize(2)
    victim = world.worker(2)
    assert world.due() == [Steer(frozenset({0, 1}))]
    assert world.due(YIELD_S) == [Bequeath(victim, world.worker(0)), Kill(victim, signal.SIGTERM)]
    world.now += GRACEFUL_S - 1
    world.boots()
    assert world.due() == []
    assert world.due(1) == [Kill(victim, signal.SIGKILL)]
    assert world.dies(victim).retry_in_s is None
    assert world.due() == [Release(2)]


def test_a_new_worker_does_not_wait_for_one_that_is_coming_to_its_end() -> None:
    world = World(2).running()
    world.roster.resize(1)
    world.due()
    world.roster.resize(2)
    assert world.spawns() == [(Role.WORKER, 2)]


# --- who gets connections --------------------------------------------------------------------------------------------


def test_connections_go_to_workers_that_are_ready_if_there_are_any() -> None:
    world = World(2)
    assert world.due()[0] == Steer(frozenset({0, 1}))
    world.roster.ready(world.worker(1), world.now)
    assert world.due() == [Steer(frozenset({1}))]
    world.roster.ready(world.worker(0), world.now)
    assert world.due() == [Steer(frozenset({0, 1}))]
    world.dies(world.worker(1))
    assert world.due()[0] == Steer(frozenset({0}))


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_a_crash_is_made_good_at_once(role: Role) -> None:
    world = World(2).running()
    gone = world.dies(world.pid(role, 0))
    assert (gone.expected, gone.retry_in_s) == (False, 0.0)
    assert world.spawns() == [(role, 0)]
    assert world.roster.restarts[role] == 1


def test_a_crash_loop_backs_off_and_a_longer_life_ends_it() -> None:
    world = World().running()
    pauses = []
    for _ in range(9):
        pause = world.dies(world.worker()).retry_in_s
        if pause:
            assert world.spawns(pause - 0.1) == []
            assert world.spawns(0.1) == [(Role.WORKER, 0)]
        else:
            assert world.spawns() == [(Role.WORKER, 0)]
        pauses.append(pause)
    assert pauses == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    world.now += QUICK_DEATH_S
    assert world.dies(world.worker()).retry_in_s == 0
    world.due()
    assert world.dies(world.worker()).retry_in_s == 0


@pytest.mark.parametrize(("role", "longest_s"), [(Role.WORKER, LONGEST_PAUSE_S), (Role.SHARD, LONGEST_SHARD_PAUSE_S)])
def test_who_dies_for_ever_is_tried_for_ever(role: Role, longest_s: float) -> None:
    world = World(sharded=True)
    for _ in range(3000):
        world.due(longest_s)
        pause = world.dies(world.pid(role, 0)).retry_in_s
    assert pause == longest_s
    assert world.spawns(longest_s) == [(role, 0)]


def test_what_cannot_be_started_backs_off_as_well() -> None:
    world = World()
    spawn = next(action for action in world.roster.due(world.now) if isinstance(action, Spawn))
    assert [world.roster.failed(spawn, world.now, "no memory") for _ in range(3)] == [0, 1, 2]


def test_of_heirs_that_fail_again_and_again_nothing_is_left() -> None:
    world = World(2).running()
    for generation in range(2, 30):
        world.reload()
        world.dies(world.worker(0, generation))
        while heirs := [process for process in world.workers() if process.generation > 1]:
            world.due(YIELD_S)
            world.dies(heirs[0].pid)
    assert world.roster._backoffs._of == {}


def test_who_is_asked_about_is_not_noted() -> None:
    backoffs, place = Backoffs(), Place(Role.WORKER, 0, 1)
    assert backoffs.not_before(place) < 0
    assert backoffs._of == {}
    assert [backoffs.died(place, 0.0, 5.0), backoffs.died(place, 0.0, 5.0)] == [0.0, 1.0]
    assert backoffs.not_before(place) == 6.0


def test_a_stranger_is_none_of_ours() -> None:
    assert World().dies(1) is None


# --- silence ---------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_aborted_and_then_killed_and_replaced() -> None:
    world = World(2).running()
    victim = world.worker(1)
    world.now += TIMEOUT_S
    world.roster.heard(world.worker(0), world.now)
    assert world.due(0.0) == []
    assert world.kills(0.1) == [Kill(victim, signal.SIGABRT)]
    assert world.kills(ABORT_GRACE_S - 0.1) == []
    assert world.kills(0.1) == [Kill(victim, signal.SIGKILL)]
    assert world.dies(victim).expected is True
    assert world.spawns() == [(Role.WORKER, 1)]


def test_booting_may_take_longer_than_being_silent() -> None:
    world = World()
    world.due()
    assert world.kills(BOOT_S) == []
    assert world.kills(0.1) == [Kill(world.worker(), signal.SIGABRT)]


def test_shards_are_watched_by_the_workers() -> None:
    world = World(1, shards=2).running()
    world.now += 10 * TIMEOUT_S
    world.roster.heard(world.worker(), world.now)
    assert world.kills() == []


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_stop_ends_the_workers_and_then_the_shards() -> None:
    world = World(2).running()
    workers, shard = [world.worker(0), world.worker(1)], world.pid(Role.SHARD, 0)
    world.roster.stop(world.now)
    assert world.due() == [Kill(pid, signal.SIGTERM) for pid in workers]
    world.dies(workers[0])
    assert world.due(1) == []
    world.dies(workers[1])
    assert world.due() == [Kill(shard, signal.SIGTERM)]
    assert world.due(SHARD_GRACE_S) == [Kill(shard, signal.SIGKILL)]
    assert not world.roster.over
    world.dies(shard)
    assert world.roster.over


def test_workers_that_do_not_end_are_killed_at_the_deadline() -> None:
    world = World().running()
    world.roster.stop(world.now)
    world.due()
    world.now += GRACEFUL_S
    world.boots()
    assert world.due() == [Kill(world.worker(), signal.SIGKILL)]


def test_a_second_signal_shortens_the_deadline_and_never_lengthens_it() -> None:
    world = World().running()
    world.roster.stop(world.now)
    world.due()
    world.roster.hurry(world.now)
    world.roster.hurry(world.now + 1)
    assert world.kills(HURRY_S - 0.1) == []
    assert world.kills(0.1) == [Kill(world.worker(), signal.SIGKILL)]


def test_a_shard_that_dies_while_workers_come_to_their_end_is_replaced() -> None:
    world = World(2).running()
    world.roster.stop(world.now)
    world.due()
    world.dies(world.pid(Role.SHARD, 0))
    assert world.spawns() == [(Role.SHARD, 0)]
    assert world.dies(world.worker(0)).retry_in_s is None


# --- another number of shards ----------------------------------------------------------------------------------------


def test_shards_of_another_number_come_when_the_present_ones_have_gone() -> None:
    world = World(2, 2).running()
    old = [world.pid(Role.SHARD, index) for index in range(2)]
    world.roster.reshard_soon()
    world.dies(world.worker(1))
    assert world.spawns(after=1) == []
    world.roster.reshard(3)
    assert [(kill.pid, kill.signal) for kill in world.kills()] == [(pid, signal.SIGTERM) for pid in old]
    assert [(kill.pid, kill.signal) for kill in world.kills()] == [(pid, signal.SIGKILL) for pid in old]
    assert world.roster.clearing
    world.dies(old[0])
    assert world.spawns() == []
    gone = world.dies(old[1])
    assert (gone.expected, gone.retry_in_s) == (True, None)
    assert not world.roster.clearing
    assert world.spawns() == [*((Role.SHARD, index) for index in range(3)), (Role.WORKER, 1)]


def test_the_same_number_of_shards_stays() -> None:
    world = World(2, 2).running()
    world.roster.reshard_soon()
    world.roster.reshard(2)
    assert world.due() == []
    world.dies(world.worker(0))
    assert world.spawns() == [(Role.WORKER, 0)]
