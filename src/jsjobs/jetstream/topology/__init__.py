"""Streams, consumers and shards: declare them, compare them with the server's, change them."""
