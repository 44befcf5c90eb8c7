"""A shard process, spoken to as a worker would: over its sockets, as a process that may die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from resonate.bus.directory import pid_of
from resonate.bus.spawn import spawn
from resonate.encoding import encode
from resonate.messages import (
    Batch,
    Beat,
    Declaration,
    Describe,
    Described,
    Expel,
    Hello,
    Member,
    MemberAdded,
    MemberRemoved,
    Parcel,
    Publication,
    Publish,
    Subscribe,
    Subscribed,
    Terminate,
    Unsubscribe,
)
from resonate.scaling import Redis, Scaling
from resonate.shard.ledger import NOTHING
from resonate.version import PROTOCOL
from tests.bus.support import ROOT, Place, RawWorker, ShardProcess
from tests.support.eventually import eventually


def greeted(place: Place, shard: str, declaration: Declaration = NOTHING) -> RawWorker:
    """A worker that the shard knows."""
    worker = place.worker(shard)
    worker.send(Hello(worker.name, declaration))
    assert worker.receive().number == 1
    return worker


def subscribe(channel: str, user: int | None = None) -> Subscribe:
    member = None if user is None else Member(str(user), {"user_id": user, "user_info": None})
    return Subscribe("app", channel, "1.1", 1, member)


def ended(shard: ShardProcess) -> int:
    """Its status, when it has left by itself."""
    return shard.process.wait(20)


# --- the ordinary course ---------------------------------------------------------------------------------------------


def test_a_worker_says_hello_and_is_answered(place: Place) -> None:
    _, name = place.ready_shard()
    worker = place.worker(name)
    worker.send(Hello(worker.name, NOTHING))
    assert worker.receive() == Parcel(name, 1, 0, [], [], [])
    worker.send(Batch(worker.name, 1, 1, [subscribe("a"), Publish(0, "app", "a", b"e", None, 0)]))
    parcel = worker.receive()
    assert [stamped.events for stamped in parcel.events] == [
        [Subscribed("app", "a", "1.1", 1, None, None)],
        [Publication("app", "a", b"e", None, 0)],
    ]
    assert [(ack.seq, ack.size) for ack in parcel.acks] == [(2, 2)]


def test_it_beats_each_second(place: Place) -> None:
    _, name = place.ready_shard()
    worker = greeted(place, name)
    assert worker.receive() == Parcel(name, 2, 0, [], [], [])


def test_events_reach_every_worker_that_cares(place: Place) -> None:
    _, name = place.ready_shard()
    one, other = greeted(place, name), greeted(place, name)
    one.send(Batch(one.name, 1, 1, [subscribe("p", 1)]))
    assert isinstance(one.event(), Subscribed)
    other.send(Batch(other.name, 1, 1, [subscribe("p", 2)]))
    assert isinstance(other.event(), Subscribed)
    assert isinstance(one.event(), MemberAdded)
    other.send(Batch(other.name, 1, 2, [Terminate(0, "app", "1")]))
    assert one.event() == Expel("app", "1")


def test_its_inbox_is_for_its_owner_alone(place: Place) -> None:
    _, name = place.ready_shard()
    assert place.directory.path.stat().st_mode & 0o077 == 0
    assert place.directory.file(name).is_socket()


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_what_a_dead_worker_held_is_given_up(place: Place) -> None:
    _, name = place.ready_shard()
    one, mortal = greeted(place, name), place.bystander()
    other = place.worker(name, mortal)
    other.send(Hello(other.name, NOTHING))
    one.send(Batch(one.name, 1, 1, [subscribe("p", 1)]))
    one.event()
    other.send(Batch(other.name, 1, 1, [subscribe("p", 2)]))
    assert isinstance(one.event(), MemberAdded)
    mortal.die()
    assert one.event() == MemberRemoved("app", "p", 2)
    assert not place.directory.file(other.name).exists()


def test_it_waits_for_the_workers_that_it_finds(place: Place) -> None:
    """A successor: both are there before it is, and nothing is answered before both have said what they hold."""
    mortal = place.bystander()
    one, other = place.worker(), place.worker(of=mortal)
    _, name = place.ready_shard()
    one.connect(name)
    one.send(Hello(one.name, replace(NOTHING, requests=[Describe(1, "app", "a")])))
    assert one.receive() == Parcel(name, 1, -1, [], [], [])
    other.connect(name)
    other.send(Hello(other.name, NOTHING))
    assert isinstance(one.event(), Described)


def test_it_does_not_wait_for_the_dead(place: Place) -> None:
    mortal = place.bystander()
    one = place.worker()
    place.worker(of=mortal)
    _, name = place.ready_shard()
    one.connect(name)
    one.send(Hello(one.name, replace(NOTHING, requests=[Describe(1, "app", "a")])))
    assert one.receive().events == []
    mortal.die()
    assert isinstance(one.event(), Described)


def test_a_worker_that_does_not_say_what_it_holds_is_killed(place: Place) -> None:
    silent = place.bystander()
    one = place.worker()
    place.worker(of=silent)
    shard, name = place.ready_shard(timeout_s=0.5)
    one.connect(name)
    one.send(Hello(one.name, replace(NOTHING, requests=[Describe(1, "app", "a")])))
    assert isinstance(one.event(), Described)
    assert f"killing worker {pid_of(silent.worker)}: it does not say what it holds" in shard.log


def test_files_of_the_dead_are_swept_at_the_start(place: Place) -> None:
    dead = place.bystander()
    dead.die()
    place.directory.file(dead.worker).touch()
    place.ready_shard()
    assert not place.directory.file(dead.worker).exists()


# --- one shard of a number -------------------------------------------------------------------------------------------


def test_a_second_shard_of_the_same_number_leaves_at_once(place: Place) -> None:
    first, name = place.ready_shard()
    second = place.shard()
    assert ended(second) == 0
    assert first.lives
    assert place.directory.shard(0) == name
    greeted(place, name)


def test_there_is_one_of_each_number(place: Place) -> None:
    _, zero = place.ready_shard(0)
    _, one = place.ready_shard(1)
    assert place.directory.shard(0) == zero
    assert place.directory.shard(1) == one


def test_the_seat_is_free_when_a_shard_has_been_killed(place: Place) -> None:
    first, name = place.ready_shard()
    first.kill()
    _, successor = place.ready_shard()
    assert successor != name
    greeted(place, successor)
    assert not place.directory.file(name).exists()


def test_nobody_else_can_take_a_seat_that_is_taken(place: Place) -> None:
    place.ready_shard()
    with socket.socket(socket.AF_UNIX) as seat, pytest.raises(OSError, match="in use"):
        seat.bind(place.directory.seat(0))


# --- what should not come --------------------------------------------------------------------------------------------


def test_garbage_is_logged_and_dropped_and_it_lives_on(place: Place) -> None:
    shard, name = place.ready_shard()
    worker = greeted(place, name)
    again, foreign = encode(Hello(worker.name, NOTHING)), encode(Parcel(name, 1, 1, [], [], []))
    garbage = [b"", b"garbage", b"\xff" * 70_000, again, foreign]
    for data in garbage:
        worker.send(data)
    worker.send(Batch(worker.name, 1, 1, [Publish(7, "app", "a", b"e", None, 0, info=True)]))
    assert isinstance(worker.event(), Described)
    assert shard.log.count("dropped a frame") == len(garbage)
    assert "Traceback" not in shard.log


@pytest.mark.parametrize("stranger", ["", "nobody", "w-x-1", "w-0-1", "w-99999999999-1", "w-1-" + "9" * 200, "../../x"])
def test_a_frame_of_somebody_with_no_name_is_dropped_and_it_lives_on(place: Place, stranger: str) -> None:
    shard, name = place.ready_shard()
    worker = greeted(place, name)
    worker.send(Beat(stranger, 0, None))
    worker.send(Batch(worker.name, 1, 1, [Describe(7, "app", "a")]))
    eventually(lambda: worker.is_told or not shard.lives)
    assert shard.lives, shard.log
    assert isinstance(worker.event(), Described)


def test_a_request_that_fails_is_logged_and_it_lives_on(place: Place) -> None:
    shard, name = place.ready_shard()
    worker = greeted(place, name)
    worker.send(Batch(worker.name, 1, 1, [Unsubscribe("app", "nowhere", None), Describe(7, "app", "a")]))
    assert isinstance(worker.event(), Described)
    eventually(lambda: "KeyError" in shard.log)
    assert "a request could not be handled" in shard.log
    assert shard.lives


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_it_leaves_when_master_and_workers_have_gone_and_takes_the_directory_with_it(place: Place) -> None:
    shard, name = place.ready_shard()
    mortal = place.bystander()
    worker = place.worker(name, mortal)
    worker.send(Hello(worker.name, NOTHING))
    place.master.die()
    for number in (1, 2):  # it beats on
        assert worker.receive().number == number
    assert shard.lives
    mortal.die()
    assert ended(shard) == 0
    assert not place.directory.path.exists()
    assert shard.log == ""


def test_it_leaves_for_a_master_that_had_gone_before_it_came(place: Place) -> None:
    place.master.die()
    shard = place.shard()
    assert ended(shard) == 0
    assert not place.directory.path.exists()


def test_asked_to_leave_it_stays_as_long_as_a_worker_lives(place: Place) -> None:
    shard, name = place.ready_shard()
    mortal = place.bystander()
    worker = place.worker(name, mortal)
    worker.send(Hello(worker.name, NOTHING))
    assert worker.receive().number == 1
    shard.process.send_signal(signal.SIGTERM)
    for number in (2, 3):
        assert worker.receive().number == number
    mortal.die()
    assert ended(shard) == 0
    assert place.directory.path.exists(), "the master lives, and it is its directory"
    assert not place.directory.file(name).exists()


def test_asked_to_leave_as_soon_as_it_is_found_it_stays_for_the_workers(place: Place) -> None:
    mortal = place.bystander()
    shard = place.shard()
    name = eventually(lambda: place.directory.shard(0), every=0.0001)
    late = place.worker(name, mortal)
    shard.process.send_signal(signal.SIGTERM)
    late.send(Hello(late.name, NOTHING))
    eventually(lambda: late.is_told or not shard.lives)
    assert shard.lives, "it is there, so it can be told anything"
    for number in (1, 2):
        assert late.receive().number == number
    mortal.die()
    assert ended(shard) == 0


def test_a_terminal_s_signals_are_for_the_workers(place: Place) -> None:
    shard, name = place.ready_shard()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        shard.process.send_signal(number)
    greeted(place, name)
    assert shard.lives


# --- another master follows ------------------------------------------------------------------------------------------


def test_it_stays_for_the_master_that_has_followed_its_own(place: Place) -> None:
    follower, mortal = place.bystander(), place.bystander()
    shard, name = place.ready_shard()
    worker = place.worker(name, mortal)
    worker.send(Hello(worker.name, NOTHING))
    assert worker.receive().number == 1
    place.own(follower)
    place.master.die()
    mortal.die()
    greeted(place, name)
    assert shard.lives


def test_it_leaves_with_the_master_that_has_followed_its_own(place: Place) -> None:
    follower = place.bystander()
    shard, _ = place.ready_shard()
    place.own(follower)
    place.master.die()
    follower.die()
    assert ended(shard) == 0
    assert not place.directory.path.exists()


def test_the_shard_of_another_master_serves_until_it_is_replaced(place: Place) -> None:
    shard, name = place.ready_shard()
    worker = greeted(place, name)
    assert ended(place.shard()) == 0  # who may not replace it leaves
    assert worker.receive().shard == name
    successor = place.shard(0, 30, "--replace")
    assert ended(shard) == -signal.SIGKILL
    other = str(eventually(lambda: place.directory.shard(0)))
    assert pid_of(other) == successor.process.pid
    assert not place.directory.file(name).exists()
    assert f"takes the place of another (pid {shard.process.pid})" in successor.log


def test_a_shard_that_has_no_inbox_yet_is_waited_for_and_replaced(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as seat:
        seat.bind(place.directory.seat(0))
        successor = place.shard(0, 30, "--replace")
        plain = place.shard(0)
        assert ended(plain) == 0
        assert place.directory.shard(0) is None
        assert successor.lives
    assert eventually(lambda: place.directory.shard(0)) is not None


# --- a directory that vanishes ---------------------------------------------------------------------------------------


def test_a_directory_that_has_vanished_is_made_anew(place: Place) -> None:
    shard, name = place.ready_shard()
    worker = greeted(place, name)
    place.directory.remove()
    eventually(lambda: place.directory.file(name).is_socket())
    eventually(lambda: "had vanished, and has been made anew" in shard.log)
    assert place.directory.path.stat().st_mode & 0o777 == 0o700
    worker.send(Batch(worker.name, 1, 1, [Describe(7, "app", "a")]))
    assert isinstance(worker.event(), Described), "who is connected stays so"
    greeted(place, name)


def test_it_does_not_keep_what_it_was_started_with(place: Place) -> None:
    """Listening sockets of whoever has started it would stay open with it."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    pid = spawn(place.directory, 0, 30, "text", Scaling(), 1800)
    try:
        name = eventually(lambda: place.directory.shard(0))
        assert name is not None
        assert pid_of(name) == pid
        held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        assert os.readlink(f"/proc/self/fd/{writing}") not in held
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    finally:
        os.close(reading)
        os.close(writing)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_it_is_told_of_other_hosts_is_seen_by_nobody(place: Place) -> None:
    scaling = Scaling(enabled=True, redis=Redis(password="hunter2"), secret="hunter2-and-hunter2")
    pid = spawn(place.directory, 0, 30, "text", scaling, 1800)
    try:
        eventually(lambda: place.directory.shard(0))
        told = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert b"--scaled" in told
        assert b"hunter2" not in told
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull, "it has been read"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_it_is_told_all_of_it() -> None:
    scaling = Scaling(enabled=True, redis=Redis(password="hunter2"), patience=0.5)
    program = "from resonate.bus.spawn import told; print(repr(told().plain()))"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        input=json.dumps(scaling.plain()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == repr(scaling.plain())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"redis": 1}', '{"redis": {}, "lease": 0}'])
def test_what_cannot_be_understood_is_not_what_it_is_told(place: Place, text: str) -> None:
    words = [sys.executable, "-m", "resonate.bus", str(place.directory.path), "0", "30", "text", str(PROTOCOL)]
    done = subprocess.run([*words, "--scaled"], cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "shard 0 cannot start: what it is told of scaling cannot be understood" in done.stderr
    assert "Traceback" not in done.stderr
