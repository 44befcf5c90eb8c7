"""Runs all tests: `make test`. Two parts at a time, for most of them wait rather than compute.

    python tests/run.py [options of pytest]
    python tests/run.py --matrix [options of pytest]     what holds for any number of workers, shards and hosts

What a part says is printed when it has ended. Exit status 1 if any has failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
#: Parts that run at the same time.
TOGETHER: Final = 2
#: What must not depend on the number of workers.
SUITES: Final = (
    "tests/clients",
    "tests/system/test_smoke.py",
    "tests/system/test_http.py",
    "tests/system/test_limits.py",
    "tests/system/test_tls.py",
    "tests/system/test_transcripts.py",
    "tests/system/test_rfc6455.py",
    "tests/system/test_stopping.py",
    "tests/system/test_hosted_websocket.py",
)


class Part(NamedTuple):
    """`words` are pytest's arguments, `env` is what differs in the environment."""

    title: str
    words: Sequence[str]
    env: dict[str, str]


#: And not on that of hosts behind a balancer.
BALANCED: Final = (
    "tests/clients/test_node.py",
    "tests/clients/test_python_library.py",
    "tests/system/test_smoke.py",
    "tests/system/test_http.py",
    "tests/system/test_limits.py",
    "tests/system/test_transcripts.py",
)


def suites(workers: int, shards: int) -> Part:
    """Them with so many."""
    env = {"TEST_WORKERS": str(workers), "TEST_SHARDS": str(shards)}
    return Part(f"suites, workers: {workers}, shards: {shards}", SUITES, env)


def balanced(hosts: int, workers: int, without: Sequence[str] = ()) -> Part:
    """Those with so many hosts, and so many workers on each."""
    env = {"TEST_HOSTS": str(hosts), "TEST_WORKERS": str(workers)}
    words = [each for each in BALANCED if each not in without]
    return Part(f"suites, hosts: {hosts}, workers: {workers}", words, env)


SYSTEM: Final = ("tests/system", "tests/clients", "tests/browser")
#: What is about several hosts.
HOSTS: Final = tuple(f"tests/system/test_{name}.py" for name in ("hosts", "outages", "alone", "envelope"))
#: The longest first.
PARTS: Final = (
    Part("whole servers", ["tests/system", *(f"--ignore={file}" for file in HOSTS)], {}),
    Part("cores and processes", ["tests", *(f"--ignore={folder}" for folder in SYSTEM)], {}),
    Part("clients and browsers", ["tests/clients", "tests/browser"], {}),
    suites(4, 2),
    Part("several hosts", HOSTS, {}),
    balanced(2, 1, without=["tests/system/test_http.py"]),  # it waits long, and of one connection: the matrix has it
)
MATRIX: Final = (
    *(suites(workers, shards) for workers in (1, 2, 4) for shards in (1, 2)),
    *(balanced(hosts, workers) for hosts in (2, 3) for workers in (1, 2)),
)


class Running:
    """A part that has been started."""

    def __init__(self, part: Part, options: Sequence[str]) -> None:
        self.part, self.began = part, time.monotonic()
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the part has ended
        words = [sys.executable, "-m", "pytest", "--quiet", *options, *part.words]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **part.env}, stdout=self.output, stderr=subprocess.STDOUT
        )

    def ended(self) -> bool:
        """Whether it has; then what it has said is printed."""
        if self.process.poll() is None:
            return False
        self.output.seek(0)
        outcome, seconds = "failed" if self.process.returncode else "passed", time.monotonic() - self.began
        print(f"--- {self.part.title}: {outcome}, {seconds:.0f} s", flush=True)
        sys.stdout.buffer.write(self.output.read())
        sys.stdout.flush()
        self.output.close()
        return True


def main() -> int:
    options = sys.argv[1:]
    matrix = "--matrix" in options
    options = [option for option in options if option != "--matrix"]
    waiting, running, failed = list(MATRIX if matrix else PARTS), list[Running](), list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < TOGETHER:
                running.append(Running(waiting.pop(0), options))
            for each in [each for each in running if each.ended()]:
                running.remove(each)
                failed += [each.part.title] if each.process.returncode else []
            time.sleep(0.2)
    finally:
        for each in running:
            each.process.terminate()
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
