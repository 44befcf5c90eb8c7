"""Executing this program for an errand."""

from __future__ import annotations

import os

import pytest
from resonate.supervisor import errands


def test_a_letter_that_cannot_be_sent_is_thrown_away() -> None:
    read, write = os.pipe()
    os.close(write)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Bad file descriptor"):
        errands.send({}, [read, 1_000_000])
    assert os.listdir("/proc/self/fd") == before
    assert not os.get_inheritable(read)
    os.close(read)
