"""Redis reads over connections that are kept between them.

redis-py's client looks, at every command, whether its pooled connection is still good: one or two more system calls and
twice the processor time of the read itself. Here a connection is simply used; if it turns out to be closed, because
Redis was started anew or dropped an idle client, the read is done once more over a new one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.asyncio
from redis.connection import ConnectionPool


class HeldConnections:
    """Reads hashes; threads may share it, each read has a connection to itself.

    Args:
        pool: makes connections, with its time-outs and credentials.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._free: deque[Any] = deque()

    def hmget(self, address: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        """The values of a hash's fields, None where there is none.

        Raises:
            redis.RedisError: Redis cannot be reached, does not answer in time, or refuses.
        """
        try:
            held = self._free.pop()
        except IndexError:
            return self._ask(self._pool.make_connection(), address, fields)
        try:
            return self._ask(held, address, fields)
        except redis.ConnectionError:
            # The others were closed by the same event, most likely; they are dropped as they are met.
            return self._ask(self._pool.make_connection(), address, fields)

    def _ask(self, connection: Any, address: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        # A connection that fails is not kept: an answer that comes late must not be taken for another's.
        connection.send_packed_command(connection.pack_command("HMGET", address, *fields), check_health=False)
        values = connection.read_response()
        self._free.append(connection)
        return values


class AwaitedConnections:
    """As `HeldConnections`, awaited: as many reads at once as there are, each over a connection to itself.

    Args:
        arguments: of `redis.asyncio.Redis`: where it is, and how to log in.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        never = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
        # The deadline is over the whole answer, not over each wait for the socket.
        waits = {"socket_timeout": None, "socket_connect_timeout": None}
        self._pool = redis.asyncio.Redis(**{**arguments, **waits, "retry": never}).connection_pool
        self._free: deque[Any] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def hmget(
        self, addresses: Sequence[bytes], fields: Sequence[bytes], seconds: float
    ) -> list[list[bytes | None] | redis.ResponseError]:
        """The values of some hashes' fields, None where there is none; all are asked for at once.

        Args:
            addresses: of the hashes.
            fields: which of each.
            seconds: until all of the answer is here, connecting included.

        Returns:
            For each hash its values, or what Redis refuses it with.

        Raises:
            redis.RedisError: Redis cannot be reached, or does not answer in time.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a connection belongs to the loop that made it
            self._loop = loop
            self._free.clear()
        try:
            async with asyncio.timeout(seconds):
                if self._free:
                    try:
                        return await self._ask(self._free.pop(), addresses, fields)
                    except redis.ConnectionError:
                        # The others were closed by the same event, most likely; they are dropped as they are met.
                        pass
                return await self._ask(self._pool.make_connection(), addresses, fields)
        except TimeoutError as error:
            raise redis.TimeoutError(f"no answer within {seconds * 1000:.0f} ms") from error

    async def _ask(
        self, connection: Any, addresses: Sequence[bytes], fields: Sequence[bytes]
    ) -> list[list[bytes | None] | redis.ResponseError]:
        # One that fails, or whose reader went away, closes itself and is not kept.
        packed = [part for address in addresses for part in connection.pack_command("HMGET", address, *fields)]
        await connection.send_packed_command(packed, check_health=False)
        found: list[list[bytes | None] | redis.ResponseError] = []
        for _ in addresses:
            try:
                found.append(await connection.read_response())
            except redis.ResponseError as error:
                found.append(error)
        self._free.append(connection)
        return found


_SHARED: dict[tuple[tuple[str, str], ...], AwaitedConnections] = {}
_LOCK = threading.Lock()


def awaited_connections(arguments: Mapping[str, Any]) -> AwaitedConnections:
    """This process's connections to an address: readers come and go with bundles, and connections outlive them."""
    key = tuple(sorted((name, repr(value)) for name, value in arguments.items()))
    with _LOCK:
        return _SHARED.setdefault(key, AwaitedConnections(arguments))
