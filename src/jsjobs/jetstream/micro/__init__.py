"""NATS micro services: answering requests."""
