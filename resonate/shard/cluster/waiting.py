"""What a request waits for before it is handled: steps that are taken as answers come in.

Steps are a generator that yields a `Signal` for each thing to wait for, and is given what that has brought.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AwayError(Exception):
    """The store is lost: what was waited for will not come."""


class Signal:
    """Something that will happen once, with a value."""

    __slots__ = ("fired", "value", "waiting")

    def __init__(self) -> None:
        self.fired = False
        self.value: Any = None
        self.waiting: list[Task[Any]] = []

    def fire(self, value: Any = None) -> None:
        """It has happened: who waits goes on."""
        self.fired, self.value = True, value
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            task.resume(value)


Steps = Generator[Signal, Any, T]


class Task(Generic[T]):
    """Takes steps as far as it can, at once. `value` is what they return; None when they were given up."""

    __slots__ = ("_awaited", "_steps", "done", "value")

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self._awaited: Signal | None = None
        self.done = False
        self.value: T | None = None
        self.resume(None)

    def resume(self, value: Any) -> None:
        """What was waited for has come."""
        self._awaited = None
        self._go(lambda: self._steps.send(value))

    def away(self) -> None:
        """It will not come."""
        if not self.done:
            self._leave()
            self._go(lambda: self._steps.throw(AwayError()))

    def drop(self) -> None:
        """Nobody is interested any more."""
        self._leave()
        self.done = True
        self._steps.close()

    def _leave(self) -> None:
        if self._awaited is not None and self in self._awaited.waiting:
            self._awaited.waiting.remove(self)
        self._awaited = None

    def _go(self, step: Any) -> None:
        try:
            signal = step()
            while signal.fired:
                signal = self._steps.send(signal.value)
        except StopIteration as end:
            self.done, self.value = True, end.value
        except AwayError:
            self.done = True
        else:
            self._awaited = signal
            signal.waiting.append(self)


class Tasks:
    """Tasks that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: list[Task[Any]] = []

    def begin(self, steps: Steps[None]) -> None:
        """One more."""
        task = Task(steps)
        if not task.done:
            self._tasks.append(task)

    def away(self) -> None:
        """What they wait for will not come."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.away()

    def prune(self) -> None:
        """Forget those that are done. To be called every now and then."""
        self._tasks = [task for task in self._tasks if not task.done]
