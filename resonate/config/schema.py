"""The keys: where each stands in a file, which variable of the environment sets it, and what it may hold.

One table for the server and one for an app; docs/configuration.md explains them, and a test holds it to these tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

Parse = Callable[[Any], Any]

#: Whole numbers are below: they have to fit into what workers say to their shards.
MOST: Final = 10**18
_TRUE: Final = ("true", "(true)", "1", "on", "yes")
_FALSE: Final = ("false", "(false)", "0", "off", "no")
_NULL: Final = ("null", "(null)", "none")


class Key(NamedTuple):
    """`field` is the settings' name for it; None for what is understood and not used here.

    With a dot it is `part.field`.
    """

    field: str | None
    env: str | None
    parse: Parse


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def optional_text(value: Any) -> str | None:
    """A string; empty and null mean none."""
    return None if value is None or value in ("", *_NULL) else text(value)


def integer(value: Any) -> int:
    """A whole number; the environment gives it as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a whole number")
    if not re.fullmatch(r"-?[0-9]+", str(value), re.ASCII):
        raise ValueError("must be a whole number")
    if not -MOST < (found := int(value)) < MOST:
        raise ValueError("may have 18 digits at most")
    return found


def optional_integer(value: Any) -> int | None:
    """A whole number; null means none."""
    return None if value is None or value in _NULL else integer(value)


def number(value: Any) -> float:
    """A number, whole or not; the environment gives it as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", value, re.ASCII):
        raise ValueError("must be a number")
    return float(value)


def database(value: Any) -> int:
    """The number of a database of Redis; null means the first one, 0."""
    return optional_integer(value) or 0


def flag(value: Any) -> bool:
    """True or false; the environment gives it as text, in Laravel's spellings."""
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("must be true or false")


def texts(value: Any) -> tuple[str, ...]:
    """A list of strings; the environment gives it with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("must be a list of strings")
    return tuple(item.strip() for item in items)


def processes(value: Any) -> int:
    """A number of processes; `auto` is one for each core that this process may use."""
    if value == "auto":
        return len(os.sched_getaffinity(0))
    try:
        return integer(value)
    except ValueError:
        raise ValueError('must be a whole number, or "auto"') from None


def nothing(value: Any) -> None:
    """What is not there yet may be mentioned, and must be off."""
    if value not in (None, "", False, [], ()) and not (isinstance(value, str) and value.lower() in (*_FALSE, *_NULL)):
        raise ValueError("is not supported by this version: leave it out")


SERVER: Final[dict[str, Key]] = {
    "host": Key("host", "REVERB_SERVER_HOST", text),
    "port": Key("port", "REVERB_SERVER_PORT", integer),
    "path": Key("path", "REVERB_SERVER_PATH", text),
    "hostname": Key("hostname", "REVERB_HOST", optional_text),
    "options.tls.local_cert": Key("tls.local_cert", None, optional_text),
    "options.tls.local_pk": Key("tls.local_pk", None, optional_text),
    "options.tls.passphrase": Key("tls.passphrase", None, optional_text),
    "max_request_size": Key("max_request_size", "REVERB_MAX_REQUEST_SIZE", integer),
    "auth_timestamp_grace": Key("auth_timestamp_grace", "REVERB_AUTH_TIMESTAMP_GRACE", integer),
    "drain_timeout": Key("drain_timeout", "REVERB_DRAIN_TIMEOUT", integer),
    "scaling.enabled": Key("scaling.enabled", "REVERB_SCALING_ENABLED", flag),
    "scaling.channel": Key("scaling.prefix", "REVERB_SCALING_CHANNEL", text),
    "scaling.server.url": Key("redis.url", "REDIS_URL", optional_text),
    "scaling.server.host": Key("redis.host", "REDIS_HOST", text),
    "scaling.server.port": Key("redis.port", "REDIS_PORT", integer),
    "scaling.server.username": Key("redis.username", "REDIS_USERNAME", optional_text),
    "scaling.server.password": Key("redis.password", "REDIS_PASSWORD", optional_text),
    "scaling.server.database": Key("redis.database", "REDIS_DB", database),
    "scaling.server.timeout": Key(None, "REDIS_TIMEOUT", optional_integer),
    "scaling.server.cluster": Key("redis.cluster", "RESONATE_SCALING_CLUSTER", flag),
    "scaling.server.sentinel_master": Key("redis.sentinel_master", "RESONATE_SCALING_SENTINEL_MASTER", optional_text),
    "scaling.server.sentinels": Key("redis.sentinels", "RESONATE_SCALING_SENTINELS", texts),
    "scaling.server.sentinel_username": Key(
        "redis.sentinel_username", "RESONATE_SCALING_SENTINEL_USERNAME", optional_text
    ),
    "scaling.server.sentinel_password": Key(
        "redis.sentinel_password", "RESONATE_SCALING_SENTINEL_PASSWORD", optional_text
    ),
    "scaling.server.ca_file": Key("redis.ca_file", "RESONATE_SCALING_CA_FILE", optional_text),
    "scaling.patience": Key("scaling.patience", "RESONATE_SCALING_PATIENCE", number),
    "scaling.lease": Key("scaling.lease", "RESONATE_SCALING_LEASE", integer),
    "scaling.log_length": Key("scaling.log_length", "RESONATE_SCALING_LOG_LENGTH", integer),
    "scaling.log_seconds": Key("scaling.log_seconds", "RESONATE_SCALING_LOG_SECONDS", integer),
    "scaling.queue_bytes": Key("scaling.queue_bytes", "RESONATE_SCALING_QUEUE_BYTES", integer),
    "scaling.queue_seconds": Key("scaling.queue_seconds", "RESONATE_SCALING_QUEUE_SECONDS", integer),
    "scaling.outage_publish": Key("scaling.outage_publish", "RESONATE_SCALING_OUTAGE_PUBLISH", integer),
    "scaling.outage_health": Key("scaling.outage_health", "RESONATE_SCALING_OUTAGE_HEALTH", integer),
    "scaling.secret": Key("scaling.secret", "RESONATE_SCALING_SECRET", optional_text),
    "scaling.envelope": Key("scaling.envelope", "RESONATE_SCALING_ENVELOPE", optional_text),
    "restart.store": Key("restart_store", "CACHE_STORE", optional_text),
    "restart.database": Key("restart_database", "REDIS_CACHE_DB", integer),
    "restart.app_name": Key("restart_app_name", "APP_NAME", text),
    "restart.redis_prefix": Key("restart_redis_prefix", "REDIS_PREFIX", optional_text),
    "restart.cache_prefix": Key("restart_cache_prefix", "CACHE_PREFIX", optional_text),
    "pulse_ingest_interval": Key(None, "REVERB_PULSE_INGEST_INTERVAL", integer),
    "telescope_ingest_interval": Key(None, "REVERB_TELESCOPE_INGEST_INTERVAL", integer),
    "plugins": Key(None, None, nothing),
    "workers": Key("workers", "RESONATE_WORKERS", processes),
    "bus_shards": Key("bus_shards", "RESONATE_BUS_SHARDS", integer),
    "worker_timeout": Key("worker_timeout", "RESONATE_WORKER_TIMEOUT", integer),
    "balance": Key("balance", "RESONATE_BALANCE", flag),
    "health_timeout": Key("health_timeout", "RESONATE_HEALTH_TIMEOUT", integer),
    "handshake_timeout": Key("handshake_timeout", "RESONATE_HANDSHAKE_TIMEOUT", integer),
    "plugin_timeout": Key(None, "RESONATE_PLUGIN_TIMEOUT", integer),
    "max_send_buffer": Key("max_send_buffer", "RESONATE_MAX_SEND_BUFFER", integer),
    "max_subscriptions_per_connection": Key(
        "max_subscriptions_per_connection", "RESONATE_MAX_SUBSCRIPTIONS_PER_CONNECTION", integer
    ),
    "cache_ttl": Key("cache_ttl", "RESONATE_CACHE_TTL", integer),
    "run_dir": Key("run_dir", "RESONATE_RUN_DIR", optional_text),
    "metrics_host": Key("metrics_host", "RESONATE_METRICS_HOST", text),
    "metrics_port": Key("metrics_port", "RESONATE_METRICS_PORT", integer),
    "console": Key("console", "RESONATE_CONSOLE", flag),
    "log_format": Key("log_format", "RESONATE_LOG_FORMAT", text),
}

APP: Final[dict[str, Key]] = {
    "app_id": Key("app_id", "REVERB_APP_ID", text),
    "key": Key("key", "REVERB_APP_KEY", text),
    "secret": Key("secret", "REVERB_APP_SECRET", text),
    "options.host": Key("options.host", "REVERB_HOST", optional_text),
    "options.port": Key("options.port", "REVERB_PORT", integer),
    "options.scheme": Key("options.scheme", "REVERB_SCHEME", text),
    "options.useTLS": Key("options.use_tls", None, flag),
    "allowed_origins": Key("allowed_origins", None, texts),
    "ping_interval": Key("ping_interval", "REVERB_APP_PING_INTERVAL", integer),
    "activity_timeout": Key("activity_timeout", "REVERB_APP_ACTIVITY_TIMEOUT", integer),
    "max_connections": Key("max_connections", "REVERB_APP_MAX_CONNECTIONS", optional_integer),
    "max_message_size": Key("max_message_size", "REVERB_APP_MAX_MESSAGE_SIZE", integer),
    "accept_client_events_from": Key("accept_client_events_from", "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", text),
    "rate_limiting.enabled": Key("rate_limiting.enabled", "REVERB_APP_RATE_LIMITING_ENABLED", flag),
    "rate_limiting.max_attempts": Key("rate_limiting.max_attempts", "REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", integer),
    "rate_limiting.decay_seconds": Key("rate_limiting.decay_seconds", "REVERB_APP_RATE_LIMIT_DECAY_SECONDS", integer),
    "rate_limiting.terminate_on_limit": Key(
        "rate_limiting.terminate_on_limit", "REVERB_APP_RATE_LIMIT_TERMINATE", flag
    ),
}

#: Variables that are ours and are not keys of the tree.
OTHER_VARIABLES: Final = ("RESONATE_CONFIG",)
