"""Every documented key: from the file, the environment, `.env` and the command line, and its default."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from resonate.config.schema import APP, SERVER
from resonate.scaling import Redis, Scaling
from resonate.settings import App, AppOptions, RateLimiting, Server, Tls
from tests.config.support import Directory

# The tables of the specification: key, variable, default. None: there is no variable.
DOCUMENTED_SERVER: dict[str, str | None] = {
    "host": "REVERB_SERVER_HOST",
    "port": "REVERB_SERVER_PORT",
    "path": "REVERB_SERVER_PATH",
    "hostname": "REVERB_HOST",
    "options.tls.local_cert": None,
    "options.tls.local_pk": None,
    "options.tls.passphrase": None,
    "max_request_size": "REVERB_MAX_REQUEST_SIZE",
    "auth_timestamp_grace": "REVERB_AUTH_TIMESTAMP_GRACE",
    "drain_timeout": "REVERB_DRAIN_TIMEOUT",
    "scaling.enabled": "REVERB_SCALING_ENABLED",
    "scaling.channel": "REVERB_SCALING_CHANNEL",
    "scaling.server.url": "REDIS_URL",
    "scaling.server.host": "REDIS_HOST",
    "scaling.server.port": "REDIS_PORT",
    "scaling.server.username": "REDIS_USERNAME",
    "scaling.server.password": "REDIS_PASSWORD",
    "scaling.server.database": "REDIS_DB",
    "scaling.server.timeout": "REDIS_TIMEOUT",
    "scaling.server.cluster": "RESONATE_SCALING_CLUSTER",
    "scaling.server.sentinel_master": "RESONATE_SCALING_SENTINEL_MASTER",
    "scaling.server.sentinels": "RESONATE_SCALING_SENTINELS",
    "scaling.server.sentinel_username": "RESONATE_SCALING_SENTINEL_USERNAME",
    "scaling.server.sentinel_password": "RESONATE_SCALING_SENTINEL_PASSWORD",
    "scaling.server.ca_file": "RESONATE_SCALING_CA_FILE",
    "scaling.patience": "RESONATE_SCALING_PATIENCE",
    "scaling.lease": "RESONATE_SCALING_LEASE",
    "scaling.log_length": "RESONATE_SCALING_LOG_LENGTH",
    "scaling.log_seconds": "RESONATE_SCALING_LOG_SECONDS",
    "scaling.queue_bytes": "RESONATE_SCALING_QUEUE_BYTES",
    "scaling.queue_seconds": "RESONATE_SCALING_QUEUE_SECONDS",
    "scaling.outage_publish": "RESONATE_SCALING_OUTAGE_PUBLISH",
    "scaling.outage_health": "RESONATE_SCALING_OUTAGE_HEALTH",
    "scaling.secret": "RESONATE_SCALING_SECRET",
    "scaling.envelope": "RESONATE_SCALING_ENVELOPE",
    "restart.store": "CACHE_STORE",
    "restart.database": "REDIS_CACHE_DB",
    "restart.app_name": "APP_NAME",
    "restart.redis_prefix": "REDIS_PREFIX",
    "restart.cache_prefix": "CACHE_PREFIX",
    "pulse_ingest_interval": "REVERB_PULSE_INGEST_INTERVAL",
    "telescope_ingest_interval": "REVERB_TELESCOPE_INGEST_INTERVAL",
    "plugins": None,
    "workers": "RESONATE_WORKERS",
    "bus_shards": "RESONATE_BUS_SHARDS",
    "health_timeout": "RESONATE_HEALTH_TIMEOUT",
    "handshake_timeout": "RESONATE_HANDSHAKE_TIMEOUT",
    "plugin_timeout": "RESONATE_PLUGIN_TIMEOUT",
    "max_send_buffer": "RESONATE_MAX_SEND_BUFFER",
    "max_subscriptions_per_connection": "RESONATE_MAX_SUBSCRIPTIONS_PER_CONNECTION",
    "cache_ttl": "RESONATE_CACHE_TTL",
    "run_dir": "RESONATE_RUN_DIR",
    "worker_timeout": "RESONATE_WORKER_TIMEOUT",
    "balance": "RESONATE_BALANCE",
    "metrics_host": "RESONATE_METRICS_HOST",
    "metrics_port": "RESONATE_METRICS_PORT",
}
DOCUMENTED_APP: dict[str, str | None] = {
    "app_id": "REVERB_APP_ID",
    "key": "REVERB_APP_KEY",
    "secret": "REVERB_APP_SECRET",
    "options.host": "REVERB_HOST",
    "options.port": "REVERB_PORT",
    "options.scheme": "REVERB_SCHEME",
    "options.useTLS": None,
    "allowed_origins": None,
    "ping_interval": "REVERB_APP_PING_INTERVAL",
    "activity_timeout": "REVERB_APP_ACTIVITY_TIMEOUT",
    "max_connections": "REVERB_APP_MAX_CONNECTIONS",
    "max_message_size": "REVERB_APP_MAX_MESSAGE_SIZE",
    "accept_client_events_from": "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM",
    "rate_limiting.enabled": "REVERB_APP_RATE_LIMITING_ENABLED",
    "rate_limiting.max_attempts": "REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS",
    "rate_limiting.decay_seconds": "REVERB_APP_RATE_LIMIT_DECAY_SECONDS",
    "rate_limiting.terminate_on_limit": "REVERB_APP_RATE_LIMIT_TERMINATE",
}


@pytest.mark.parametrize(
    ("schema", "documented"), [(SERVER, DOCUMENTED_SERVER), (APP, DOCUMENTED_APP)], ids=["server", "app"]
)
def test_every_documented_key_exists(schema: dict[str, Any], documented: dict[str, str | None]) -> None:
    assert {name: schema[name].env for name in documented if name in schema} == documented


def test_defaults(directory: Directory) -> None:
    settings = directory.toml().load()
    assert settings.server == Server()
    assert settings.apps == (App(app_id="app1", key="key1", secret="hunter2"),)
    assert settings.notices == ()


def test_documented_defaults() -> None:
    server, app, options, rate = Server(), App(app_id="a", key="b", secret="c"), AppOptions(), RateLimiting()
    assert (server.host, server.port, server.path, server.hostname) == ("0.0.0.0", 8080, "", None)
    assert (server.max_request_size, server.auth_timestamp_grace, server.drain_timeout) == (10000, 600, 30)
    assert (server.workers, server.health_timeout, server.handshake_timeout) == (1, 10, 10)
    assert (server.max_send_buffer, server.max_subscriptions_per_connection, server.cache_ttl) == (2**20, 1000, 1800)
    assert (server.tls, server.run_dir, server.balance) == (None, None, True)
    assert (options.host, options.port, options.scheme, options.use_tls) == (None, 443, "https", None)
    assert (app.allowed_origins, app.ping_interval, app.activity_timeout) == (("*",), 60, 30)
    assert (app.max_connections, app.max_message_size, app.accept_client_events_from) == (None, 10000, "members")
    assert rate == RateLimiting(enabled=False, max_attempts=60, decay_seconds=60, terminate_on_limit=False)


def scaled(**values: Any) -> dict[str, Any]:
    """Server settings whose scaling has these values."""
    return {"scaling": Scaling(**values)}


def redis(**values: Any) -> dict[str, Any]:
    """The same with these values of Redis."""
    return scaled(redis=Redis(**values))


# key, what it is in TOML, what it is as text, where it ends up
SERVER_VALUES = [
    ("host", '"127.0.0.1"', "127.0.0.1", {"host": "127.0.0.1"}),
    ("port", "9000", "9000", {"port": 9000}),
    ("path", '"/ws"', "/ws", {"path": "/ws"}),
    ("hostname", '"ws.example.com"', "ws.example.com", {"hostname": "ws.example.com"}),
    ("max_request_size", "20000", "20000", {"max_request_size": 20000}),
    ("auth_timestamp_grace", "0", "0", {"auth_timestamp_grace": 0}),
    ("drain_timeout", "5", "5", {"drain_timeout": 5}),
    ("scaling.enabled", "true", "true", scaled(enabled=True)),
    ("scaling.channel", '"shop"', "shop", scaled(prefix="shop")),
    ("scaling.server.url", '"redis://h"', "redis://h", redis(url="redis://h")),
    ("scaling.server.host", '"h"', "h", redis(host="h")),
    ("scaling.server.port", "6380", "6380", redis(port=6380)),
    ("scaling.server.username", '"u"', "u", redis(username="u")),
    ("scaling.server.password", '"p"', "p", redis(password="p")),
    ("scaling.server.database", "3", "3", redis(database=3)),
    ("scaling.server.database", '"null"', "null", redis(database=0)),
    ("scaling.server.timeout", "60", "60", {}),
    ("scaling.server.cluster", "true", "yes", redis(cluster=True)),
    ("scaling.server.sentinel_master", '"m"', "m", redis(sentinel_master="m")),
    ("scaling.server.sentinels", '["a:1", "[::1]:2"]', "a:1, [::1]:2", redis(sentinels=("a:1", "[::1]:2"))),
    ("scaling.server.sentinel_username", '"u"', "u", redis(sentinel_username="u")),
    ("scaling.server.sentinel_password", '"p"', "p", redis(sentinel_password="p")),
    ("scaling.server.ca_file", '"/ca.pem"', "/ca.pem", redis(ca_file="/ca.pem")),
    ("scaling.server.sentinels", '"a:1,b:2"', "a:1,b:2", redis(sentinels=("a:1", "b:2"))),
    ("scaling.patience", "0.5", "0.5", scaled(patience=0.5)),
    ("scaling.patience", "3", "3", scaled(patience=3.0)),
    ("scaling.lease", "30", "30", scaled(lease=30)),
    ("scaling.log_length", "500", "500", scaled(log_length=500)),
    ("scaling.log_seconds", "60", "60", scaled(log_seconds=60)),
    ("scaling.queue_bytes", "65536", "65536", scaled(queue_bytes=65536)),
    ("scaling.queue_seconds", "5", "5", scaled(queue_seconds=5)),
    ("scaling.outage_publish", "503", "503", scaled(outage_publish=503)),
    ("scaling.outage_health", "503", "503", scaled(outage_health=503)),
    ("scaling.secret", '"0123456789abcdef"', "0123456789abcdef", scaled(secret="0123456789abcdef")),
    ("scaling.envelope", '"resonate"', "resonate", scaled(envelope="resonate")),
    ("restart.store", '"redis"', "redis", {"restart_store": "redis"}),
    ("restart.store", '"database"', "database", {"restart_store": "database"}),
    ("restart.database", "3", "3", {"restart_database": 3}),
    ("restart.app_name", '"Shop"', "Shop", {"restart_app_name": "Shop"}),
    ("restart.redis_prefix", '"r_"', "r_", {"restart_redis_prefix": "r_"}),
    ("restart.cache_prefix", '"c_"', "c_", {"restart_cache_prefix": "c_"}),
    ("pulse_ingest_interval", "15", "15", {}),
    ("telescope_ingest_interval", "15", "15", {}),
    ("plugins", "[]", None, {}),
    ("workers", '"auto"', "auto", {"workers": len(os.sched_getaffinity(0))}),
    ("workers", "4", "4", {"workers": 4}),
    ("bus_shards", "2", "2", {"bus_shards": 2}),
    ("worker_timeout", "5", "5", {"worker_timeout": 5}),
    ("balance", "false", "off", {"balance": False}),
    ("metrics_host", '"::1"', "::1", {"metrics_host": "::1"}),
    ("metrics_port", "0", "0", {"metrics_port": 0}),
    ("health_timeout", "20", "20", {"health_timeout": 20}),
    ("handshake_timeout", "20", "20", {"handshake_timeout": 20}),
    ("plugin_timeout", "5", "5", {}),
    ("max_send_buffer", "65536", "65536", {"max_send_buffer": 65536}),
    ("max_subscriptions_per_connection", "7", "7", {"max_subscriptions_per_connection": 7}),
    ("cache_ttl", "60", "60", {"cache_ttl": 60}),
    ("run_dir", '"/run/resonate"', "/run/resonate", {"run_dir": "/run/resonate"}),
]
APP_VALUES = [
    ("app_id", None, "other", {"app_id": "other"}),
    ("key", None, "other", {"key": "other"}),
    ("secret", None, "other", {"secret": "other"}),
    ("options.host", '"h"', "h", {"options": AppOptions(host="h")}),
    ("options.port", "8443", "8443", {"options": AppOptions(port=8443)}),
    ("options.scheme", '"http"', "http", {"options": AppOptions(scheme="http")}),
    ("options.useTLS", "true", None, {"options": AppOptions(use_tls=True)}),
    ("allowed_origins", '["a", "*.b"]', None, {"allowed_origins": ("a", "*.b")}),
    ("ping_interval", "10", "10", {"ping_interval": 10}),
    ("activity_timeout", "10", "10", {"activity_timeout": 10}),
    ("max_connections", "5", "5", {"max_connections": 5}),
    ("max_message_size", "0", "0", {"max_message_size": 0}),
    ("accept_client_events_from", '"all"', "all", {"accept_client_events_from": "all"}),
    ("rate_limiting.enabled", "true", "true", {"rate_limiting": RateLimiting(enabled=True)}),
    ("rate_limiting.max_attempts", "5", "5", {"rate_limiting": RateLimiting(max_attempts=5)}),
    ("rate_limiting.decay_seconds", "5", "5", {"rate_limiting": RateLimiting(decay_seconds=5)}),
    ("rate_limiting.terminate_on_limit", "true", "true", {"rate_limiting": RateLimiting(terminate_on_limit=True)}),
]


def test_no_documented_key_is_left_out_here() -> None:
    tls = {"options.tls.local_cert", "options.tls.local_pk", "options.tls.passphrase"}
    assert {row[0] for row in SERVER_VALUES} | tls == set(DOCUMENTED_SERVER)
    assert {row[0] for row in APP_VALUES} == set(DOCUMENTED_APP)


@pytest.mark.parametrize(("key", "toml", "text", "changed"), SERVER_VALUES)
def test_server_key(directory: Directory, key: str, toml: str, text: str | None, changed: dict[str, Any]) -> None:
    expected = replace(Server(), **changed)
    assert directory.toml(f"{key} = {toml}").load().server == expected
    variable = DOCUMENTED_SERVER[key]
    if variable is not None and text is not None:
        assert directory.toml().dotenv(f"{variable}={text}\n").load().server == expected
        assert directory.dotenv("").environ(**{variable: text}).load().server == expected


@pytest.mark.parametrize(("key", "toml", "text", "changed"), APP_VALUES)
def test_app_key(directory: Directory, key: str, toml: str | None, text: str | None, changed: dict[str, Any]) -> None:
    expected = replace(App(app_id="app1", key="key1", secret="hunter2"), **changed)
    if toml is not None:
        assert directory.app(f"{key} = {toml}").load().apps == (expected,)
    variable = DOCUMENTED_APP[key]
    if variable is not None and text is not None:
        assert directory.toml().dotenv(f"{variable}={text}\n").load().apps == (expected,)
        assert directory.dotenv("").environ(**{variable: text}).load().apps == (expected,)


def test_tls(directory: Directory) -> None:
    settings = directory.toml('options.tls = {local_cert = "c.pem", local_pk = "k.pem", passphrase = "hunter2"}').load()
    assert settings.server.tls == Tls(local_cert="c.pem", local_pk="k.pem", passphrase="hunter2")
    assert directory.toml('options.tls = {local_cert = ""}').load().server.tls is None


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("host", "::1", {"host": "::1"}),
        ("port", "9000", {"port": 9000}),
        ("path", "/ws", {"path": "/ws"}),
        ("hostname", "h", {"hostname": "h"}),
        ("workers", "3", {"workers": 3}),
    ],
)
def test_command_line(directory: Directory, option: str, value: str, changed: dict[str, Any]) -> None:
    assert directory.toml().load({option: value}).server == replace(Server(), **changed)
    assert directory.load({option: None}).server == Server()


def test_the_restart_key_is_watched_where_the_cache_is_in_redis(directory: Directory) -> None:
    assert not directory.toml().load().server.watches_restarts
    assert not directory.dotenv("CACHE_STORE=database\nREDIS_URL=http://x\n").load().server.watches_restarts
    assert directory.dotenv("CACHE_STORE=redis\nREDIS_PASSWORD=null\n").load().server.watches_restarts


@pytest.mark.parametrize("word", ["true", "(true)", "1", "on", "yes", "TRUE"])
def test_laravels_spellings_of_true(directory: Directory, word: str) -> None:
    assert directory.toml().environ(REVERB_APP_RATE_LIMITING_ENABLED=word).load().apps[0].rate_limiting.enabled


@pytest.mark.parametrize("word", ["false", "(false)", "0", "off", "no", "False"])
def test_laravels_spellings_of_false(directory: Directory, word: str) -> None:
    directory.app("rate_limiting.enabled = true").environ(REVERB_APP_RATE_LIMITING_ENABLED=word)
    assert not directory.load().apps[0].rate_limiting.enabled


@pytest.mark.parametrize("word", ["null", "(null)"])
def test_laravels_spellings_of_null(directory: Directory, word: str) -> None:
    settings = directory.app("max_connections = 5").environ(REVERB_APP_MAX_CONNECTIONS=word).load()
    assert settings.apps[0].max_connections is None
