"""The timing wheel: some plain sentences about it, and a machine that compares it with a naive model."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resonate.server.timers import Wheel


class Waiter:
    """Answers its checks with what `answer` says; `checks` are the ticks at which it was asked."""

    def __init__(self, answer: Callable[[int], int] = lambda now: 0) -> None:
        self.check_at = 0
        self.answer = answer
        self.checks: list[int] = []

    def check(self, now: int) -> int:
        self.checks.append(now)
        return self.answer(now)


def advance(wheel: Wheel, ticks: int) -> None:
    for _ in range(ticks):
        wheel.advance()


def test_a_check_comes_once_and_at_its_tick() -> None:
    wheel, waiter = Wheel(), Waiter()
    due = wheel.now + 3
    wheel.schedule(waiter, due)
    advance(wheel, 2)
    assert waiter.checks == []
    advance(wheel, 5)
    assert (waiter.checks, waiter.check_at) == ([due], 0)


def test_a_tick_that_has_passed_means_the_next_one() -> None:
    wheel, waiter = Wheel(), Waiter()
    advance(wheel, 10)
    for tick in (1, wheel.now):
        wheel.schedule(waiter, tick)
        assert waiter.check_at == wheel.now + 1
    advance(wheel, 1)
    assert waiter.checks == [wheel.now]


def test_a_check_that_answers_goes_on() -> None:
    wheel, waiter = Wheel(), Waiter(lambda now: now + 2)
    wheel.schedule(waiter, 3)
    advance(wheel, 7)
    assert waiter.checks == [3, 5, 7]


def test_what_a_check_schedules_itself_holds_against_its_answer() -> None:
    wheel = Wheel()
    waiter = Waiter()

    def answer(now: int) -> int:
        wheel.schedule(waiter, now + 4)
        return now + 1

    waiter.answer = answer
    wheel.schedule(waiter, 2)
    advance(wheel, 6)
    assert waiter.checks == [2, 6]


def test_a_check_may_schedule_others() -> None:
    wheel, other = Wheel(), Waiter()

    def answer(now: int) -> int:
        wheel.schedule(other, now)
        return 0

    wheel.schedule(Waiter(answer), 2)
    advance(wheel, 1)
    assert other.checks == []  # not in the same round, which would never end
    advance(wheel, 1)
    assert other.checks == [3]


def test_of_two_that_cancel_each_other_only_the_first_is_checked() -> None:
    """Both are due at the same tick; whoever comes first has the other checked no more."""
    wheel = Wheel()
    one, two = Waiter(), Waiter()

    def cancel(other: Waiter) -> Callable[[int], int]:
        def answer(now: int) -> int:
            wheel.cancel(other)
            return 0

        return answer

    one.answer, two.answer = cancel(two), cancel(one)
    wheel.schedule(one, 5)
    wheel.schedule(two, 5)
    advance(wheel, 10)
    assert sorted(map(len, (one.checks, two.checks))) == [0, 1]


def test_of_two_that_put_each_other_off_only_the_first_is_checked_at_once() -> None:
    wheel = Wheel()
    one, two = Waiter(), Waiter()

    def put_off(other: Waiter) -> Callable[[int], int]:
        def answer(now: int) -> int:
            if now == 5:
                wheel.schedule(other, 8)
            return 0

        return answer

    one.answer, two.answer = put_off(two), put_off(one)
    wheel.schedule(one, 5)
    wheel.schedule(two, 5)
    advance(wheel, 10)
    assert sorted((one.checks, two.checks)) == [[5], [8]]


def test_cancelling_is_harmless_when_repeated() -> None:
    wheel, waiter = Wheel(), Waiter()
    wheel.cancel(waiter)
    wheel.schedule(waiter, 2)
    wheel.cancel(waiter)
    wheel.cancel(waiter)
    advance(wheel, 3)
    assert waiter.checks == []


class WheelAgainstModel(RuleBasedStateMachine):
    """The model keeps for each waiter the tick of its next check, and looks at all of them at every tick."""

    waiters = Bundle("waiters")

    def __init__(self) -> None:
        super().__init__()
        self.wheel = Wheel()
        self.now = self.wheel.now
        self.due: dict[Waiter, int] = {}
        self.period: dict[Waiter, int] = {}
        self.expected: dict[Waiter, list[int]] = {}

    @rule(target=waiters, period=st.integers(0, 4))
    def waiter(self, period: int) -> Waiter:
        """One that asks to be checked every `period` ticks; 0: only when it has been scheduled."""
        waiter = Waiter(lambda now: now + period if period else 0)
        self.due[waiter], self.period[waiter], self.expected[waiter] = 0, period, []
        return waiter

    @rule(waiter=waiters, distance=st.integers(-3, 12))
    def schedule(self, waiter: Waiter, distance: int) -> None:
        self.wheel.schedule(waiter, self.now + distance)
        self.due[waiter] = self.now + max(distance, 1)

    @rule(waiter=waiters)
    def cancel(self, waiter: Waiter) -> None:
        self.wheel.cancel(waiter)
        self.due[waiter] = 0

    @rule(ticks=st.integers(1, 8))
    def advance(self, ticks: int) -> None:
        advance(self.wheel, ticks)
        for _ in range(ticks):
            self.now += 1
            for waiter in self.due:
                if self.due[waiter] == self.now:
                    self.expected[waiter].append(self.now)
                    self.due[waiter] = self.now + self.period[waiter] if self.period[waiter] else 0

    @invariant()
    def same(self) -> None:
        assert self.wheel.now == self.now
        for waiter, due in self.due.items():
            assert (waiter.checks, waiter.check_at) == (self.expected[waiter], due)

    @invariant()
    def nobody_is_kept_who_is_not_waited_for(self) -> None:
        kept = [waiter for slot in self.wheel._slots.values() for waiter in slot]
        assert len(kept) == len([due for due in self.due.values() if due])
        assert all(self.wheel._slots.values())


TestWheelAgainstModel = WheelAgainstModel.TestCase
TestWheelAgainstModel.settings = settings(max_examples=100, stateful_step_count=30)
