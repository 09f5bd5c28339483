"""The network between some processes and the servers: proxies whose connections can be hurt together."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from tcp_proxy import TcpProxy


class Network:
    """One proxy for each server; a process that is told `url` knows no other way."""

    def __init__(self, name: str, servers: Sequence[str]) -> None:
        self.name = name
        self.proxies = [TcpProxy(server) for server in servers]
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for proxy in self.proxies:
            await self._open.enter_async_context(proxy)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    @property
    def url(self) -> str:
        return ",".join(proxy.url for proxy in self.proxies)

    @property
    def connections(self) -> int:
        """How many stand."""
        return sum(proxy.connections for proxy in self.proxies)

    def cut(self) -> None:
        for proxy in self.proxies:
            proxy.cut()

    def refuse(self, refuses: bool) -> None:
        for proxy in self.proxies:
            proxy.deaf = refuses

    def slow_down(self, seconds: float) -> None:
        for proxy in self.proxies:
            proxy.delay = seconds

    def swallow(self, what: set[str]) -> None:
        for proxy in self.proxies:
            proxy.swallows = what
