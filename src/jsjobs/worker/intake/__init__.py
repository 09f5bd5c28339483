"""Take jobs from the server: pushed ones of the shards, and as many of the parallel lanes as there are free slots."""
