"""The micro service: what JobService can do, for every NATS client."""

from jsjobs.rpc.serving import Rpc

__all__ = ["Rpc"]
