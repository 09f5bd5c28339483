"""The NATS micro service: what JobService does, for clients in any language."""

from jsjobs.rpc.serving import Rpc

__all__ = ["Rpc"]
