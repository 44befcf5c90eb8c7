"""Signed requests: Pusher's documented example, and everything about it that may be wrong."""

from __future__ import annotations

import gc
import hashlib
import hmac
from types import TracebackType

import pytest

from resonate.api import Endpoint
from resonate.api.authentication import parameters
from resonate.errors import HttpError
from resonate.http import Response
from resonate.settings import App
from tests.api.support import NOW, api, query_of, request

NOTHING_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
INVALID = "Authentication signature invalid."
BODY = b'{"name":"e","data":"x","channel":"a"}'


def opened(method: str, path: str, query: str, body: bytes = b"", now: float = NOW, grace: int = 600) -> Endpoint:
    """The endpoint of a request that is accepted."""
    found = api(auth_timestamp_grace=grace).open(request(method, path, query, body), path, now)
    assert not isinstance(found, Response)
    return found


def refusal(method: str, path: str, query: str, body: bytes = b"", now: float = NOW, grace: int = 600) -> str:
    """Why a request is not accepted: the message of a 401."""
    with pytest.raises(HttpError) as raised:
        opened(method, path, query, body, now, grace)
    assert raised.value.status == 401
    return raised.value.message


# --- Pusher's documented example -------------------------------------------------------------------------------------

DOCUMENTED = App(app_id="3", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
DOCUMENTED_BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
DOCUMENTED_QUERY = (
    "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
    "&body_md5=ec365a775a4cd0599faeb73354201b6f"
    "&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
)


def test_documented_example() -> None:
    call = request("POST", "/apps/3/events", DOCUMENTED_QUERY, DOCUMENTED_BODY)
    assert not isinstance(api(DOCUMENTED).open(call, call.path, 1353088179), Response)


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("POST", "/apps/3/batch_events", DOCUMENTED_QUERY, DOCUMENTED_BODY),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY, DOCUMENTED_BODY + b" "),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY, b""),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY + "&info=cache", DOCUMENTED_BODY),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY.replace("1353088179", "1353088180"), DOCUMENTED_BODY),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY[:-1], DOCUMENTED_BODY),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY + "0", DOCUMENTED_BODY),
        ("POST", "/apps/3/events", DOCUMENTED_QUERY.partition("&auth_signature")[0], DOCUMENTED_BODY),
        ("GET", "/apps/3/channels", DOCUMENTED_QUERY, b""),
    ],
)
def test_documented_example_with_something_changed(method: str, path: str, query: str, body: bytes) -> None:
    with pytest.raises(HttpError, match=f"401 {INVALID}"):
        api(DOCUMENTED).open(request(method, path, query, body), path, 1353088179)


# --- what is signed --------------------------------------------------------------------------------------------------


def test_signature_of_another_secret() -> None:
    path = "/apps/app1/channels"
    assert refusal("GET", path, query_of("GET", path, secret="other")) == INVALID


@pytest.mark.parametrize("query", ["", "auth_key=key1", "auth_signature=", "auth_signature=%00%FF", "&&&", "=&=a"])
def test_no_signature(query: str) -> None:
    assert refusal("GET", "/apps/app1/channels", query) == INVALID


def test_signature_for_another_method() -> None:
    path = "/apps/app1/events"
    assert refusal("POST", path, query_of("GET", path, BODY), BODY) == INVALID


def test_head_is_signed_as_head() -> None:
    path = "/apps/app1/channels"
    opened("HEAD", path, query_of("HEAD", path))
    assert refusal("HEAD", path, query_of("GET", path)) == INVALID


def test_body_md5_is_computed_from_the_body_received() -> None:
    path = "/apps/app1/events"
    query = query_of("POST", path, BODY)
    assert refusal("POST", path, query, BODY.replace(b"x", b"y")) == INVALID
    unsaid = query.replace(f"&body_md5={hashlib.md5(BODY).hexdigest()}", "")
    opened("POST", path, unsaid, BODY)


def test_body_md5_of_nothing_may_be_signed_or_absent() -> None:
    path = "/apps/app1/channels"
    opened("GET", path, query_of("GET", path))
    opened("GET", path, query_of("GET", path, body_md5=NOTHING_MD5))


def test_another_body_md5_without_a_body() -> None:
    path = "/apps/app1/channels"
    assert refusal("GET", path, query_of("GET", path, body_md5="0" * 32)) == INVALID


def test_parameters_of_the_url_only_are_not_signed() -> None:
    path = "/apps/app1/channels"
    opened("GET", path, query_of("GET", path) + "&appId=app1&appKey=key1&channelName=x")


def test_values_are_signed_decoded() -> None:
    path = "/apps/app1/channels"
    query = query_of("GET", path, query={"filter_by_prefix": "prä/& =+%41"})
    endpoint = opened("GET", path, query)
    assert next(endpoint)[0].prefix == "prä/& =+%41"  # type: ignore[union-attr]


def test_the_path_is_signed_as_it_came() -> None:
    path = "/apps/app1/channels/a%20b"
    opened("GET", path, query_of("GET", path))
    assert refusal("GET", path, query_of("GET", "/apps/app1/channels/a b")) == INVALID


def test_arrays_are_signed_with_their_values_joined() -> None:
    path = "/apps/app1/channels"
    text = f"auth_key=key1&auth_timestamp={NOW}&auth_version=1.0&info=user_count,cache"
    signature = hmac.new(b"secret1", f"GET\n{path}\n{text}".encode(), hashlib.sha256).hexdigest()
    for array in (
        "info[]=user_count&info[]=cache",
        "info%5B%5D=user_count&info%5B%5D=cache",
        "info%5B0%5D=user_count&info%5B1%5D=cache",
    ):
        query = f"{array}&auth_key=key1&auth_timestamp={NOW}&auth_version=1.0&auth_signature={signature}"
        opened("GET", path, query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("a=1&a=2", {"a": "2"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1+2", {"a": "1 2"}),
        ("a=1%2B2&b", {"a": "1+2", "b": ""}),
        ("a[]=1", {"a": "1"}),
        ("a[]=1&a[]=2&a[]=3", {"a": "1,2,3"}),
        ("a[x]=1&a[y]=2", {"a": "1,2"}),
        ("%61=%C3%A9", {"a": "é"}),
    ],
)
def test_parameters(query: str, expected: dict[str, str]) -> None:
    assert parameters(query) == expected


# --- the time stamp --------------------------------------------------------------------------------------------------

PATH = "/apps/app1/connections"


@pytest.mark.parametrize("apart", [-600, -1, 0, 1, 600])
def test_time_stamps_within_the_grace(apart: int) -> None:
    opened("GET", PATH, query_of("GET", PATH), now=NOW + apart)


@pytest.mark.parametrize(("apart", "shown"), [(-601, "601 s"), (601, "601 s"), (86400, "86400 s")])
def test_time_stamps_beyond_the_grace(apart: int, shown: str) -> None:
    message = refusal("GET", PATH, query_of("GET", PATH), now=NOW + apart)
    assert "expired" in message
    assert shown in message


@pytest.mark.parametrize("stamp", ["", "now", "1.5", "-5", "١٢٣", "1e9", " 1700000000"])
def test_time_stamps_that_are_none(stamp: str) -> None:
    assert refusal("GET", PATH, query_of("GET", PATH, auth_timestamp=stamp)) == "Authentication timestamp invalid."


def test_time_stamps_of_any_length() -> None:
    assert "expired" in refusal("GET", PATH, query_of("GET", PATH, auth_timestamp="9" * 5000))


@pytest.mark.parametrize("stamp", ["1", "", "now"])
def test_a_grace_of_0_turns_the_check_off(stamp: str) -> None:
    opened("GET", PATH, query_of("GET", PATH, auth_timestamp=stamp), grace=0)


def test_the_signature_is_looked_at_first() -> None:
    query = query_of("GET", PATH, secret="other", auth_timestamp="1")
    assert refusal("GET", PATH, query) == INVALID


def test_refusals_leave_nothing_behind() -> None:
    """An exception that is raised again grows its traceback, and with it keeps every request that was refused."""

    def tracebacks() -> int:
        gc.collect()
        return sum(isinstance(thing, TracebackType) for thing in gc.get_objects())

    before = tracebacks()
    for _ in range(100):
        refusal("GET", PATH, "")
        refusal("GET", PATH, query_of("GET", PATH, auth_timestamp="1"))
    assert tracebacks() - before < 50
