"""Workers that see to it among themselves that there is a shard."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resonate.bus.directory import RunDirectory, pid_of
from resonate.bus.starter import PATIENCE_S, ShardStarter
from resonate.scaling import Scaling
from tests.bus.support import ROOT, Place
from tests.support.eventually import eventually

LOG = logging.getLogger("test")

#: A worker that has the lock, cannot start anything, and waits to be killed.
STUCK = """
import logging, sys
from pathlib import Path
from resonate.bus.directory import RunDirectory
from resonate.bus.starter import ShardStarter
from resonate.scaling import Scaling
sys.executable = sys.argv[2]
ShardStarter(RunDirectory(Path(sys.argv[1])), 30, "text", Scaling(), 1800, logging.getLogger()).start(0)
print("ready", flush=True)
sys.stdin.read()
"""


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


@pytest.fixture
def starters(place: Place) -> Iterator[list[ShardStarter]]:
    """Those of two workers."""
    before = children()
    yield [ShardStarter(place.directory, 30, "text", Scaling(), 1800, LOG) for _ in range(2)]
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def shard(directory: RunDirectory, other_than: str = "") -> str:
    """The name of a living shard 0."""
    name = eventually(lambda: (found := directory.shard(0)) != other_than and found)
    assert isinstance(name, str)
    return name


def test_two_starters_start_one_shard(place: Place, starters: list[ShardStarter]) -> None:
    before = children()
    for _ in range(3):
        for starter in starters:
            starter.start(0)
    name = shard(place.directory)
    assert children() - before == {pid_of(name)}


def test_each_number_is_started(place: Place, starters: list[ShardStarter]) -> None:
    one, other = starters
    one.start(0)
    other.start(1)
    one.start(1)
    eventually(lambda: place.directory.shard(0) and place.directory.shard(1))


def test_a_shard_that_has_died_is_followed_by_another(
    place: Place, starters: list[ShardStarter], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = starters
    one.start(0)
    first = shard(place.directory)
    one.beat()  # the lock is free again
    os.kill(pid_of(first), signal.SIGKILL)
    eventually(lambda: place.directory.shard(0) is None)
    other.start(0)
    assert shard(place.directory, first) != first
    one.beat()
    assert f"shard 0 (pid {pid_of(first)}) has ended: -9" in caplog.text


def test_who_has_seen_its_shard_die_may_start_at_once(place: Place, starters: list[ShardStarter]) -> None:
    one, _ = starters
    one.start(0)
    first = shard(place.directory)
    os.kill(pid_of(first), signal.SIGKILL)

    def another() -> bool:
        one.beat()
        one.start(0)
        return place.directory.shard(0) not in (None, first)

    eventually(another, within=PATIENCE_S - 1)


def test_while_somebody_else_is_about_to_start_it_one_waits(place: Place, starters: list[ShardStarter]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, place.directory.path, "/bin/true"],  # what it starts ends at once
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as stuck:
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == b"ready\n"
        before = children()
        starters[0].start(0)
        assert children() == before
        stuck.kill()
    starters[0].start(0)
    shard(place.directory)


def test_where_no_lock_can_be_made_the_seat_must_do(place: Place, starters: list[ShardStarter]) -> None:
    before = children()
    place.directory.remove()
    for starter in starters:
        starter.start(0)
    name = shard(place.directory)

    def one_is_left() -> bool:
        for starter in starters:
            starter.beat()
        return children() - before == {pid_of(name)}

    eventually(one_is_left)


def test_what_cannot_be_started_is_said(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    script = STUCK.replace('print("ready", flush=True)\nsys.stdin.read()', "")
    done = subprocess.run(
        [sys.executable, "-c", script, place.directory.path, "/nonexistent"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shard 0 cannot be started" in done.stderr
