"""Requests to the API, signed by hand, and endpoints driven with hand-made answers."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from resonate.api import Api
from resonate.api.validation import InvalidError
from resonate.http import Request, Response, error_response
from resonate.messages import Request as Asked
from resonate.settings import App, Server, Settings

NOW = 1_700_000_000
APP = App(app_id="app1", key="key1", secret="secret1")


def api(*apps: App, **server: Any) -> Api:
    """The API of these apps (of the usual one, if none are named)."""
    return Api(Settings(server=Server(**server), apps=apps or (APP,)), itertools.count(1))


def query_of(
    method: str,
    path: str,
    body: bytes = b"",
    query: Mapping[str, str] | None = None,
    *,
    secret: str = "secret1",
    **changed: str,
) -> str:
    """A signed query; `changed` replaces parameters before they are signed."""
    parameters = {"auth_key": "key1", "auth_timestamp": str(NOW), "auth_version": "1.0", **(query or {})}
    if body:
        parameters["body_md5"] = hashlib.md5(body).hexdigest()
    parameters.update(changed)
    text = "&".join(f"{name}={parameters[name]}" for name in sorted(parameters))
    signature = hmac.new(secret.encode(), f"{method}\n{path}\n{text}".encode(), hashlib.sha256).hexdigest()
    encoded = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())
    return f"{encoded}&auth_signature={signature}"


def request(method: str, path: str, query: str, body: bytes = b"") -> Request:
    """A request as the HTTP reader gives it."""
    return Request(method, path, query, "1.1", {}, body, True)


def asked(
    method: str, path: str, data: Any = None, query: Mapping[str, str] | None = None, answers: Any = (), **server: Any
) -> tuple[list[Asked], Response]:
    """What an endpoint of `/apps/app1` asks shards for, and its response to these answers."""
    body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
    path = "/apps/app1" + path
    endpoint = api(**server).open(request(method, path, query_of(method, path, body, query), body), path, NOW)
    if isinstance(endpoint, Response):
        return [], endpoint
    try:
        requests = next(endpoint)
        endpoint.send(list(answers))
    except InvalidError as invalid:
        return [], error_response(invalid)
    except StopIteration as end:
        return requests, end.value
    raise AssertionError("the endpoint asks again")
