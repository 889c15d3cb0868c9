"""Redis reads over connections that are kept between them.

redis-py's client looks, at every command, whether its pooled connection is still good: one or two more system calls and
twice the processor time of the read itself. Here a connection is simply used; if it turns out to be closed, because
Redis was started anew or dropped an idle client, the read is done once more over a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
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
