"""The settings: frozen values, checked when they are made. Nothing here reads a file or the environment.

The names are those of Reverb's `config/reverb.php`; units are in docs/configuration.md. A value out of range raises
ConfigurationError with the key's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

from resonate.errors import ConfigurationError
from resonate.scaling import Scaling, known

CLIENT_EVENT_POLICIES: Final = ("all", "members", "none")
#: Processes of one host. Each worker speaks with each shard.
MAX_WORKERS: Final = 256
MAX_SHARDS: Final = 32


def _at_least(least: int, **values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < least:
            raise ConfigurationError(key, f"must be {least} or more", value=value)


@dataclass(frozen=True, kw_only=True)
class RateLimiting:
    """How many messages a client may send: `max_attempts` in a window of `decay_seconds`."""

    enabled: bool = False
    max_attempts: int = 60
    decay_seconds: int = 60
    terminate_on_limit: bool = False

    def __post_init__(self) -> None:
        _at_least(1, max_attempts=self.max_attempts, decay_seconds=self.decay_seconds)


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """How the outside reaches this server: for back ends that read the same file. The server has no use for it."""

    host: str | None = None
    port: int = 443
    scheme: str = "https"
    use_tls: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.port <= 65535:
            raise ConfigurationError("port", "must be from 1 to 65535", value=self.port)
        if self.scheme not in ("http", "https"):
            raise ConfigurationError("scheme", "must be http or https", value=self.scheme)


@dataclass(frozen=True, kw_only=True)
class App:
    """One application: its credentials and its limits. Sizes are bytes, times seconds; None is unlimited."""

    app_id: str
    key: str
    secret: str = field(repr=False)
    options: AppOptions = AppOptions()
    allowed_origins: tuple[str, ...] = ("*",)
    ping_interval: int = 60
    activity_timeout: int = 30
    max_connections: int | None = None
    max_message_size: int = 10_000
    accept_client_events_from: str = "members"
    rate_limiting: RateLimiting = RateLimiting()

    def __post_init__(self) -> None:
        for key in ("app_id", "key", "secret"):
            if not getattr(self, key):
                raise ConfigurationError(key, "is required")
        for key in ("app_id", "key"):
            if not re.fullmatch(r"[!-~]+", getattr(self, key)) or set(getattr(self, key)) & set("/?#%"):
                raise ConfigurationError(
                    key, "stands in URLs: no spaces, no /?#%, ASCII only", value=getattr(self, key)
                )
        try:
            self.secret.encode()
        except UnicodeEncodeError:
            raise ConfigurationError("secret", "is not UTF-8") from None
        # pusher-js never connects when it is told an activity_timeout of 0
        _at_least(1, ping_interval=self.ping_interval, activity_timeout=self.activity_timeout)
        _at_least(0, max_connections=self.max_connections, max_message_size=self.max_message_size)
        if self.accept_client_events_from not in CLIENT_EVENT_POLICIES:
            expected = ", ".join(CLIENT_EVENT_POLICIES)
            raise ConfigurationError(
                "accept_client_events_from", f"must be one of {expected}", value=self.accept_client_events_from
            )

    @cached_property
    def secret_bytes(self) -> bytes:
        """The secret as HMAC wants it."""
        return self.secret.encode()

    @cached_property
    def _origins(self) -> re.Pattern[str] | None:
        if "*" in self.allowed_origins:
            return None
        patterns = (".*".join(map(re.escape, origin.lower().split("*"))) for origin in self.allowed_origins)
        return re.compile("|".join(patterns) or r"(?!)")

    def allows_origin(self, host: str | None) -> bool:
        """Whether a page of this host may connect; None when the Origin header is missing or cannot be parsed."""
        return self._origins is None or (host is not None and self._origins.fullmatch(host.lower()) is not None)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """TLS in the worker: paths of the certificate (with its chain) and the key, and the key's passphrase."""

    local_cert: str
    local_pk: str | None = None
    passphrase: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The keys below `servers.reverb`. Sizes are bytes, times seconds."""

    host: str = "0.0.0.0"  # noqa: S104 - Reverb's default; what it listens on is printed at the start
    port: int = 8080
    path: str = ""
    hostname: str | None = None
    tls: Tls | None = None
    max_request_size: int = 10_000
    auth_timestamp_grace: int = 600
    drain_timeout: int = 30
    scaling: Scaling = field(default_factory=Scaling)
    restart_store: str | None = None
    restart_database: int = 1
    restart_app_name: str = "laravel"
    restart_redis_prefix: str | None = None
    restart_cache_prefix: str | None = None
    workers: int = 1
    bus_shards: int = 1
    worker_timeout: int = 30
    balance: bool = True
    health_timeout: int = 10
    handshake_timeout: int = 10
    max_send_buffer: int = 1024 * 1024
    max_subscriptions_per_connection: int = 1000
    cache_ttl: int = 1800
    run_dir: str | None = None
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9464
    console: bool = True
    log_format: str = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigurationError("port", "must be from 0 to 65535", value=self.port)
        if not 0 <= self.metrics_port <= 65535:
            raise ConfigurationError("metrics_port", "must be from 1 to 65535, or 0 for none", value=self.metrics_port)
        if self.path and not re.fullmatch(r"(/[^/?#\s]+)+", self.path):
            raise ConfigurationError("path", "must look like /ws, without a slash at its end", value=self.path)
        if self.hostname is not None and not re.fullmatch(r"[!-~]+", self.hostname):
            raise ConfigurationError("hostname", "must be a name or an address", value=self.hostname)
        if self.log_format not in ("text", "json"):
            raise ConfigurationError("log_format", "must be text or json", value=self.log_format)
        _at_least(0, auth_timestamp_grace=self.auth_timestamp_grace, drain_timeout=self.drain_timeout)
        _at_least(
            1,
            max_request_size=self.max_request_size,
            workers=self.workers,
            bus_shards=self.bus_shards,
            worker_timeout=self.worker_timeout,
            health_timeout=self.health_timeout,
            handshake_timeout=self.handshake_timeout,
            max_subscriptions_per_connection=self.max_subscriptions_per_connection,
            cache_ttl=self.cache_ttl,
        )
        _at_least(0, restart_database=self.restart_database)
        if self.watches_restarts:
            self.scaling.redis.check()
            if self.scaling.redis.hidden:
                raise ConfigurationError(
                    "restart.store",
                    "is not looked for behind a URL of sentinels: name those in scaling.server.sentinels, and where "
                    "Laravel finds its Redis in scaling.server.host",
                    value=self.restart_store,
                )
        _at_least(4096, max_send_buffer=self.max_send_buffer)
        for key, most in (("workers", MAX_WORKERS), ("bus_shards", MAX_SHARDS)):
            if getattr(self, key) > most:
                raise ConfigurationError(key, f"must be {most} or less", value=getattr(self, key))

    @property
    def watches_restarts(self) -> bool:
        """Whether Laravel's cache is in a Redis, where `php artisan reverb:restart` leaves its word."""
        return self.restart_store == "redis"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything. `notices` are remarks on the sources that the operator should see once, at the start."""

    server: Server
    apps: tuple[App, ...]
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.apps:
            raise ConfigurationError(
                "apps.apps", "no app is configured: set REVERB_APP_ID, REVERB_APP_KEY and REVERB_APP_SECRET"
            )
        for key in ("app_id", "key"):
            values = [getattr(app, key) for app in self.apps]
            for value in values:
                if values.count(value) > 1:
                    raise ConfigurationError(f"apps.apps[].{key}", "two apps have the same", value=value)

    def plain(self) -> dict[str, Any]:
        """The same as JSON can carry it, secrets included."""
        return asdict(self)

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Settings:
        """From `plain`, perhaps of another version: what this one does not know is left out."""
        server = known(Server, plain["server"])
        if server.get("tls") is not None:
            server["tls"] = Tls(**known(Tls, server["tls"]))
        if "scaling" in server:
            server["scaling"] = Scaling.restored(server["scaling"])
        return cls(server=Server(**server), apps=tuple(map(_app, plain["apps"])), notices=tuple(plain["notices"]))


def _app(plain: Mapping[str, Any]) -> App:
    values = known(App, plain)
    values["options"] = AppOptions(**known(AppOptions, values["options"]))
    values["rate_limiting"] = RateLimiting(**known(RateLimiting, values["rate_limiting"]))
    values["allowed_origins"] = tuple(values["allowed_origins"])
    return App(**values)
