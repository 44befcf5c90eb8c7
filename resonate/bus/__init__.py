"""Workers and shards as processes: who is there, and how frames come from one to the other."""
