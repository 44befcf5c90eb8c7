"""The sequencer of a share of the channels: interest, presence, the last cached events, counts. No I/O, no protocol."""

from resonate.shard.shard import Outgoing, Shard

__all__ = ["Outgoing", "Shard"]
