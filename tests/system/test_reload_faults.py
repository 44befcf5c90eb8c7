"""What breaks in the middle of a reload, at a small size: `make reload RELOAD_FLAGS="--fault NAME"` is the full one.

What ends a reload before it has begun, with the smallest of workers: tests/supervisor/test_reloading.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.test_reload import found

#: Faults that somebody has to notice, whatever their size is.
CUTTING = ("heir-half", "master")


@pytest.mark.parametrize("fault", ["heir-half", "old-half", "shard", "master", "disk"])
def test_only_those_notice_it_who_have_to(tmp_path: Path, fault: str) -> None:
    seen = found(tmp_path, master="own", fault=fault, reloads=1)
    assert seen["wrong"] == {}, seen["examples"]
    assert seen["deliveries"] > 300
    if fault in CUTTING:
        assert seen["as documented"]["cut off"] > 0


def test_no_more_than_200_are_under_way_to_an_heir_that_dies(tmp_path: Path) -> None:
    seen = found(tmp_path, master="own", fault="heir-frozen", reloads=1, clients=1000)
    assert seen["wrong"] == {}, seen["examples"]
