"""When it may be believed that who is not in a log has gone."""

from __future__ import annotations

from resonate.shard.cluster.entries import Seal
from resonate.shard.cluster.feed import PER_MS
from resonate.shard.cluster.following import Following
from resonate.shard.cluster.parties import Parties
from resonate.shard.cluster.shared import SharedShard
from resonate.shard.cluster.store import Arrived

LEASE_S = 10.0


def test_a_log_is_believed_when_the_store_remembers_for_a_lease() -> None:
    following = Following(SharedShard("h1"), Seal(None), Parties("h1", 0, "s0-1-1", LEASE_S), 0)
    log = following.log("app", "a", presence=True, now=100.0)
    log.feed.position = 1
    assert not following.believes(log, 100.0), "nobody has said how old it is"
    following.arrived(Arrived(9000 * PER_MS, 5000 * PER_MS), 100.0)
    assert not following.believes(log, 105.9)
    assert following.believes(log, 106.0)
    following.arriving()
    assert not following.believes(log, 200.0), "it may be another by now"
