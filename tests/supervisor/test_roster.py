"""Which processes should live, as a table and against a naive model."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from resonate.supervisor.roster import (
    ABORT_GRACE_S,
    BOOT_S,
    HURRY_S,
    LONGEST_PAUSE_S,
    QUICK_DEATH_S,
    SHARD_GRACE_S,
    TRANSITIONS,
    YIELD_S,
    Action,
    Kill,
    Limits,
    Process,
    Release,
    Role,
    Roster,
    Spawn,
    State,
    Steer,
    Step,
)

from resonate.settings import MAX_WORKERS

GRACEFUL_S = 35.0
TIMEOUT_S = 30.0


class World:
    """A roster, and processes that do as they are told: spawned at once, dead when the test says so."""

    def __init__(self, workers: int = 1, shards: int = 1) -> None:
        limits = Limits(graceful_timeout_s=GRACEFUL_S, worker_timeout_s=TIMEOUT_S)
        self.roster = Roster(workers, shards, limits)
        self.now = 1000.0
        self.pids = iter(range(100, 10**6))

    def due(self, after: float = 0.0) -> list[Action]:
        """What is to be done `after` seconds, the spawns being done."""
        self.now += after
        actions = self.roster.due(self.now)
        for action in actions:
            if isinstance(action, Spawn):
                self.roster.spawned(action, next(self.pids), self.now)
        return actions

    def kills(self, after: float = 0.0) -> list[Kill]:
        return [action for action in self.due(after) if isinstance(action, Kill)]

    def spawns(self, after: float = 0.0) -> list[tuple[Role, int]]:
        return [(action.role, action.slot) for action in self.due(after) if isinstance(action, Spawn)]

    def pid(self, role: Role, slot: int) -> int:
        (found,) = (process.pid for process in self.roster.processes.values() if process.place == (role, slot))
        return found

    def worker(self, slot: int = 0) -> int:
        return self.pid(Role.WORKER, slot)

    def dies(self, pid: int) -> Any:
        return self.roster.exited(pid, self.now)

    def boots(self) -> None:
        for pid in list(self.roster.processes):
            self.roster.ready(pid, self.now)
            self.roster.heard(pid, self.now)

    def running(self) -> World:
        """All have booted."""
        self.due()
        self.boots()
        self.due()
        return self


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
    process = Process(Role.WORKER, 0, 1, 100, started_at=0.0, since=0.0, state=state)
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
    assert world.due(YIELD_S) == [Kill(victim, signal.SIGTERM)]
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


def test_what_cannot_be_started_backs_off_as_well() -> None:
    world = World()
    spawn = next(action for action in world.roster.due(world.now) if isinstance(action, Spawn))
    assert [world.roster.failed(spawn, world.now) for _ in range(3)] == [0, 1, 2]


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


# --- against a model -------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Anything may die at any time. The model: nobody is told twice, and what should be there is there in the end."""

    @initialize(workers=st.integers(1, 4), shards=st.integers(1, 3))
    def begin(self, workers: int, shards: int) -> None:
        self.world = World(workers, shards)
        self.shards = shards
        self.wanted = workers
        self.sharded = workers > 1 or shards > 1
        self.told: dict[int, list[signal.Signals]] = {}
        self.open: set[int] = set()
        self.steered: frozenset[int] = frozenset()

    @rule(after=st.sampled_from([0.0, 0.3, 1.0, 5.0, 31.0]))
    def look(self, after: float) -> None:
        self.do(after)

    def do(self, after: float) -> None:
        for action in self.world.due(after):
            match action:
                case Kill(pid, number):
                    assert pid in self.world.roster.processes
                    self.told.setdefault(pid, []).append(number)
                case Spawn(Role.WORKER, slot):
                    self.open.add(slot)
                case Steer(slots):
                    self.steered = slots
                case Release(slot):
                    assert slot not in {process.slot for process in self.workers()}
                    self.open.remove(slot)

    @rule(data=st.data())
    def death(self, data: st.DataObject) -> None:
        pids = sorted(self.world.roster.processes)
        if pids:
            self.world.dies(data.draw(st.sampled_from(pids)))

    @rule(data=st.data())
    def sign_of_life(self, data: st.DataObject) -> None:
        pids = sorted(self.world.roster.processes)
        if pids:
            pid = data.draw(st.sampled_from(pids))
            self.world.roster.ready(pid, self.world.now)
            self.world.roster.heard(pid, self.world.now)

    @rule(by=st.sampled_from([-1, 1]))
    def resize(self, by: int) -> None:
        self.wanted = max(self.wanted + by, 1)
        self.sharded = self.sharded or self.wanted > 1
        assert self.world.roster.resize(self.wanted) == self.wanted

    @precondition(lambda self: self.world.roster.processes)
    @rule(hurry=st.booleans())
    def stop(self, hurry: bool) -> None:
        self.world.roster.stop(self.world.now)
        if hurry:
            self.world.roster.hurry(self.world.now)

    def workers(self) -> list[Process]:
        return [process for process in self.world.roster.processes.values() if process.role is Role.WORKER]

    @invariant()
    def nobody_is_twice_in_a_place(self) -> None:
        places = [process.place for process in self.world.roster.processes.values()]
        assert len(places) == len(set(places))

    @invariant()
    def nobody_is_told_the_same_thing_twice(self) -> None:
        order = [signal.SIGTERM, signal.SIGABRT, signal.SIGKILL]
        for told in self.told.values():
            assert told == sorted(set(told), key=order.index)

    @invariant()
    def every_worker_has_a_socket(self) -> None:
        assert {process.slot for process in self.workers()} <= self.open

    @invariant()
    def nobody_new_is_sent_to_one_that_was_told_to_go(self) -> None:
        if not self.world.roster.stopping and self.told:
            gone = {process.slot for process in self.workers() if signal.SIGTERM in self.told.get(process.pid, [])}
            assert not gone & self.steered

    def teardown(self) -> None:
        """Whatever has happened: with time and nobody dying the right ones are there, or nobody after a stop."""
        if not hasattr(self, "world"):
            return
        for _ in range(120):
            self.do(1.0)
            processes = list(self.world.roster.processes.values())
            for process in processes:
                if process.state in (State.RETIRING, State.KILLED):
                    self.world.dies(process.pid)
                else:
                    self.world.roster.ready(process.pid, self.world.now)
                    self.world.roster.heard(process.pid, self.world.now)
        if self.world.roster.stopping:
            assert self.world.roster.over
            return
        self.do(0.0)
        roles = [process.role for process in self.world.roster.processes.values()]
        assert roles.count(Role.WORKER) == self.wanted
        assert roles.count(Role.SHARD) == (self.shards if self.sharded else 0)
        assert self.open == self.steered == {process.slot for process in self.workers()}
        assert self.world.roster.unready == []


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
