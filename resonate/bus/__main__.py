"""`python -m resonate.bus`: a shard process."""

from resonate.bus.process import main

main()
