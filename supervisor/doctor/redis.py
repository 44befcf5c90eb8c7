"""Redis, where hosts share one, or the restart key of Laravel is in it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from resonate.supervisor.doctor.case import Case
from resonate.supervisor.doctor.findings import Finding, note, ok, problem, size, warning

from resonate.settings import Server

if TYPE_CHECKING:
    from resonate.bus.redis_checkup import Checkup, CheckupError

#: What is used is there since then; and entries of a cluster go to one node only since then.
OLDEST: Final = (6, 2)
SHARDED: Final = (7, 0)
#: Of half of all answers; each publish and each subscription waits for one or two. In seconds.
SLOW_S: Final = 0.005
#: Of `maxmemory`, in parts of one.
NEARLY_FULL: Final = 0.9
#: Redis cuts a subscriber that has not read so much, at once or after a while: what Redis sets itself. In bytes.
LEAST_OUTPUT: Final = (32 * 1024 * 1024, 8 * 1024 * 1024)
#: Between two clocks, in seconds.
SKEW_S: Final = 1.0

_WHERE: Final = "REDIS_HOST and REDIS_PORT, or REDIS_URL"


class Use:
    """What for. `shared`: hosts meet there, below `prefix`; otherwise the restart key is there."""

    def __init__(self, server: Server, shared: bool) -> None:
        scaling = server.scaling
        self.shared, self.prefix, self.cluster = shared, scaling.prefix, scaling.redis.cluster
        self.title = "several hosts" if shared else "the restart key"
        self.patience_s = scaling.patience
        self.grace_s = server.auth_timestamp_grace


def redis(case: Case) -> Iterator[Finding]:
    """Ask it, for each thing that is wanted of it."""
    server = case.settings.server
    wanted = ((server.scaling.enabled, True), (server.watches_restarts, False))
    uses = [Use(server, shared) for enabled, shared in wanted if enabled]
    for use in uses:
        yield from _asked(server, use)
    if not uses:
        yield note(
            "not used: neither scaling.enabled nor CACHE_STORE=redis", "so there is no clock to compare this one with"
        )


def _asked(server: Server, use: Use) -> Iterator[Finding]:
    from resonate.bus import redis_checkup  # who has no Redis does not wait for its library
    from resonate.bus.restart_key import names

    if use.shared:
        needed = redis_checkup.words_of_hosts(server.scaling)
    else:
        needed = redis_checkup.words_of_restarts(names(server))
    place = "Redis"
    try:
        connection, place = redis_checkup.connection(server, use.shared)
        checkup = redis_checkup.examine(connection, needed)
    except redis_checkup.CheckupError as error:
        yield unreachable(place, error, use)
    else:
        yield from judged(place, checkup, use)


def unreachable(place: str, error: CheckupError, use: Use) -> Finding:
    """It cannot be asked."""
    why = "each host serves its own clients only" if use.shared else "nobody hears of php artisan reverb:restart"
    tell = problem if use.shared else warning
    if error.refused:
        return tell(
            f"for {use.title}: {place} does not let us in: {error}",
            why,
            "REDIS_USERNAME and REDIS_PASSWORD, or REDIS_URL",
        )
    return tell(f"for {use.title}: {place} cannot be used: {error}", why, f"start it, or {_WHERE}")


def judged(place: str, checkup: Checkup, use: Use) -> Iterator[Finding]:
    """All that is to be said of one that answers."""
    yield ok(f"for {use.title}: {checkup.name} at {place}")
    yield from _rights(checkup, use)
    yield _latency(checkup, use)
    yield from _clock(checkup, use)
    if checkup.info.get("role") == "slave":
        yield problem("it is a replica", "nothing can be written there", f"the address of its master: {_WHERE}")
    if use.shared:
        yield from _version(checkup, use)
        yield from _cluster(checkup, use)
        yield from _memory(checkup)
        yield from _output(checkup)
        yield from _persistence(checkup)


def _rights(checkup: Checkup, use: Use) -> Iterator[Finding]:
    denied = dict(checkup.denied)
    if denied.pop("MULTI", None):
        yield note("not all that its user may do was looked at: MULTI is denied", remedy="ACL SETUSER ... +multi")
        if not denied:
            return
    places = [name for name, text in denied.items() if re.search("key|channel", text)]
    commands = [name for name in denied if name not in places]
    below = f"{use.prefix}:*" if use.shared else "*reverb:restart"
    remedy = [f"+{name.lower().replace(' ', '|')}" for name in commands]
    remedy += [f"~{below}", f"&{below}"] if places else []
    if denied:
        yield problem(
            f"its user may not: {', '.join(commands + places)}",
            "each is needed, also inside of scripts",
            f"ACL SETUSER ... {' '.join(remedy)}; or rename-command, where that has taken one away",
        )
    else:
        yield ok("its user may do all that is needed")


def _latency(checkup: Checkup, use: Use) -> Finding:
    median, worst = statistics.median(checkup.waits_s), max(checkup.waits_s)
    shown = f"{len(checkup.waits_s)} PINGs took {1000 * median:.1f} ms (median), {1000 * worst:.1f} ms at worst"
    if worst > use.patience_s:
        return problem(
            shown, "it counts as away then", f"a Redis that is nearer or less busy; scaling.patience above {worst:.1f}"
        )
    if median > SLOW_S:
        return warning(shown, "every publish and subscription waits for it", "a Redis that is nearer, or less busy")
    return ok(shown)


def _clock(checkup: Checkup, use: Use) -> Iterator[Finding]:
    if checkup.ahead_s is None:
        yield note("its clock cannot be read: there is no other to compare this one with")
    elif abs(checkup.ahead_s) > SKEW_S:
        way = "before" if checkup.ahead_s > 0 else "behind"
        yield warning(
            f"its clock is {abs(checkup.ahead_s):.1f} s {way} the clock of this machine",
            f"one of them is wrong; signed requests may differ by {use.grace_s} s from this one (auth_timestamp_grace)",
            "timedatectl set-ntp true, on both",
        )
    else:
        yield ok("its clock and that of this machine agree (there is no third one to ask)")


def _version(checkup: Checkup, use: Use) -> Iterator[Finding]:
    if not checkup.version:
        yield note("its version is hidden from its user", remedy="6.2 or newer; 7.0 or newer for a cluster")
    elif checkup.version < OLDEST:
        yield problem(f"{checkup.name} is too old", "the server needs 6.2 or newer", "upgrade it; Valkey will do, too")
    elif use.cluster and checkup.version < SHARDED:
        yield warning(
            f"{checkup.name} has no sharded pub/sub",
            "every node of the cluster hears everything: more of them make it no faster",
            "upgrade it to 7.0 or newer; Valkey will do, too",
        )


def _cluster(checkup: Checkup, use: Use) -> Iterator[Finding]:
    is_one = checkup.info.get("cluster_enabled") == "1"
    if is_one and not use.cluster:
        yield problem("it is a node of a cluster", "most keys are elsewhere", "RESONATE_SCALING_CLUSTER=true")
    elif use.cluster and not is_one:
        yield problem("it is no cluster", "scaling.server.cluster says that it is", "RESONATE_SCALING_CLUSTER=false")
    elif is_one and checkup.info.get("cluster_state", "ok") != "ok":
        yield problem(
            f"the cluster is not complete: {checkup.info['cluster_state']}",
            "what belongs to missing nodes cannot be read or written",
            "redis-cli --cluster check HOST:PORT",
        )


def _memory(checkup: Checkup) -> Iterator[Finding]:
    policy = checkup.settings.get("maxmemory-policy") or checkup.info.get("maxmemory_policy")
    most, used = (_number(checkup.info.get(name)) for name in ("maxmemory", "used_memory"))
    if policy is None:
        yield note("its maxmemory-policy is hidden from its user", remedy="it must be noeviction")
    elif policy != "noeviction":
        tell = problem if most and policy.startswith("allkeys") else warning
        yield tell(
            f"maxmemory-policy is {policy}",
            "Redis may throw away who is present, and what was published" + ("" if most else ", once maxmemory is set"),
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        )
    if most and used >= NEARLY_FULL * most:
        tell = problem if used >= most else warning
        yield tell(
            f"{size(used)} of {size(most)} (maxmemory) are used",
            "nothing can be published to other hosts when it is full",
            f"redis-cli CONFIG SET maxmemory {2 * most}; or a lower scaling.log_length",
        )


def _output(checkup: Checkup) -> Iterator[Finding]:
    limits = checkup.settings.get("client-output-buffer-limit", "")
    found = re.search(r"pubsub (\d+) (\d+) (\d+)", limits)
    if found is None:
        return
    if any(0 < int(text) < least for text, least in zip(found.groups(), LEAST_OUTPUT, strict=False)):
        yield warning(
            f"client-output-buffer-limit is {found[0]}",
            "Redis cuts a host that has been slow for a moment, and that one reads everything again",
            "redis-cli CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'",
        )


def _persistence(checkup: Checkup) -> Iterator[Finding]:
    save, append = checkup.settings.get("save"), checkup.settings.get("appendonly")
    if append is None and save is None:
        return
    if append == "no" and not save:
        yield note(
            "it keeps nothing on disk: a restart of it loses all logs",
            "clients stay connected; what was published in the last moments may not reach other hosts",
            "redis-cli CONFIG SET appendonly yes, if that matters",
        )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0
