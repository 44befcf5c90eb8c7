"""From files and variables to settings."""
