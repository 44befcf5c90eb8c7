"""The settings of several hosts: where Redis is, and what the shards of all hosts do there.

As in resonate.settings, whose part they are. But errors name the whole key below `servers.reverb`: two parts of the
tree are told apart by it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from resonate.errors import ConfigurationError

#: What `scaling.outage_publish` and `scaling.outage_health` may say, and what kinds of envelope there are.
PUBLISHES: Final = (200, 202, 503)
HEALTHS: Final = (200, 503)
ENVELOPES: Final = (None, "resonate")
#: Of the prefix of all keys in Redis, in characters: it stands in each of them.
LONGEST_PREFIX: Final = 200
#: Of a secret that signs, in characters.
SHORTEST_SECRET: Final = 16
#: Of a sentinel that names none.
SENTINEL_PORT: Final = 26379
_SCHEMES: Final = re.compile(r"(redis|rediss|tcp|tls|unix|rediss?\+sentinel)://.")
#: `host:port` or `host`, which may be an IPv6 address in brackets.
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Redis:
    """The keys below `scaling.server`: where Redis is. `check` says whether it can be used.

    `url` goes before what stands beside it. `database` is that of scaling; Laravel's cache has one of its own. With a
    `sentinel_master` the `sentinels`, as `host:port`, are asked where that is; they have a user and password of their
    own, if any. `ca_file` has the authorities that TLS trusts; otherwise the system's.
    """

    url: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 6379
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    cluster: bool = False
    ca_file: str | None = None
    sentinel_master: str | None = None
    sentinels: tuple[str, ...] = ()
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def check(self) -> None:
        """Raises ConfigurationError. Only where it is used: these variables are often there for others."""
        _within("scaling.server.port", self.port, 1, 65535)
        if self.database < 0:
            raise ConfigurationError("scaling.server.database", "must be 0 or more", value=self.database)
        if self.url is not None:
            self._check_url(self.url)
        if self.ca_file is not None:
            self._check_authorities(self.ca_file)
        if self.by_sentinels:
            self._check_sentinels()
        elif self.sentinels:
            raise ConfigurationError("scaling.server.sentinel_master", "is required: there are sentinels")
        if self.cluster and (self.by_sentinels or self.database):
            raise ConfigurationError("scaling.server.cluster", "has neither sentinels nor a database other than 0")

    def _check_url(self, url: str) -> None:
        if not _SCHEMES.match(url):
            raise ConfigurationError(
                "scaling.server.url",
                "must begin with redis://, rediss://, tcp://, tls://, unix://, redis+sentinel:// or rediss+sentinel://",
            )
        try:
            parts = urlsplit(url)
            _ = "" if self.by_sentinels else parts.port
        except ValueError:
            raise ConfigurationError(
                "scaling.server.url", "must be a URL; escape what is special in a password"
            ) from None
        if parts.query or parts.fragment:
            raise ConfigurationError("scaling.server.url", "must have nothing behind ? or #: there are keys for that")
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.strip("/"):
                raise ConfigurationError("scaling.server.url", "must have the whole path of a socket: unix:///path")
        elif not re.fullmatch(r"(/[^/]*)?(/[0-9]{0,4})?" if self.hidden else r"(/[0-9]{0,4})?", parts.path, re.ASCII):
            raise ConfigurationError("scaling.server.url", "must end with the number of a database, if any: /0")

    def _check_authorities(self, path: str) -> None:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:  # ssl.SSLError is one
            why = error.strerror if isinstance(error, FileNotFoundError | IsADirectoryError) else "it is no PEM"
            raise ConfigurationError("scaling.server.ca_file", f"cannot be read: {why}", value=path) from None

    def _check_sentinels(self) -> None:
        if self.url is not None and not self.hidden:
            raise ConfigurationError("scaling.server.sentinel_master", "is not for a Redis that a url names")
        if not self.master:
            raise ConfigurationError(
                "scaling.server.url", "must name the master: redis+sentinel://host:26379,other:26379/master/0"
            )
        key = "scaling.server.url" if self.url is not None else "scaling.server.sentinels"
        if not self.sentinel_addresses:
            raise ConfigurationError(key, "must name sentinels, as host:port")

    @property
    def by_sentinels(self) -> bool:
        """Whether sentinels are to be asked where Redis is."""
        return self.hidden or self.sentinel_master is not None

    @property
    def hidden(self) -> bool:
        """Whether only sentinels know where it is: nothing else names a host."""
        return "+sentinel:" in (self.url or "")

    @property
    def master(self) -> str:
        """What the sentinels call it; empty where it has no name."""
        return unquote(urlsplit(self.url).path.strip("/").partition("/")[0]) if self.url else self.sentinel_master or ""

    @property
    def sentinel_addresses(self) -> tuple[tuple[str, int], ...]:
        """Their hosts and ports; none where one of them cannot be understood."""
        texts = urlsplit(self.url).netloc.rpartition("@")[2].split(",") if self.url else self.sentinels
        found = [_ADDRESS.fullmatch(text) for text in texts]
        pairs = tuple((each[1].strip("[]"), int(each[2] or SENTINEL_PORT)) for each in found if each is not None)
        return pairs if len(pairs) == len(found) and all(0 < port <= 65535 for _, port in pairs) else ()


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The keys below `scaling`: several hosts through Redis. Times are seconds, sizes bytes.

    `secret` signs what is written to Redis, `envelope` is that of other programs, which are heard and told; see
    docs/configuration.md.
    """

    enabled: bool = False
    prefix: str = "reverb"
    redis: Redis = Redis()
    patience: float = 2.0
    lease: int = 10
    log_length: int = 10_000
    log_seconds: int = 300
    queue_bytes: int = 16 * 1024 * 1024
    queue_seconds: int = 120
    outage_publish: int = 200
    outage_health: int = 200
    secret: str | None = field(default=None, repr=False)
    envelope: str | None = None

    def __post_init__(self) -> None:
        """The variables of Reverb and Redis may be there for others: they matter where scaling is enabled."""
        if self.enabled:
            if not re.fullmatch(rf"[!-z|~]{{1,{LONGEST_PREFIX}}}", self.prefix):
                raise ConfigurationError(
                    "scaling.channel",
                    f"must be 1 to {LONGEST_PREFIX} ASCII characters, without spaces and braces",
                    value=self.prefix,
                )
            self.redis.check()
        _within("scaling.patience", self.patience, 0.1, 60)
        _within("scaling.lease", self.lease, 1, 3600)
        if self.lease <= self.patience:
            raise ConfigurationError("scaling.lease", "must be longer than scaling.patience", value=self.lease)
        _within("scaling.log_length", self.log_length, 100, 1_000_000)
        _within("scaling.log_seconds", self.log_seconds, 10, 86_400)
        _within("scaling.queue_bytes", self.queue_bytes, 65_536, 1024**3)
        _within("scaling.queue_seconds", self.queue_seconds, 1, 3600)
        _one_of("scaling.outage_publish", self.outage_publish, PUBLISHES)
        _one_of("scaling.outage_health", self.outage_health, HEALTHS)
        _one_of("scaling.envelope", self.envelope, ENVELOPES)
        if self.secret is not None and len(self.secret) < SHORTEST_SECRET:
            raise ConfigurationError("scaling.secret", f"must have {SHORTEST_SECRET} characters or more")
        if self.secret is not None and self.envelope is not None:
            raise ConfigurationError(
                "scaling.envelope", "cannot be used with a scaling.secret: what others publish is not signed. Unset one"
            )

    def kept(self, wanted: Scaling) -> Scaling:
        """What holds beside processes that were started with this one: another only where neither is enabled."""
        return self if self.enabled or wanted.enabled else wanted

    def plain(self) -> dict[str, Any]:
        """The same as JSON can carry it, secrets included."""
        return asdict(self)

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> Scaling:
        """From `plain`, perhaps of another version: what this one does not know is left out."""
        values = known(cls, plain)
        redis = known(Redis, values["redis"])
        redis["sentinels"] = tuple(redis["sentinels"])
        values["redis"] = Redis(**redis)
        return cls(**values)


def _within(key: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # nor is what is no number
        raise ConfigurationError(key, f"must be from {least} to {most}", value=value)


def _one_of(key: str, value: str | int | None, words: Sequence[str | int | None]) -> None:
    if value not in words:
        expected = " or ".join("none" if word is None else str(word) for word in words)
        raise ConfigurationError(key, f"must be {expected}", value=value)


def known(kind: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of that dataclass among these values, which may be of another version."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}
