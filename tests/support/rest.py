"""Signed calls of the REST API, written out by hand so that they do not share a mistake with the server."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def signed(
    method: str,
    path: str,
    body: bytes = b"",
    query: Mapping[str, str] | None = None,
    *,
    key: str = "key1",
    secret: str = "secret1",
    timestamp: int | None = None,
) -> str:
    """The request target (path and query) with Pusher's signature."""
    parameters = {
        "auth_key": key,
        "auth_timestamp": str(int(time.time()) if timestamp is None else timestamp),
        "auth_version": "1.0",
        **(query or {}),
    }
    if body:
        parameters["body_md5"] = hashlib.md5(body).hexdigest()
    text = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    signature = hmac.new(secret.encode(), f"{method}\n{path}\n{text}".encode(), hashlib.sha256).hexdigest()
    encoded = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
    return f"{path}?{encoded}&auth_signature={signature}"


class Rest:
    """One keep-alive connection to the REST API of one app."""

    def __init__(
        self, host: str, port: int, app: str = "app1", key: str = "key1", secret: str = "secret1", prefix: str = ""
    ) -> None:
        self.app, self.key, self.secret, self.prefix = app, key, secret, prefix
        self.connection = http.client.HTTPConnection(host, port, timeout=20)

    def call(self, method: str, path: str, data: Any = None, query: Mapping[str, str] | None = None) -> Answer:
        """`path` below /apps/{id}; `data` is sent as JSON, or as it is when it is bytes."""
        body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        target = signed(method, f"/apps/{self.app}{path}", body, query, key=self.key, secret=self.secret)
        self.connection.request(method, self.prefix + target, body or None, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def publish(self, channel: str, name: str, data: str, **more: Any) -> Answer:
        return self.call("POST", "/events", {"name": name, "channels": [channel], "data": data, **more})

    def close(self) -> None:
        self.connection.close()
