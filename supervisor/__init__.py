"""What runs in the master: the command line, the arbiter. Imported as `resonate.supervisor`."""
