"""Steps that wait for signals."""

from __future__ import annotations

from resonate.shard.cluster.waiting import AwayError, Signal, Steps, Task


def adding(*signals: Signal) -> Steps[int]:
    total = 0
    for signal in signals:
        total += yield signal
    return total


def test_a_task_goes_as_far_as_it_can() -> None:
    first, second, third = Signal(), Signal(), Signal()
    first.fire(1)
    task = Task(adding(first, second, third))
    third.fire(4)
    assert not task.done
    second.fire(2)
    assert (task.done, task.value) == (True, 7)


def test_steps_without_waiting_are_done_at_once() -> None:
    assert Task(adding()).value == 0


def test_what_will_not_come_ends_the_steps_or_sends_them_another_way() -> None:
    signal = Signal()
    given_up = Task(adding(signal))
    given_up.away()
    assert (given_up.done, given_up.value) == (True, None)

    def otherwise() -> Steps[str]:
        try:
            yield signal
        except AwayError:
            return "alone"
        return "together"

    task = Task(otherwise())
    task.away()
    assert task.value == "alone"
    signal.fire(5)
    assert (given_up.value, task.value) == (None, "alone")


def test_who_is_dropped_lets_go() -> None:
    signal, gone = Signal(), []

    def steps() -> Steps[None]:
        try:
            yield signal
        finally:
            gone.append(True)

    task = Task(steps())
    task.drop()
    assert (gone, task.done, signal.waiting) == ([True], True, [])
    signal.fire()
