"""The roster against a naive model: anything may die at any time, in a reload, too."""

from __future__ import annotations

import signal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from resonate.supervisor.actions import Bequeath, Kill, Release, Spawn, Steer
from resonate.supervisor.generation import Phase
from resonate.supervisor.process import Process, Role, State

from tests.supervisor.world import HEALTH_S, World


class Life(RuleBasedStateMachine):
    """The model: nobody is told twice, who is to go has an heir that serves, what should be there is in the end."""

    @initialize(workers=st.integers(1, 4), shards=st.integers(1, 3))
    def begin(self, workers: int, shards: int) -> None:
        self.world = World(workers, shards)
        self.roster = self.world.roster
        self.shards = shards
        self.wanted = workers  # if the reload succeeds
        self.otherwise = workers
        self.sharded = workers > 1 or shards > 1
        self.resized = False  # since the reload began
        self.looked = True  # since the last time of that
        self.told: dict[int, list[signal.Signals]] = {}
        self.heirs: dict[int, int] = {}
        self.open: set[int] = set()
        self.steered: frozenset[int] = frozenset()

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(after=st.sampled_from([0.0, 0.3, 1.0, 5.0, 31.0]))
    def look(self, after: float) -> None:
        self.do(after)

    def do(self, after: float) -> None:
        for action in self.world.due(after):
            match action:
                case Kill(pid, number):
                    role = self.roster.processes[pid].role
                    if number is signal.SIGTERM and role is Role.WORKER and not self.roster.stopping:
                        assert pid in self.heirs  # whether it was ready or not: it may have accepted somebody
                    self.told.setdefault(pid, []).append(number)
                case Bequeath(pid, heir):
                    self.bequeath(pid, heir)
                case Spawn(place):
                    if place.role is Role.WORKER:
                        self.open.add(place.slot)
                case Steer(slots):
                    self.steered = slots
                case Release(slot):
                    assert slot not in {process.slot for process in self.world.workers()}
                    self.open.remove(slot)
        self.looked = True
        self.settle()
        self.check_steering()

    def check_steering(self) -> None:
        """Nobody new is sent to one that was told to go, as long as there is another."""
        if not self.roster.stopping:
            told = {pid for pid, numbers in self.told.items() if signal.SIGTERM in numbers}
            others = {process.slot for process in self.world.workers(State.READY) if process.pid not in told}
            assert self.steered <= others or not self.steered & others

    def bequeath(self, pid: int, heir: int) -> None:
        assert self.heirs.get(pid) != heir
        self.heirs[pid] = heir
        if self.roster.stopping:
            assert heir == 0
            return
        process = self.roster.processes[heir]
        assert heir != pid
        assert process.state is State.READY
        assert process.generation == self.roster.serving.number

    def settle(self) -> None:
        """What a reload has come to."""
        if self.roster.reload is not None and self.roster.reload.phase is Phase.ROLLED_BACK:
            self.wanted = self.otherwise
        elif self.roster.reload is None or self.roster.reload.phase is not Phase.GATE:
            self.otherwise = self.wanted

    @rule(data=st.data())
    def death(self, data: st.DataObject) -> None:
        pids = sorted(self.roster.processes)
        if not pids:
            return
        process = self.roster.processes[data.draw(st.sampled_from(pids))]
        reload, leaving = self.roster.reload, self.leaving()
        self.world.dies(process.pid)
        heir = reload is not None and process.generation == reload.number and process.pid not in leaving
        if heir and not self.resized:  # otherwise it may be one too many
            assert not self.gate
        self.settle()

    @rule(data=st.data())
    def sign_of_life(self, data: st.DataObject) -> None:
        pids = sorted(self.roster.processes)
        if pids:
            pid = data.draw(st.sampled_from(pids))
            self.roster.ready(pid, self.world.now)
            self.roster.heard(pid, self.world.now)

    @rule()
    def all_boot(self) -> None:
        self.world.boots()

    @rule(by=st.sampled_from([-1, 1]))
    def resize(self, by: int) -> None:
        by = max(self.wanted + by, 1) - self.wanted
        self.wanted += by
        self.otherwise = max(self.otherwise + by, 1)
        self.sharded = self.sharded or self.wanted > 1
        self.resized, self.looked = True, False
        assert self.roster.resize(self.wanted) == self.wanted

    @precondition(lambda self: not self.roster.stopping and not self.roster.reloading)
    @rule(workers=st.integers(1, 4))
    def reload(self, workers: int) -> None:
        self.wanted, self.resized, self.sharded = workers, not self.looked, True
        wanted = self.roster.wanted
        self.before = {process.pid for process in self.world.workers() if process.place in wanted}
        self.roster.begin_reload(self.world.now, HEALTH_S, workers=workers)

    @precondition(lambda self: self.roster.processes)
    @rule(hurry=st.booleans())
    def stop(self, hurry: bool) -> None:
        self.roster.stop(self.world.now)
        if hurry:
            self.roster.hurry(self.world.now)

    # --- what is always so -------------------------------------------------------------------------------------------

    @property
    def gate(self) -> bool:
        return self.roster.reload is not None and self.roster.reload.phase is Phase.GATE

    def leaving(self) -> set[int]:
        going = (State.YIELDING, State.RETIRING, State.ABORTED, State.KILLED)
        return {process.pid for process in self.world.workers() if process.state in going}

    @invariant()
    def nobody_is_twice_in_a_place(self) -> None:
        places = [process.place for process in self.roster.processes.values()]
        assert len(places) == len(set(places))

    @invariant()
    def nobody_is_told_the_same_thing_twice(self) -> None:
        order = [signal.SIGTERM, signal.SIGABRT, signal.SIGKILL]
        for told in self.told.values():
            assert told == sorted(set(told), key=order.index)

    @invariant()
    def every_worker_has_a_socket(self) -> None:
        assert {process.slot for process in self.world.workers()} <= self.open

    @invariant()
    def nobody_old_is_touched_in_the_gate(self) -> None:
        if self.gate and not self.resized and not self.roster.stopping:
            for pid in self.before & set(self.roster.processes):
                assert signal.SIGTERM not in self.told.get(pid, [])

    def teardown(self) -> None:
        """Whatever has happened: with time and nobody dying the right ones are there, or nobody after a stop."""
        if not hasattr(self, "world"):
            return
        for _ in range(150):
            self.do(1.0)
            for process in list(self.roster.processes.values()):
                if process.state in (State.RETIRING, State.KILLED):
                    self.world.dies(process.pid)
                else:
                    self.roster.ready(process.pid, self.world.now)
                    self.roster.heard(process.pid, self.world.now)
        assert not self.roster.reloading
        if self.roster.stopping:
            assert self.roster.over
            return
        self.do(0.0)
        self.check_the_end(list(self.roster.processes.values()))

    def check_the_end(self, processes: list[Process]) -> None:
        roles = [process.role for process in processes]
        assert roles.count(Role.WORKER) == self.wanted == self.roster.workers
        assert roles.count(Role.SHARD) == (self.shards if self.sharded else 0)
        assert {process.generation for process in self.world.workers()} == {self.roster.serving.number}
        assert self.open == self.steered == {process.slot for process in self.world.workers()}
        assert self.roster.unready == []


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
