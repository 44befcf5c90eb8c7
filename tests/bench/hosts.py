"""Several hosts under load while something breaks between them: `make hosts`.

    python tests/bench/hosts.py [--fault NAME...] [--hosts 2] [--workers 2] [--channels 20] [--subscribers 2]
                                [--rate 1000] [--seconds N] [--log]
    python tests/bench/hosts.py --storm [--hosts 3] [--seconds 120] [--clients 300] [--users 100]
    python tests/bench/hosts.py --latency [--seconds 10]

The first counts at each subscriber what is lost, doubled or out of order of streams that come by REST and from clients
of all hosts, and whether subscribers have seen two orders. The second lets presence clients come and go, and kills a
host. The third measures. Without a fault's name all are tried. Exit status 1 when anything was noticed that must not
be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tests.bench import crossing, gathering
from tests.bench.outages import OUTAGES, Scene, happen
from tests.bench.streams import Streams
from tests.bench.verdict import summary
from tests.support.hosts import Hosts
from tests.support.server import ONE_APP

#: Seconds of peace before a fault.
BEFORE_S: Final = 3.0


def run(name: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One fault; what has been found."""
    outage = OUTAGES[name]
    app = {**ONE_APP, "accept_client_events_from": "members"}
    settings = {"drain_timeout": 10}
    with Hosts(directory, options.hosts, workers=options.workers, apps=[app], server=settings, **outage.place) as hosts:
        streams = Streams(
            hosts,
            channels=options.channels,
            subscribers=options.subscribers,
            rate=options.rate,
            callers=outage.callers,
        )
        with streams.crowd:
            streams.open()
            began = time.monotonic()
            streams.go_on(min(BEFORE_S, options.seconds or BEFORE_S))
            window = happen(outage, Scene(hosts, streams, options.seconds or outage.seconds))
            streams.publishing = False
            rate = streams.published / (time.monotonic() - began)
            streams.close()
            found = {"fault": name, "events per s": round(rate), **summary(streams, window)}
        logs = [server.log() for server in hosts.servers]
    for text in logs:
        if "Traceback" in text:
            found["wrong"]["traceback"] = 1
            found["examples"].append(text.partition("Traceback")[2][:2000])
    if found["wrong"] and options.log:
        print(*logs, sep="\n", file=sys.stderr)
    return found


def faults(options: argparse.Namespace) -> int:
    """One after the other; how many have shown something wrong."""
    failed = 0
    for name in options.fault or OUTAGES:
        with tempfile.TemporaryDirectory() as directory:
            found = run(name, Path(directory), options)
        print(json.dumps(found), flush=True)
        failed += bool(found["wrong"])
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fault", choices=OUTAGES, nargs="*", default=[])
    for name, value in (("hosts", 0), ("workers", 2), ("channels", 20), ("subscribers", 2), ("rate", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seconds", type=float, default=0.0, help="instead of what each takes in full size")
    parser.add_argument("--log", action="store_true", help="print the hosts' logs when something was noticed")
    parser.add_argument("--storm", action="store_true")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    options.hosts = options.hosts or (3 if options.storm else 2)
    if options.storm:
        return gathering.main(options)
    if options.latency:
        return crossing.main(options)
    return 1 if faults(options) else 0


if __name__ == "__main__":
    sys.exit(main())
