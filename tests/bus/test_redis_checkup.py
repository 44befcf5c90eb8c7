"""What is found of a real Redis, and that nothing in it has changed."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import redis

from resonate.bus import redis_scripts
from resonate.bus.redis_checkup import (
    PINGS,
    Checkup,
    CheckupError,
    connection,
    examine,
    words_of_hosts,
    words_of_restarts,
)
from resonate.scaling import Redis, Scaling
from resonate.settings import Server
from tests.support.redis import RedisServer
from tests.support.redis_groups import SERVICE, RedisCluster, Sentinels, in_directory
from tests.support.server import free_port

DECISION = (Path(__file__).parents[2] / "docs/decisions/redis.md").read_text()
NEEDED = [*words_of_hosts(Scaling()), *words_of_restarts(["laravel:reverb:restart"])]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True) as made:
        yield made
        made.execute_command("ACL", "DELUSER", "limited")
        made.execute_command("ACL", "SETUSER", "default", "nopass")


def checkup(server: RedisServer, **settings: object) -> Checkup:
    place = Redis(port=server.port, **settings)  # type: ignore[arg-type]
    made, _ = connection(Server(scaling=Scaling(enabled=True, redis=place)), True)
    return examine(made, NEEDED)


def test_a_good_one(server: RedisServer, client: redis.Redis) -> None:
    found = checkup(server)
    assert found.name == f"Redis {client.info()['redis_version']}"
    assert found.version >= (6, 2)
    assert found.denied == {}
    assert (len(found.waits_s), min(found.waits_s) > 0) == (PINGS, True)
    assert abs(found.ahead_s or 0) < 10
    assert found.info["cluster_enabled"] == "0"
    assert found.settings["maxmemory-policy"] == "noeviction"
    assert found.settings["save"] == ""


def test_nothing_has_changed(server: RedisServer, client: redis.Redis) -> None:
    client.flushall()
    checkup(server)
    assert client.dbsize() == 0


def test_its_clock_is_compared_with_ours(server: RedisServer, client: redis.Redis) -> None:
    made, _ = connection(Server(scaling=Scaling(redis=Redis(port=server.port))), True)
    seconds, _ = client.time()
    found = examine(made, [], clock=lambda: seconds - 100.0, ticks=count().__next__)
    assert 100 <= (found.ahead_s or 0) < 130
    assert found.waits_s == (1,) * PINGS


def test_a_user_without_scripts(server: RedisServer, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "limited", "on", ">hunter2", "~*", "&*", "+@all", "-@scripting")
    found = checkup(server, username="limited", password="hunter2")
    assert set(found.denied) == {"SCRIPT LOAD", "EVALSHA"}


def test_a_user_of_other_keys(server: RedisServer, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "limited", "on", ">hunter2", "~other:*", "resetchannels", "+@all")
    found = checkup(server, username="limited", password="hunter2")
    assert {"XADD", "HSET", "PUBLISH", "SUBSCRIBE", "MSET"} <= set(found.denied)
    assert "PING" not in found.denied


def test_a_user_from_whom_much_is_hidden(server: RedisServer, client: redis.Redis) -> None:
    """INFO and CONFIG are dangerous, for Redis."""
    client.execute_command("ACL", "SETUSER", "limited", "on", ">hunter2", "~*", "&*", "+@all", "-@dangerous")
    found = checkup(server, username="limited", password="hunter2")
    assert (found.settings, set(found.info), found.denied) == ({}, {"cluster_enabled"}, {})
    assert found.version >= (6, 2)  # it says so when it is greeted


def test_commands_that_have_been_taken_away(server: RedisServer) -> None:
    made, _ = connection(Server(scaling=Scaling(redis=Redis(port=server.port))), True)
    assert set(examine(made, [("NOSUCH", "x"), ("PING",)]).denied) == {"NOSUCH"}


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_password_is_wanted(server: RedisServer, client: redis.Redis, password: str | None) -> None:
    client.execute_command("ACL", "SETUSER", "default", "resetpass", ">hunter2")
    with pytest.raises(CheckupError) as raised:
        checkup(server, password=password)
    assert raised.value.refused
    assert not any(secret in str(raised.value) for secret in ("hunter2", "wrong"))


def test_a_password_that_redis_quotes_is_not_told(tmp_path: Path) -> None:
    """It quotes the words of a command that it does not know."""
    with RedisServer(tmp_path, "--rename-command", "AUTH", "another") as server, pytest.raises(CheckupError) as raised:
        checkup(server, password="hunter2")
    assert "unknown command" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_nor_where_a_sentinel_quotes_it(server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        quoting = threading.Thread(target=_quote, args=(listening,), daemon=True)
        quoting.start()
        place = Redis(sentinel_master="main", sentinels=(f"127.0.0.1:{listening.getsockname()[1]}",))
        with pytest.raises(CheckupError) as raised:
            connection(Server(scaling=Scaling(enabled=True, redis=place)), True)
        quoting.join(20)
    assert "nobody says where it is: unknown command" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def _quote(listening: socket.socket) -> None:
    """Answer each command of one client with an error that quotes a password."""
    peer, _ = listening.accept()
    with peer:
        while peer.recv(4096):
            peer.sendall(b"-ERR unknown command 'x', with args beginning with: 'hunter2' \r\n")


def test_nobody_there() -> None:
    made, place = connection(Server(scaling=Scaling(redis=Redis(port=(port := free_port())))), True)
    with pytest.raises(CheckupError) as raised:
        examine(made, [])
    assert (raised.value.refused, f":{port}" in place) == (False, True)


def test_no_redis_there() -> None:
    """A server of something else, which greets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        made, _ = connection(Server(scaling=Scaling(redis=Redis(port=port))), True)

        def greet() -> None:
            with listening.accept()[0] as sock:
                sock.sendall(b"SSH-2.0-OpenSSH\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        with pytest.raises(CheckupError):
            examine(made, [])
        greeting.join()


def test_a_database_that_is_not_there(server: RedisServer) -> None:
    with pytest.raises(CheckupError, match="DB index"):
        checkup(server, database=9999)


def test_the_restart_key_is_where_laravel_finds_its_redis() -> None:
    settings = Redis(host="10.0.0.1", database=3)
    assert connection(Server(scaling=Scaling(redis=settings)), True)[1] == "10.0.0.1:6379, database 3"
    assert connection(Server(scaling=Scaling(redis=settings)), False)[1] == "10.0.0.1:6379, database 1"


def test_all_that_scripts_do_is_asked_for() -> None:
    used = {name for script in redis_scripts.ALL for name in re.findall(r"redis\.call\('(\w+)'", script.text)}
    assert len(used) > 10
    asked = {"|".join(words[:2]) if words[0] == "SCRIPT" else words[0] for words in words_of_hosts(Scaling())}
    assert used <= asked
    documented = {rule[1:].upper() for rule in DECISION.split("```")[1].split() if rule.startswith("+")}
    assert documented - asked == {"SELECT"}, "which is asked by connecting"


def test_keys_are_those_of_the_prefix() -> None:
    keys = [words[1] for words in words_of_hosts(Scaling(prefix="shop")) if len(words) > 1 and ":" in words[1]]
    assert len(keys) > 15
    assert all(key.startswith("shop:") for key in keys)


def test_no_sentinel_answers() -> None:
    place = Redis(sentinel_master="main", sentinels=(f"127.0.0.1:{free_port()}",))
    with pytest.raises(CheckupError, match="nobody says where it is: "):
        connection(Server(scaling=Scaling(redis=place)), True)


def test_a_cluster(tmp_path: Path) -> None:
    with RedisCluster(in_directory(tmp_path)) as cluster:
        place = Redis(port=cluster.servers[0].port, cluster=True)
        server = Server(scaling=Scaling(enabled=True, redis=place))
        found = examine(connection(server, True)[0], words_of_hosts(server.scaling))
    assert (found.info["cluster_enabled"], found.info["cluster_state"]) == ("1", "ok")
    assert found.denied == {}  # keys of other nodes are no matter of rights


def test_the_master_of_sentinels(tmp_path: Path) -> None:
    with Sentinels(in_directory(tmp_path), replicas=1, sentinels=1) as group:
        addresses = tuple(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
        place = Redis(sentinel_master=SERVICE, sentinels=addresses)
        made, named = connection(Server(scaling=Scaling(enabled=True, redis=place)), True)
        assert named == f"127.0.0.1:{group.servers[0].port}, database 0"
        assert examine(made, NEEDED).info["role"] == "master"
