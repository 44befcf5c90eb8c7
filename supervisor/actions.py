"""What the roster wants done."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TypeAlias

from resonate.supervisor.process import Place


@dataclass(frozen=True)
class Spawn:
    """Start a process; `spawned` or `failed` is expected."""

    place: Place


@dataclass(frozen=True)
class Bequeath:
    """`heir` is to whom this worker turns when it goes or its master dies; 0: to nobody."""

    pid: int
    heir: int


@dataclass(frozen=True)
class Kill:
    """Send a signal."""

    pid: int
    signal: signal.Signals


@dataclass(frozen=True)
class Steer:
    """New connections go to the workers in these slots."""

    slots: frozenset[int]


@dataclass(frozen=True)
class Release:
    """Nobody will accept on this slot's socket any more: close it."""

    slot: int


Action: TypeAlias = Spawn | Bequeath | Kill | Steer | Release
