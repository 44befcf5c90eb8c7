"""A working directory with a configuration file and a `.env`, and an environment that is otherwise clean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from resonate import config
from resonate.errors import ConfigurationError
from resonate.settings import Settings
from tests.support.server import OURS

APP = 'apps = [{app_id = "app1", key = "key1", secret = "hunter2"}]'


class Directory:
    """`load` reads it as `resonate start` reads its working directory."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._monkeypatch = monkeypatch
        for name in os.environ:
            if name.startswith(OURS):
                monkeypatch.delenv(name)

    def toml(self, server: str = "", apps: str = APP, name: str = "resonate.toml") -> Directory:
        """A file with these lines below `servers.reverb` and below `apps`."""
        (self.path / name).write_text(f"[servers.reverb]\n{server}\n[apps]\n{apps}\n")
        return self

    def app(self, lines: str, name: str = "resonate.toml") -> Directory:
        """A file with one app that has these lines beside its credentials."""
        credentials = 'app_id = "app1"\nkey = "key1"\nsecret = "hunter2"'
        (self.path / name).write_text(f"[[apps.apps]]\n{credentials}\n{lines}\n")
        return self

    def dotenv(self, text: str) -> Directory:
        (self.path / ".env").write_text(text)
        return self

    def environ(self, **variables: str) -> Directory:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)
        return self

    def load(self, options: Mapping[str, Any] | None = None, file: str | None = None) -> Settings:
        return config.load(options, file, self.path)

    def error(self, options: Mapping[str, Any] | None = None, file: str | None = None) -> str:
        """The one line with which it is refused; never a secret in it."""
        with pytest.raises(ConfigurationError) as raised:
            self.load(options, file)
        text = str(raised.value)
        assert "\n" not in text
        assert "hunter2" not in text
        return text
