"""One restart for one change of the key, whoever looks, with a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from resonate.bus.restart_key import RedisError, RestartKey
from resonate.bus.restart_watch import RestartWatch, memory, unnoticed
from resonate.scaling import Redis, Scaling
from resonate.settings import Server
from tests.bus.support import Place
from tests.support.redis import RedisServer

UNDERSCORED = "shop_database_shop_cache_laravel:reverb:restart"
HYPHENED = "shop-database-shop-cache-laravel:reverb:restart"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def cached(app: str, redis: RedisServer) -> Server:
    """Settings of an application whose cache is in that Redis."""
    return Server(restart_store="redis", restart_app_name=app, scaling=Scaling(redis=Redis(port=redis.port)))


class Host:
    """The workers of one master, as far as they look."""

    def __init__(self, place: Place, redis: RedisServer) -> None:
        self.directory = place.directory
        self.server = cached("Shop", redis)
        self.asked = 0
        self.deaf = False

    def worker(self) -> RestartWatch:
        return RestartWatch(self.directory, RestartKey(self.server), self.act)

    def act(self) -> None:
        if self.deaf:
            raise ConnectionRefusedError("nobody is there")
        self.asked += 1


@pytest.fixture
def host(place: Place, redis: RedisServer) -> Host:
    for name in (UNDERSCORED, HYPHENED):
        redis.set(name, "1764000000")
    return Host(place, redis)


@pytest.mark.parametrize("name", [UNDERSCORED, HYPHENED])
@pytest.mark.parametrize("value", ["1764000001", "i:1764000001;"])
def test_one_restart_for_one_change(host: Host, redis: RedisServer, name: str, value: str) -> None:
    first, second = host.worker(), host.worker()
    for worker in (first, second):
        worker.look()
    assert host.asked == 0  # for an old value
    redis.set(name, value)
    for worker in (first, second, first):
        worker.look()
    assert host.asked == 1


def test_a_change_while_workers_are_replaced_is_not_lost_and_not_repeated(host: Host, redis: RedisServer) -> None:
    old = host.worker()
    old.look()
    old.leave()
    redis.set(UNDERSCORED, "1764000001")
    for _ in range(2):
        heir = host.worker()
        heir.look()
        heir.leave()
    assert host.asked == 1


def test_one_worker_leads_until_it_leaves(host: Host) -> None:
    first, second = host.worker(), host.worker()
    assert (first.lead(), second.lead(), first.lead()) == (True, False, True)
    first.leave()
    assert second.lead()


def test_a_master_that_does_not_answer_is_told_again(host: Host, redis: RedisServer) -> None:
    worker = host.worker()
    worker.look()
    redis.set(UNDERSCORED, "1764000001")
    host.deaf = True
    with pytest.raises(ConnectionRefusedError):
        worker.look()
    host.deaf = False
    worker.look()
    worker.look()
    assert host.asked == 1


@pytest.mark.parametrize("value", [b"", b"soon", b"x" * 100_000, b'O:8:"stdClass":0:{}'])
def test_what_is_no_time_is_ignored(host: Host, redis: RedisServer, value: bytes) -> None:
    worker = host.worker()
    worker.look()
    redis.set(UNDERSCORED, value)
    worker.look()
    redis.set(UNDERSCORED, "1764000000")  # as before
    worker.look()
    assert host.asked == 0


def test_a_redis_that_comes_back_without_its_keys_asks_for_nothing(place: Place, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        redis.set(UNDERSCORED, "1764000000")
        host = Host(place, redis)
        worker = host.worker()
        worker.look()
        redis.stop()
        with pytest.raises(RedisError, match=f"127.0.0.1:{redis.port}, database 1"):
            worker.look()
        redis.start()
        worker.look()
        assert host.asked == 0
        redis.set(UNDERSCORED, "1764000001")
        worker.look()
        assert host.asked == 1


@pytest.mark.parametrize("content", ["", "null", "[1]", '{"a": "b"}', "[" * 5000, None])
def test_a_memory_that_is_damaged_or_gone(host: Host, redis: RedisServer, content: str | None) -> None:
    worker = host.worker()
    worker.look()
    if content is None:
        memory(host.directory).unlink()
    else:
        memory(host.directory).write_text(content)
    redis.set(HYPHENED, "1764000001")
    worker.look()
    assert host.asked == 1
    assert json.loads(memory(host.directory).read_text())[HYPHENED] == 1764000001


def test_the_command_sets_the_key_for_others_alone(host: Host, place: Place, redis: RedisServer) -> None:
    here, there = host.worker(), RestartWatch((other := Place()).directory, RestartKey(host.server), host.act)
    with other:
        here.look()
        there.look()
        with unnoticed(host.directory) as note:
            assert note is not None
            here.look()  # waits for the end of it
            with unnoticed(host.directory) as again:
                assert again is None
            note(RestartKey(host.server).write(1764000001))
        here.look()
        assert host.asked == 0
        there.look()
        assert host.asked == 1
    assert redis.get(UNDERSCORED) == redis.get(HYPHENED) == b"1764000001"


def test_the_key_is_later_each_time(host: Host, redis: RedisServer) -> None:
    key = RestartKey(host.server)
    assert key.write(5)[UNDERSCORED] == 1764000001
    assert key.write(1764000001)[UNDERSCORED] == 1764000002


def test_where_no_key_is_yet_the_first_is_set(place: Place, redis: RedisServer) -> None:
    key = RestartKey(cached("New", redis))
    key.write(7)
    assert key.read() == {**dict.fromkeys(key.names), key.names[0]: 7}
    with unnoticed(place.directory) as note:  # where nobody has ever looked
        assert note is not None
        note(key.read())
    assert not memory(place.directory).exists()
