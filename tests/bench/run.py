"""The figures of docs/performance.md, measured on this machine: `make bench`.

    python tests/bench/run.py [--seconds 5] [--rows fanout overlap publish connect memory idle] [--json]
    python tests/bench/run.py --rows hop spread delay       with several workers, against one

The server gets the first core, the load the last one. Each measurement has a server of its own; the bare `send` (the
floor) and the fan-out take turns, and so do servers with different numbers of workers. Where
`../shared/bench/pusherload.py` lies beside the repository it makes the load, else load.py, whose figures are the same.
Exit status 1 when a figure is not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
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
#: Seconds until new connections go to all workers: the master has to have seen each of them ready.
SETTLE_S: Final = 3.0
#: Publishes at a time, with several workers.
TOGETHER: Final = (32, 64, 128)
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

    def hop(self, together: int) -> float:
        """Microseconds that a publish costs more with two workers, so many at a time."""

        def publish(server: Server) -> float:
            return float(self._load(server, "publish", "--conns", together)["cpu_us_per_request"])

        one, two = self._in_turns(publish, 1, 2)
        return two - one

    @cached_property
    def spread(self) -> tuple[float, float]:
        """Microseconds of a delivery to one of 1,000 subscribers, of one worker, and of four."""
        one, four = self._in_turns(lambda server: self._delivery(server, "--subs", 1000), 1, 4)
        return one, four

    @cached_property
    def delay(self) -> float:
        """Milliseconds that half of all events come later with two workers: 100 a second to 200 subscribers."""

        def wait(server: Server) -> float:
            return float(self._load(server, "fanout", "--subs", 200, "--rate", 100)["lat_ms"]["p50"])

        one, two = self._in_turns(wait, 1, 2)
        return two - one

    def _in_turns(self, measure: Callable[[Server], float], *workers: int) -> list[float]:
        """Medians, for each number of workers."""
        found: dict[int, list[float]] = {number: [] for number in workers}
        for _ in range(TURNS):
            for number in workers:
                with self._server(number) as server:
                    time.sleep(SETTLE_S)
                    found[number].append(measure(server))
        return [median(figures) for figures in found.values()]

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
    def _server(self, workers: int = 1) -> Iterator[Server]:
        """A fresh server on its core; processes inherit the affinity of who starts them."""
        mine = os.sched_getaffinity(0)
        with tempfile.TemporaryDirectory() as directory:
            os.sched_setaffinity(0, {self._server_core})
            try:
                words = {"RESONATE_WORKERS": str(workers)}
                server = Server(Path(directory), server={"drain_timeout": 1}, env=words)
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


def _hop(bench: Bench) -> Result:
    """Who asks for many at a time has them in fewer frames."""
    more = [bench.hop(together) for together in TOGETHER]
    return Result(f"{', '.join(f'{each:.1f}' for each in more)} µs", max(more) <= 25)


def _spread(bench: Bench) -> Result:
    one, four = bench.spread
    return Result(f"{four:.2f} µs, {four / one:.2f} x the {one:.2f} of one worker", four / one <= 1.15)


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
    "hop": Row(
        f"a publish with 2 workers, {', '.join(map(str, TOGETHER))} at a time: CPU more", "<= 25 µs", _hop
    ),
    "spread": Row("delivery, 1,000 subscribers of 4 workers: CPU each", "<= 1.15 x that of one", _spread),
    "delay": Row(
        "publish to frame with 2 workers, p50: later", "<= 1 ms", _at_most(1, "ms", lambda b: round(b.delay, 2))
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
