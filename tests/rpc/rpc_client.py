"""Asking the micro service as any NATS client would."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg


@dataclass
class Answer:
    code: int | None
    error: str
    value: Any

    @property
    def outcome(self) -> tuple[int | None, str]:
        """The code, and the reason the error begins with."""
        return self.code, self.error.partition(":")[0]


@dataclass
class Asking:
    client: Client
    name: str

    async def __call__(
        self, endpoint: str, body: Any, *, headers: dict[str, str] | None = None, timeout: float = 20
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = await self.client.request(f"{self.name}.rpc.{endpoint}", data, timeout=timeout, headers=headers)
        return answer_of(message)

    async def done(self, endpoint: str, body: Any, **options: Any) -> Any:
        """What it answers when it succeeds."""
        answer = await self(endpoint, body, **options)
        assert answer.code is None, answer.error
        return answer.value

    @asynccontextmanager
    async def many(self, endpoint: str, body: Any) -> AsyncIterator[AsyncIterator[Answer]]:
        """One request with many answers; the last one is empty."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        await self.client.publish(f"{self.name}.rpc.{endpoint}", json.dumps(body).encode(), reply=inbox)

        async def answers() -> AsyncIterator[Answer]:
            while True:
                answer = answer_of(await subscription.next_msg(timeout=20))
                yield answer
                if answer.value is None:
                    return

        yield answers()
        await subscription.unsubscribe()


def answer_of(message: Msg) -> Answer:
    headers = message.headers or {}
    code = headers.get("Nats-Service-Error-Code")
    value = json.loads(message.data) if message.data else None
    return Answer(None if code is None else int(code), headers.get("Nats-Service-Error", ""), value)
