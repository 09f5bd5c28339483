"""Take jobs from the server: pushed ones of the shards, and of the parallel lanes as many as slots are free."""
