"""What tests share: a real server process, a plain Pusher client, signed REST calls."""
