"""How connections are spread evenly over workers, without I/O: who gives how many to whom.

Nobody decides it for all. Each worker computes the same from the same figures, and carries out its own part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from resonate.counters import Snapshot

#: How far the largest and the smallest worker may be apart, as percent of the mean.
TOLERANCE_PERCENT: Final = 20
#: Nobody moves for a difference of fewer connections.
TRIFLE: Final = 20
#: How much the number of all connections may change between two looks, as percent of it. While more come or go the
#: figures are too old when they are read: those of one worker say less than those of another that has told them later.
CALM_PERCENT: Final = 10


class Figure(NamedTuple):
    """What a worker says of itself."""

    worker: str
    connections: int
    leaving: bool  # it retires, or does not serve yet: nothing of it counts
    moving: bool  # it gives or takes connections, or has just done so


class Transfer(NamedTuple):
    """So many connections go from one worker to another."""

    giver: str
    taker: str
    connections: int


def figures(snapshots: Iterable[Snapshot]) -> list[Figure]:
    """Those of the workers among the snapshots of all processes; what is no figure is left out."""
    found = []
    for snapshot in snapshots:
        match snapshot:
            case {"worker": str(worker), "connections": int(count), "leaving": bool(leaving), "moving": bool(moving)}:
                found.append(Figure(worker, max(0, count), leaving, moving))
    return found


def plan(connections: Mapping[str, int]) -> list[Transfer]:
    """What makes workers with so many connections equal, up to one; nothing where they nearly are.

    As few connections move as can do it, and nobody both gives and takes.
    """
    workers = sorted(connections, key=lambda worker: (-connections[worker], worker))
    if not workers:
        return []
    total, gap = sum(connections.values()), connections[workers[0]] - connections[workers[-1]]
    if gap < TRIFLE or 100 * gap * len(workers) <= TOLERANCE_PERCENT * total:
        return []
    share, rest = divmod(total, len(workers))  # one more stays with those who have the most
    surplus = {worker: connections[worker] - share - (index < rest) for index, worker in enumerate(workers)}
    givers = [worker for worker in workers if surplus[worker] > 0]
    takers = [worker for worker in reversed(workers) if surplus[worker] < 0]  # the emptiest first
    transfers = []
    while givers:
        giver, taker = givers[0], takers[0]
        count = min(surplus[giver], -surplus[taker])
        transfers.append(Transfer(giver, taker, count))
        surplus[giver] -= count
        surplus[taker] += count
        givers = givers[not surplus[giver] :]
        takers = takers[not surplus[taker] :]
    return transfers


class Balance:
    """Looks at the figures again and again, and says when something is to be done."""

    def __init__(self) -> None:
        self._before: int | None = None  # all connections, at the last look

    def look(self, figures: list[Figure]) -> list[Transfer]:
        """What is to be done now by all workers; nothing while connections come and go, or change their worker."""
        before, self._before = self._before, sum(figure.connections for figure in figures)
        calm = before is not None and 100 * abs(self._before - before) <= CALM_PERCENT * self._before
        if not calm or any(figure.moving for figure in figures):
            return []
        return plan({figure.worker: figure.connections for figure in figures if not figure.leaving})
