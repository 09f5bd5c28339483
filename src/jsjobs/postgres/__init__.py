"""The dead-letter table: the only place where asyncpg is imported. It knows nothing of NATS."""
