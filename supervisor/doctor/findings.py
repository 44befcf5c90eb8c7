"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Level(Enum):
    """How bad it is. A note is for what could not be looked at, or is good to know."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """`why` it matters; `remedy` is a command or a key. Neither has a secret in it."""

    level: Level
    what: str
    why: str = ""
    remedy: str = ""


def ok(what: str) -> Finding:
    """As it should be."""
    return Finding(Level.OK, what)


def note(what: str, why: str = "", remedy: str = "") -> Finding:
    """Nothing is wrong, as far as can be seen."""
    return Finding(Level.NOTE, what, why, remedy)


def warning(what: str, why: str, remedy: str) -> Finding:
    """The server runs, and something will go wrong one day."""
    return Finding(Level.WARNING, what, why, remedy)


def problem(what: str, why: str, remedy: str) -> Finding:
    """The server cannot start, or not do what its configuration says."""
    return Finding(Level.PROBLEM, what, why, remedy)


_UNITS: Final = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def size(octets: int) -> str:
    """Bytes for people: `12.5 MiB`."""
    for unit, factor in _UNITS:
        if octets >= factor:
            return f"{octets / factor:.1f} {unit}"
    return f"{octets} bytes"
