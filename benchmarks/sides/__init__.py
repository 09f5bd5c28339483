"""jsjobs itself, and the bare nats-py loops that are its floor."""
