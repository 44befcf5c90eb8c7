"""Workers and shards are killed with -9, again and again, under load. `tests/bench/storm.py` is the long version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.storm import Options, storm
from tests.support.cluster import KINDS, Kind

#: A small storm: 60 presence clients of 20 users.
SMALL = Options(seconds=6, clients=60, users=20)


@pytest.mark.parametrize("kill", ["workers", "shards", "both"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nothing_is_lost_doubled_or_untrue(kill: str, kind: Kind, tmp_path: Path) -> None:
    outcome = storm(tmp_path, kind, SMALL._replace(kill=kill))
    print(outcome.counts)
    assert outcome.violations == []
    assert outcome.counts["answered"] > 0
    assert outcome.counts["edges"] > 0
    for victims in ("workers", "shards") if kill == "both" else (kill,):
        assert outcome.counts[f"{victims} killed"] > 0
