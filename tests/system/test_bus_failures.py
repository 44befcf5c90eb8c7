"""What goes wrong beneath the bus: processes that hang, files that vanish, limits that are reached, masters that go."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.bench.storm import Options, Publisher, storm
from tests.support.client import Client
from tests.support.cluster import (
    KINDS,
    Crowd,
    Everywhere,
    Kind,
    Peer,
    Stage,
    cluster,
    holders,
    kill,
    processes,
    run_directory,
    settled,
    shards_of,
    spread,
    workers_of,
)
from tests.support.disk import fill, tiny_disk, use_up_files
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import BIN, Server

WORKERS = 3
EACH = pytest.mark.parametrize("kind", KINDS, ids=str)
#: Rounds that others make while one hangs.
ROUNDS = 20
#: Open files of a worker that is to run out of them.
FEW_FILES = 64

_REFUSING = re.compile(r"\[(\d+)\] \[ERROR\] cannot accept connections: ")


def all_work_as_one(server: Server, workers: int = WORKERS) -> bool:
    """What is published through each worker reaches a client on each."""
    with Everywhere(server) as here:
        assert len(here.workers) == workers
        for client in here.clients:
            client.subscribed("as-one")
        for rest in here.rests:
            assert rest.publish("as-one", "e", "x").status == 200
        return all(client.event()["data"] == "x" for client in here.clients for _ in here.rests)


def whole(server: Server, kind: Kind, without: int) -> bool:
    """Whether all are there again, and somebody else in the place of that process."""
    gone = without not in (*workers_of(server), *shards_of(server))
    return gone and settled(server, WORKERS, kind.shards)


def removed(client: Client, user: str) -> None:
    event = client.event()
    assert event["event"] == "pusher_internal:member_removed", event
    assert json.loads(event["data"]) == {"user_id": user}


# --- processes that hang ----------------------------------------------------------------------------------------------


@EACH
def test_a_worker_that_hangs_harms_nobody_and_is_replaced(kind: Kind, tmp_path: Path) -> None:
    more = ("--timeout", "3") if kind.master == "gunicorn" else ()
    env = {"RESONATE_WORKER_TIMEOUT": "3"}
    with cluster(tmp_path, kind, WORKERS, *more, env=env) as server, Everywhere(server) as here:
        for number, client in enumerate(here.clients):
            client.subscribed("news")
            client.subscribed("presence-room", {"user_id": f"user-{number}"})
        for client, later in zip(here.clients, (2, 1, 0), strict=True):
            assert [client.event()["event"] for _ in range(later)] == ["pusher_internal:member_added"] * later
        hanging = here.workers[0]
        kill(hanging, signal.SIGSTOP)
        for number in range(ROUNDS):
            work_on(here, str(number))
        assert hanging in workers_of(server)
        assert here.clients[0].closed() == 1006
        for client in here.clients[1:]:
            removed(client, "user-0")
        eventually(lambda: whole(server, kind, hanging), within=60)
        assert all_work_as_one(server)


def work_on(here: Everywhere, text: str) -> None:
    """All but the first worker serve: pings, and events from one to the other."""
    for client, rest in zip(here.clients[1:], here.rests[1:], strict=True):
        assert client.barrier() == []
        assert rest.publish("news", "e", text).status == 200
        assert [client.event()["data"] for client in here.clients[1:]] == [text] * (WORKERS - 1)


class Health(threading.Thread):
    """Asks a worker for its health without a pause; keeps what it says, without repetitions."""

    def __init__(self, rest: Rest) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []
        self._connection = rest.connection
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self._connection.request("GET", "/up")
            answer = self._connection.getresponse()
            said = (answer.status, answer.read().decode())
            if [said] != self.said[-1:]:
                self.said.append(said)

    def stop(self) -> None:
        self._over.set()
        self.join()


@EACH
def test_a_shard_that_hangs_is_replaced_and_nothing_is_lost(kind: Kind, tmp_path: Path) -> None:
    with cluster(tmp_path, kind, WORKERS, env={"RESONATE_WORKER_TIMEOUT": "2"}) as server, Everywhere(server) as here:
        publisher, health = Publisher(server, "news"), Health(here.rests[0])
        for client in here.clients:
            client.subscribed("news")
            client.subscribed("presence-room", {"user_id": "one"})
        publisher.start()
        health.start()
        try:
            hanging = shards_of(server)
            for shard in hanging:
                kill(shard, signal.SIGSTOP)
            eventually(lambda: not set(shards_of(server)) & set(hanging))
            eventually(lambda: settled(server, WORKERS, kind.shards))
            eventually(lambda: health.said[-1][0] == 200)
        finally:
            publisher.stop()
            health.stop()
        assert publisher.publish()
        assert publisher.failed == {}
        assert any(status == 503 and "shard" in body for status, body in health.said), health.said
        for client in here.clients:
            assert numbers(client, publisher.begun) == publisher.answered
        publisher.close()


def numbers(client: Client, last: int) -> list[int]:
    """What comes until that number; there is nothing else."""
    found = [0]
    while found[-1] != last:
        event = client.event()
        assert event["event"] == "number", event
        found.append(int(event["data"]))
    return found[1:]


# --- files ------------------------------------------------------------------------------------------------------------


@EACH
def test_the_run_directory_is_removed(kind: Kind, tmp_path: Path) -> None:
    with cluster(tmp_path, kind, WORKERS) as server, Everywhere(server) as here:
        for client in here.clients:
            client.subscribed("news")
        path = run_directory(server)
        assert path is not None
        before = files(path)
        shutil.rmtree(path)
        for rest in here.rests:
            assert rest.publish("news", "e", "x").status == 200
            assert [client.event()["data"] for client in here.clients] == ["x"] * WORKERS
        eventually(lambda: files(path) == before)
        assert path.stat().st_mode & 0o777 == 0o700
        for victim in (here.workers[0], shards_of(server)[0]):
            kill(victim)
            eventually(partial(whole, server, kind, victim), within=60)
            assert all_work_as_one(server)
        for client in here.clients[1:]:
            assert client.barrier() == []
    assert not path.exists()
    assert "Traceback" not in server.log()


@EACH
def test_nothing_is_lost_when_the_run_directory_is_removed(kind: Kind, tmp_path: Path) -> None:
    outcome = storm(tmp_path, kind, Options(seconds=8, clients=60, users=20, kill="files"))
    assert outcome.violations == []
    assert outcome.counts["files killed"] > 0


def files(path: Path) -> list[str]:
    """The names of what processes have in a run directory; a lock is made anew when somebody wants it."""
    with suppress(FileNotFoundError):
        return sorted(entry for entry in os.listdir(path) if not entry.startswith("start-"))
    return []


@EACH
def test_the_disk_of_the_run_directory_is_full(kind: Kind, tmp_path: Path) -> None:
    with tiny_disk() as disk, cluster(tmp_path, kind, WORKERS, server={"run_dir": str(disk)}) as server:
        fill(disk)
        assert all_work_as_one(server)
        victim = workers_of(server)[0]
        kill(victim)
        eventually(partial(whole, server, kind, victim), within=60)
        assert all_work_as_one(server)


@EACH
def test_no_file_can_be_made_in_the_run_directory(kind: Kind, tmp_path: Path) -> None:
    """Who is connected stays so, the log says once what is wrong, and it is tried again until it can be done."""
    with tiny_disk() as disk, cluster(tmp_path, kind, WORKERS, server={"run_dir": str(disk)}) as server:
        path = run_directory(server)
        assert path is not None
        before = files(path)
        with Everywhere(server) as here:
            for client in here.clients:
                client.subscribed("news")
            deprive(disk, [path / name for name in before if name.startswith(("w-", "s"))])
            eventually(lambda: server.log().count("Trying again each second") == WORKERS + kind.shards)
            for rest in here.rests:
                assert rest.publish("news", "e", "x").status == 200
                assert [client.event()["data"] for client in here.clients] == ["x"] * WORKERS
            assert server.log().count("Trying again each second") == WORKERS + kind.shards
        for spare in disk.glob("spare-*"):
            spare.unlink()
        eventually(lambda: files(path) == before)
        assert all_work_as_one(server)
    assert "Traceback" not in server.log()


def deprive(disk: Path, paths: list[Path]) -> None:
    """Take these files away, and leave no place on the disk for others."""
    use_up_files(disk)
    for path in paths:
        path.rename(disk / f"spare-{path.name}")


# --- limits -----------------------------------------------------------------------------------------------------------


@EACH
def test_a_worker_runs_out_of_files(kind: Kind, tmp_path: Path) -> None:
    """It says so, serves whom it has, and recovers when clients leave."""
    with few_files(tmp_path, kind) as server:
        with Crowd(server) as crowd:
            talkers = [Talker(crowd) for _ in range(2 * WORKERS * FEW_FILES)]
            inside = exhausted(server, crowd, talkers)
            assert "Raise the limit of open files" in server.log()
            crowd.until(lambda: all(talker.joined for talker in inside))
            talk(crowd, inside, "full")
        assert all_work_as_one(server)
        assert server.log().count("accepting connections again") >= WORKERS
    assert "Traceback" not in server.log()


def test_a_shard_dies_while_workers_are_out_of_files(tmp_path: Path) -> None:
    """Connections that wait to be accepted do not keep a worker from its new shard."""
    kind = Kind("gunicorn", 1)
    with few_files(tmp_path, kind) as server, Crowd(server) as crowd:
        talkers = [Talker(crowd) for _ in range(2 * WORKERS * FEW_FILES)]
        inside = exhausted(server, crowd, talkers)
        crowd.until(lambda: all(talker.joined for talker in inside))
        victim = shards_of(server)[0]
        kill(victim)
        eventually(lambda: set(shard_processes(server)) - {victim})
        crowd.until(lambda: whole(server, kind, victim), within=20)
        talk(crowd, inside, "after")


def test_heirs_run_out_of_files(tmp_path: Path) -> None:
    """They take those for whom they have room. The others are sent away, and nobody is cut."""
    with cluster(tmp_path, Kind("own", 1), 2, server={"drain_timeout": 2}) as server, Crowd(server) as crowd:
        talkers = [Talker(crowd) for _ in range(2 * FEW_FILES)]
        crowd.until(lambda: all(talker.joined for talker in talkers))
        master, old = server.process.pid, workers_of(server)
        resource.prlimit(master, resource.RLIMIT_NOFILE, (FEW_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        os.kill(master, signal.SIGHUP)
        crowd.until(lambda: not set(old) & set(processes(server)))
        inside = [talker for talker in talkers if talker.stage is Stage.ESTABLISHED]
        crowd.until(lambda: all(talker in inside or talker.stage is Stage.CLOSED for talker in talkers))
        assert {talker.code for talker in talkers if talker not in inside} == {4200}
        assert 5 < len(inside) < FEW_FILES
        talk(crowd, inside, "after")
        assert server.log().count("no descriptors are left for connections of other workers") == 2
        assert "src/ipc_listener" not in server.log()  # libzmq's last words


def shard_processes(server: Server) -> list[int]:
    """Also those that have no inbox yet."""
    return [pid for pid in processes(server) if b"resonate.bus" in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Nothing where that process has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextmanager
def few_files(directory: Path, kind: Kind) -> Iterator[Server]:
    """A server whose processes may have no more than FEW_FILES open."""
    words = [str(BIN / word) if number == 0 else word for number, word in enumerate(kind.command(WORKERS))]
    command = ["/bin/sh", "-c", f"ulimit -n {FEW_FILES}; exec {' '.join(words)}"]
    with Server(directory, command=command, env={"RESONATE_BUS_SHARDS": str(kind.shards)}) as server:
        eventually(lambda: spread(server, kind, WORKERS))
        yield server


def exhausted(server: Server, crowd: Crowd, talkers: list[Talker]) -> list[Talker]:
    """Wait until every worker has run out of files; those that are in."""
    crowd.until(lambda: len(set(_REFUSING.findall(server.log()))) == WORKERS)
    accepted = holders(server, [talker.socket for talker in talkers])
    return [talker for talker, worker in zip(talkers, accepted, strict=True) if worker]


class Talker(Peer):
    """Keeps what others say on a private channel."""

    def __init__(self, crowd: Crowd) -> None:
        self.joined = False
        self.heard_texts: list[str] = []
        super().__init__(crowd)

    def established(self) -> None:
        self.subscribe("private-full")

    def heard(self, event: dict[str, Any]) -> None:
        self.joined = True
        if event["event"] == "client-say":
            self.heard_texts.append(event["data"]["text"])


def talk(crowd: Crowd, talkers: list[Talker], text: str) -> None:
    """Nobody new can come in to publish: one of those who are in does, and all others hear it."""
    speaker, *others = talkers
    speaker.send("client-say", {"text": text}, channel="private-full")
    crowd.until(lambda: all(other.heard_texts[-1:] == [text] for other in others))


# --- the end ----------------------------------------------------------------------------------------------------------


@EACH
def test_the_master_is_killed(kind: Kind, tmp_path: Path) -> None:
    with cluster(tmp_path, kind, WORKERS) as server:
        everybody_leaves(server, lambda: kill(server.process.pid))
        assert server.process.wait(30) == -signal.SIGKILL


@EACH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_whole_group_is_told_to_stop(kind: Kind, number: signal.Signals, tmp_path: Path) -> None:
    """A terminal tells all of them, and so does a process manager that is not told otherwise."""
    with cluster(tmp_path, kind, WORKERS) as server:
        everybody_leaves(server, lambda: os.killpg(server.process.pid, number))
        assert server.process.wait(30) == 0
    assert "Traceback" not in server.log()


def everybody_leaves(server: Server, told: Callable[[], None]) -> None:
    """Clients are closed with 4200; no process and no file is left."""
    path = run_directory(server)
    assert path is not None
    with Crowd(server) as crowd:
        peers = [Peer(crowd) for _ in range(WORKERS * 10)]
        crowd.until(lambda: all(peer.stage is Stage.ESTABLISHED for peer in peers))
        told()
        crowd.until(lambda: all(peer.stage is Stage.CLOSED for peer in peers))
        assert {peer.code for peer in peers} == {4200}
    eventually(lambda: server.process.poll() is not None)
    eventually(lambda: not processes(server))
    assert not path.exists()
