"""The fixture of the configuration's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.support import Directory


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    return Directory(tmp_path, monkeypatch)
