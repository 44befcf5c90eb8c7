"""Names of logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.cluster.names import app_and_channel, log_name


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_name_tells_app_and_channel_and_fits_between_braces(app: str, channel: str) -> None:
    name = log_name(app, channel)
    assert app_and_channel(name) == (app, channel)
    assert not set(name) & set("{} \n")
    assert name.isascii()


def test_what_is_common_stays_readable() -> None:
    assert log_name("app1", "presence-room.1") == "app1/presence-room.1"
    assert log_name("app1", "#server-to-user-7") == "app1/#server-to-user-7"


@pytest.mark.parametrize("name", ["", "app", "a/b/c"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        app_and_channel(name)
