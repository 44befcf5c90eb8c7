"""The only place in the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(condition: Callable[[], Value], within: float = 20.0, every: float = 0.02) -> Value:
    """Return the first truthy value of `condition`; raise AssertionError when none came `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {within} s: {condition}; last value: {value!r}")
        time.sleep(every)
