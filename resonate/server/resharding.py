"""A worker's part when the master changes the number of shards: see docs/flows/resharding.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from resonate.counters import Snapshot, add
from resonate.server.context import Collect
from resonate.server.membership import Membership
from resonate.server.moving import Movers
from resonate.server.scoreboard import Scoreboard, Stage

#: Seconds between two looks while it is under way, and between two questions to all workers.
LOOK_S: Final = 0.01
HASTEN_S: Final = 0.1


class Resharding:
    """`row` is this worker's on the scoreboard. `look` is to be called each second; it looks more often by itself.

    `collect` asks what all processes have counted, `inherit` takes what only a shard knew of it that is taken in.
    """

    def __init__(
        self,
        loop: Any,
        membership: Membership,
        movers: Movers,
        scoreboard: Scoreboard,
        row: int,
        collect: Collect,
        inherit: Callable[[Snapshot], None],
    ) -> None:
        self._timer = loop.timer(LOOK_S, LOOK_S)
        self._collect = collect
        self._inherit = inherit
        self._asked = False
        self._legacy: Snapshot | None = None  # what is gone with a shard that is taken in
        self._membership = membership
        self._movers = movers
        self._scoreboard = scoreboard
        self._row = row
        self._stage = Stage.NONE
        self._hasten_at = 0.0

    @property
    def wanted(self) -> bool:
        """Whether another number of shards is under way: then nobody should begin to move."""
        return self._scoreboard.resharding[0] is not Stage.NONE

    def look(self) -> None:
        """See what the master wants, and go as far as can be gone."""
        wanted, shards = self._scoreboard.resharding
        if wanted is Stage.NONE:
            self._membership.release()
            self._timer.stop()
            self._asked, self._legacy = False, None
            self._reach(Stage.NONE)
        elif self._stage is Stage.NONE and wanted is Stage.READY:
            self._timer.start(self.look)
            if not shards and not self._asked:
                self._asked = True
                self._collect(self._counted)
            if self._movers.idle and (shards or self._legacy is not None):  # and nobody begins to move any more
                self._reach(Stage.READY)
        elif self._stage is Stage.READY and wanted is Stage.HOLD:
            self._hold(shards)
        elif self._stage is Stage.HOLD and wanted is Stage.MOVE:
            self._movers.reshard(max(1, shards))
            self._membership.reshard(shards)
            if self._legacy is not None:
                self._inherit(self._legacy)
            self._reach(Stage.MOVE)

    def close(self) -> None:
        """The worker ends."""
        self._timer.stop()

    def _counted(self, snapshots: list[Snapshot] | None) -> None:
        own = self._membership.name
        self._legacy = {}
        for snapshot in snapshots or ():
            if snapshot.get("worker") != own:
                self._legacy = add(self._legacy, snapshot)

    def _hold(self, shards: int) -> None:
        if not self._membership.holding:
            self._membership.hold(max(1, shards))
        if (now := time.monotonic()) >= self._hasten_at:
            self._hasten_at = now + HASTEN_S
            self._membership.hasten()
        if self._membership.settled and self._movers.idle:
            self._reach(Stage.HOLD)

    def _reach(self, stage: Stage) -> None:
        if stage is not self._stage:
            self._stage = stage
            self._scoreboard.reach(self._row, stage)
