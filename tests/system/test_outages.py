"""What breaks between hosts, at a small size: `make hosts` is the full one."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest

from tests.bench.gathering import gathering
from tests.bench.hosts import run
from tests.bench.storm import Options
from tests.bench.streams import Streams
from tests.bench.verdict import judge
from tests.support.hosts import Hosts

SMALL = argparse.Namespace(hosts=2, workers=2, channels=10, subscribers=1, rate=150, log=False)
#: How long each lasts, in seconds. Who is to find himself alone needs more than `scaling.patience`.
SECONDS = {"redis-wipe": 2.0, "flushed": 20.0, "redis-freeze": 4.0, "one-way": 4.0, "host-kill": 1.0, "reload": 1.0}


@pytest.mark.parametrize("fault", SECONDS)
def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path, fault: str) -> None:
    seen = run(fault, tmp_path, argparse.Namespace(**vars(SMALL), seconds=SECONDS[fault]))
    print(seen)
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["heard"] > 1000


def test_hosts_that_share_nothing_are_found_out(tmp_path: Path) -> None:
    """The count itself: what one host is told never comes to the other."""
    with Hosts(tmp_path, workers=1, scaling={"enabled": False}) as hosts:
        streams = Streams(hosts, channels=1, subscribers=1, rate=100)
        with streams.crowd:
            streams.open()
            streams.go_on(1.0)
            streams.close(within=1.0)
            now = time.monotonic()
            judge(streams, (now, now))
    assert set(streams.complaints) == {"lost"}
    assert streams.complaints["lost"] == streams.published > 0


def test_who_was_on_a_host_that_dies_leaves_everywhere(tmp_path: Path) -> None:
    outcome = gathering(tmp_path, 3, Options(seconds=8, workers=1, clients=60, users=20, kill="workers"))
    print(outcome.counts)
    assert outcome.violations == []
    assert outcome.counts["edges"] > 0
    assert outcome.counts["clients died"] > 0
