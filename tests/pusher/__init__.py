"""The Pusher protocol without I/O."""
