"""Several hosts: what a shard does to agree with those of other hosts, by a store that they share. No I/O."""
