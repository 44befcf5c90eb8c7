"""Which request goes where, and what never reaches an endpoint."""

from __future__ import annotations

import pytest

from resonate.api import claims
from resonate.api.routes import ROUTES
from resonate.errors import HttpError
from resonate.http import Response
from resonate.settings import App
from tests.api.support import APP, NOW, api, query_of, request

OTHER = App(app_id="app2", key="key2", secret="secret2")


@pytest.mark.parametrize(
    ("path", "claimed"),
    [
        ("/apps/app1/events", True),
        ("/apps/app1/nowhere", True),
        ("/apps/", True),
        ("//apps/app1/events", True),
        ("/users/7/terminate_connections", True),
        ("/users/7/terminate_connections/x", False),
        ("/users/7", False),
        ("/users/7/events", False),
        ("/apps", False),
        ("/appsx/1", False),
        ("/app/key1", False),
        ("/", False),
        ("/myapps/1", False),
    ],
)
def test_claims(path: str, claimed: bool) -> None:
    assert claims(path) is claimed


@pytest.mark.parametrize(("method", "template", "handler"), ROUTES)
def test_every_route_is_found(method: str, template: str, handler: object) -> None:
    path = "/apps/app1" + template.replace("{}", "x")
    found = api().open(request(method, path, query_of(method, path)), path, NOW)
    assert found.gi_code.co_name == handler.__name__  # type: ignore[union-attr, attr-defined]


@pytest.mark.parametrize(("expected", "template", "handler"), ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_wrong_methods(method: str, expected: str, template: str, handler: object) -> None:
    if method == expected or (method, expected) == ("HEAD", "GET"):
        return
    path = "/apps/app1" + template.replace("{}", "x")
    with pytest.raises(HttpError) as raised:
        api().open(request(method, path, query_of(method, path)), path, NOW)
    assert raised.value.status == 405
    assert dict(raised.value.headers)["Allow"] == expected


@pytest.mark.parametrize(
    "path", ["/apps/app1", "/apps/app1/", "/apps/app1/nowhere", "/apps/app1/events/", "/apps//events", "/apps/app1/a/b"]
)
def test_unknown_routes(path: str) -> None:
    found = api().open(request("GET", path, query_of("GET", path)), path, NOW)
    assert isinstance(found, Response)
    assert (found.status, found.body) == (404, b"Not found.")


@pytest.mark.parametrize(("path", "shown"), [("/apps/nope/events", "nope"), ("/apps/APP1/events", "APP1")])
def test_unknown_app(path: str, shown: str) -> None:
    with pytest.raises(HttpError) as raised:
        api().open(request("POST", path, query_of("POST", path)), path, NOW)
    assert raised.value.status == 404
    assert raised.value.message == f"No matching application for ID [{shown}]."


def test_a_signature_of_one_app_does_not_open_another() -> None:
    path = "/apps/app2/channels"
    call = request("GET", path, query_of("GET", path))
    with pytest.raises(HttpError, match="401"):
        api(APP, OTHER).open(call, path, NOW)


def test_two_slashes_are_signed_and_routed_as_one() -> None:
    call = request("GET", "//apps/app1/channels", query_of("GET", "/apps/app1/channels"))
    assert not isinstance(api().open(call, call.path, NOW), Response)


def test_terminate_without_an_app_in_the_path_goes_by_the_key() -> None:
    path = "/users/7/terminate_connections"
    call = request("POST", path, query_of("POST", path))
    (terminate,) = next(api(OTHER, APP).open(call, path, NOW))  # type: ignore[arg-type]
    assert terminate.app == "app1"


def test_app_of_a_key() -> None:
    assert api(APP, OTHER).app("key2") is OTHER
    assert api(APP, OTHER).app("app2") is None


def test_requests_to_shards_are_numbered_across_calls() -> None:
    served = api()
    path = "/apps/app1/connections"
    refs = [next(served.open(request("GET", path, query_of("GET", path)), path, NOW))[0].ref for _ in range(3)]  # type: ignore[union-attr,arg-type]
    assert refs == [1, 2, 3]
