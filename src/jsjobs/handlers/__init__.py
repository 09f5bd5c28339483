"""Registered handlers: their types, signatures and contexts."""
