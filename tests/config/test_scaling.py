"""Several hosts: what is checked where scaling is enabled, sentinels, and the way to a shard."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resonate.errors import ConfigurationError
from resonate.scaling import Redis, Scaling
from tests.config.support import Directory


@pytest.mark.parametrize("prefix", ["", "a b", "a{b", "a}b", "a\nb", "ä", "x" * 201])
def test_a_prefix_that_cannot_stand_in_keys(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"scaling\.channel.*without spaces and braces"):
        Scaling(enabled=True, prefix=prefix)
    Scaling(prefix=prefix)


@pytest.mark.parametrize("prefix", ["reverb", "shop:live", "a|b~!", "x" * 200])
def test_a_prefix_that_can(prefix: str) -> None:
    assert Scaling(enabled=True, prefix=prefix).prefix == prefix


SENTINELS: dict[str, Any] = {"sentinel_master": "m", "sentinels": ("a:26379", "[::1]:26380")}


@pytest.mark.parametrize(
    ("redis", "key"),
    [
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"database": -1}, "database"),
        ({"url": "http://h"}, "url"),
        ({"url": "redis://h:many"}, "url"),
        ({"url": "redis://h:6379/abc"}, "url"),
        ({"url": "redis://h/0?x=1"}, "url"),
        ({"url": "redis://h/0#f"}, "url"),
        ({"url": "unix://relative"}, "url"),
        ({"url": "redis+sentinel://a:1/m/x"}, "url"),
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file"),
        ({"ca_file": "/etc"}, "ca_file"),
        ({"ca_file": "/etc/hostname"}, "ca_file"),
        ({"url": "redis+sentinel://a:1"}, "url"),
        ({"url": "redis+sentinel://:26379/m"}, "url"),
        ({"url": "redis+sentinel://a:1,b:x/m"}, "url"),
        ({"sentinel_master": "m"}, "sentinels"),
        ({"sentinel_master": "m", "sentinels": ("a:",)}, "sentinels"),
        ({"sentinel_master": "m", "sentinels": ("a:0",)}, "sentinels"),
        ({"sentinel_master": "m", "sentinels": ("a:1", "b:65536")}, "sentinels"),
        ({"sentinels": ("a:1",)}, "sentinel_master"),
        ({**SENTINELS, "url": "redis://h"}, "sentinel_master"),
        ({**SENTINELS, "cluster": True}, "cluster"),
        ({"cluster": True, "database": 1}, "cluster"),
    ],
)
def test_a_redis_that_cannot_be_used(redis: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Scaling(enabled=True, redis=Redis(**redis))
    assert caught.value.key == f"scaling.server.{key}"
    Scaling(redis=Redis(**redis))  # its variables are often there for others


@pytest.mark.parametrize(
    "redis",
    [
        {},
        {"host": "/run/redis.sock"},
        {"url": "unix:///run/redis.sock"},
        {"url": "rediss://ann:secret@h/3", "cluster": False},
        {"cluster": True},
        SENTINELS,
        {"url": "redis+sentinel://:p%40ss@a:26379,[::1]:26380/m/2"},
    ],
)
def test_a_redis_that_can(redis: dict[str, Any]) -> None:
    Scaling(enabled=True, redis=Redis(**redis))


def test_sentinels() -> None:
    pairs = (("a", 26379), ("::1", 26380))
    for redis in Redis(**SENTINELS), Redis(url="redis+sentinel://:p%40ss@a:26379,[::1]:26380/m/2"):
        assert redis.by_sentinels
        assert (redis.master, redis.sentinel_addresses) == ("m", pairs)
    assert Redis(url="redis+sentinel://a:1/the%20one").master == "the one"
    assert Redis(url="rediss+sentinel://a,[::1]/m").sentinel_addresses == (("a", 26379), ("::1", 26379))
    assert not Redis(url="redis://a/m").by_sentinels


def test_an_error_names_the_source(directory: Directory) -> None:
    error = directory.toml("scaling.enabled = true").dotenv("REDIS_PORT=0\n").error()
    assert error.startswith(".env: REDIS_PORT = '0': must be from 1 to 65535")
    error = directory.dotenv("RESONATE_SCALING_SENTINEL_MASTER=m\n").error()
    assert "scaling.server.sentinels: must name sentinels" in error
    error = directory.dotenv("RESONATE_SCALING_SECRET=hunter2\n").error()
    assert error == ".env: RESONATE_SCALING_SECRET = '[hidden]': must have 16 characters or more"


def test_the_restart_key_is_not_behind_a_url_of_sentinels(directory: Directory) -> None:
    """Laravel knows no such URL; beside sentinels that are named otherwise its Redis has a host of its own."""
    text = "CACHE_STORE=redis\nREDIS_URL=redis+sentinel://a/m\n"
    assert directory.toml().dotenv(text).error().startswith(".env: CACHE_STORE = 'redis': is not looked for")
    text = "CACHE_STORE=redis\nRESONATE_SCALING_SENTINEL_MASTER=m\nRESONATE_SCALING_SENTINELS=a,b\nREDIS_HOST=h\n"
    assert directory.dotenv(text).load().server.watches_restarts


def test_a_timeout_is_understood(directory: Directory) -> None:
    assert directory.toml().dotenv("REDIS_TIMEOUT=60\n").load().server.scaling == Scaling()


def test_a_shard_is_told_all_of_it() -> None:
    scaling = Scaling(enabled=True, redis=Redis(**SENTINELS, password="p"), patience=0.5, secret="x" * 16)
    plain = json.loads(json.dumps(scaling.plain()))
    assert Scaling.restored(plain) == scaling
    assert Scaling.restored({**plain, "of_a_later_version": 1}) == scaling


def test_it_stays_where_either_is_enabled() -> None:
    off, other, on = Scaling(), Scaling(redis=Redis(port=1)), Scaling(enabled=True)
    assert off.kept(other) == other
    assert off.kept(on) == off
    assert on.kept(off) == on
    assert on.kept(Scaling(enabled=True, lease=30)) == on
