"""Python, the packages, and what the loop waits with."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from resonate.supervisor.doctor.case import Case
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, warning

from resonate import __version__
from resonate.server.backend import backend

DISTRIBUTION: Final = "resonate-server"


def packages(case: Case) -> Iterator[Finding]:
    """Those that are installed, against what this one declares."""
    try:
        declared = metadata.metadata(DISTRIBUTION)
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield note(f"{DISTRIBUTION} is not installed: what it needs is not known", remedy="pip install .")
        return
    yield from python(platform.python_version(), declared["Requires-Python"] or "")
    wrong = list(lacking(required, metadata.version))
    yield from wrong
    if not wrong:
        yield ok(f"resonate {__version__}; all packages are there")


def python(version: str, required: str) -> Iterator[Finding]:
    """The interpreter."""
    if SpecifierSet(required).contains(version, prereleases=True):
        yield ok(f"Python {version}")
    else:
        yield problem(f"Python {version}", f"the server needs {required}", "install a newer one")


def lacking(required: Iterable[str], installed: Callable[[str], str]) -> Iterator[Finding]:
    """Packages that are missing or too old; `installed` tells a version, or raises PackageNotFoundError."""
    for line in required:
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            continue
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{needed.name}{needed.specifier}'"
        try:
            version = installed(needed.name)
        except metadata.PackageNotFoundError:
            yield problem(f"{needed.name} is not installed", "the server needs it", remedy)
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield problem(f"{needed.name} {version} is too old", f"the server needs {needed.specifier}", remedy)


def loop(case: Case) -> Iterator[Finding]:
    """What the workers wait with."""
    yield from waiting(*backend())


def waiting(library: str, kernel: str) -> Iterator[Finding]:
    """Only epoll does not look at every connection each time."""
    if (library, kernel) == ("libev", "epoll"):
        yield ok("libev with epoll")
    else:
        yield warning(
            f"the loop waits with {library} ({kernel})",
            "it is slower with many connections, and nobody has measured it; libev with epoll is what is tested",
            "unset GEVENT_LOOP and LIBEV_FLAGS",
        )
