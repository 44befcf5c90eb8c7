"""What is said of a Redis, by what is known of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resonate.supervisor.doctor import redis as doctor
from resonate.supervisor.doctor.findings import Finding

from resonate.bus.redis_checkup import Checkup, CheckupError
from resonate.scaling import Redis, Scaling
from resonate.settings import Server
from tests.supervisor.doctor.cases import case, levels, machine, only

GOOD = Checkup(
    name="Redis 7.0.15",
    version=(7, 0, 15),
    info={"role": "master", "cluster_enabled": "0", "maxmemory": "0", "used_memory": "1000000"},
    settings={
        "maxmemory-policy": "noeviction",
        "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
        "save": "3600 1",
        "appendonly": "no",
    },
    waits_s=(0.0001, 0.0002, 0.0003),
    ahead_s=0.01,
    denied={},
)
HOSTS = Server(scaling=Scaling(enabled=True))
CLUSTER = Server(scaling=Scaling(enabled=True, redis=Redis(cluster=True)))
RESTARTS = Server(restart_store="redis")


def use(server: Server) -> doctor.Use:
    return doctor.Use(server, server.scaling.enabled)


def bad(server: Server = HOSTS, **differs: Any) -> list[Finding]:
    """What is not as it should be with a Redis that differs so from a good one; parts of mappings are enough."""
    for name in ("info", "settings"):
        differs[name] = {**getattr(GOOD, name), **differs.get(name, {})}
    found = list(doctor.judged("127.0.0.1:6379", replace(GOOD, **differs), use(server)))
    levels(found)
    return [finding for finding in found if finding.level.value != "ok"]


def judged(server: Server = HOSTS, **differs: Any) -> str:
    """The level of the only one of them."""
    (finding,) = bad(server, **differs)
    return finding.level.value


def test_a_good_one() -> None:
    assert bad() == bad(RESTARTS) == []


def test_nothing_is_wanted_of_it(tmp_path: Path) -> None:
    assert only(doctor.redis(case(machine(tmp_path)))).level.value == "note"


@pytest.mark.parametrize(("server", "level"), [(HOSTS, "problem"), (RESTARTS, "warning")])
@pytest.mark.parametrize(("refused", "remedy"), [(True, "REDIS_PASSWORD"), (False, "REDIS_HOST")])
def test_it_cannot_be_asked(server: Server, level: str, refused: bool, remedy: str) -> None:
    finding = doctor.unreachable("127.0.0.1:6379", CheckupError("why", refused), use(server))
    assert levels([finding]) == [level]
    assert remedy in finding.remedy


def test_rights() -> None:
    keys = "this user has no permissions to access one of the keys used as arguments"
    (finding,) = bad(denied={"SCRIPT LOAD": "run the command", "EVALSHA": "run the command", "XADD": keys})
    assert finding.level.value == "problem"
    assert finding.what == "its user may not: SCRIPT LOAD, EVALSHA, XADD"
    assert "ACL SETUSER ... +script|load +evalsha ~reverb:* &reverb:*" in finding.remedy


def test_rights_that_cannot_be_looked_at() -> None:
    assert judged(denied={"MULTI": "no permissions"}) == "note"
    found = bad(denied={"MULTI": "no permissions", "SCRIPT LOAD": "no permissions"})
    assert [each.level.value for each in found] == ["note", "problem"]


@pytest.mark.parametrize(("wait_s", "level"), [(0.006, "warning"), (2.5, "problem")])
def test_latency(wait_s: float, level: str) -> None:
    assert judged(waits_s=(wait_s, wait_s, 0.0001)) == level


def test_one_slow_answer_is_no_matter() -> None:
    assert bad(waits_s=(0.0001, 0.0001, 1.0)) == []


@pytest.mark.parametrize(("ahead_s", "said"), [(3.5, "3.5 s before"), (-3.5, "3.5 s behind")])
def test_clocks(ahead_s: float, said: str) -> None:
    (finding,) = bad(RESTARTS, ahead_s=ahead_s)
    assert finding.level.value == "warning"
    assert said in finding.what
    assert "600 s" in finding.why


def test_a_clock_that_is_hidden() -> None:
    assert judged(ahead_s=None) == "note"


@pytest.mark.parametrize("server", [HOSTS, RESTARTS])
def test_a_replica(server: Server) -> None:
    assert judged(server, info={"role": "slave"}) == "problem"


@pytest.mark.parametrize(("version", "level"), [((6, 0, 16), "problem"), ((), "note")])
def test_versions(version: tuple[int, ...], level: str) -> None:
    assert judged(version=version) == level


def test_versions_that_will_do() -> None:
    assert bad(version=(6, 2)) == bad(version=(8, 1, 0)) == []
    assert judged(CLUSTER, version=(6, 2, 7), info={"cluster_enabled": "1"}) == "warning"


def test_a_cluster_or_none() -> None:
    assert bad(CLUSTER, info={"cluster_enabled": "1", "cluster_state": "ok"}) == []
    assert judged(CLUSTER, info={"cluster_enabled": "1", "cluster_state": "fail"}) == "problem"
    assert judged(HOSTS, info={"cluster_enabled": "1"}) == "problem"
    assert judged(CLUSTER) == "problem"


@pytest.mark.parametrize(
    ("policy", "most", "level"),
    [("allkeys-lru", "0", "warning"), ("allkeys-lru", "9000000", "problem"), ("volatile-ttl", "9000000", "warning")],
)
def test_what_may_be_thrown_away(policy: str, most: str, level: str) -> None:
    (finding,) = bad(settings={"maxmemory-policy": policy}, info={"maxmemory": most})
    assert finding.level.value == level
    assert finding.remedy.startswith("redis-cli CONFIG SET maxmemory-policy noeviction")
    assert bad(RESTARTS, settings={"maxmemory-policy": policy}) == []


@pytest.mark.parametrize(("used", "level"), [("95", "warning"), ("100", "problem")])
def test_full(used: str, level: str) -> None:
    assert judged(info={"maxmemory": "100", "used_memory": used}) == level


def test_buffers_for_subscribers() -> None:
    assert judged(settings={"client-output-buffer-limit": "normal 0 0 0 pubsub 1048576 0 0"}) == "warning"
    assert bad(settings={"client-output-buffer-limit": "normal 0 0 0 pubsub 0 0 0"}) == []


def test_what_is_lost_when_it_restarts() -> None:
    assert judged(settings={"save": "", "appendonly": "no"}) == "note"
    assert bad(settings={"save": "", "appendonly": "yes"}) == []


def test_one_that_hides_its_settings() -> None:
    hidden = replace(GOOD, settings={}, info={})
    found = doctor.judged("127.0.0.1:6379", hidden, use(HOSTS))
    assert [level for level in levels(found) if level != "ok"] == ["note"]
