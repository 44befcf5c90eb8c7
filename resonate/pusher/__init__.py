"""The Pusher protocol as values: what a client says, what it is told, what is asked of the shard."""

from resonate.pusher.channels import Kind, kind_of, user_channel
from resonate.pusher.session import Close, Effect, Session

__all__ = ["Close", "Effect", "Kind", "Session", "kind_of", "user_channel"]
