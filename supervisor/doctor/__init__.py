"""`resonate doctor`: what is wrong with this machine and the configuration, and what to change."""
