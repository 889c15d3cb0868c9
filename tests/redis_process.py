"""A Redis process of a test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis


@contextmanager
def own_redis(
    folder: Path, seconds: float = 600, options: Sequence[str] = ()
) -> Iterator[tuple[int, subprocess.Popen]]:
    """The port of a Redis that keeps nothing, and its process; skips the test where Redis is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    # Another process may take the port before Redis does, which then ends.
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options],
            stdout=subprocess.DEVNULL,
        )
        try:
            if _answers(port, server, seconds):
                yield port, server
                return
        finally:
            server.kill()
            server.wait()
    pytest.fail("redis-server did not start")


def _answers(port: int, server: subprocess.Popen, seconds: float) -> bool:
    """Whether this very Redis answers while it lives."""
    deadline = time.monotonic() + seconds
    with redis.Redis(port=port, socket_timeout=5) as client:
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(redis.RedisError):
                return client.info("server")["process_id"] == server.pid
            time.sleep(0.05)
    return False
