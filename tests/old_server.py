"""A server of an older version, as far as a client that connects sees it."""

import asyncio

VERSION = "2.14.9"


async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    info = b'{"server_id":"x","version":"%b","headers":true,"max_payload":1048576,"proto":1}' % VERSION.encode()
    writer.write(b"INFO " + info + b"\r\n")
    while line := await reader.readline():
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
    writer.close()
