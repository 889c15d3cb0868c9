"""A proxy before a Redis, in a process of its own, whose faults are switched while it runs."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

# What it does to what Redis answers; `delay:N` waits N milliseconds.
FAULTS = ("delay:60", "delay:200", "black hole", "garbage", "half", "close", "nil", "junk", "drip")
_JUNK = b"\xff\xfe junk \x00"


class Proxy:
    """A running proxy.

    Args:
        port: it listens on.
        control: takes a mode.
    """

    def __init__(self, port: int, control: Connection) -> None:
        self.port, self._control = port, control

    @property
    def address(self) -> str:
        """As `online.url`."""
        return f"127.0.0.1:{self.port},db=0"

    def switch(self, mode: str) -> None:
        """From now on do this; `none`: hand everything on."""
        self._control.send(mode)
        self._control.recv()


@contextmanager
def store_proxy(address: str) -> Iterator[Proxy]:
    """A proxy before the Redis at `host:port,...`."""
    host, port = address.split(",")[0].split(":")
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_main, args=(host, int(port), theirs), daemon=True)
    process.start()
    try:
        yield Proxy(ours.recv(), ours)
    finally:
        process.terminate()
        process.join(30)


def _main(host: str, port: int, control: Connection) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(host, port, control).run())


class _Server:
    def __init__(self, host: str, port: int, control: Connection) -> None:
        self.host, self.port, self.control, self.mode = host, port, control, "none"

    async def run(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.control.send(server.sockets[0].getsockname()[1])
        asyncio.get_running_loop().add_reader(self.control.fileno(), self._switched)
        async with server:
            await server.serve_forever()

    def _switched(self) -> None:
        self.mode = self.control.recv()
        self.control.send(self.mode)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):  # uvloop says so of a closed one
            there, back = await asyncio.open_connection(self.host, self.port)
            await asyncio.gather(self._ask(reader, back), self._answer(there, writer))

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            back.write(data)
        back.close()

    async def _answer(self, there: asyncio.StreamReader, writer: Any) -> None:
        while data := await there.read(65_536):
            mode, _, number = self.mode.partition(":")
            values = data.startswith(b"*") and data.count(b"$") > 1  # of HMGET; a handshake is let through
            if mode == "delay" and values:
                await asyncio.sleep(int(number) / 1000)
            elif mode == "black hole":
                continue
            elif mode == "garbage" and values:
                data = _JUNK * 20
            elif mode == "half" and values:
                data = data[: len(data) // 2]
            elif mode == "close":
                break
            elif mode in ("nil", "junk") and values:
                count = int(data[1 : data.index(b"\r")])
                one = b"$-1\r\n" if mode == "nil" else b"$%d\r\n%s\r\n" % (len(_JUNK), _JUNK)
                data = b"*%d\r\n" % count + one * count
            if mode == "drip" and values:
                for place in range(len(data)):
                    writer.write(data[place : place + 1])
                    await asyncio.sleep(0.005)
                continue
            writer.write(data)
        writer.close()
