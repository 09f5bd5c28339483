"""NATS JetStream: the only package that speaks to it."""
