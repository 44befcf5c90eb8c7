"""The REST API as generators and values."""
