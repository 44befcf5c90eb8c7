"""Packages against what is declared, and the loop."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from resonate.supervisor.doctor import software

from tests.supervisor.doctor.cases import case, levels, machine, only

INSTALLED = {"gevent": "24.10.1", "redis": "4.9", "tomli": "1.0"}
REQUIRED = ["gevent>=24.10.1", "redis>=5.0", "orjson>=3.10", 'trustme>=1.1; extra == "test"', "no requirement at all"]


def installed(name: str) -> str:
    try:
        return INSTALLED[name]
    except KeyError:
        raise PackageNotFoundError(name) from None


def test_packages_that_are_missing_or_too_old() -> None:
    found = list(software.lacking(REQUIRED, installed))
    assert levels(found) == ["problem", "problem"]
    assert [finding.what for finding in found] == ["redis 4.9 is too old", "orjson is not installed"]
    assert [finding.remedy for finding in found] == ["pip install 'redis>=5.0'", "pip install 'orjson>=3.10'"]


@pytest.mark.parametrize(("version", "level"), [("3.10.4", "problem"), ("3.11.0", "ok"), ("3.14.0rc1", "ok")])
def test_python(version: str, level: str) -> None:
    assert levels(software.python(version, ">=3.11")) == [level]


@pytest.mark.parametrize(
    ("library", "kernel", "level"),
    [("libev", "epoll", "ok"), ("libev", "select", "warning"), ("libuv", "default", "warning")],
)
def test_loop(library: str, kernel: str, level: str) -> None:
    assert levels(software.waiting(library, kernel)) == [level]


def test_here(tmp_path: Path) -> None:
    assert set(levels(software.packages(case(machine(tmp_path))))) == {"ok"}
    assert only(software.loop(case(machine(tmp_path)))).what == "libev with epoll"
