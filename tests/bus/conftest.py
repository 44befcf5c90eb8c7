"""A run directory of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bus.support import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """A run directory with a living master."""
    with Place() as found:
        yield found
