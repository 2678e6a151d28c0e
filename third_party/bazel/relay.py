"""relay.py PORT COUNT: stands before a server on 127.0.0.1:PORT and counts the bytes of its clients.

Prints its own port, then keeps two numbers in the file COUNT: bytes sent by clients, bytes sent to them. Ends when it
is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys

CHUNK = 1 << 18


class Relay:
    """Connections to one server, and what went through all of them."""

    def __init__(self, port: int, count: str) -> None:
        self._port = port
        self._bytes = [0, 0]
        self._file = os.open(count, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        self._tell()

    def _tell(self) -> None:
        os.pwrite(self._file, "{:20d} {:20d}\n".format(*self._bytes).encode(), 0)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: int) -> None:
        try:
            while data := await source.read(CHUNK):
                self._bytes[way] += len(data)
                self._tell()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # one side is gone: so is the connection
        finally:
            target.close()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's."""
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(self._copy(reader, far_writer, 0), self._copy(far_reader, writer, 1))


async def main() -> None:
    """Command line."""
    relay = Relay(int(sys.argv[1]), sys.argv[2])
    server = await asyncio.start_server(relay.connection, "127.0.0.1", 0, limit=CHUNK)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
