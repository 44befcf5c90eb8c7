"""Signals as a queue: a handler only notes the number, and wakes the loop through a pipe."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: What would be lost, or end a process, where its handlers are not there yet.
HELD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """What has come and was not taken yet. Takes the process's handlers of `numbers` and its wake-up descriptor.

    What a program before this one has left to the kernel (`hold`) comes first.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._arrived: deque[signal.Signals] = deque()
        self._wakeup, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._numbers = tuple(numbers)
        for number in self._numbers:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(signal.Signals(number))

    def fileno(self) -> int:
        """Readable when something has come."""
        return self._wakeup

    def taken(self) -> Iterator[signal.Signals]:
        """What has come, in that order; what comes meanwhile is among it."""
        try:
            while os.read(self._wakeup, 4096):  # the pipe first: what comes after this wakes the loop again
                pass
        except BlockingIOError:
            pass
        while self._arrived:
            yield self._arrived.popleft()

    def hold(self) -> None:
        """From now on the kernel keeps what comes, for the next program in this process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def close_in_child(self) -> None:
        """A child has handlers of its own; a byte of it in this pipe would wake its parent."""
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup)
        os.close(self._woken)


@contextmanager
def held() -> Iterator[None]:
    """Held back by the kernel meanwhile, for this process and for those that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        release()


def release() -> None:
    """Let through what was held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
