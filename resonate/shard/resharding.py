"""Another number of shards: what one worker has told the present ones, sorted by who will be its home."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from resonate.messages import Declaration
from resonate.shard.homes import home_of_app, home_of_channel
from resonate.shard.ledger import Ledger


def resharded(worker: str, ledgers: Sequence[Ledger], shards: int, now: float) -> list[Ledger]:
    """Ledgers for so many shards that know nothing yet, and will begin orders of their own.

    `ledgers` must be settled: whatever has been asked for is part of what is held.
    """
    first = max(ledger.next for ledger in ledgers)  # other hosts have heard numbers of requests before these
    pasts = [Declaration([], [], [], [], first, []) for _ in range(shards)]
    places: list[list[tuple[str, str, int]]] = [[] for _ in range(shards)]
    for ledger in ledgers:
        held = ledger.declaration(now)
        for app in held.apps:
            pasts[home_of_app(app[0], shards)].apps.append(app)
        for channel in held.channels:
            pasts[home_of_channel(channel.app, channel.channel, shards)].channels.append(channel)
        for event in held.cached:
            pasts[home_of_channel(event[0], event[1], shards)].cached.append(event)
        for app_id, name, position in held.positions:
            places[home_of_channel(app_id, name, shards)].append((app_id, name, position))
    made = [Ledger(worker, replace(past, positions=tuple(at))) for past, at in zip(pasts, places, strict=True)]
    for ledger in ledgers:
        for (app_id, name), users in ledger.beliefs():
            made[home_of_channel(app_id, name, shards)].believe(app_id, name, users)
    return made
