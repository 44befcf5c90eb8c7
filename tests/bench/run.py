"""The figures of docs/performance.md, measured on this machine: `make bench`.

    python tests/bench/run.py [--seconds 5] [--rows fanout overlap publish connect memory idle] [--json]

The server gets the first core, the load the last one. Each measurement has a server of its own; the bare `send` (the
floor) and the fan-out take turns. Where `../shared/bench/pusherload.py` lies beside the repository it makes the load,
else load.py, whose figures are the same. Exit status 1 when a figure is not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script

from tests.support.server import Server  # noqa: E402

SHARED_TOOL: Final = ROOT.parent / "shared" / "bench" / "pusherload.py"
OWN_TOOL: Final = ROOT / "tests" / "bench" / "load.py"
FLOOR: Final = ROOT / "tests" / "bench" / "floor.py"
#: How often floor and fan-out take turns.
TURNS: Final = 3
#: Connections of the rows connect, memory and idle.
CONNECTIONS: Final = 8000

Record = dict[str, Any]


class Bench:
    """Runs the load against servers of its own; `records` is everything that was measured."""

    def __init__(self, seconds: float) -> None:
        self.records: list[Record] = []
        self.tool = SHARED_TOOL if SHARED_TOOL.exists() else OWN_TOOL
        self._seconds = seconds
        cores = sorted(os.sched_getaffinity(0))
        self._server_core, self._load_core = cores[0], cores[-1]

    @cached_property
    def alternated(self) -> tuple[float, float]:
        """Microseconds of a bare send, and of a delivery to one of 1,000 subscribers: medians of the turns."""
        floors, deliveries = [], []
        with self._server() as server:
            for _ in range(TURNS):
                cores = ["--cpu", self._server_core, "--load-cpu", self._load_core]
                floors.append(self._run(FLOOR, *cores)["cpu_us_per_send"])
                deliveries.append(self._delivery(server, "--subs", 1000))
        return median(floors), median(deliveries)

    @cached_property
    def overlapping(self) -> float:
        """Microseconds of a delivery when eight publishers' broadcasts overlap."""
        with self._server() as server:
            return self._delivery(server, "--subs", 100, "--publishers", 8)

    @cached_property
    def publishes(self) -> Record:
        """Signed publishes a second, and their cost."""
        with self._server() as server:
            found = self._load(server, "publish")
        if found["errors"]:
            raise SystemExit(f"publishes failed: {found}")
        return found

    @cached_property
    def connections(self) -> Record:
        """Handshakes a second, and what connections cost that are idle."""
        with self._server() as server:
            return self._load(server, "connect", "--conns", CONNECTIONS, "--subscribe")

    def _delivery(self, server: Server, *options: object) -> float:
        found = self._load(server, "fanout", *options)
        if found["lost"] or found["http_errors"]:
            raise SystemExit(f"events were lost: {found}")
        return float(found["cpu_us_per_delivery"])

    def _load(self, server: Server, case: str, *options: object) -> Record:
        where = ("--port", server.port, "--pid", server.process.pid, "--cpu", self._load_core)
        return self._run(self.tool, case, *where, "--seconds", self._seconds, *options)

    def _run(self, *words: object) -> Record:
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")
        record: Record = json.loads(done.stdout)
        self.records.append(record)
        print(json.dumps(record), file=sys.stderr)
        return record

    @contextmanager
    def _server(self) -> Iterator[Server]:
        """A fresh server on its core; processes inherit the affinity of who starts them."""
        mine = os.sched_getaffinity(0)
        with tempfile.TemporaryDirectory() as directory:
            os.sched_setaffinity(0, {self._server_core})
            try:
                server = Server(Path(directory), server={"drain_timeout": 1})
            finally:
                os.sched_setaffinity(0, mine)
            with server:
                yield server


class Result(NamedTuple):
    """What was measured, in words, and whether it is good enough."""

    measured: str
    reached: bool


def _fanout(bench: Bench) -> Result:
    floor, delivery = bench.alternated
    ratio = delivery / floor
    return Result(f"{delivery:.2f} µs, {ratio:.2f} x the floor of {floor:.2f}", ratio <= 1.25)


def _at_most(limit: float, unit: str, value: Callable[[Bench], float]) -> Callable[[Bench], Result]:
    return lambda bench: Result(f"{value(bench):g} {unit}", value(bench) <= limit)


def _rate(limit: float, count: float, cost_us: float) -> Result:
    """A rate needs the machine for itself, what each costs does not: both are told."""
    return Result(f"{count:,.0f} /s, CPU {cost_us:g} µs each", count >= limit)


def _publish(bench: Bench) -> Result:
    return _rate(15_000, bench.publishes["requests_per_s"], bench.publishes["cpu_us_per_request"])


def _connect(bench: Bench) -> Result:
    return _rate(9000, bench.connections["connects_per_s"], bench.connections["cpu_us_per_connect"])


class Row(NamedTuple):
    """A row of docs/performance.md."""

    work: str
    reach: str
    measure: Callable[[Bench], Result]


ROWS: Final[dict[str, Row]] = {
    "fanout": Row("delivery, 1,000 subscribers, one publisher: CPU each", "<= 1.25 x the floor", _fanout),
    "overlap": Row(
        "delivery, 100 subscribers, 8 publishers: CPU each", "<= 2.3 µs", _at_most(2.3, "µs", lambda b: b.overlapping)
    ),
    "publish": Row("signed publish to an empty channel", ">= 15,000 /s", _publish),
    "connect": Row("handshake + subscribe", ">= 9,000 /s", _connect),
    "memory": Row(
        "memory per idle subscribed connection", "<= 2 KiB", _at_most(2, "KiB", lambda b: b.connections["kb_per_conn"])
    ),
    "idle": Row(
        "CPU of 8,000 idle connections",
        "<= 0.005 cores",
        _at_most(0.005, "cores", lambda b: b.connections["idle_cpu_cores"]),
    ),
}


def machine(tool: Path) -> str:
    """Where the figures come from."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores ({model}), "
        f"Linux {platform.release()}, load {load:.1f} before, {tool.name}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default 5)")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--json", action="store_true", help="print everything that was measured after the table")
    options = parser.parse_args()
    bench = Bench(options.seconds)
    where = machine(bench.tool)
    results = {name: ROWS[name].measure(bench) for name in options.rows}
    print("| work | measured | reach | reached |\n|---|---|---|---|")
    for name, result in results.items():
        print(f"| {ROWS[name].work} | {result.measured} | {ROWS[name].reach} | {'yes' if result.reached else 'no'} |")
    print(f"\n{where}")
    if options.json:
        rows = {name: result._asdict() for name, result in results.items()}
        print(json.dumps({"machine": where, "rows": rows, "raw": bench.records}))
    return 0 if all(result.reached for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
