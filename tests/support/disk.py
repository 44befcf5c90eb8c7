"""A disk that is small enough to be full."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def tiny_disk() -> Iterator[Path]:
    """A file system of a few pages and a few dozen files, where this process may mount one."""
    path = Path(tempfile.mkdtemp(prefix="tiny"))
    words = ["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=40", "none", str(path)]
    mounted = shutil.which("mount") and subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        if not mounted or mounted.returncode:
            pytest.skip(f"a full disk needs the right to mount one: {mounted and mounted.stderr.strip()}")
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)
        path.rmdir()


def fill(disk: Path) -> None:
    """No byte more."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def use_up_files(disk: Path) -> None:
    """No file more: those that are made here are named spare-*."""
    with suppress(OSError):
        for number in itertools.count():
            (disk / f"spare-{number}").touch()
