"""Descriptors: which of them clients may have. The last ones are kept for what a worker cannot be without.

A shard that connects waits where there is none for it, and all requests with it. The kernel gives the lowest number
that is free. So as long as no client has a number from `ceiling` on, none of the kept ones is a client's.
"""

from __future__ import annotations

import os
import resource
import sys
from _socket import close  # at once: os.close is gevent's, and waits for the next turn of the loop
from collections.abc import Callable
from typing import Final

#: Kept by each worker: for looking at files and processes, and for what it has with other workers in a reload.
KEPT: Final = 8
#: Kept for each shard: a link takes three, and what is left of the one before may not have been closed yet.
KEPT_FOR_SHARD: Final = 8

_NONE: Final = -1


def soft_limit() -> int:
    """How many this process may have open; it can be changed from outside."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """`kept` are never a client's, `limit` says how many there are.

    A spare one is held below the ceiling. A client that has been given one of the kept ones gets the spare in its
    place: so nobody is turned away who has been accepted, and without a spare nobody is to be accepted.
    """

    def __init__(self, kept: int, limit: Callable[[], int] = soft_limit) -> None:
        self._kept = kept
        self._limit = limit
        self._spare = _NONE
        self.ceiling = 0  # the first number that is kept

    def room(self) -> bool:
        """Whether a client may be accepted. To be asked before each batch: the limit may have been changed."""
        self.ceiling = self._limit() - self._kept
        if self._spare >= self.ceiling:
            self.close()
        if self._spare == _NONE:
            self._spare = self._taken()
        return self._spare != _NONE

    def lowered(self, descriptor: int) -> int:
        """A client has been given this one, which is kept: the number that it has from now on. There is no spare then,
        until `room` has found one.
        """
        os.dup2(descriptor, self._spare, inheritable=False)
        close(descriptor)
        lower, self._spare = self._spare, _NONE
        return lower

    def held(self, most: int) -> list[int]:
        """Hold some for clients that are about to come, `most` of them or as many as there are; for `release`."""
        held: list[int] = []
        if self.room():
            while len(held) < most and (descriptor := self._taken()) != _NONE:
                held.append(descriptor)
        return held

    def release(self, held: list[int]) -> None:
        """They are free at once."""
        while held:
            close(held.pop())

    def close(self) -> None:
        """Give the spare one up."""
        if self._spare != _NONE:
            close(self._spare)
            self._spare = _NONE

    def _taken(self) -> int:
        """One below the ceiling, if there is one."""
        try:
            descriptor = os.eventfd(0)
        except OSError:
            return _NONE
        if descriptor < self.ceiling:
            return descriptor
        close(descriptor)
        return _NONE
