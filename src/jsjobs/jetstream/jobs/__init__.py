"""A job on the server: its message, deliveries, state entry and dead-letter message."""
