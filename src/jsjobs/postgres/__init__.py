"""The dead-letter table: the only package that imports asyncpg. It knows nothing of NATS."""
