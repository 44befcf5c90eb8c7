"""The protocol of Redis, whole and in pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.resp import LONGEST_LINE, ProtocolError, Reader, Refusal, pack

_values = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20), lambda inner: st.lists(inner, max_size=4)
)


def _encoded(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(_encoded, value))


@given(st.lists(_values, max_size=5), st.integers(1, 30))
def test_replies_come_out_as_they_went_in_however_they_are_cut(values: list[Any], size: int) -> None:
    data = b"".join(map(_encoded, values))
    assert Reader().feed(data) == values
    reader = Reader()
    found = []
    for begin in range(0, len(data), size):
        found += reader.feed(data[begin : begin + size])
    assert found == values


def test_a_line_is_a_value_and_an_error_is_one_too() -> None:
    status, nothing, refusal = Reader().feed(b"+OK\r\n*-1\r\n-WRONGTYPE Operation against\r\n")
    assert (status, nothing) == (b"OK", None)
    assert isinstance(refusal, Refusal)
    assert refusal.text == "WRONGTYPE Operation against"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$1000000000000\r\n",
        b"*x\r\n",
        b"*-2\r\n",
        b":x\r\n",
        b"x" * (LONGEST_LINE + 1),
    ],
)
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reader().feed(data)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_anything_is_a_reply_or_an_error(chunks: list[bytes]) -> None:
    reader = Reader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except ProtocolError:
        pass


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_a_command_is_a_list_of_strings(parts: list[bytes]) -> None:
    assert Reader().feed(pack(parts)) == [parts]
