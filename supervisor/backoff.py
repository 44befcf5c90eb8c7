"""How long a place stays empty where processes die again and again. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resonate.supervisor.process import Place, Role

#: A life shorter than this is a quick death; the first is followed by a new process at once, the others by a pause.
QUICK_DEATH_S: Final = 10.0
LONGEST_PAUSE_S: Final = 30.0
#: The same for a shard: without it nobody is served.
LONGEST_SHARD_PAUSE_S: Final = 2.0
#: How often a pause of a second is doubled: then it is longer than any longest one. A float has an end.
_DOUBLINGS: Final = 10


@dataclass
class Backoff:
    """Of one place."""

    longest_s: float
    quick_deaths: int = 0
    not_before: float = float("-inf")

    def died(self, lived_s: float, now: float) -> float:
        """Note a death; returns the pause before the next life."""
        self.quick_deaths = self.quick_deaths + 1 if lived_s < QUICK_DEATH_S else 0
        doublings = min(self.quick_deaths - 2, _DOUBLINGS)
        pause = 0.0 if doublings < 0 else min(2.0**doublings, self.longest_s)
        self.not_before = now + pause
        return pause


class Backoffs:
    """Those of all places."""

    def __init__(self) -> None:
        self._of: dict[Place, Backoff] = {}

    def died(self, place: Place, lived_s: float, now: float) -> float:
        """Note a death there; returns the pause before the next life."""
        if place not in self._of:
            self._of[place] = Backoff(LONGEST_SHARD_PAUSE_S if place.role is Role.SHARD else LONGEST_PAUSE_S)
        return self._of[place].died(lived_s, now)

    def not_before(self, place: Place) -> float:
        """When there may be a life there again. Where nobody has died nothing is noted."""
        return self._of[place].not_before if place in self._of else float("-inf")

    def forget(self, place: Place) -> None:
        """Nobody is wanted there any more."""
        self._of.pop(place, None)

    def forget_workers(self) -> None:
        """Others follow in places of their own."""
        self._of = {place: it for place, it in self._of.items() if place.role is Role.SHARD}
