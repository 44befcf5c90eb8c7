"""What runs in the master, and the command line. Imported as `resonate.supervisor`."""
